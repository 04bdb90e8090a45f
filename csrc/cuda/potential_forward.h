// The op forward on the GPU: the launches, in order.
#pragma once

#include <cstdint>

#include "cuda/cubic_forward.h"
#include "cuda/quadratic_forward.h"
#include "cuda/workspace.h"

namespace ffrl::cuda {

template <class T>
struct ForwardWorkspace {
    PlanMemory rows;
    SortMemory sort;
    T *kept, *d1, *c, *parts, *gram, *diagonal, *squares, *column_sums, *cubic;

    // s: that of the call
    ForwardWorkspace(Arena& arena, const PotentialShape& s, bool mixed, bool keep)
        : rows(arena, s, mixed), sort(take_sort(arena, mixed ? s.rows : 0)) {
        const int64_t slots = static_cast<int64_t>(rows.plan.blocks) * kRows;
        const bool gram_form = s.form == LaplacianForm::gram, laplacian = s.form != LaplacianForm::none;
        kept = arena.take<T>(keep ? 0 : slots * kept_width(s));
        d1 = arena.take<T>(slots * s.hidden1);
        c = arena.take<T>(slots * s.hidden2);
        parts = arena.take<T>(Hidden2Forward<PlainProduct<T>>::kShares * divide_up(s.hidden2, kTileColumns) *
                              slots);
        gram = arena.take<T>(gram_form ? s.potentials * s.hidden1 * s.hidden1 : 0);
        diagonal = arena.take<T>(s.form == LaplacianForm::jacobian ? s.potentials * s.hidden1 : 0);
        squares = arena.take<T>(laplacian ? slots * s.hidden2 : 0);
        column_sums = arena.take<T>(gram_form && keep ? slots * s.hidden1 : 0);
        cubic = arena.take<T>(
            laplacian
                ? squares_numbers<T>(rows.plan.blocks, rows.plan.potentials, static_cast<int>(s.latent),
                                     static_cast<int>(s.hidden1), static_cast<int>(s.hidden2), s.form, keep)
                : 0);
    }
};

template <class T>
size_t forward_workspace(const PotentialShape& shape, bool mixed, bool keep) {
    Arena arena(nullptr);
    ForwardWorkspace<T>(arena, shape_of_call(shape, mixed), mixed, keep);
    return arena.used();
}

template <class T>
CubicOperands<T> cubic_operands(const PotentialShape& s, const PotentialInputs<T>& in, const RowPlan& plan,
                                const T* gram, const T* d1, const T* c) {
    return {in.weight1,
            in.weight2,
            gram,
            plan.block_k,
            plan.first_block,
            d1,
            c,
            plan.blocks,
            plan.potentials,
            static_cast<int>(s.latent),
            static_cast<int>(s.hidden1),
            static_cast<int>(s.hidden2)};
}

// kept: (max_blocks · kRows, kept_width) where ``keep``, else not used.
template <class T, class Launcher>
void launch_forward(Launcher& launch, const PotentialShape& shape, const PotentialInputs<T>& inputs,
                    const PotentialOutputs<T>& outputs, T* kept, bool keep, void* workspace,
                    Precision precision) {
    const bool mixed = inputs.k != nullptr;
    if (shape.rows == 0) {
        const int64_t numbers = max_blocks(shape, mixed) * kRows * kept_width(shape);
        if (keep) launch.zero(kept, static_cast<size_t>(numbers) * sizeof(T));
        return;
    }
    const PotentialShape s = shape_of_call(shape, mixed);
    const PotentialInputs<T> in = mixed ? inputs : weights_from(inputs, s, inputs.k_all);
    Arena arena(workspace);
    const ForwardWorkspace<T> w(arena, s, mixed, keep);
    const RowPlan& plan = w.rows.plan;
    const int rows = static_cast<int>(s.rows);
    launch_row_plan(launch, plan, in.k, rows, w.sort, w.rows.first_row);

    ForwardParams<T> params{};
    params.in = in;
    params.out = outputs;
    params.size = sizes_of(s, plan.blocks);
    params.slot_row = plan.slot_row;
    params.block_k = plan.block_k;
    params.kept = keep ? kept : w.kept;
    params.d1 = w.d1;
    params.c = w.c;
    params.parts = w.parts;
    params.unit_tiles = static_cast<int>(divide_up(s.hidden2, kTileColumns));
    params.keep = keep;
    launch_layers_forward(launch, params, plan.blocks, precision);

    if (s.form != LaplacianForm::none) {
        const int64_t hidden1 = s.hidden1;
        if (s.form == LaplacianForm::gram) {
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
        launch_squares<T>(launch, cubic_operands<T>(s, in, plan, w.gram, w.d1, w.c), s.form, keep, precision,
                          w.cubic, w.squares, w.column_sums);
        params.squares = w.squares;
        params.column_sums = w.column_sums;
    }
    launch_rows_forward(launch, params, plan.blocks);
}

}  // namespace ffrl::cuda
