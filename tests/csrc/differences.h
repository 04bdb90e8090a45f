// Derivatives by central differences with a bound of their error, and the points at which the mathematics of
// one element is compared with them.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "expect.h"

namespace ffrl::test {

using Wide = long double;  // 11 bits more than what is tested, where the machine has them

// `size`: of the derivative in the neighbourhood. Near a zero of the derivative the terms that cancel there
// still have it, and so has the rounding of the code under test.
struct Derivative {
    Wide value, error, size;
};

template <class F>
Wide stencil(F f, Wide x, Wide s) {
    return (45 * (f(x + s) - f(x - s)) - 9 * (f(x + 2 * s) - f(x - 2 * s)) + (f(x + 3 * s) - f(x - 3 * s))) /
           (60 * s);
}

// Central differences of sixth order with step s. The truncation is s⁶ f⁽⁷⁾ / 140; the difference to those of
// step 2 s is 64 times that. Rounding is less than 2 / s times the error of f, which is eps |f| and what the
// error of the argument makes of it: `blur`, eps for a plain argument. With s = 2⁻⁸ all of it is below 1e-9
// of the derivative for the functions here, up to where tanh rounds to 1 in float.
template <class F>
Derivative differentiate(F f, Wide x, Wide blur = LDBL_EPSILON) {
    const Wide s = 0x1p-8L;
    const Wide value = stencil(f, x, s), truncation = std::abs(value - stencil(f, x, 2 * s));
    const Wide largest = std::max(std::abs(f(x - 3 * s)), std::abs(f(x + 3 * s)));
    const Wide size =
        std::max({std::abs(value), std::abs(stencil(f, x - 0.5L, s)), std::abs(stencil(f, x + 0.5L, s))});
    return {value, truncation + 2 * (LDBL_EPSILON * largest + blur * size) / s, size};
}

// A value of tanh and its argument. Where the value is ±1 every derivative is 0.
struct Activation {
    double h;
    Wide a;
    bool saturated() const { return std::abs(h) == 1; }
};

// An error of eps in h is one of eps / (1 - h²) in a.
template <class F>
Derivative differentiate(F f, const Activation& x) {
    const Wide h = x.h;
    return differentiate(f, x.a, 4 * LDBL_EPSILON / ((1 - h) * (1 + h)));
}

// The first ones are saturated, a third of the others may be nearly so. All are numbers of float too, so that
// every instantiation takes the same.
inline Activation activation(Random& random, int64_t i) {
    if (i < 4) return {i % 2 == 0 ? 1.0 : -1.0, 0};
    const double range = i % 3 == 0 ? 7 : 2;
    const double h = static_cast<float>(std::tanh(random.uniform(-range, range)));
    return {h, std::abs(h) == 1 ? 0 : std::atanh(static_cast<Wide>(h))};
}

inline double number_of_float(Random& random) {
    return static_cast<float>(random.uniform(-2, 2));
}

struct Term {
    double cotangent;
    Derivative derivative;
};

// `got`, computed with precision eps, is the sum of cotangents times derivatives. The cancellation inside one
// derivative costs the code under test a few roundings of its neighbourhood's size.
inline void expect_derivative(double got, std::initializer_list<Term> terms, double eps, const char* what) {
    Wide want = 0, error = 0, size = 0;
    for (const Term& term : terms) {
        const Wide cotangent = std::abs(static_cast<Wide>(term.cotangent));
        want += term.cotangent * term.derivative.value;
        error += cotangent * term.derivative.error;
        size += cotangent * term.derivative.size;
    }
    expect(error <= 1e-9L * size + 1e-15L, "the differences are sharp");
    expect_close(got, static_cast<double>(want), static_cast<double>(error + 64 * eps * size), what);
}

// What R is for the templates under test: a number, or a vector of them, of which one is looked at.
template <class R>
struct Number {
    using Scalar = R;
    static double lane(R x) { return static_cast<double>(x); }
};

typedef float Float4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));

template <>
struct Number<Float4> {
    using Scalar = float;
    static double lane(Float4 x) { return static_cast<double>(x[2]); }
};
template <>
struct Number<Double2> {
    using Scalar = double;
    static double lane(Double2 x) { return x[1]; }
};

template <class R>
R number(double x) {
    return R{} + static_cast<typename Number<R>::Scalar>(x);
}
template <class R>
double lane(R x) {
    return Number<R>::lane(x);
}
template <class R>
constexpr double epsilon = std::numeric_limits<typename Number<R>::Scalar>::epsilon();

// check(R{}, random, i) for one instantiation. The points are the same for each.
template <class R, class Check>
void for_points(const char* type, Check check) {
    report().context = type;
    Random random(1);
    for (int64_t i = 0; i < 400; ++i) check(R{}, random, i);
}

template <class Check>
void for_scalars(const char* name, Check check) {
    section(name);
    for_points<double>("double", check);
    for_points<float>("float", check);
}

template <class Check>
void for_all_numbers(const char* name, Check check) {
    for_scalars(name, check);
    for_points<Double2>("vector of double", check);
    for_points<Float4>("vector of float", check);
}

}  // namespace ffrl::test
