"""The potential op as operators of a compiled library, with first-order gradients.

``torch.ops.ffrl.potential_forward`` and ``potential_backward`` do equations (1) to (11) and (13) to (20) of
docs/derivation.md in one call each, for rows of mixed potentials. Here they become a ``torch.autograd.Function``: its
backward is itself one, so that torch.func.vmap knows both, and a second derivative raises instead of being lost.
"""

from __future__ import annotations

from operator import mul
from typing import Any

import torch
from torch import Tensor

from ffrl.errors import DerivativeOrderError
from ffrl.ops.analytic import FORWARD_MODE_MESSAGE, SECOND_DERIVATIVE_MESSAGE
from ffrl.ops.backends import CPP_REASON
from ffrl.ops.batching import FEATURES, NUM_DIFFERENTIABLE, WEIGHTS, Operands, fold, fold_batch, lengths, split_batch
from ffrl.ops.functions import apply_function
from ffrl.ops.laplacian_forms import LaplacianForm
from ffrl.ops.registration import (
    FORMS,
    KEPT_JACOBIAN_DIMS,
    backward_shapes,
    below_autograd,
    forward_shapes,
    register_operator,
)
from ffrl.records import PotentialDerivatives, PotentialWeights, TimeFeatures

NUM_OPERANDS = len(Operands._fields)
NUM_OUTPUTS = 5


class _Potential(torch.autograd.Function):
    """(*operands, keep) -> u, du_dz, du_dt, d2u_dt2, lap_u, kept; what was not asked for has no elements."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        with below_autograd():
            return torch.ops.ffrl.potential_forward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *differentiable, k, k_all, feature_row, tanh_output, form = inputs[:NUM_OPERANDS]
        kept = output[-1]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(kept)
        ctx.save_for_backward(kept, *differentiable, k, feature_row)
        ctx.constants = k_all, tanh_output, form

    @staticmethod
    def backward(ctx: Any, *v_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, *differentiable, k, feature_row = ctx.saved_tensors
        k_all, tanh_output, form = ctx.constants
        v_u, v_du_dz, v_du_dt, v_d2u_dt2, v_lap_u, _ = v_outputs
        if differentiable[3] is None:  # not asked for: without elements, and so is the cotangent
            v_d2u_dt2 = None
        if form == FORMS[None]:
            v_lap_u = None
        wanted = ctx.needs_input_grad[:NUM_DIFFERENTIABLE]
        needs = wanted[0], any(wanted[FEATURES]), any(wanted[WEIGHTS])
        operands = (*differentiable, k, k_all, feature_row, tanh_output, form)
        cotangents = v_u, v_du_dz, v_du_dt, v_d2u_dt2, v_lap_u
        gradients = apply_function(_PotentialVjp, kept, *operands, *cotangents, *needs)
        found = (gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True))
        return (*found, *[None] * (NUM_OPERANDS - NUM_DIFFERENTIABLE + 1))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        given, dims = Operands(*arguments[:NUM_OPERANDS]), in_dims[:NUM_OPERANDS]
        operands = fold_batch(given, dims, info.batch_size)
        # Blocks of rows have no batch dimension, so nothing is kept; the backward computes it again.
        *outputs, kept = _Potential.apply(*operands, False)
        rows = lengths(given, dims)[0]
        asked = (rows, rows, rows, rows if given.d2tau_dt2 is not None else 0, rows if given.form else 0)
        split, out_dims = split_batch(tuple(outputs), asked, info.batch_size)
        return (*split, kept), (*out_dims, None)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise DerivativeOrderError(FORWARD_MODE_MESSAGE)


class _PotentialVjp(torch.autograd.Function):
    """(kept, *operands, *cotangents, *needs) -> gradients of z to bias3; they have no derivative of their own."""

    @staticmethod
    def forward(kept: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        with below_autograd():
            if kept.numel() == 0:  # the forward did not know of this backward
                kept = torch.ops.ffrl.potential_forward(*arguments[:NUM_OPERANDS], True)[-1]
            return torch.ops.ffrl.potential_backward(kept, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise DerivativeOrderError(SECOND_DERIVATIVE_MESSAGE)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise DerivativeOrderError(FORWARD_MODE_MESSAGE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], kept: Tensor, *arguments: Any) -> Any:
        batch, needs = info.batch_size, arguments[-3:]
        given, dims = Operands(*arguments[:NUM_OPERANDS]), in_dims[1:]
        operands = fold_batch(given, dims[:NUM_OPERANDS], batch, own_rows=needs[1], own_weights=needs[2])
        cotangents = map(fold, arguments[NUM_OPERANDS:-3], dims[NUM_OPERANDS:-3], [batch] * NUM_OUTPUTS)
        gradients = _PotentialVjp.apply(kept.new_empty(0), *operands, *cotangents, *needs)
        rows, features, potentials = map(mul, lengths(given, dims[:NUM_OPERANDS]), needs)
        second = features if given.d2tau_dt2 is not None else 0
        return split_batch(gradients, (rows, features, features, second, *[potentials] * 6), batch)


if CPP_REASON is None:
    register_operator("potential_forward", forward_shapes, _Potential)
    register_operator("potential_backward", backward_shapes, _PotentialVjp)


def cpu_laplacian_form(latent_dim: int, hidden1: int, *, backward: bool) -> LaplacianForm:
    """The cheaper exact form of the Laplacian in the C++ kernels, by multiply-adds for a row and a second-layer unit.

    In units of H1/2. Gram form: H1 for the value alone; 2·H1 where a backward follows, and H1 in it. Jacobian form: 2·D
    forward, and backward 4·D where the Jacobian was kept, 6·D where it is formed again. docs/derivation.md, section 6.
    """
    gram = hidden1 * (3 if backward else 1)
    again = 2 if latent_dim > KEPT_JACOBIAN_DIMS else 0
    jacobian = latent_dim * (6 + again if backward else 2)
    return "gram" if gram <= jacobian else "jacobian"


def potential_derivatives_fused(
    z: Tensor,
    features: TimeFeatures,
    weights: PotentialWeights,
    *,
    k: int | Tensor,
    feature_row: Tensor | None,
    tanh_output: bool,
    laplacian: bool = True,
    form: LaplacianForm | None = None,
) -> PotentialDerivatives:
    """One call of the compiled operator for N rows of mixed potentials.

    Args:
        z: (N, D).
        features: (M, H1) each; ∂²u/∂t² is computed iff the third member is given.
        weights: of all K potentials, (K, ...) each.
        k: potential of each row, (N,) int64, or an int for all of them.
        feature_row: (N,) int64, the feature row of each row. None where row n has feature row n, or where M is 1. A
            feature row belongs to rows of one potential.
        tanh_output: output activation tanh (True) or identity (False).
        laplacian: compute Δu.
        form: force the "gram" or the "jacobian" form of the Laplacian; None chooses by ``cpu_laplacian_form``.

    Returns:
        PotentialDerivatives with first-order gradients in every argument. Kept for the backward: O(N·(H1+H2)).
    """
    tracked = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (z, *features, *weights))
    if laplacian and form is None:
        form = cpu_laplacian_form(z.shape[1], weights.weight1.shape[1], backward=tracked)
    k_all, k_rows = (k, None) if isinstance(k, int) else (0, k)
    form_code = FORMS[form if laplacian else None]
    arguments = (z, *features, *weights, k_rows, k_all, feature_row, tanh_output, form_code, tracked)
    if torch.compiler.is_compiling():  # dynamo does not look into the operator, which comes to the same Function
        outputs = torch.ops.ffrl.potential_forward(*arguments)
    else:
        outputs = apply_function(_Potential, *arguments)
    u, du_dz, du_dt, d2u_dt2, lap_u, _ = outputs
    return PotentialDerivatives(
        u, du_dz, du_dt, None if features.d2tau_dt2 is None else d2u_dt2, lap_u if laplacian else None
    )
