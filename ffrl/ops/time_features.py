"""The learned time feature of a potential and its derivatives in t as one operator, with first-order gradients.

A call has few rows, so what it costs is the number of its operations: as plain torch (``PotentialMLP.time_features``)
it takes as long as the rest of the potential op at small sizes. Shapes: M times, E embedding width, K potentials.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ffrl.errors import DerivativeOrderError
from ffrl.ops.analytic import FORWARD_MODE_MESSAGE
from ffrl.ops.backends import CPP_REASON
from ffrl.ops.batching import loop_batch
from ffrl.ops.functions import GradientsOnly, apply_function
from ffrl.ops.registration import (
    below_autograd,
    register_operator,
    time_features_backward_shapes,
    time_features_shapes,
)
from ffrl.records import TimeFeatures, TimeWeights


class _TimeFeatures(torch.autograd.Function):
    """(time, frequencies, *weights, k, order) -> τ, dτ/dt, d²τ/dt²: what was not asked for has no elements."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        with below_autograd():
            return torch.ops.ffrl.time_features(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.k, ctx.order = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[3])
        ctx.save_for_backward(output[3], *tensors)

    @staticmethod
    def backward(ctx: Any, *v_features: Tensor | None) -> tuple[Any, ...]:
        needs_time, needs_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[2:6])
        v_time, *v_weights = apply_function(
            _TimeFeaturesVjp, *ctx.saved_tensors, ctx.k, ctx.order, *v_features[:3], needs_time, needs_weights
        )
        weights = (v if needed else None for v, needed in zip(v_weights, ctx.needs_input_grad[2:6], strict=True))
        return v_time if needs_time else None, None, *weights, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return loop_batch(_TimeFeatures, info.batch_size, in_dims, arguments)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise DerivativeOrderError(FORWARD_MODE_MESSAGE)


class _TimeFeaturesVjp(GradientsOnly):
    """Gradients of time and of the weights; they have no derivative of their own."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        with below_autograd():
            return torch.ops.ffrl.time_features_backward(*arguments)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return loop_batch(_TimeFeaturesVjp, info.batch_size, in_dims, arguments)


if CPP_REASON is None:
    register_operator("time_features", time_features_shapes, _TimeFeatures)
    register_operator("time_features_backward", time_features_backward_shapes, _TimeFeaturesVjp)


def time_features_fused(
    time: Tensor, frequencies: Tensor, weights: TimeWeights, k: int | None, *, order: int
) -> TimeFeatures:
    """τ, dτ/dt and, for ``order`` 2, d²τ/dt² at time () or (M,): (1 or M, H1) of potential k, (K·M, H1) of all.

    Args:
        time: () or (M,), float32 or float64.
        frequencies: (E/2,), of that dtype.
        weights: stacked, (K, ...).
        k: which potential; None: all of them, one after the other.
        order: 1 or 2.

    Returns:
        TimeFeatures with first-order gradients in time and in the weights.
    """
    which = -1 if k is None else k
    tau, dtau_dt, d2tau_dt2, _ = apply_function(_TimeFeatures, time, frequencies, *weights, which, order)
    return TimeFeatures(tau, dtau_dt, d2tau_dt2 if order > 1 else None)
