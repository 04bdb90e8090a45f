"""The op backward on the GPU: the launches, in order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.kernels.cubic_gradients import NO_CUBIC_GRADIENTS, cubic_gradients
from ffrl.kernels.launch import Call, Operands, cdiv, check_operands, describe, on_device, tiled
from ffrl.kernels.potential_forward import gram_matrix, of_one_potential, plan_of
from ffrl.kernels.quadratic_backward import (
    hidden1_backward,
    hidden2_backward,
    rows_backward,
    sums_backward,
    z_backward,
)
from ffrl.kernels.row_plan import RowPlan
from ffrl.kernels.row_sums import add_parts, grid_of_sum, sum_by_potential, sum_segments
from ffrl.kernels.tiling import ROWS
from ffrl.kernels.weight_gradients import weight1_gradient, weight2_gradient


class Cotangents(NamedTuple):
    """Of the outputs; None: zero."""

    u: Tensor | None
    du_dz: Tensor | None
    du_dt: Tensor | None
    d2u_dt2: Tensor | None
    lap_u: Tensor | None


def potential_backward(
    kept: Tensor, z: Tensor, tau: Tensor, dtau_dt: Tensor, d2tau_dt2: Tensor | None, weight1: Tensor, bias1: Tensor,
    weight2: Tensor, bias2: Tensor, weight3: Tensor, bias3: Tensor, k: Tensor | None, k_all: int,
    feature_row: Tensor | None, tanh_output: bool, form: int, v_u: Tensor | None, v_du_dz: Tensor | None,
    v_du_dt: Tensor | None, v_d2u_dt2: Tensor | None, v_lap_u: Tensor | None, needs_z: bool, needs_features: bool,
    needs_weights: bool, precision: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of z, the three time features and the six weights; what is not needed has no elements."""
    operands = Operands(
        z, tau, dtau_dt, d2tau_dt2, weight1, bias1, weight2, bias2, weight3, bias3, k, k_all, feature_row
    )
    call = describe(operands, tanh_output=tanh_output, form=form, precision=precision)
    check_operands(call, operands, kept)
    second = needs_features and call.second
    wanted = (needs_z, needs_features, needs_features, second, *[needs_weights] * 6)
    likes = (z, tau, dtau_dt, tau, weight1, bias1, weight2, bias2, weight3, bias3)
    if call.rows == 0:
        return tuple(
            torch.zeros_like(like) if need else z.new_empty(0) for like, need in zip(likes, wanted, strict=True)
        )
    with on_device(z):
        v = Cotangents(v_u, v_du_dz, v_du_dt, v_d2u_dt2, v_lap_u if call.form != "none" else None)
        return Backward(call, plan_of(operands), operands, kept).run(v, needs_z, needs_features, needs_weights)


class Backward:
    """One backward pass; the methods are its stages.

    Blocks and slots are those of the plan alone, and ``kept`` is (P, width) with its slots P: a plan may have blocks in
    another number than the operators make, as long as those of one potential are together.
    """

    def __init__(self, call: Call, plan: RowPlan, operands: Operands, kept: Tensor) -> None:
        self.potentials, self.k_all = call.potentials, operands.k_all
        if operands.k is None:
            call, plan, operands = of_one_potential(call, plan, operands)
        self.call, self.plan, self.operands, self.kept = call, plan, operands, kept

    def run(self, v: Cotangents, needs_z: bool, needs_features: bool, needs_weights: bool) -> tuple[Tensor, ...]:
        call, plan, operands = self.call, self.plan, self.operands
        z, weight1, weight2, weight3 = operands.z, operands.weight1, operands.weight2, operands.weight3
        slots, hidden1, hidden2 = plan.slots, call.hidden1, call.hidden2
        self.form = call.form if v.lap_u is not None else "none"
        self.second = v.d2u_dt2 is not None and call.second
        self.time = v.du_dt is not None or self.second
        self.has_v = v.du_dz is not None or (self.form != "none" and call.tanh_output)

        scalars, v_v, v_ell_c = z.new_empty(4, slots), z.new_empty(slots, call.latent), z.new_empty(hidden2, slots)
        pointers = (value.contiguous() if value is not None else z for value in v)
        rows_backward[plan.blocks,](
            weight3, plan.slot_row, plan.block_k, self.kept, *pointers, scalars, v_v, v_ell_c,
            call.latent, hidden1, hidden2, call.width, slots,
            TANH=call.tanh_output, HAS_U=v.u is not None, HAS_DZ=v.du_dz is not None, HAS_DT=v.du_dt is not None,
            HAS_TT=self.second, HAS_LAP=self.form != "none", ROWS=ROWS, DEPTH=32, num_warps=8,
        )  # fmt: skip
        gram = gram_matrix(weight1, call) if self.form != "none" else z
        cubic = NO_CUBIC_GRADIENTS
        if self.form == "jacobian" or (self.form == "gram" and needs_weights):
            h1 = self.kept[:, :hidden1]
            d1 = (1 - h1) * (1 + h1)  # (P, H1)
            cubic = cubic_gradients(call, plan, operands, gram, d1, v_ell_c, needs_weights=needs_weights)

        v_q, v_h1, v_a1 = (z.new_empty(slots, hidden1) for _ in range(3))
        diagonal_parts = z.new_empty(plan.blocks, hidden1)
        precision = call.quadratic_precision
        tile = call.tile("quadratic")
        hidden1_backward[plan.blocks, cdiv(hidden1, tile.columns)](
            weight1, gram, plan.slot_row, plan.block_k, self.kept, scalars, v_v,
            z if cubic.d1 is None else cubic.d1, v_q, v_h1, diagonal_parts,
            call.latent, hidden1, hidden2, call.width, slots,
            FORM=self.form, HAS_V=self.has_v, PRECISION=precision, **tiled(tile),
        )  # fmt: skip

        v_a2, v_omega, v_omega2 = (z.new_empty(slots, hidden2) for _ in range(3))
        bias2_parts, weight3_parts = (z.new_empty(plan.blocks, hidden2) for _ in range(2))
        bias1_parts = z.new_empty(plan.blocks, hidden1)
        tile = call.tile("quadratic_time")
        hidden2_backward[plan.blocks, cdiv(hidden2, tile.columns)](
            operands.dtau_dt, operands.read_d2tau_dt2, operands.feature_row, weight2, weight3,
            plan.slot_row, plan.block_k, self.kept, scalars, v_q, v_a2, v_omega, v_omega2, bias2_parts, weight3_parts,
            call.latent, hidden1, hidden2, call.width, slots,
            FEATURES=call.sharing, LAPLACIAN=self.form != "none", HAS_V=self.has_v or self.form != "none",
            TIME=self.time, SECOND=self.second, PRECISION=precision, **tiled(tile),
        )  # fmt: skip
        of_rows = tuple(z.new_empty(z.shape[0] if needs_features else 0, hidden1) for _ in range(3))
        tile = call.tile("quadratic_time")
        sums_backward[plan.blocks, cdiv(hidden1, tile.columns)](
            weight2, plan.slot_row, plan.block_k, self.kept, v_h1, v_a2, v_omega, v_omega2, v_a1, *of_rows, bias1_parts,
            hidden1, hidden2, call.width,
            VALUES=needs_features, TIME=self.time, SECOND=self.second, PRECISION=precision, **tiled(tile),
        )  # fmt: skip

        v_z = self.gradient_of_z(v_a1) if needs_z else z.new_empty(0)
        v_features = self.gradients_of_features(of_rows) if needs_features else self.nothing(3)
        if not needs_weights:
            return v_z, *v_features, *self.nothing(6)
        v_weight1 = self.gradient_of_weight1(v_v, v_a1)
        v_weight2 = self.gradient_of_weight2(v_q, v_a2, v_omega, v_omega2)
        if cubic.weight1 is not None and cubic.weight2 is not None:
            diagonal = sum_by_potential(diagonal_parts, plan)  # (K, H1)
            v_weight1 = v_weight1 + cubic.weight1 + 2 * diagonal[:, :, None] * weight1
            v_weight2 = v_weight2 + cubic.weight2
        v_o = torch.where(plan.slot_row >= 0, scalars[0], torch.zeros_like(scalars[0]))
        v_weights = (
            v_weight1,
            sum_by_potential(bias1_parts, plan),
            v_weight2,
            sum_by_potential(bias2_parts, plan),
            sum_by_potential(weight3_parts, plan),
            sum_by_potential(v_o.view(plan.blocks, ROWS).sum(1), plan),
        )
        return v_z, *v_features, *map(self.of_all_potentials, v_weights)

    def of_all_potentials(self, v_weight: Tensor) -> Tensor:
        """(K, ...): with zeros for those that no row has, where ``of_one_potential`` has left them out."""
        if v_weight.shape[0] == self.potentials:
            return v_weight
        out = v_weight.new_zeros(self.potentials, *v_weight.shape[1:])
        out[self.k_all] = v_weight[0]
        return out

    def gradient_of_z(self, v_a1: Tensor) -> Tensor:
        v_z = torch.empty_like(self.operands.z)
        tile = self.call.tile("quadratic")
        z_backward[self.plan.blocks, cdiv(self.call.latent, tile.columns)](
            self.operands.weight1, self.plan.slot_row, self.plan.block_k, v_a1, v_z,
            self.call.latent, self.call.hidden1, PRECISION=self.call.quadratic_precision, **tiled(tile),
        )  # fmt: skip
        return v_z

    def gradients_of_features(self, of_rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(M, H1) each, from those of each row (N, H1)."""
        call, tau = self.call, self.operands.tau
        there = (True, self.time, self.second)
        sources = [rows if given else None for rows, given in zip(of_rows, there, strict=True)]
        sources = sources[: 3 if call.second else 2]
        if call.sharing != "own":
            order, first = self.rows_by_feature()
            sources = [None if rows is None else sum_segments(rows, first, order) for rows in sources]
        found = [torch.zeros_like(tau) if rows is None else rows for rows in sources]
        return (*found, *self.nothing(3 - len(found)))

    def nothing(self, count: int) -> list[Tensor]:
        """So many tensors without elements, each its own: an operator's outputs may not alias."""
        return [self.kept.new_empty(0) for _ in range(count)]

    def rows_by_feature(self) -> tuple[Tensor | None, Tensor]:
        """Rows in the order of their feature rows (N,), and where those of each feature row begin, (M + 1,)."""
        rows, feature_row, device = self.operands.z.shape[0], self.operands.feature_row, self.kept.device
        if feature_row is None:
            return None, torch.arange(2, device=device) * rows
        of_row, order = torch.sort(feature_row, stable=True)
        return order, torch.searchsorted(of_row, torch.arange(self.call.features + 1, device=device))

    def gradient_of_weight1(self, v_v: Tensor, v_a1: Tensor) -> Tensor:
        """(K, H1, D), but for what the Laplacian's cubic part adds."""
        call, plan, tile = self.call, self.plan, self.call.tile("weights")
        grid = grid_of_sum(call, plan, call.hidden1, call.latent, tile)
        parts = self.kept.new_empty(grid[1], call.potentials, call.hidden1, call.latent)
        weight1_gradient[grid](
            self.operands.z, plan.slot_row, plan.first_block, self.kept, v_v, v_a1, parts,
            call.latent, call.hidden1, call.width,
            HAS_V=self.has_v, PRECISION=call.quadratic_precision, **tiled(tile),
        )  # fmt: skip
        return add_parts(parts, 0)

    def gradient_of_weight2(self, v_q: Tensor, v_a2: Tensor, v_omega: Tensor, v_omega2: Tensor) -> Tensor:
        """(K, H2, H1), likewise."""
        call, plan, operands, tile = self.call, self.plan, self.operands, self.call.tile("weights")
        grid = grid_of_sum(call, plan, call.hidden2, call.hidden1, tile)
        parts = self.kept.new_empty(grid[1], call.potentials, call.hidden2, call.hidden1)
        weight2_gradient[grid](
            operands.tau, operands.dtau_dt, operands.read_d2tau_dt2, operands.feature_row, operands.weight3,
            plan.slot_row, plan.first_block, self.kept, v_q, v_a2, v_omega, v_omega2, parts,
            call.hidden1, call.hidden2, call.width,
            FEATURES=call.sharing, HAS_V=self.has_v or self.form != "none", TIME=self.time, SECOND=self.second,
            PRECISION=call.quadratic_precision, **tiled(tile),
        )  # fmt: skip
        return add_parts(parts, 0)
