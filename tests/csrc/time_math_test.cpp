// The per-element mathematics of the time feature against central differences. A section has the name of the
// function that it checks.
#include "ffrl/time_math.h"

#include <cmath>

#include "differences.h"
#include "expect.h"

using namespace ffrl;
using namespace ffrl::test;

namespace {

// Most where GELU bends, some far out on either side.
double argument(Random& random, int64_t i) {
    const double range = i % 4 == 0 ? 6 : 2;
    return static_cast<float>(random.uniform(-range, range));
}

void values() {
    for_scalars("gelu", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const double a = argument(random, i);
        const Gelu<R> g = gelu(number<R>(a));
        // a Φ(a), with Φ by the other error function: good where it does not cancel
        if (a > -1)
            expect_close(lane(g.value), a * (1 + std::erf(a / std::sqrt(2.0))) / 2, 8 * epsilon<R>, "value");
        const auto of = [&](auto entry) { return differentiate([&](Wide x) { return gelu(x).*entry; }, a); };
        expect_derivative(lane(g.slope), {{1, of(&Gelu<Wide>::value)}}, epsilon<R>, "slope");
        expect_derivative(lane(g.curvature), {{1, of(&Gelu<Wide>::slope)}}, epsilon<R>, "curvature");
        expect_derivative(lane(g.third), {{1, of(&Gelu<Wide>::curvature)}}, epsilon<R>, "third");
        const R far = i % 2 == 0 ? R(1e4) : R(-1e4);
        const Gelu<R> limit = gelu(far);
        expect(limit.value == (far > 0 ? far : 0) && limit.slope == R(far > 0) && limit.curvature == 0 &&
                   limit.third == 0,
               "limits");
    });
}

void units() {
    for_scalars("time_unit", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const double a = argument(random, i), a_dot = number_of_float(random),
                     a_ddot = number_of_float(random);
        const TimeUnit<R> unit = time_unit(number<R>(a), number<R>(a_dot), number<R>(a_ddot));
        const auto at = [&](Wide t) {
            return time_unit<Wide>(a + a_dot * t + a_ddot * t * t / 2, a_dot + a_ddot * t, a_ddot);
        };
        expect(unit.h == gelu(number<R>(a)).value, "h");
        expect_derivative(lane(unit.h_dot), {{1, differentiate([&](Wide t) { return at(t).h; }, 0)}},
                          epsilon<R>, "h_dot");
        expect_derivative(lane(unit.h_ddot), {{1, differentiate([&](Wide t) { return at(t).h_dot; }, 0)}},
                          epsilon<R>, "h_ddot");
    });
    for_scalars("time_unit_vjp", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const double x[] = {argument(random, i), number_of_float(random), number_of_float(random)};
        double v[3];
        for (double& one : v) one = number_of_float(random);
        const TimeUnitVjp<R> vjp = time_unit_vjp(number<R>(x[0]), number<R>(x[1]), number<R>(x[2]),
                                                 number<R>(v[0]), number<R>(v[1]), number<R>(v[2]));
        const R got[] = {vjp.v_a, vjp.v_a_dot, vjp.v_a_ddot};
        for (int argument = 0; argument < 3; ++argument) {
            const auto of = [&](auto entry) {
                const auto value = [&](Wide y) {
                    Wide at[] = {x[0], x[1], x[2]};
                    at[argument] = y;
                    return time_unit(at[0], at[1], at[2]).*entry;
                };
                return differentiate(value, x[argument]);
            };
            expect_derivative(lane(got[argument]),
                              {{v[0], of(&TimeUnit<Wide>::h)},
                               {v[1], of(&TimeUnit<Wide>::h_dot)},
                               {v[2], of(&TimeUnit<Wide>::h_ddot)}},
                              epsilon<R>, "v_a, v_a_dot, v_a_ddot");
        }
    });
}

}  // namespace

int main() {
    values();
    units();
    return finish();
}
