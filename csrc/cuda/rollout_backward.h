// The way back along the flow: equations (13) to (20) of docs/derivation.md without the Laplacian, for each
// step.
#pragma once

#include "cuda/rollout_step.h"
#include "ffrl/potential_math.h"

namespace ffrl::cuda {

template <class T>
struct RolloutBackwardParams {
    RolloutParams<T> rollout;
    const T* kept;
    const T *v_z, *v_du_dz, *v_du_dt;  // null: zero
    T* v_velocity;                     // (B, T, D): γ of all steps; may be null
    T* v_z0;                           // (B, D); may be null
};

// λ_T = v_z[T]; γ_t = v_du_dz[t] ± λ_t; λ_{t-1} = v_z[t-1] + λ_t + what the potential at (z_{t-1}, t) makes
// of the cotangents γ_t of ∇u and v_du_dt[t] of ∂u/∂t.
template <class M, int kBlocks, bool kOnChip>
struct RolloutBackward {
    using T = typename M::T;
    static constexpr int kThreads = kRolloutThreads, kRanks = kBlocks;
    using Params = RolloutBackwardParams<T>;
    using C = Cluster<kThreads, kRanks>;

    FFRL_INLINE static void run(const C& cluster, const Params& params) {
        const RolloutParams<T>& p = params.rollout;
        const CallSizes& s = p.size;
        const RolloutLayout& a = p.layout;
        const RolloutCluster<M, kRanks, kOnChip> here(cluster, p);
        if (here.is_empty()) return;
        here.begin();
        const T* weight3 = p.in.weight3 + here.k * s.hidden2;
        const bool time = params.v_du_dt != nullptr;

        // What was kept of a row, zero in padding.
        const auto kept = [&](int thread, int step, int row, int64_t at) {
            return here.rows(thread)[row] >= 0 ? here.slot(params.kept, step, row)[at] : T(0);
        };
        const auto of_state = [&](int thread, int step, int d) {  // v_z
            const int64_t n = here.rows(thread)[here.row(thread)];
            if (params.v_z == nullptr || n < 0) return T(0);
            return params.v_z[(n * (p.steps + int64_t{1}) + step) * s.latent + d];
        };
        cluster.region_without_barrier([&](int thread) {
            T* state = here.own(thread) + a.state + here.row(thread) * a.stride_x;
            for (int d = here.lane(thread); d < s.latent; d += kRolloutLanes)
                state[d] = of_state(thread, p.steps, d);
        });
        for (int step = p.steps - 1; step >= 0; --step) {
            const T* omega = time ? p.omega + (here.feature + step) * s.hidden2 : nullptr;

            // (13)
            cluster.region_of_blocks([&](int thread) {
                T* memory = here.own(thread);
                const int row = here.row(thread);
                const int64_t n = here.rows(thread)[row], line = row * a.stride_x;
                const T phi = output_phi(kept(thread, step, row, s.scalars()), s.tanh_output);
                T v_phi = 0;
                int turn = 0;  // who of the cluster writes
                for (int d = here.lane(thread); d < a.latent; d += kRolloutLanes) {
                    T gamma = 0;
                    if (n >= 0 && d < s.latent) {
                        const int64_t at = (n * p.steps + step) * s.latent + d;
                        gamma = p.sign * memory[a.state + line + d];
                        if (params.v_du_dz != nullptr) gamma += params.v_du_dz[at];
                        v_phi = multiply_add(gamma, kept(thread, step, row, s.v() + d), v_phi);
                        if (turn == cluster.rank(thread) && params.v_velocity != nullptr)
                            params.v_velocity[at] = gamma;
                    }
                    memory[a.x + line + d] = phi * gamma;
                    turn = turn + 1 < kRanks ? turn + 1 : 0;
                }
                memory[here.lane_sum(0, row) + here.lane(thread)] = v_phi;
            });

            // (15)
            here.along_weight1([&](int thread, int row, int column, T v_r) {
                const int h = here.first1(thread) + column;
                const T h1 = h < s.hidden1 ? kept(thread, step, row, h) : T(0);
                T* at = here.own(thread) + row * a.stride1 + column;
                at[a.units1] = h < s.hidden1 ? unit1_vjp_q(h1, v_r, T(0)) : T(0);
                at[a.back1] = v_r;
            });
            cluster.region([](int) {});
            cluster.region_of_blocks([&](int thread) {
                here.gather_units1(thread, [](int) { return T(0); });
                if (here.lane(thread) != 0) return;
                T* memory = here.own(thread);
                const int row = here.row(thread);
                const int64_t n = here.rows(thread)[row];
                const T u = kept(thread, step, row, s.scalars());
                const T v_du_dt = time && n >= 0 ? params.v_du_dt[n * p.steps + step] : T(0);
                const T o_dot = time ? kept(thread, step, row, s.scalars() + 1) : T(0);
                const OutputRowVjp<T> vjp =
                    output_row_vjp(u, o_dot, T(0), T(0), T(0), s.tanh_output, T(0),
                                   here.sum_of_lanes(thread, 0, row), v_du_dt, T(0), T(0));
                memory[a.row + row] = vjp.v_o;
                memory[a.row + kRolloutRows + row] = vjp.v_o_dot;
            });

            // (17), (18) and v_a2 of (19)
            here.along_weight2([&](int thread, int row, int column, T v_p) {
                T* memory = here.own(thread);
                const int j = here.first2(thread) + column;
                T v_a2 = 0;
                if (j < s.hidden2) {
                    const T h2 = kept(thread, step, row, s.h2() + j);
                    if (time) v_p = multiply_add(memory[a.row + kRolloutRows + row], omega[j], v_p);
                    v_a2 = unit2_vjp(h2, weight3[j], memory[a.row + row], v_p, T(0)).v_a2;
                }
                memory[a.units2 + row * a.stride2 + column] = v_a2;
            });
            cluster.region_of_blocks([](int) {});

            // (17), (19), (20)
            here.across_weight2();
            cluster.region([](int) {});
            cluster.region_of_blocks([&](int thread) {
                T* memory = here.own(thread);
                const int row = here.row(thread), first = here.first1(thread);
                for (int unit = here.lane(thread); unit < a.slice1; unit += kRolloutLanes) {
                    const int h = first + unit;
                    T& back = memory[a.back1 + row * a.stride1 + unit];  // v_r, then v_a1
                    const T v_s = here.sum_of_all(a.all + row * a.stride_all + h);
                    back = h < s.hidden1
                               ? unit1_vjp_a1(kept(thread, step, row, h), kept(thread, step, row, s.q() + h),
                                              back, T(0), T(0), v_s)
                               : T(0);
                }
            });
            here.across_weight1();
            cluster.region([](int) {});
            cluster.region_without_barrier([&](int thread) {
                const int row = here.row(thread);
                T* state = here.own(thread) + a.state + row * a.stride_x;
                for (int d = here.lane(thread); d < s.latent; d += kRolloutLanes)
                    state[d] +=
                        here.sum_of_all(a.partial_x + row * a.stride_x + d) + of_state(thread, step, d);
            });
        }
        cluster.region([&](int thread) {  // behind it nobody reads this block's memory
            const int row = here.row(thread);
            const int64_t n = here.rows(thread)[row];
            if (params.v_z0 == nullptr || n < 0 || cluster.rank(thread) != 0) return;
            const T* state = here.own(thread) + a.state + row * a.stride_x;
            for (int d = here.lane(thread); d < s.latent; d += kRolloutLanes)
                params.v_z0[n * s.latent + d] = state[d];
        });
    }
};

}  // namespace ffrl::cuda
