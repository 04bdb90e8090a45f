// Equation (16) in both forms: the launches of the cubic part of the gradients of W1 and W2, and of d1 in the
// Jacobian form. Nothing is added with atomics: sums over blocks are written as parts, and added in their
// order.
#pragma once

#include <cstdint>

#include "cuda/cubic.h"
#include "cuda/cubic_backward_gram.h"
#include "cuda/cubic_backward_jacobian.h"
#include "cuda/cubic_forward.h"
#include "cuda/for_each.h"
#include "cuda/mma.h"

namespace ffrl::cuda {

// Where what lies in the workspace begins, and the end.
struct CubicBackwardSpace {
    int64_t v_gram, gram_parts, weight2_parts;        // Gram form
    int64_t v_jacobian, weight1_parts, weight1_sums;  // Jacobian form; it has weight2_parts too
    int64_t end;
};

template <class T>
CubicBackwardSpace cubic_backward_space(int blocks, int potentials, int latent, int hidden1, int hidden2,
                                        LaplacianForm form, bool needs_weights) {
    CubicBackwardSpace space{};
    const auto take = [&](int64_t& at, int64_t numbers) {
        at = space.end, space.end += divide_up(numbers, 4) * 4;
    };
    const int64_t k = potentials, h1 = hidden1, h2 = hidden2, d = latent;
    if (form == LaplacianForm::gram) {
        if (!needs_weights) return space;
        const GramBackwardCut cut = gram_backward_cut<T>(blocks, potentials, hidden1, hidden2);
        take(space.v_gram, k * h1 * h1);
        take(space.gram_parts, cut.gram_parts() * k * h1 * h1);
        take(space.weight2_parts, cut.weight2_parts() * k * h2 * h1);
    } else {
        take(space.v_jacobian, JacobianBackwardTile<T>::kUnits * static_cast<int64_t>(blocks) * kRows * h2);
        if (!needs_weights) return space;
        const JacobianBackwardCut cut = jacobian_backward_cut<T>(blocks, potentials, hidden1, hidden2);
        take(space.weight1_parts, blocks * h1 * d);
        take(space.weight1_sums, cut.weight1_chunks * k * h1 * d);
        take(space.weight2_parts, cut.weight2_chunks * k * h2 * h1);
    }
    return space;
}

// Numbers of workspace for launch_cubic_backward.
template <class T>
int64_t cubic_backward_numbers(int blocks, int potentials, int latent, int hidden1, int hidden2,
                               LaplacianForm form, bool needs_weights) {
    return cubic_backward_space<T>(blocks, potentials, latent, hidden1, hidden2, form, needs_weights).end;
}

template <class T, class Launcher>
void launch_gram_backward(Launcher& launch, const CubicOperands<T>& op, Precision precision, T* workspace,
                          T* v_weight1, T* v_weight2) {
    const int64_t k = op.potentials, h1 = op.hidden1, h2 = op.hidden2, d = op.latent;
    const CubicBackwardSpace space = cubic_backward_space<T>(op.blocks, op.potentials, op.latent, op.hidden1,
                                                             op.hidden2, LaplacianForm::gram, true);
    const GramBackwardCut cut = gram_backward_cut<T>(op.blocks, op.potentials, op.hidden1, op.hidden2);
    T *v_gram = workspace + space.v_gram, *gram_parts = workspace + space.gram_parts;
    T* weight2_parts = workspace + space.weight2_parts;
    with_arithmetic<T>(precision, [&](auto arithmetic) {
        with_gram_backward_tile<T>(op.hidden1, [&](auto tile) {
            launch.template operator()<GramBackward<decltype(arithmetic), decltype(tile)>>(
                {cut.pairs * cut.unit_chunks * cut.row_chunks * op.potentials, 1, 1},
                {op, gram_parts, weight2_parts, cut.tiles, cut.chunk_units, cut.unit_chunks, cut.row_chunks});
        });
    });
    for_each(launch,
             AddParts<T>{k * h2 * h1, static_cast<int>(cut.weight2_parts()), 1, weight2_parts, v_weight2});
    for_each(launch, AddSymmetricParts<T>{k * h1 * h1, static_cast<int>(cut.gram_parts()), op.hidden1,
                                          cut.tile, 2, gram_parts, v_gram});
    launch_matrix_product<T>(
        launch, op.potentials, precision,
        {v_gram, h1 * h1, h1, 1, op.weight1, h1 * d, d, 1, v_weight1, op.hidden1, op.latent, op.hidden1});
}

template <class T, class Launcher>
void launch_jacobian_backward(Launcher& launch, const CubicOperands<T>& op, bool needs_weights,
                              Precision precision, T* workspace, T* v_d1, T* v_weight1, T* v_weight2) {
    using ForwardTile = typename JacobianTiles<T>::Tile;
    using Tile = JacobianBackwardTile<T>;
    static_assert(ForwardTile::kUnits == Tile::kUnits && ForwardTile::kGroup == Tile::kUnits);
    const int64_t k = op.potentials, h1 = op.hidden1, h2 = op.hidden2, d = op.latent;
    const CubicBackwardSpace space = cubic_backward_space<T>(
        op.blocks, op.potentials, op.latent, op.hidden1, op.hidden2, LaplacianForm::jacobian, needs_weights);
    const JacobianBackwardCut cut =
        jacobian_backward_cut<T>(op.blocks, op.potentials, op.hidden1, op.hidden2);
    T* v_jacobian = workspace + space.v_jacobian;
    T* weight1_parts = needs_weights ? workspace + space.weight1_parts : nullptr;
    T* weight2_parts = cut.weight2_chunks > 1 ? workspace + space.weight2_parts : v_weight2;
    with_arithmetic<T>(precision, [&](auto arithmetic) {
        using M = decltype(arithmetic);
        for (int first = 0; first < op.latent; first += Tile::kUnits) {
            launch.template operator()<JacobianCotangent<M, ForwardTile>>(
                {op.blocks, static_cast<int>(divide_up(h2, ForwardTile::kColumns)), 1},
                {op, v_jacobian, first});
            launch.template operator()<JacobianBackward<M>>({op.blocks, cut.column_tiles, 1},
                                                            {op, v_jacobian, v_d1, weight1_parts, first});
            if (needs_weights)
                launch.template operator()<JacobianWeight2<M>>(
                    {cut.column_tiles * cut.row_tiles * cut.weight2_chunks * op.potentials, 1, 1},
                    {op, v_jacobian, weight2_parts, first, cut.weight2_chunks});
        }
    });
    if (!needs_weights) return;
    T* weight1_sums = cut.weight1_chunks > 1 ? workspace + space.weight1_sums : v_weight1;
    for_each(launch, AddBlocks<T>{cut.weight1_chunks * k * h1 * d, h1 * d, op.potentials, cut.weight1_chunks,
                                  op.first_block, weight1_parts, weight1_sums});
    if (cut.weight1_chunks > 1)
        for_each(launch, AddParts<T>{k * h1 * d, cut.weight1_chunks, 1, weight1_sums, v_weight1});
    if (cut.weight2_chunks > 1)
        for_each(launch, AddParts<T>{k * h2 * h1, cut.weight2_chunks, 1, weight2_parts, v_weight2});
}

// v_d1 (P, H1), in the Jacobian form, else null. v_weight1 (K, H1, D): in the Gram form 2 Ḡ W1 without the
// diagonal term of (14). v_weight2 (K, H2, H1). The weights' are null unless needs_weights.
template <class T, class Launcher>
void launch_cubic_backward(Launcher& launch, const CubicOperands<T>& op, LaplacianForm form,
                           bool needs_weights, Precision precision, T* workspace, T* v_d1, T* v_weight1,
                           T* v_weight2) {
    if (form == LaplacianForm::jacobian)
        launch_jacobian_backward(launch, op, needs_weights, precision, workspace, v_d1, v_weight1, v_weight2);
    else if (needs_weights)
        launch_gram_backward(launch, op, precision, workspace, v_weight1, v_weight2);
}

}  // namespace ffrl::cuda
