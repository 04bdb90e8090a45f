"""The rollout of a flow on the GPU: one launch forward, one backward and after it the op's own for the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl.kernels import launch
from ffrl.kernels.launch import Call, Operands, check_operands, describe, on_device
from ffrl.kernels.potential_backward import Backward, Cotangents
from ffrl.kernels.potential_forward import plan_of
from ffrl.kernels.rollout_kernels import rollout_backward, rollout_forward
from ffrl.kernels.row_plan import RowPlan
from ffrl.kernels.tiling import ROWS, Tile

# Rows of one program. A step waits for the step before it, so few rows in many programs beat many in few.
ROLLOUT_ROWS = 16


def flow_forward(
    z0: Tensor,  # (B, D)
    tau: Tensor,  # (K·T, H1), or with k None those of k_all: (T, H1)
    dtau_dt: Tensor,  # likewise
    weight1: Tensor,  # (K, H1, D)
    bias1: Tensor,  # (K, H1)
    weight2: Tensor,  # (K, H2, H1)
    bias2: Tensor,  # (K, H2)
    weight3: Tensor,  # (K, H2)
    bias3: Tensor,  # (K,)
    k: Tensor | None,  # (B,)
    k_all: int,
    num_steps: int,
    direction: int,
    tanh_output: bool,
    keep: bool,
    precision: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z (B, T+1, D), du_dz (B, T, D), du_dt (B, T) and what the backward needs, without elements unless ``keep``."""
    operands = Operands(z0, tau, dtau_dt, None, weight1, bias1, weight2, bias2, weight3, bias3, k, k_all, None)
    call = checked_call(operands, num_steps, direction, tanh_output, precision)
    batch, latent = z0.shape
    plan = plan_of(operands)
    steps_kept = num_steps if keep else 1
    z, du_dz = z0.new_empty(batch, num_steps + 1, latent), z0.new_empty(batch, num_steps, latent)
    du_dt = z0.new_empty(batch, num_steps)
    kept = z0.new_empty(plan.slots * steps_kept, call.width)
    if not batch:
        kept.zero_()
    else:
        tile = call.tile("rollout_forward")
        with on_device(z0):
            rollout_forward[plan.blocks * (ROWS // ROLLOUT_ROWS),](
                z0, tau, dtau_dt, weight1, bias1, weight2, bias2, weight3, bias3, plan.slot_row, plan.block_k, kept,
                z, du_dz, du_dt, zero(z), num_steps, steps_kept, latent, call.hidden1, call.hidden2, call.width,
                SIGN=float(direction), MIXED=k is not None, TANH=tanh_output, BLOCK_ROWS=ROWS,
                PRECISION=call.quadratic_precision, **tiled(tile),
            )  # fmt: skip
    return z, du_dz, du_dt, kept if keep else z0.new_empty(0)


def flow_backward(
    kept: Tensor, z: Tensor, tau: Tensor, dtau_dt: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
    bias2: Tensor, weight3: Tensor, bias3: Tensor, k: Tensor | None, k_all: int, num_steps: int, direction: int,
    tanh_output: bool, v_z: Tensor | None, v_du_dz: Tensor | None, v_du_dt: Tensor | None, needs_z0: bool,
    needs_features: bool, needs_weights: bool, precision: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of z0, the two time features and the six weights; what is not needed has no elements.

    z (B, T+1, D) is the forward's output, of which z[:, 0] is z0.
    """
    batch, latent = z.shape[0], z.shape[2]
    operands = Operands(z[:, 0], tau, dtau_dt, None, weight1, bias1, weight2, bias2, weight3, bias3, k, k_all, None)
    call = checked_call(operands, num_steps, direction, tanh_output, precision)
    likes = (z[:, 0], tau, dtau_dt, weight1, bias1, weight2, bias2, weight3, bias3)
    wanted = (needs_z0, needs_features, needs_features, *[needs_weights] * 6)
    if not batch:
        return tuple(
            torch.zeros_like(like) if need else z.new_empty(0) for like, need in zip(likes, wanted, strict=True)
        )
    plan = plan_of(operands)
    if tuple(kept.shape) != (plan.slots * num_steps, call.width):
        raise RuntimeError(f"ffrl: kept is {tuple(kept.shape)}, expected {(plan.slots * num_steps, call.width)}")
    v_velocity, v_z0 = z.new_empty(batch, num_steps, latent), z.new_empty(batch, latent)
    tile = call.tile("rollout_backward")
    of_step = [z.new_empty(plan.slots, size) for size in (latent, *[call.hidden1] * 2, call.hidden2, call.hidden1)]
    pointers = (z if value is None else value for value in (v_z, v_du_dz, v_du_dt))
    with on_device(z):
        rollout_backward[plan.blocks * (ROWS // ROLLOUT_ROWS),](
            dtau_dt, weight1, weight2, weight3, plan.slot_row, plan.block_k, kept, *pointers, *of_step, v_velocity,
            v_z0, zero(z), num_steps, latent, call.hidden1, call.hidden2, call.width,
            SIGN=float(direction), MIXED=k is not None, TANH=tanh_output, HAS_Z=v_z is not None,
            HAS_DZ=v_du_dz is not None, TIME=v_du_dt is not None, BLOCK_ROWS=ROWS,
            PRECISION=call.quadratic_precision, **tiled(tile),
        )  # fmt: skip
        nothing = [z.new_empty(0) for _ in range(9)]
        if not needs_features and not needs_weights:
            return v_z0 if needs_z0 else nothing[0], *nothing[1:]
        rows = operands._replace(
            z=z[:, :-1].contiguous().view(-1, latent), feature_row=feature_rows(k, batch, num_steps, z)
        )
        v = Cotangents(None, v_velocity.view(-1, latent), None if v_du_dt is None else v_du_dt.view(-1), None, None)
        of_rows = call._replace(rows=batch * num_steps, sharing="table")
        _, v_tau, v_dtau_dt, _, *v_weights = Backward(of_rows, plan_of_steps(plan, num_steps), rows, kept).run(
            v, False, needs_features, needs_weights
        )
    return v_z0 if needs_z0 else nothing[0], v_tau, v_dtau_dt, *v_weights


def checked_call(operands: Operands, num_steps: int, direction: int, tanh_output: bool, precision: int) -> Call:
    """The call of one step; RuntimeError where an operand does not fit."""
    call = describe(operands, tanh_output=tanh_output, form=0, precision=precision)._replace(sharing="table")
    check_operands(call, operands)
    if num_steps < 1 or direction not in (1, -1):
        raise RuntimeError(f"ffrl: num_steps = {num_steps} and direction = {direction}, expected >= 1 and 1 or -1")
    expected = num_steps * (call.potentials if call.mixed else 1)
    if call.features != expected:
        raise RuntimeError(f"ffrl: tau has {call.features} rows, expected {expected}: {num_steps} of each potential")
    return call


def plan_of_steps(plan: RowPlan, num_steps: int) -> RowPlan:
    """The plan for the rows (b, t) of all steps, b·T + t, in which each block is followed by itself a step later."""
    step = torch.arange(num_steps, device=plan.slot_row.device)[:, None]
    row = plan.slot_row.view(plan.blocks, 1, ROWS)
    slot_row = torch.where(row >= 0, row * num_steps + step, -1)  # (blocks, T, ROWS)
    return RowPlan(
        plan.blocks * num_steps,
        slot_row.flatten(),
        plan.block_k.repeat_interleave(num_steps),
        plan.first_block * num_steps,
    )


def zero(like: Tensor) -> Tensor:
    """What sizes_again reads."""
    return torch.zeros(1, dtype=torch.int32, device=like.device)


def feature_rows(k: Tensor | None, batch: int, num_steps: int, like: Tensor) -> Tensor:
    """(B·T,): the time feature row of each row (b, t)."""
    step = torch.arange(num_steps, device=like.device)
    return step.repeat(batch) if k is None else (k[:, None] * num_steps + step).flatten()


def tiled(tile: Tile) -> dict[str, int]:
    """Keyword arguments of a launch with that tile."""
    return {**launch.tiled(tile), "ROWS": ROLLOUT_ROWS}
