// Instantiates the mathematics of csrc/ffrl for device code. It is compiled, never run.
#include "ffrl/potential_math.h"
#include "ffrl/potential_params.h"
#include "ffrl/time_math.h"

using namespace ffrl;

template <class T>
__global__ void every_function(PotentialInputs<T> in, PotentialOutputs<T> out, PotentialGradients<T> v,
                               PotentialShape s) {
    const int64_t n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= s.rows) return;
    const T h = in.z[n], w = in.weight3[n];
    const Unit2<T> second = unit2(h, w);
    const Unit1<T> first = unit1(h, second.p);
    const TimeTerms<T> terms = time_terms(second.p, second.c, first.r, first.m);
    const Unit2Vjp<T> v_second = unit2_vjp(h, w, second.o, second.p, second.c);
    const TimeTermsVjp<T> v_terms =
        time_terms_vjp(second.p, second.c, first.r, first.m, terms.o_dot, terms.o_ddot);
    const T phi = output_phi(h, s.tanh_output), psi = output_psi(h, s.tanh_output);
    const OutputRow<T> row = output_row(h, terms.o_dot, terms.o_ddot, first.r, first.m, s.tanh_output);
    const OutputRowVjp<T> v_row =
        output_row_vjp(h, terms.o_dot, terms.o_ddot, first.r, first.m, s.tanh_output, row.phi, row.du_dt,
                       row.d2u_dt2, row.lap_u, phi);
    const TimeUnit<T> unit = time_unit(h, w, gelu(w).third);
    const TimeUnitVjp<T> v_unit = time_unit_vjp(h, w, phi, unit.h, unit.h_dot, unit.h_ddot);
    out.du_dt[n] = v_unit.v_a + v_unit.v_a_dot + v_unit.v_a_ddot;
    out.u[n] = slope(h) + slope_vjp(h, psi);
    out.lap_u[n] = v_terms.v_p + v_terms.v_c + v_terms.v_omega + v_terms.v_omega2;
    v.v_z[n] = unit1_vjp_a1(h, w, v_second.v_a2, v_second.v_weight3, v_row.v_o, v_row.v_ell);
    v.v_tau[n] = unit1_vjp_q(h, v_row.v_v_along_v, v_row.v_v_along_du_dz) + v_row.v_o_dot + v_row.v_o_ddot;
}

template __global__ void every_function(PotentialInputs<float>, PotentialOutputs<float>,
                                        PotentialGradients<float>, PotentialShape);
template __global__ void every_function(PotentialInputs<double>, PotentialOutputs<double>,
                                        PotentialGradients<double>, PotentialShape);
