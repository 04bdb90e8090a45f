// The per-element mathematics of the output against central differences. A section has the name of the
// function that it checks.
#include <cmath>

#include "differences.h"
#include "expect.h"
#include "ffrl/potential_math.h"

using namespace ffrl;
using namespace ffrl::test;

namespace {

// u and its argument; a fifth of them without tanh, where they are the same.
struct Output {
    Activation x;
    bool tanh_output;

    Output(Random& random, int64_t i) : x(activation(random, i)), tanh_output(i % 5 != 4) {
        if (!tanh_output) x.a = x.h;
    }
    bool saturated() const { return tanh_output && x.saturated(); }
    Wide u_of(Wide o) const { return tanh_output ? std::tanh(o) : o; }
};

void output_activation() {
    for_all_numbers("output_phi", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Output out(random, i);
        const double got = lane(output_phi<R>(number<R>(out.x.h), out.tanh_output));
        if (out.saturated())
            expect(got == 0, "no slope where saturated");
        else
            expect_derivative(got, {{1, differentiate([&](Wide o) { return out.u_of(o); }, out.x)}},
                              epsilon<R>, "phi");
    });
    for_all_numbers("output_psi", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Output out(random, i);
        const double got = lane(output_psi<R>(number<R>(out.x.h), out.tanh_output));
        const auto phi = [&](Wide o) { return output_phi(out.u_of(o), out.tanh_output); };
        if (out.saturated())
            expect(got == 0, "no slope where saturated");
        else
            expect_derivative(got, {{1, differentiate(phi, out.x)}}, epsilon<R>, "psi");
    });
    for_all_numbers("output_row", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Output out(random, i);
        const double o_dot = number_of_float(random), o_ddot = number_of_float(random),
                     ell = number_of_float(random), v = number_of_float(random);
        const OutputRow<R> row = output_row<R>(number<R>(out.x.h), number<R>(o_dot), number<R>(o_ddot),
                                               number<R>(ell), number<R>(v) * number<R>(v), out.tanh_output);
        if (out.saturated()) {
            expect(
                lane(row.phi) == 0 && lane(row.du_dt) == 0 && lane(row.d2u_dt2) == 0 && lane(row.lap_u) == 0,
                "no derivative where saturated");
            return;
        }
        // u along a line on which o has these first and second derivatives, and the first derivative of u
        const auto u_along = [&](Wide first, Wide second, Wide t) {
            return out.u_of(out.x.a + first * t + second * t * t / 2);
        };
        const auto du_along = [&](Wide first, Wide second, Wide t) {
            const Wide u = u_along(first, second, t);
            return output_row<Wide>(u, first + second * t, 0, 0, 0, out.tanh_output).du_dt;
        };
        const auto expect_along = [&](R got, auto f, const char* what) {
            expect_derivative(lane(got), {{1, differentiate(f, Activation{out.x.h, 0})}}, epsilon<R>, what);
        };
        expect_along(row.phi, [&](Wide t) { return u_along(1, 0, t); }, "phi");
        expect_along(row.du_dt, [&](Wide t) { return u_along(o_dot, o_ddot, t); }, "du_dt");
        expect_along(row.d2u_dt2, [&](Wide t) { return du_along(o_dot, o_ddot, t); }, "d2u_dt2");
        expect_along(row.lap_u, [&](Wide t) { return du_along(v, ell, t); }, "lap_u");
    });
}

void output_vjp() {
    for_all_numbers("output_row_vjp", [](auto r, Random& random, int64_t i) {
        using R = decltype(r);
        const Output out(random, i);
        double at[6];  // o, o_dot, o_ddot, ell and v (2 numbers)
        for (double& one : at) one = number_of_float(random);
        at[0] = static_cast<double>(out.x.a);
        double v[6];  // v_u, v_du_dz (2 numbers), v_du_dt, v_d2u_dt2, v_lap_u
        for (double& one : v) one = number_of_float(random);
        const R v_phi = number<R>(v[1]) * number<R>(at[4]) + number<R>(v[2]) * number<R>(at[5]);
        const R v_squared = number<R>(at[4]) * number<R>(at[4]) + number<R>(at[5]) * number<R>(at[5]);
        const OutputRowVjp<R> vjp = output_row_vjp<R>(
            number<R>(out.x.h), number<R>(at[1]), number<R>(at[2]), number<R>(at[3]), v_squared,
            out.tanh_output, number<R>(v[0]), v_phi, number<R>(v[3]), number<R>(v[4]), number<R>(v[5]));
        const auto v_v = [&](int d) {
            return vjp.v_v_along_v * number<R>(at[4 + d]) + vjp.v_v_along_du_dz * number<R>(v[1 + d]);
        };
        const R got[] = {vjp.v_o, vjp.v_o_dot, vjp.v_o_ddot, vjp.v_ell, v_v(0), v_v(1)};
        for (int argument = 0; argument < 6; ++argument) {
            if (out.saturated()) {
                expect(lane(got[argument]) == 0, "no cotangent where saturated");
                continue;
            }
            const auto derivative_of = [&](int which) {
                const auto value = [&](Wide y) {
                    Wide p[] = {out.x.a, at[1], at[2], at[3], at[4], at[5]};
                    p[argument] = y;
                    const Wide u = out.u_of(p[0]);
                    const OutputRow<Wide> row =
                        output_row<Wide>(u, p[1], p[2], p[3], p[4] * p[4] + p[5] * p[5], out.tanh_output);
                    const Wide all[] = {u, row.phi * p[4], row.phi * p[5], row.du_dt, row.d2u_dt2, row.lap_u};
                    return all[which];
                };
                return argument == 0 ? differentiate(value, out.x) : differentiate(value, at[argument]);
            };
            expect_derivative(lane(got[argument]),
                              {{v[0], derivative_of(0)},
                               {v[1], derivative_of(1)},
                               {v[2], derivative_of(2)},
                               {v[3], derivative_of(3)},
                               {v[4], derivative_of(4)},
                               {v[5], derivative_of(5)}},
                              epsilon<R>, "v_o, v_o_dot, v_o_ddot, v_ell, v_v");
        }
    });
}

}  // namespace

int main() {
    output_activation();
    output_vjp();
    return finish();
}
