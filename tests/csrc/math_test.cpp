// The per-element mathematics against central differences: the forward terms against derivatives of the
// functions that they are derivatives of, every _vjp against those of its forward twin. A section has the
// name of the function that it checks.
#include <cmath>

#include "differences.h"
#include "expect.h"
#include "ffrl/potential_math.h"

using namespace ffrl;
using namespace ffrl::test;

namespace {

void slopes() {
    const auto tanh_of = [](Wide a) { return std::tanh(a); };
    for_all_numbers("slope", [&](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Activation x = activation(random, i);
        const double got = lane(slope<R>(number<R>(x.h)));
        if (x.saturated())
            expect(got == 0, "no slope where saturated");
        else
            expect_derivative(got, {{1, differentiate(tanh_of, x)}}, epsilon<R>, "derivative of tanh");
    });
    for_all_numbers("slope_vjp", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Activation x = activation(random, i);
        const double v_d = number_of_float(random);
        const auto d = [](Wide h) { return slope(h); };
        expect_derivative(lane(slope_vjp<R>(number<R>(x.h), number<R>(v_d))), {{v_d, differentiate(d, x.h)}},
                          epsilon<R>, "v_h");
    });
}

void second_layer() {
    for_all_numbers("unit2", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Activation x = activation(random, i);
        const double w = number_of_float(random);
        const Unit2<R> unit = unit2<R>(number<R>(x.h), static_cast<typename Number<R>::Scalar>(w));
        expect_close(lane(unit.o), w * x.h, 4 * epsilon<R>, "o");
        if (x.saturated()) {
            expect(lane(unit.p) == 0 && lane(unit.c) == 0, "no slope where saturated");
            return;
        }
        const Wide weight3 = w;
        const auto o = [&](Wide a) { return unit2(std::tanh(a), weight3).o; };
        const auto p = [&](Wide a) { return unit2(std::tanh(a), weight3).p; };
        expect_derivative(lane(unit.p), {{1, differentiate(o, x)}}, epsilon<R>, "p");
        expect_derivative(lane(unit.c), {{1, differentiate(p, x)}}, epsilon<R>, "c");
    });
    for_all_numbers("unit2_vjp", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Activation x = activation(random, i);
        const double w = number_of_float(random), v_o = number_of_float(random),
                     v_p = number_of_float(random), v_c = number_of_float(random);
        const Unit2Vjp<R> vjp = unit2_vjp<R>(number<R>(x.h), static_cast<typename Number<R>::Scalar>(w),
                                             number<R>(v_o), number<R>(v_p), number<R>(v_c));
        const auto expect_along = [&](R got, auto unit, const auto& at, const char* what) {
            expect_derivative(lane(got),
                              {{v_o, differentiate([&](Wide y) { return unit(y).o; }, at)},
                               {v_p, differentiate([&](Wide y) { return unit(y).p; }, at)},
                               {v_c, differentiate([&](Wide y) { return unit(y).c; }, at)}},
                              epsilon<R>, what);
        };
        const Wide h = x.h, weight3 = w;
        expect_along(vjp.v_weight3, [&](Wide y) { return unit2(h, y); }, weight3, "v_weight3");
        if (x.saturated())
            expect(lane(vjp.v_a2) == 0, "no cotangent where saturated");
        else
            expect_along(vjp.v_a2, [&](Wide a) { return unit2(std::tanh(a), weight3); }, x, "v_a2");
    });
}

void first_layer() {
    for_all_numbers("unit1", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Activation x = activation(random, i);
        const double q = number_of_float(random);
        const Unit1<R> unit = unit1<R>(number<R>(x.h), number<R>(q));
        if (x.saturated()) {
            expect(lane(unit.r) == 0 && lane(unit.m) == 0, "no slope where saturated");
            return;
        }
        const auto integral = [&](Wide a) { return q * std::tanh(a); };
        const auto r_of = [&](Wide a) { return unit1(std::tanh(a), Wide(q)).r; };
        expect_derivative(lane(unit.r), {{1, differentiate(integral, x)}}, epsilon<R>, "r");
        expect_derivative(lane(unit.m), {{1, differentiate(r_of, x)}}, epsilon<R>, "m");
    });
    for_all_numbers("unit1_vjp_q", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Activation x = activation(random, i);
        const double q = number_of_float(random), v_r = number_of_float(random),
                     v_m = number_of_float(random);
        const auto unit = [&](Wide y) { return unit1(Wide(x.h), y); };
        expect_derivative(lane(unit1_vjp_q<R>(number<R>(x.h), number<R>(v_r), number<R>(v_m))),
                          {{v_r, differentiate([&](Wide y) { return unit(y).r; }, q)},
                           {v_m, differentiate([&](Wide y) { return unit(y).m; }, q)}},
                          epsilon<R>, "v_q");
    });
    for_all_numbers("unit1_vjp_a1", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Activation x = activation(random, i);
        const double q = number_of_float(random), v_r = number_of_float(random),
                     v_m = number_of_float(random), v_d1 = number_of_float(random),
                     v_s = number_of_float(random);
        const double got = lane(unit1_vjp_a1<R>(number<R>(x.h), number<R>(q), number<R>(v_r), number<R>(v_m),
                                                number<R>(v_d1), number<R>(v_s)));
        if (x.saturated()) {
            expect(got == 0, "no cotangent where saturated");
            return;
        }
        const auto unit = [&](Wide a) { return unit1(std::tanh(a), Wide(q)); };
        expect_derivative(got,
                          {{v_r, differentiate([&](Wide a) { return unit(a).r; }, x)},
                           {v_m, differentiate([&](Wide a) { return unit(a).m; }, x)},
                           {v_d1, differentiate([](Wide a) { return slope(std::tanh(a)); }, x)},
                           {v_s, differentiate([](Wide a) { return std::tanh(a); }, x)}},
                          epsilon<R>, "v_a1");
    });
}

void time_derivatives() {
    for_all_numbers("time_terms", [](auto r, Random& random, int64_t) {
        using R = decltype(r);
        // a2(t) = a + omega t + omega2 t² / 2, and the terms of w tanh a2(t)
        const Activation x = activation(random, 4);
        const double w = number_of_float(random), omega = number_of_float(random),
                     omega2 = number_of_float(random);
        const Unit2<R> unit = unit2<R>(number<R>(x.h), static_cast<typename Number<R>::Scalar>(w));
        const TimeTerms<R> terms = time_terms<R>(unit.p, unit.c, number<R>(omega), number<R>(omega2));
        const auto a2 = [&](Wide t) { return x.a + omega * t + omega2 * t * t / 2; };
        const auto o = [&](Wide t) { return w * std::tanh(a2(t)); };
        const auto o_dot = [&](Wide t) {
            const Unit2<Wide> at_t = unit2(std::tanh(a2(t)), Wide(w));
            return time_terms<Wide>(at_t.p, at_t.c, omega + omega2 * t, omega2).o_dot;
        };
        expect_derivative(lane(terms.o_dot), {{1, differentiate(o, 0)}}, epsilon<R>, "o_dot");
        expect_derivative(lane(terms.o_ddot), {{1, differentiate(o_dot, 0)}}, epsilon<R>, "o_ddot");
    });
    for_all_numbers("time_terms_vjp", [](auto r, Random& random, int64_t) {
        using R = decltype(r);
        double x[4];
        for (double& one : x) one = number_of_float(random);
        const double v_o_dot = number_of_float(random), v_o_ddot = number_of_float(random);
        const TimeTermsVjp<R> vjp =
            time_terms_vjp<R>(number<R>(x[0]), number<R>(x[1]), number<R>(x[2]), number<R>(x[3]),
                              number<R>(v_o_dot), number<R>(v_o_ddot));
        const R got[] = {vjp.v_p, vjp.v_c, vjp.v_omega, vjp.v_omega2};
        for (int argument = 0; argument < 4; ++argument) {
            const auto terms = [&](Wide y) {
                Wide at[] = {x[0], x[1], x[2], x[3]};
                at[argument] = y;
                return time_terms<Wide>(at[0], at[1], at[2], at[3]);
            };
            expect_derivative(
                lane(got[argument]),
                {{v_o_dot, differentiate([&](Wide y) { return terms(y).o_dot; }, x[argument])},
                 {v_o_ddot, differentiate([&](Wide y) { return terms(y).o_ddot; }, x[argument])}},
                epsilon<R>, "v_p, v_c, v_omega, v_omega2");
        }
    });
}

}  // namespace

int main() {
    slopes();
    second_layer();
    first_layer();
    time_derivatives();
    return finish();
}
