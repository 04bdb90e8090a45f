// The rollout on the GPU: the launches, in order.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/potential_backward.h"
#include "cuda/rollout_backward.h"
#include "cuda/rollout_cuda.h"
#include "cuda/rollout_forward.h"
#include "cuda/workspace.h"

namespace ffrl::cuda {

// W2 ∂τ/∂t of every step, which no state changes. Grid (tiles of steps · potentials, tiles of units).
template <class Product>
struct StepOmega {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = 2;
    struct Params {
        const T *weight2, *dtau_dt;
        T* omega;  // (K·T, H2)
        int steps, tiles, hidden1, hidden2;
    };
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> omega;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const int64_t k = block.index().x / p.tiles;
        const int first_step = block.index().x % p.tiles * kTileRows, first = block.index().y * kTileColumns;
        const T* weight2 = p.weight2 + k * p.hidden2 * p.hidden1;
        const T* dtau_dt = p.dtau_dt + (k * p.steps + first_step) * p.hidden1;
        T* omega = p.omega + (k * p.steps + first_step) * p.hidden2;
        multiply<Product>(
            block, shared.steps, shared.omega, p.hidden1, along_terms([&](int row, int64_t h) {
                return first_step + row < p.steps ? dtau_dt[static_cast<int64_t>(row) * p.hidden1 + h] : T(0);
            }),
            along_terms([&](int column, int64_t h) {
                const int64_t j = first + column;
                return j < p.hidden2 ? weight2[j * p.hidden1 + h] : T(0);
            }));
        for_tile(block, [&](int row, int column) {
            if (first_step + row < p.steps && first + column < p.hidden2)
                omega[static_cast<int64_t>(row) * p.hidden2 + first + column] = shared.omega.at[row][column];
        });
    }
};

// The plan of the rows b·T + t: each block is followed by itself a step later.
struct RepeatSlots {
    int64_t count;  // slots
    RowPlan from, to;
    int steps;

    FFRL_INLINE void operator()(int64_t slot) const {
        const int64_t block = slot / kRows, step = block % steps;
        const int64_t row = from.slot_row[block / steps * kRows + slot % kRows];
        to.slot_row[slot] = row >= 0 ? row * steps + step : -1;
        if (slot % kRows == 0) to.block_k[block] = from.block_k[block / steps];
    }
};

struct RepeatFirstBlocks {
    int64_t count;  // potentials + 1
    RowPlan from, to;
    int steps;

    FFRL_INLINE void operator()(int64_t k) const { to.first_block[k] = from.first_block[k] * steps; }
};

// The time feature row of each row b·T + t.
struct StepFeatures {
    int64_t count;
    const int64_t* k;  // null: one potential
    int64_t* feature;
    int64_t potentials;
    int steps;

    FFRL_INLINE void operator()(int64_t row) const {
        const int64_t of = k != nullptr ? k[row / steps] : 0;
        feature[row] = 0 <= of && of < potentials ? of * steps + row % steps : -1;  // which traps
    }
};

// z[:, :-1], (B·T, D).
template <class T>
struct StatesBefore {
    int64_t count;
    const T* z;
    T* rows;
    int64_t of_batch;  // T D
    int latent;

    FFRL_INLINE void operator()(int64_t i) const { rows[i] = z[i + i / of_batch * latent]; }
};

// How a call is spread: `ranks` blocks in a cluster. It does not depend on the number of rows.
struct RolloutSpread {
    int ranks;
    RolloutLayout layout;
};

template <class T>
RolloutSpread rollout_spread(const PotentialShape& s, const RolloutDevice& device) {
    if (device.capability >= 9 && device.has_clusters &&
        s.hidden1 * (s.latent + s.hidden2) >= device.worth_a_cluster) {
        const RolloutLayout layout = rollout_layout<T>(s, kMaxRanks, device.shared_memory);
        if (layout.on_chip) return {kMaxRanks, layout};
    }
    return {1, rollout_layout<T>(s, 1, device.shared_memory)};
}

template <class T>
struct RolloutWorkspace {
    PlanMemory rows;
    SortMemory sort;
    T *omega, *scratch;

    // s: that of the call
    RolloutWorkspace(Arena& arena, const PotentialShape& s, bool mixed, const RolloutSpread& spread)
        : rows(arena, s, mixed), sort(take_sort(arena, mixed ? s.rows : 0)) {
        omega = arena.take<T>(s.features * s.hidden2);
        scratch = arena.take<T>(spread.layout.on_chip ? 0
                                                      : int64_t{rows.plan.blocks} * kRolloutGroups *
                                                            spread.ranks * spread.layout.numbers);
    }
};

template <class T>
struct RolloutBackwardWorkspace {
    RolloutWorkspace<T> rollout;
    T *v_velocity, *z;
    int64_t* feature_row;
    size_t begin;  // of the op's backward

    RolloutBackwardWorkspace(Arena& arena, const PotentialShape& s, int64_t steps, bool mixed, bool needs_op,
                             const RolloutSpread& spread)
        : rollout(arena, s, mixed, spread) {
        const int64_t rows = needs_op ? s.rows * steps : 0;
        v_velocity = arena.take<T>(rows * s.latent);
        z = arena.take<T>(rows * s.latent);
        feature_row = arena.take<int64_t>(rows);
        begin = arena.used();
    }
};

// The op on the rows of all steps.
inline PotentialShape shape_of_steps(PotentialShape s, int64_t steps) {
    s.rows *= steps;
    s.form = LaplacianForm::none;
    s.d2u_dt2 = false;
    return s;
}

template <class T>
size_t rollout_forward_workspace(const PotentialShape& shape, int64_t, bool mixed,
                                 const RolloutDevice& device) {
    if (shape.rows == 0) return 0;
    const PotentialShape s = shape_of_call(shape, mixed);
    Arena arena(nullptr);
    RolloutWorkspace<T>(arena, s, mixed, rollout_spread<T>(s, device));
    return arena.used();
}

template <class T>
size_t rollout_backward_workspace(const PotentialShape& shape, int64_t steps, bool mixed, bool needs_features,
                                  bool needs_weights, const RolloutDevice& device) {
    if (shape.rows == 0) return 0;
    const PotentialShape s = shape_of_call(shape, mixed);
    const bool needs_op = needs_features || needs_weights;
    Arena arena(nullptr);
    const RolloutBackwardWorkspace<T> w(arena, s, steps, mixed, needs_op, rollout_spread<T>(s, device));
    if (!needs_op) return w.begin;
    Arena of_op(nullptr);
    BackwardWorkspace<T>(of_op, shape_of_steps(s, steps), mixed, needs_features, needs_weights, steps);
    return w.begin + of_op.used();
}

// launch_kernel(Arithmetic, Ranks, OnChip) with the constants of the spread.
template <int kValue>
struct Constant {
    static constexpr int value = kValue;
};

template <class T, class F>
void with_rollout_kernel(const RolloutSpread& spread, Precision precision, F launch_kernel) {
    const auto with = [&](auto arithmetic) {
        if (!spread.layout.on_chip)
            launch_kernel(arithmetic, Constant<1>{}, Constant<false>{});
        else if (spread.ranks == 1)
            launch_kernel(arithmetic, Constant<1>{}, Constant<true>{});
        else
            launch_kernel(arithmetic, Constant<kMaxRanks>{}, Constant<true>{});
    };
    if constexpr (std::is_same_v<T, float>) {  // what is not cubic is never in tf32
        if (precision != Precision::ieee) return with(Arithmetic<float, Precision::tf32x3>{});
    }
    with(Arithmetic<T, Precision::ieee>{});
}

template <class T, class Launcher>
void launch_rollout_forward_steps(Launcher& launch, const RolloutForwardParams<T>& params,
                                  const RolloutSpread& spread, int blocks, Precision precision) {
    with_rollout_kernel<T>(spread, precision, [&](auto arithmetic, auto ranks, auto on_chip) {
        using K = RolloutForward<decltype(arithmetic), decltype(ranks)::value, decltype(on_chip)::value>;
        launch.template cluster<K>(blocks * kRolloutGroups, static_cast<size_t>(spread.layout.bytes), params);
    });
}

template <class T, class Launcher>
void launch_rollout_backward_steps(Launcher& launch, const RolloutBackwardParams<T>& params,
                                   const RolloutSpread& spread, int blocks, Precision precision) {
    with_rollout_kernel<T>(spread, precision, [&](auto arithmetic, auto ranks, auto on_chip) {
        using K = RolloutBackward<decltype(arithmetic), decltype(ranks)::value, decltype(on_chip)::value>;
        launch.template cluster<K>(blocks * kRolloutGroups, static_cast<size_t>(spread.layout.bytes), params);
    });
}

template <class T, class Launcher>
void launch_omega(Launcher& launch, const PotentialInputs<T>& in, const PotentialShape& s, int64_t steps,
                  Precision precision, T* omega) {
    const int tiles = static_cast<int>(divide_up(steps, kTileRows));
    const Index3 grid{static_cast<int>(tiles * s.potentials),
                      static_cast<int>(divide_up(s.hidden2, kTileColumns)), 1};
    with_product<T>(precision, [&](auto product) {
        launch.template operator()<StepOmega<decltype(product)>>(
            grid, {in.weight2, in.dtau_dt, omega, static_cast<int>(steps), tiles, static_cast<int>(s.hidden1),
                   static_cast<int>(s.hidden2)});
    });
}

template <class T>
RolloutParams<T> rollout_params(const PotentialShape& s, const RolloutSteps& steps,
                                const PotentialInputs<T>& in, const RolloutWorkspace<T>& w,
                                const RolloutSpread& spread, bool mixed, bool time) {
    RolloutParams<T> p{};
    p.in = in;
    p.size = sizes_of(shape_of_steps(s, 1), w.rows.plan.blocks);
    p.layout = spread.layout;
    p.slot_row = w.rows.plan.slot_row;
    p.block_k = w.rows.plan.block_k;
    p.scratch = w.scratch;
    p.omega = time ? w.omega : nullptr;
    p.steps = static_cast<int>(steps.count);
    p.sign = static_cast<T>(steps.direction);
    p.mixed = mixed;
    return p;
}

template <class T, class Launcher>
void launch_rollout_forward(Launcher& launch, const PotentialShape& shape, const RolloutSteps& steps,
                            const PotentialInputs<T>& inputs, const RolloutOutputs<T>& outputs,
                            void* workspace, Precision precision, const RolloutDevice& device) {
    const bool mixed = inputs.k != nullptr;
    if (shape.rows == 0) {
        const int64_t numbers =
            max_blocks(shape, mixed) * steps.count * kRows * kept_width(shape_of_steps(shape, 1));
        if (outputs.kept != nullptr) launch.zero(outputs.kept, static_cast<size_t>(numbers) * sizeof(T));
        return;
    }
    const PotentialShape s = shape_of_call(shape, mixed);
    const PotentialInputs<T> in = mixed ? inputs : weights_from(inputs, s, inputs.k_all);
    const RolloutSpread spread = rollout_spread<T>(s, device);
    Arena arena(workspace);
    const RolloutWorkspace<T> w(arena, s, mixed, spread);
    launch_row_plan(launch, w.rows.plan, in.k, static_cast<int>(s.rows), w.sort, w.rows.first_row);
    launch_omega(launch, in, s, steps.count, precision, w.omega);
    launch_rollout_forward_steps<T>(launch,
                                    {rollout_params(s, steps, in, w, spread, mixed, true), outputs.z,
                                     outputs.du_dz, outputs.du_dt, outputs.kept},
                                    spread, w.rows.plan.blocks, precision);
}

template <class T, class Launcher>
void launch_rollout_backward(Launcher& launch, const PotentialShape& shape, const RolloutSteps& steps,
                             const PotentialInputs<T>& inputs, const T* kept,
                             const RolloutCotangents<T>& cotangents, const PotentialGradients<T>& gradients,
                             void* workspace, Precision precision, const RolloutDevice& device) {
    const bool mixed = inputs.k != nullptr, time = cotangents.v_du_dt != nullptr;
    const bool needs_op = gradients.v_tau != nullptr || gradients.v_weight1 != nullptr;
    PotentialGradients<T> of_op = gradients;
    of_op.v_z = nullptr;
    if (shape.rows == 0) {
        launch_backward<T>(launch, shape, inputs, nullptr, {}, of_op, nullptr, precision);
        return;
    }
    const PotentialShape s = shape_of_call(shape, mixed);
    const PotentialInputs<T> in = mixed ? inputs : weights_from(inputs, s, inputs.k_all);
    const RolloutSpread spread = rollout_spread<T>(s, device);
    Arena arena(workspace);
    const RolloutBackwardWorkspace<T> w(arena, s, steps.count, mixed, needs_op, spread);
    const RowPlan& plan = w.rollout.rows.plan;
    launch_row_plan(launch, plan, in.k, static_cast<int>(s.rows), w.rollout.sort, w.rollout.rows.first_row);
    if (time) launch_omega(launch, in, s, steps.count, precision, w.rollout.omega);
    launch_rollout_backward_steps<T>(
        launch,
        {rollout_params(s, steps, in, w.rollout, spread, mixed, time), kept, cotangents.v_z,
         cotangents.v_du_dz, cotangents.v_du_dt, w.v_velocity, gradients.v_z},
        spread, plan.blocks, precision);
    if (!needs_op) return;

    const int count = static_cast<int>(steps.count);
    const PotentialShape of_steps = shape_of_steps(shape, steps.count);
    const int64_t rows = of_steps.rows;
    for_each(launch, StepFeatures{rows, in.k, w.feature_row, s.potentials, count});
    for_each(launch, StatesBefore<T>{rows * s.latent, inputs.z, w.z, steps.count * s.latent,
                                     static_cast<int>(s.latent)});
    PotentialInputs<T> op_inputs = inputs;
    op_inputs.z = w.z;
    op_inputs.feature_row = w.feature_row;
    launch_backward<T>(launch, of_steps, op_inputs, kept,
                       {nullptr, w.v_velocity, cotangents.v_du_dt, nullptr, nullptr}, of_op,
                       static_cast<char*>(workspace) + w.begin, precision, steps.count,
                       [&](const BackwardWorkspace<T>& op, const PotentialInputs<T>&, int) {
                           const RowPlan& to = op.rows.plan;
                           for_each(launch, RepeatSlots{int64_t{to.blocks} * kRows, plan, to, count});
                           for_each(launch, RepeatFirstBlocks{plan.potentials + int64_t{1}, plan, to, count});
                       });
}

}  // namespace ffrl::cuda
