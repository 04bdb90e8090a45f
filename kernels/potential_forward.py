"""The op forward on the GPU: the launches, in order."""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl.kernels.cubic_forward import gram_forward, jacobian_forward, matmul
from ffrl.kernels.launch import UNITS, Call, Operands, cdiv, check_operands, describe, on_device, padded, tiled
from ffrl.kernels.quadratic_forward import hidden1_forward, hidden2_forward, q_forward, rows_forward, v_forward
from ffrl.kernels.row_plan import RowPlan, plan_rows
from ffrl.kernels.tiling import ROWS

WEIGHTS = ("weight1", "bias1", "weight2", "bias2", "weight3", "bias3")


def gram_matrix(weight1: Tensor, call: Call) -> Tensor:
    """(8): G = W1 W1ᵀ of every potential, (K, H1, H1)."""
    return batched_product(weight1, weight1.mT, call)


def batched_product(left: Tensor, right: Tensor, call: Call) -> Tensor:
    """(K, I, J) = left (K, I, L) right (K, L, J), in the precision of the quadratic products."""
    potentials, rows, depth = left.shape
    columns = right.shape[2]
    out = left.new_empty(potentials, rows, columns)
    tile = call.tile("quadratic")
    grid = (cdiv(rows, ROWS), cdiv(columns, tile.columns), potentials)
    matmul[grid](
        left, right, out, rows, columns, depth, *left.stride(), *right.stride(),
        PRECISION=call.quadratic_precision, **tiled(tile),
    )  # fmt: skip
    return out


def plan_of(operands: Operands) -> RowPlan:
    return plan_rows(
        operands.z.shape[0], operands.weight1.shape[0], operands.k, operands.k_all, ROWS, operands.z.device
    )


def of_one_potential(call: Call, plan: RowPlan, operands: Operands) -> tuple[Call, RowPlan, Operands]:
    """The same for the only potential that rows have, without the others."""
    only = slice(operands.k_all, operands.k_all + 1)
    weights = {name: getattr(operands, name)[only] for name in WEIGHTS}
    first_block = plan.first_block[operands.k_all : operands.k_all + 2]
    plan = plan._replace(block_k=torch.zeros_like(plan.block_k), first_block=first_block)
    return call._replace(potentials=1), plan, operands._replace(**weights, k_all=0)


def potential_forward(
    z: Tensor,  # (N, D)
    tau: Tensor,  # (M, H1)
    dtau_dt: Tensor,  # (M, H1)
    d2tau_dt2: Tensor | None,  # (M, H1)
    weight1: Tensor,  # (K, H1, D)
    bias1: Tensor,  # (K, H1)
    weight2: Tensor,  # (K, H2, H1)
    bias2: Tensor,  # (K, H2)
    weight3: Tensor,  # (K, H2)
    bias3: Tensor,  # (K,)
    k: Tensor | None,  # (N,)
    k_all: int,
    feature_row: Tensor | None,  # (N,)
    tanh_output: bool,
    form: int,
    keep: bool,
    precision: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """u, du_dz, du_dt, d2u_dt2, lap_u and what the backward needs; what was not asked for has no elements."""
    operands = Operands(
        z, tau, dtau_dt, d2tau_dt2, weight1, bias1, weight2, bias2, weight3, bias3, k, k_all, feature_row
    )
    call = describe(operands, tanh_output=tanh_output, form=form, precision=precision)
    check_operands(call, operands)
    rows, laplacian = call.rows, call.form != "none"
    u, du_dz, du_dt = z.new_empty(rows), z.new_empty(rows, call.latent), z.new_empty(rows)
    d2u_dt2, lap_u = z.new_empty(rows if call.second else 0), z.new_empty(rows if laplacian else 0)
    kept = z.new_empty(call.slots, call.width)
    if rows == 0:
        return u, du_dz, du_dt, d2u_dt2, lap_u, kept.zero_() if keep else z.new_empty(0)
    with on_device(z):
        launch_forward(call, plan_of(operands), operands, keep, (u, du_dz, du_dt, d2u_dt2, lap_u, kept))
    return u, du_dz, du_dt, d2u_dt2, lap_u, kept if keep else z.new_empty(0)


def launch_forward(call: Call, plan: RowPlan, operands: Operands, keep: bool, outputs: tuple[Tensor, ...]) -> None:
    """Fill ``outputs``, those of the operator; kept is (P, width) with the slots P of the plan."""
    if operands.k is None:
        call, plan, operands = of_one_potential(call, plan, operands)
    z, tau, dtau_dt, _, weight1, bias1, weight2, bias2, weight3, bias3, _, _, feature_row = operands
    u, du_dz, du_dt, d2u_dt2, lap_u, kept = outputs
    latent, hidden1, hidden2, slots, blocks, width = (
        call.latent, call.hidden1, call.hidden2, plan.slots, plan.blocks, call.width,
    )  # fmt: skip
    precision = call.quadratic_precision
    d1 = z.new_empty(slots, hidden1)
    c = z.new_empty(hidden2, slots)
    tile = call.tile("quadratic")
    hidden1_forward[blocks, cdiv(hidden1, tile.columns)](
        z, weight1, bias1, plan.slot_row, plan.block_k, kept, d1, latent, hidden1, width,
        PRECISION=precision, **tiled(tile),
    )  # fmt: skip
    tile = call.tile("quadratic_time")
    num_parts = cdiv(hidden2, tile.columns)
    parts = z.new_empty(3, num_parts, slots)
    hidden2_forward[blocks, num_parts](
        tau, dtau_dt, operands.read_d2tau_dt2, feature_row, weight2, bias2, weight3, plan.slot_row, plan.block_k,
        kept, c, parts, hidden1, hidden2, width, slots,
        FEATURES=call.sharing, SECOND=call.second, PRECISION=precision, **tiled(tile),
    )  # fmt: skip
    tile = call.tile("quadratic")
    q_forward[blocks, cdiv(hidden1, tile.columns)](
        weight2, weight3, plan.block_k, kept, hidden1, hidden2, width, PRECISION=precision, **tiled(tile)
    )
    tile = call.tile("quadratic")
    v_forward[blocks, cdiv(latent, tile.columns)](
        weight1, plan.block_k, kept, latent, hidden1, hidden2, width, PRECISION=precision, **tiled(tile)
    )

    gram = gram_matrix(weight1, call) if call.form != "none" else z
    squares, columns = launch_squares(call, plan, weight1, weight2, gram, d1, c, keep=keep)
    rows_forward[blocks,](
        bias3, gram, plan.slot_row, plan.block_k, kept, c, parts, squares, columns, u, du_dz, du_dt, d2u_dt2, lap_u,
        latent, hidden1, hidden2, width, slots, num_parts, squares.shape[0], columns.shape[0],
        TANH=call.tanh_output, SECOND=call.second, FORM=call.form, KEEP=keep, ROWS=ROWS, DEPTH=16, num_warps=8,
    )  # fmt: skip


def launch_squares(
    call: Call, plan: RowPlan, weight1: Tensor, weight2: Tensor, gram: Tensor, d1: Tensor, c: Tensor, *, keep: bool
) -> tuple[Tensor, Tensor]:
    """The cubic part: S in parts (tiles, H2, P), and e in parts (chunks, P, H1) where a Gram backward follows."""
    hidden1, hidden2, slots = call.hidden1, call.hidden2, plan.slots
    nothing = d1.new_empty(0)
    if call.form == "gram":
        tile = call.tile("gram_forward")
        tiles = cdiv(hidden1, tile.columns)
        chunks = call.forward_chunks
        squares = d1.new_empty(tiles, hidden2, slots)
        columns = d1.new_empty(chunks, slots, hidden1) if keep else nothing
        gram_padded, d1_padded = padded(gram), padded(d1)
        gram_forward[plan.blocks, tiles, chunks](
            weight2, gram_padded, plan.block_k, d1_padded, c, squares, columns, hidden1, hidden2, d1_padded.shape[1],
            plan.slots, COLUMN_SUMS=keep, UNITS=UNITS, PRECISION=call.precision, **tiled(tile),
        )  # fmt: skip
        return squares, columns
    if call.form == "jacobian":
        tile = call.tile("jacobian")
        squares = d1.new_empty(1, hidden2, slots)
        jacobian_forward[plan.blocks, cdiv(hidden2, tile.columns)](
            weight1, weight2, plan.block_k, d1, squares, call.latent, hidden1, hidden2, slots,
            PRECISION=call.precision, **tiled(tile),
        )  # fmt: skip
        return squares, nothing
    return nothing, nothing
