// The flow along all its steps: equations (1) to (6) of docs/derivation.md for each.
#pragma once

#include "cuda/rollout_step.h"
#include "ffrl/potential_math.h"

namespace ffrl::cuda {

template <class T>
struct RolloutForwardParams {
    RolloutParams<T> rollout;
    T *z, *du_dz, *du_dt, *kept;  // kept may be null
};

template <class M, int kBlocks, bool kOnChip>
struct RolloutForward {
    using T = typename M::T;
    static constexpr int kThreads = kRolloutThreads, kRanks = kBlocks;
    using Params = RolloutForwardParams<T>;
    using C = Cluster<kThreads, kRanks>;

    FFRL_INLINE static void run(const C& cluster, const Params& params) {
        const RolloutParams<T>& p = params.rollout;
        const CallSizes& s = p.size;
        const RolloutLayout& a = p.layout;
        const RolloutCluster<M, kRanks, kOnChip> here(cluster, p);
        if (here.is_empty()) {
            if (params.kept != nullptr) clear_kept(cluster, here, params);
            return;
        }
        here.begin();
        cluster.region_of_blocks([&](int thread) {
            const int64_t n = here.rows(thread)[here.row(thread)];
            T* x = here.own(thread) + a.x + here.row(thread) * a.stride_x;
            for (int d = here.lane(thread); d < a.latent; d += kRolloutLanes) {
                x[d] = n >= 0 && d < s.latent ? p.in.z[n * s.latent + d] : T(0);
                if (n >= 0 && d < s.latent && cluster.rank(thread) == 0)
                    params.z[n * (p.steps + int64_t{1}) * s.latent + d] = x[d];
            }
        });
        const T* bias1 = p.in.bias1 + here.k * s.hidden1;
        const T* bias2 = p.in.bias2 + here.k * s.hidden2;
        const T* weight3 = p.in.weight3 + here.k * s.hidden2;
        for (int step = 0; step < p.steps; ++step) {
            const T* tau = p.in.tau + (here.feature + step) * s.hidden1;
            const T* omega = p.omega + (here.feature + step) * s.hidden2;

            // (1)
            here.along_weight1([&](int thread, int row, int column, T a1) {
                const int h = here.first1(thread) + column;
                const T h1 = h < s.hidden1 ? hyperbolic_tangent(a1 + bias1[h]) : T(0);
                here.own(thread)[a.units1 + row * a.stride1 + column] = h1;
                if (h < s.hidden1 && params.kept != nullptr) here.slot(params.kept, step, row)[h] = h1;
            });
            cluster.region([](int) {});
            cluster.region_of_blocks(
                [&](int thread) { here.gather_units1(thread, [&](int h) { return tau[h]; }); });

            // (2), (3), (6)
            here.along_weight2([&](int thread, int row, int column, T a2) {
                const int j = here.first2(thread) + column;
                const bool exists = j < s.hidden2;
                const T h2 = exists ? hyperbolic_tangent(a2 + bias2[j]) : T(0);
                const Unit2<T> unit = unit2(h2, exists ? weight3[j] : T(0));
                T* at = here.own(thread) + row * a.stride2 + column;
                at[a.units2] = unit.p;
                at[a.shares2] = unit.o;
                if (exists && params.kept != nullptr) here.slot(params.kept, step, row)[s.h2() + j] = h2;
            });
            cluster.region_of_blocks([](int) {});
            cluster.region_without_barrier([&](int thread) {
                T* memory = here.own(thread);
                const int64_t row = here.row(thread) * a.stride2;
                T o = 0, o_dot = 0;
                for (int unit = here.lane(thread); unit < a.slice2; unit += kRolloutLanes) {
                    const int j = here.first2(thread) + unit;
                    o += memory[a.shares2 + row + unit];
                    if (j < s.hidden2) o_dot = multiply_add(memory[a.units2 + row + unit], omega[j], o_dot);
                }
                memory[here.lane_sum(0, here.row(thread)) + here.lane(thread)] = o;
                memory[here.lane_sum(1, here.row(thread)) + here.lane(thread)] = o_dot;
            });

            // (5)
            here.across_weight2();
            cluster.region_of_blocks([](int) {});
            cluster.region([&](int thread) {
                const int i = cluster.in_block(thread);
                if (i < 2 * kRolloutRows)
                    here.own(thread)[a.sums + i] =
                        here.sum_of_lanes(thread, i / kRolloutRows, i % kRolloutRows);
            });
            cluster.region_of_blocks([&](int thread) {
                T* memory = here.own(thread);
                const int row = here.row(thread), first = here.first1(thread);
                for (int unit = here.lane(thread); unit < a.slice1; unit += kRolloutLanes) {
                    const T q = here.sum_of_all(a.all + row * a.stride_all + first + unit);
                    const int64_t at = row * a.stride1 + unit;
                    memory[a.back1 + at] = unit1(memory[a.units1 + at], q).r;
                    if (first + unit < s.hidden1 && params.kept != nullptr)
                        here.slot(params.kept, step, row)[s.q() + first + unit] = q;
                }
                if (here.lane(thread) == 0) end_row(cluster, here, params, thread, step);
            });
            here.across_weight1();
            cluster.region([](int) {});
            cluster.region_of_blocks([&](int thread) {
                T* memory = here.own(thread);
                const int row = here.row(thread), rank = cluster.rank(thread);
                const int64_t n = here.rows(thread)[row];
                const T phi = memory[a.row + row];
                int turn = 0;  // who of the cluster writes
                for (int d = here.lane(thread); d < s.latent; d += kRolloutLanes) {
                    const T v = here.sum_of_all(a.partial_x + row * a.stride_x + d), velocity = phi * v;
                    T& z = memory[a.x + row * a.stride_x + d];
                    if (n >= 0) z += p.sign * velocity;
                    if (turn == rank) {
                        if (params.kept != nullptr) here.slot(params.kept, step, row)[s.v() + d] = v;
                        if (n >= 0) {
                            params.du_dz[(n * p.steps + step) * s.latent + d] = velocity;
                            params.z[(n * (p.steps + int64_t{1}) + step + 1) * s.latent + d] = z;
                        }
                    }
                    turn = turn + 1 < kRanks ? turn + 1 : 0;
                }
            });
        }
        cluster.region([](int) {});  // nobody reads this block's memory any more
    }

  private:
    // (3), (4), (6): the end of a row, which every block comes to.
    template <class Here>
    FFRL_INLINE static void end_row(const C& cluster, const Here& here, const Params& params, int thread,
                                    int step) {
        const RolloutParams<T>& p = params.rollout;
        const int row = here.row(thread);
        const int64_t n = here.rows(thread)[row];
        const T o = p.in.bias3[here.k] + here.sum_of_all(p.layout.sums + row);
        const T o_dot = here.sum_of_all(p.layout.sums + kRolloutRows + row);
        const T u = p.size.tanh_output ? hyperbolic_tangent(o) : o;
        const T phi = output_phi(u, p.size.tanh_output);
        here.own(thread)[p.layout.row + row] = phi;
        if (cluster.rank(thread) != 0) return;
        if (n >= 0) params.du_dt[n * p.steps + step] = phi * o_dot;
        if (params.kept == nullptr) return;
        T* scalars = here.slot(params.kept, step, row) + p.size.scalars();
        scalars[0] = u;
        scalars[1] = o_dot;
        scalars[2] = scalars[3] = 0;  // ∂²o/∂t² and ℓ, which nobody asks for
    }

    template <class Here>
    FFRL_INLINE static void clear_kept(const C& cluster, const Here& here, const Params& params) {
        cluster.region_without_barrier([&](int thread) {
            const int64_t count = static_cast<int64_t>(kRolloutRows) * params.rollout.size.width;
            const int first = cluster.rank(thread) * kThreads + cluster.in_block(thread);
            for (int step = 0; step < params.rollout.steps; ++step) {
                T* kept = here.slot(params.kept, step, 0);
                for (int64_t i = first; i < count; i += C::kAll) kept[i] = 0;
            }
        });
    }
};

}  // namespace ffrl::cuda
