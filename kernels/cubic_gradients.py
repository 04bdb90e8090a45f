"""The launches for the cubic part of the Laplacian backward, in both of its forms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.kernels.cubic_backward import gram_backward, jacobian_backward, jacobian_cotangent, jacobian_weight2
from ffrl.kernels.launch import UNITS, Call, Operands, cdiv, padded, tiled
from ffrl.kernels.potential_forward import batched_product
from ffrl.kernels.row_plan import RowPlan
from ffrl.kernels.row_sums import add_parts, grid_of_sum, sum_by_potential

# Latent dimensions whose J̄ stands in memory at once in the Jacobian form: arrays of the size of h2.
JACOBIAN_GROUP = 4


class CubicGradients(NamedTuple):
    """What the Laplacian's cubic part gives: of d1 (P, H1) in the Jacobian form, of W1 and W2 where they are wanted."""

    d1: Tensor | None
    weight1: Tensor | None  # (K, H1, D)
    weight2: Tensor | None  # (K, H2, H1)


NO_CUBIC_GRADIENTS = CubicGradients(None, None, None)


def cubic_gradients(
    call: Call, plan: RowPlan, operands: Operands, gram: Tensor, d1: Tensor, v_ell_c: Tensor, *, needs_weights: bool
) -> CubicGradients:
    """(16) in the form of the call, from d1 (P, H1) and λ c (H2, P).

    Only the Jacobian form has a part in the gradients of z; the Gram form kept e for them.
    """
    if call.form == "gram":
        return gram_form(call, plan, operands, gram, d1, v_ell_c)
    return jacobian_form(call, plan, operands, d1, v_ell_c, needs_weights=needs_weights)


def gram_form(
    call: Call, plan: RowPlan, operands: Operands, gram: Tensor, d1: Tensor, v_ell_c: Tensor
) -> CubicGradients:
    weight1, weight2, hidden1, hidden2 = operands.weight1, operands.weight2, call.hidden1, call.hidden2
    tile = call.tile("gram_backward")
    tiles = cdiv(hidden1, tile.columns)
    pairs = tiles * (tiles + 1) // 2
    chunks = call.backward_chunks(pairs * call.potentials)
    weight2_parts = d1.new_empty(tiles, call.potentials, hidden2, hidden1)
    gram_parts = d1.new_empty(chunks, call.potentials, hidden1, hidden1)
    d1_padded = padded(torch.where(plan.slot_row[:, None] >= 0, d1, 0.0))
    gram_backward[pairs, chunks, call.potentials](
        weight2, gram, plan.first_block, d1_padded, v_ell_c, weight2_parts, gram_parts,
        hidden1, hidden2, d1_padded.shape[1], plan.slots, call.potentials,
        UNITS=UNITS, PRECISION=call.precision, **tiled(tile),
    )  # fmt: skip
    # Above the diagonal's tiles nothing was written: what is there is selected away, not multiplied.
    lower = torch.ones(hidden1, hidden1, dtype=torch.bool, device=d1.device).tril()
    v_gram = torch.where(lower, gram_parts.sum(0), torch.zeros((), device=d1.device))
    v_gram = v_gram + v_gram.tril(-1).mT
    return CubicGradients(None, 2 * batched_product(v_gram, weight1, call), weight2_parts.sum(0))


def jacobian_form(
    call: Call, plan: RowPlan, operands: Operands, d1: Tensor, v_ell_c: Tensor, *, needs_weights: bool
) -> CubicGradients:
    weight1, weight2, latent, slots = operands.weight1, operands.weight2, call.latent, plan.slots
    hidden1, hidden2 = call.hidden1, call.hidden2
    group = min(JACOBIAN_GROUP, latent)
    v_d1, v_jacobian = torch.zeros_like(d1), d1.new_empty(group, slots, hidden2)
    by_unit2, by_unit1 = call.tile("jacobian"), call.tile("jacobian_backward")
    by_both = call.tile("jacobian_weights")
    grid = grid_of_sum(call, plan, hidden2, hidden1, by_both)
    weight1_parts = d1.new_empty(plan.blocks if needs_weights else 0, hidden1, latent)
    weight2_parts = d1.new_zeros(grid[1] if needs_weights else 0, *weight2.shape)
    for first in range(0, latent, group):
        dims = min(group, latent - first)
        jacobian_cotangent[plan.blocks, cdiv(hidden2, by_unit2.columns), dims](
            weight1, weight2, plan.block_k, d1, v_ell_c, v_jacobian, first, latent, hidden1, hidden2, slots,
            PRECISION=call.precision, **tiled(by_unit2),
        )  # fmt: skip
        jacobian_backward[plan.blocks, cdiv(hidden1, by_unit1.columns)](
            weight1, weight2, plan.slot_row, plan.block_k, d1, v_jacobian, v_d1, weight1_parts,
            first, dims, latent, hidden1, hidden2, slots,
            WEIGHTS=needs_weights, PRECISION=call.precision, **tiled(by_unit1),
        )  # fmt: skip
        if needs_weights:
            jacobian_weight2[grid](
                weight1, plan.slot_row, plan.first_block, d1, v_jacobian, weight2_parts,
                first, dims, latent, hidden1, hidden2, slots, PRECISION=call.precision, **tiled(by_both),
            )  # fmt: skip
    if not needs_weights:
        return CubicGradients(v_d1, None, None)
    return CubicGradients(v_d1, sum_by_potential(weight1_parts, plan), add_parts(weight2_parts, 0))
