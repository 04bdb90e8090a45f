// The op backward on the GPU: the launches, in order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/cubic_backward.h"
#include "cuda/potential_forward.h"
#include "cuda/quadratic_backward.h"
#include "cuda/row_sums.h"
#include "cuda/weight_gradients.h"

namespace ffrl::cuda {

// Whether rows share a feature row, so that its gradient is a sum over them.
inline bool shares_features(const PotentialShape& s, bool table) {
    return table || s.features == 1;
}

// One size serves calls with and without a table of feature rows, and any cotangents.
template <class T>
struct BackwardWorkspace {
    PlanMemory rows;
    SortMemory sort;
    int* first_of_feature;
    T *scalars, *v_v, *v_ell_c, *d1, *v_d1, *gram, *diagonal, *cubic;
    T *v_r, *v_q, *v_a2, *v_omega, *v_omega2, *v_a1;
    T *block_sums, *block_parts, *block_totals;
    T *of_rows[3], *feature_parts;
    T *weight1_parts, *weight2_parts;
    SegmentShape feature_sum;
    WeightSum weight1_sum, weight2_sum;

    // s: that of the call
    BackwardWorkspace(Arena& arena, const PotentialShape& s, bool mixed, bool needs_features,
                      bool needs_weights, int64_t steps = 1)
        : rows(arena, s, mixed, steps), sort(take_sort(arena, mixed || needs_features ? s.rows : 0)) {
        const RowPlan& plan = rows.plan;
        const int64_t slots = static_cast<int64_t>(plan.blocks) * kRows;
        const bool gram_form = s.form == LaplacianForm::gram,
                   jacobian_form = s.form == LaplacianForm::jacobian;
        const bool laplacian = gram_form || jacobian_form,
                   cubic_part = jacobian_form || (gram_form && needs_weights);
        first_of_feature = arena.take<int>(needs_features ? s.features + 1 : 0);
        scalars = arena.take<T>(4 * slots);
        v_v = arena.take<T>(slots * s.latent);
        v_ell_c = arena.take<T>(laplacian ? slots * s.hidden2 : 0);
        d1 = arena.take<T>(cubic_part ? slots * s.hidden1 : 0);
        v_d1 = arena.take<T>(jacobian_form ? slots * s.hidden1 : 0);
        gram = arena.take<T>(gram_form && needs_weights ? s.potentials * s.hidden1 * s.hidden1 : 0);
        diagonal = arena.take<T>(laplacian && !(gram_form && needs_weights) ? s.potentials * s.hidden1 : 0);
        cubic = arena.take<T>(
            cubic_part ? cubic_backward_numbers<T>(plan.blocks, plan.potentials, static_cast<int>(s.latent),
                                                   static_cast<int>(s.hidden1), static_cast<int>(s.hidden2),
                                                   s.form, needs_weights)
                       : 0);
        v_r = arena.take<T>(slots * s.hidden1);
        v_q = arena.take<T>(slots * s.hidden1);
        v_a1 = arena.take<T>(slots * s.hidden1);
        v_a2 = arena.take<T>(slots * s.hidden2);
        v_omega = arena.take<T>(slots * s.hidden2);
        v_omega2 = arena.take<T>(s.d2u_dt2 ? slots * s.hidden2 : 0);

        // Narrower where the Laplacian has no cotangent, which may make more chunks.
        const BlockSums sums{static_cast<int>(s.hidden1), static_cast<int>(s.hidden2), laplacian};
        const SegmentShape wide{s.potentials, sums.width(), plan.blocks};
        const SegmentShape narrow{s.potentials, sums.diagonal(), plan.blocks};
        block_sums = arena.take<T>(plan.blocks * static_cast<int64_t>(sums.width()));
        block_parts = arena.take<T>(needs_weights ? std::max(wide.numbers(), narrow.numbers()) : 0);
        block_totals = arena.take<T>(needs_weights ? s.potentials * sums.width() : 0);

        feature_sum = {s.features, s.hidden1, s.rows};
        for (T*& piece : of_rows) piece = arena.take<T>(needs_features ? s.rows * s.hidden1 : 0);
        feature_parts = arena.take<T>(needs_features ? feature_sum.numbers() : 0);

        weight1_sum = weight_sum(plan.blocks, s.potentials, s.hidden1, s.latent);
        weight2_sum = weight_sum(plan.blocks, s.potentials, s.hidden2, s.hidden1);
        weight1_parts = arena.take<T>(needs_weights ? weight1_sum.numbers() : 0);
        weight2_parts = arena.take<T>(needs_weights ? weight2_sum.numbers() : 0);
    }
};

template <class T>
size_t backward_workspace(const PotentialShape& shape, bool mixed, bool needs_features, bool needs_weights) {
    if (shape.rows == 0) return 0;
    Arena arena(nullptr);
    BackwardWorkspace<T>(arena, shape_of_call(shape, mixed), mixed, needs_features, needs_weights);
    return arena.used();
}

// An array of numbers of each of the shape's potentials.
template <class T>
struct WeightGradient {
    T** address;
    int64_t size;
};

// Zeros for all potentials, and the gradients of potential k and those behind it.
template <class T, class Launcher>
PotentialGradients<T> zero_weights(Launcher& launch, PotentialGradients<T> v, const PotentialShape& s,
                                   int64_t k) {
    const WeightGradient<T> arrays[] = {{&v.v_weight1, s.hidden1 * s.latent},
                                        {&v.v_bias1, s.hidden1},
                                        {&v.v_weight2, s.hidden2 * s.hidden1},
                                        {&v.v_bias2, s.hidden2},
                                        {&v.v_weight3, s.hidden2},
                                        {&v.v_bias3, 1}};
    for (const WeightGradient<T>& array : arrays) {
        launch.zero(*array.address, static_cast<size_t>(s.potentials * array.size) * sizeof(T));
        *array.address += k * array.size;
    }
    return v;
}

// make_plan(workspace, inputs, rows) launches what fills the plan; `steps` is that of PlanMemory.
template <class T, class Launcher, class MakePlan>
void launch_backward(Launcher& launch, const PotentialShape& shape, const PotentialInputs<T>& inputs,
                     const T* kept, const PotentialCotangents<T>& cotangents,
                     const PotentialGradients<T>& gradients, void* workspace, Precision precision,
                     int64_t steps, MakePlan make_plan) {
    const bool mixed = inputs.k != nullptr, table = inputs.feature_row != nullptr;
    const bool needs_features = gradients.v_tau != nullptr, needs_weights = gradients.v_weight1 != nullptr;
    const auto zero_features = [&](T* v) {
        if (v != nullptr) launch.zero(v, static_cast<size_t>(shape.features * shape.hidden1) * sizeof(T));
    };
    if (shape.rows == 0) {
        if (needs_weights) zero_weights(launch, gradients, shape, 0);
        zero_features(gradients.v_tau);
        zero_features(gradients.v_dtau_dt);
        zero_features(gradients.v_d2tau_dt2);
        return;
    }
    const PotentialShape s = shape_of_call(shape, mixed);
    const PotentialInputs<T> in = mixed ? inputs : weights_from(inputs, s, inputs.k_all);
    PotentialGradients<T> v = gradients;
    if (needs_weights && !mixed && shape.potentials > 1) v = zero_weights(launch, v, shape, inputs.k_all);
    Arena arena(workspace);
    const BackwardWorkspace<T> w(arena, s, mixed, needs_features, needs_weights, steps);
    const RowPlan& plan = w.rows.plan;
    const int rows = static_cast<int>(s.rows);
    make_plan(w, in, rows);

    const LaplacianForm form = cotangents.v_lap_u != nullptr ? s.form : LaplacianForm::none;
    const bool shared = shares_features(s, table);
    BackwardParams<T> params{};
    params.in = in;
    params.v = cotangents;
    params.size = sizes_of(s, plan.blocks);
    params.slot_row = plan.slot_row;
    params.block_k = plan.block_k;
    params.first_block = plan.first_block;
    params.kept = kept;
    params.scalars = w.scalars;
    params.v_v = w.v_v;
    params.v_ell_c = w.v_ell_c;
    params.laplacian = form != LaplacianForm::none;
    params.second = s.d2u_dt2 && cotangents.v_d2u_dt2 != nullptr;
    params.time = cotangents.v_du_dt != nullptr || params.second;
    params.has_v = cotangents.v_du_dz != nullptr || (params.laplacian && s.tanh_output);
    const bool cubic_part = form == LaplacianForm::jacobian || (form == LaplacianForm::gram && needs_weights);
    params.d1 = cubic_part ? w.d1 : nullptr;
    params.v_d1 = form == LaplacianForm::jacobian ? w.v_d1 : nullptr;
    params.v_r = w.v_r;
    params.v_q = w.v_q;
    params.v_a2 = w.v_a2;
    params.v_omega = w.v_omega;
    params.v_omega2 = w.v_omega2;
    params.v_a1 = w.v_a1;
    params.block_sums = w.block_sums;
    params.block_sum = {params.size.hidden1, params.size.hidden2, params.laplacian};
    params.v_z = v.v_z;
    if (needs_features) {
        params.v_tau = shared ? w.of_rows[0] : v.v_tau;
        if (params.time) params.v_dtau_dt = shared ? w.of_rows[1] : v.v_dtau_dt;
        if (params.second) params.v_d2tau_dt2 = shared ? w.of_rows[2] : v.v_d2tau_dt2;
    }
    launch_rows_backward(launch, params, plan.blocks);

    if (params.laplacian) {
        const int64_t hidden1 = s.hidden1;
        if (w.gram != nullptr) {
            launch_gram_matrix<T>(launch, in.weight1, plan.potentials, params.size.latent,
                                  params.size.hidden1, precision, w.gram);
            params.diagonal = w.gram;
            params.diagonal_of_k = hidden1 * hidden1;
            params.diagonal_step = params.size.hidden1 + 1;
        } else {
            for_each(launch,
                     GramDiagonal<T>{s.potentials * hidden1, params.size.latent, in.weight1, w.diagonal});
            params.diagonal = w.diagonal;
            params.diagonal_of_k = hidden1;
            params.diagonal_step = 1;
        }
    }
    if (cubic_part)
        launch_cubic_backward<T>(launch, cubic_operands<T>(s, in, plan, w.gram, w.d1, w.v_ell_c), form,
                                 needs_weights, precision, w.cubic, w.v_d1, v.v_weight1, v.v_weight2);
    launch_layers_backward(launch, params, plan.blocks, precision);

    if (needs_features) {
        const int* order = nullptr;
        int* first = nullptr;
        if (table) {
            first = w.first_of_feature;
            order = launch_sort(launch, in.feature_row, rows, s.features, w.sort);
            for_each(launch, FindFirst{s.features + 1, in.feature_row, order, rows, first});
        }
        T* const found[] = {params.v_tau, params.v_dtau_dt, params.v_d2tau_dt2};
        T* const wanted[] = {v.v_tau, v.v_dtau_dt, v.v_d2tau_dt2};
        for (int i = 0; i < 3; ++i) {
            if (found[i] == nullptr)
                zero_features(wanted[i]);
            else if (shared)
                launch_sums<T>(launch, w.feature_sum, found[i], order, first, w.feature_parts, wanted[i]);
        }
    }
    if (!needs_weights) return;
    const SegmentShape block_sum{s.potentials, params.block_sum.width(), plan.blocks};
    launch_sums<T>(launch, block_sum, w.block_sums, nullptr, plan.first_block, w.block_parts, w.block_totals);
    for_each(launch, SpreadBlockSums<T>{s.potentials * params.block_sum.width(), params.block_sum,
                                        w.block_totals, v.v_bias1, v.v_bias2, v.v_weight3, v.v_bias3});
    launch_weight1_gradient<T>(launch, {params, w.weight1_sum, w.weight1_parts}, precision);
    launch_weight2_gradient<T>(launch, {params, w.weight2_sum, w.weight2_parts}, precision);
    for_each(launch,
             FinishWeight<T>{w.weight1_sum.count(), w.weight1_sum.chunks, cubic_part, w.weight1_parts,
                             in.weight1, w.block_totals + params.block_sum.diagonal(),
                             params.block_sum.width(), params.size.hidden1, params.size.latent, v.v_weight1});
    for_each(launch, FinishWeight<T>{w.weight2_sum.count(), w.weight2_sum.chunks, cubic_part, w.weight2_parts,
                                     nullptr, nullptr, 0, 1, 1, v.v_weight2});
}

template <class T, class Launcher>
void launch_backward(Launcher& launch, const PotentialShape& shape, const PotentialInputs<T>& inputs,
                     const T* kept, const PotentialCotangents<T>& cotangents,
                     const PotentialGradients<T>& gradients, void* workspace, Precision precision) {
    launch_backward(launch, shape, inputs, kept, cotangents, gradients, workspace, precision, 1,
                    [&](const BackwardWorkspace<T>& w, const PotentialInputs<T>& in, int rows) {
                        launch_row_plan(launch, w.rows.plan, in.k, rows, w.sort, w.rows.first_row);
                    });
}

}  // namespace ffrl::cuda
