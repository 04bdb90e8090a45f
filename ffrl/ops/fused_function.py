"""The ``torch.autograd.Function`` of a pair of compiled operators that compute the potential op and its backward.

The backward is itself such a Function, so that torch.func.vmap knows both, and a second derivative raises instead of
being lost.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import mul
from typing import Any

import torch
from torch import Tensor

from ffrl.errors import DerivativeOrderError
from ffrl.ops.analytic import FORWARD_MODE_MESSAGE
from ffrl.ops.batching import FEATURES, NUM_DIFFERENTIABLE, WEIGHTS, Operands, fold, fold_batch, lengths, split_batch
from ffrl.ops.functions import GradientsOnly, apply_function
from ffrl.ops.registration import FORMS, below_autograd

Function = type[torch.autograd.Function]
Operator = Callable[..., tuple[Tensor, ...]]

NUM_OPERANDS = len(Operands._fields)
NUM_OUTPUTS = 5


def potential_functions(forward_operator: Operator, backward_operator: Operator) -> tuple[Function, Function]:
    """The Functions of the op and of its backward.

    Args:
        forward_operator: (*operands, keep) -> u, du_dz, du_dt, d2u_dt2, lap_u, kept.
        backward_operator: (kept, *operands, *cotangents, *needs) -> gradients of z to bias3.
    """

    class Potential(torch.autograd.Function):
        """(*operands, keep) -> u, du_dz, du_dt, d2u_dt2, lap_u, kept; what was not asked for has no elements."""

        @staticmethod
        def forward(*arguments: Any) -> tuple[Tensor, ...]:
            with below_autograd():
                return forward_operator(*arguments)

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
            gradients = apply_function(PotentialVjp, kept, *operands, *cotangents, *needs)
            found = (gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True))
            return (*found, *[None] * (NUM_OPERANDS - NUM_DIFFERENTIABLE + 1))

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
            given, dims = Operands(*arguments[:NUM_OPERANDS]), in_dims[:NUM_OPERANDS]
            operands = fold_batch(given, dims, info.batch_size)
            # Blocks of rows have no batch dimension, so nothing is kept; the backward computes it again.
            *outputs, kept = Potential.apply(*operands, False)
            rows = lengths(given, dims)[0]
            asked = (rows, rows, rows, rows if given.d2tau_dt2 is not None else 0, rows if given.form else 0)
            split, out_dims = split_batch(tuple(outputs), asked, info.batch_size)
            return (*split, kept), (*out_dims, None)

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            raise DerivativeOrderError(FORWARD_MODE_MESSAGE)

    class PotentialVjp(GradientsOnly):
        """(kept, *operands, *cotangents, *needs) -> gradients of z to bias3; they have no derivative of their own."""

        @staticmethod
        def forward(kept: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
            with below_autograd():
                if kept.numel() == 0:  # the forward did not know of this backward
                    kept = forward_operator(*arguments[:NUM_OPERANDS], True)[-1]
                return backward_operator(kept, *arguments)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], kept: Tensor, *arguments: Any) -> Any:
            batch, needs = info.batch_size, arguments[-3:]
            given, dims = Operands(*arguments[:NUM_OPERANDS]), in_dims[1:]
            operands = fold_batch(given, dims[:NUM_OPERANDS], batch, own_rows=needs[1], own_weights=needs[2])
            cotangents = map(fold, arguments[NUM_OPERANDS:-3], dims[NUM_OPERANDS:-3], [batch] * NUM_OUTPUTS)
            gradients = PotentialVjp.apply(kept.new_empty(0), *operands, *cotangents, *needs)
            rows, features, potentials = map(mul, lengths(given, dims[:NUM_OPERANDS]), needs)
            second = features if given.d2tau_dt2 is not None else 0
            return split_batch(gradients, (rows, features, features, second, *[potentials] * 6), batch)

    return Potential, PotentialVjp
