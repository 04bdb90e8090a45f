"""Operators of the rollout on the GPU: schemas, shapes and derivatives, whoever implements them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ffrl.errors import DerivativeOrderError
from ffrl.ops.analytic import FORWARD_MODE_MESSAGE
from ffrl.ops.batching import loop_batch
from ffrl.ops.functions import GradientsOnly, apply_function
from ffrl.ops.gpu_operators import KeptShape
from ffrl.ops.registration import FORMS, below_autograd

WEIGHTS = "Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor weight3, Tensor bias3"
OPTIONS = "Tensor? k, int k_all, int num_steps, int direction, bool tanh_output"
FORWARD = (
    f"rollout_forward(Tensor z0, Tensor tau, Tensor dtau_dt, {WEIGHTS}, {OPTIONS}, bool keep, int precision) "
    "-> (Tensor z, Tensor du_dz, Tensor du_dt, Tensor kept)"
)
BACKWARD = (
    f"rollout_backward(Tensor kept, Tensor z, Tensor tau, Tensor dtau_dt, {WEIGHTS}, {OPTIONS}, Tensor? v_z, "
    "Tensor? v_du_dz, Tensor? v_du_dt, bool needs_z0, bool needs_features, bool needs_weights, int precision) "
    "-> (Tensor v_z0, Tensor v_tau, Tensor v_dtau_dt, Tensor v_weight1, Tensor v_bias1, Tensor v_weight2, "
    "Tensor v_bias2, Tensor v_weight3, Tensor v_bias3)"
)
NUM_DIFFERENTIABLE = 9  # z0 to bias3, the first arguments of both


def rollout_operators(
    library: torch.library.Library, namespace: str, kept_shape: KeptShape
) -> type[torch.autograd.Function]:
    """Define ``torch.ops.<namespace>.rollout_forward`` and ``rollout_backward`` in its library, without kernels.

    Returns:
        the Function of the forward: its operands, of which the first may have gradients -> z, du_dz, du_dt, kept.
    """
    library.define(FORWARD)
    library.define(BACKWARD)
    operators = getattr(torch.ops, namespace)

    class Rollout(torch.autograd.Function):
        """(z0, tau, dtau_dt, *weights, k, k_all, num_steps, direction, tanh_output, keep, precision) -> outputs."""

        @staticmethod
        def forward(*arguments: Any) -> tuple[Tensor, ...]:
            with below_autograd():
                return operators.rollout_forward(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            *tensors, k, k_all, num_steps, direction, tanh_output, _, ctx.precision = inputs
            z, _, _, kept = output
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(kept)
            ctx.save_for_backward(kept, z, *tensors[1:], k)
            ctx.options = k_all, num_steps, direction, tanh_output

        @staticmethod
        def backward(ctx: Any, *v_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
            wanted = ctx.needs_input_grad[:NUM_DIFFERENTIABLE]
            needs = wanted[0], any(wanted[1:3]), any(wanted[3:])
            gradients = apply_function(
                RolloutVjp, *ctx.saved_tensors, *ctx.options, *v_outputs[:3], *needs, ctx.precision
            )
            found = (gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True))
            return *found, *[None] * 7

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
            return loop_batch(Rollout, info.batch_size, in_dims, arguments)

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            raise DerivativeOrderError(FORWARD_MODE_MESSAGE)

    class RolloutVjp(GradientsOnly):
        """(kept, z, tau, ..., *cotangents, *needs, precision) -> gradients of z0 to bias3, without derivatives."""

        @staticmethod
        def forward(kept: Tensor, z: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
            with below_autograd():
                if kept.numel() == 0:  # the forward did not know of this backward
                    operands, precision = arguments[: NUM_DIFFERENTIABLE - 1 + 5], arguments[-1]
                    kept = operators.rollout_forward(z[:, 0], *operands, True, precision)[-1]
                return operators.rollout_backward(kept, z, *arguments)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
            return loop_batch(RolloutVjp, info.batch_size, in_dims, arguments)

    def forward_shapes(z0: Tensor, tau: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        _, _, _, weight2, _, _, _, k, _, num_steps, _, _, keep, _ = arguments
        batch, latent = z0.shape
        potentials, hidden2, hidden1 = weight2.shape
        slots, width = kept_shape(batch, latent, potentials, hidden1, hidden2, k is not None, FORMS[None])
        kept = (slots * num_steps, width) if keep else (0,)
        shapes = (batch, num_steps + 1, latent), (batch, num_steps, latent), (batch, num_steps), kept
        return tuple(z0.new_empty(shape) for shape in shapes)

    for name, shapes, derivative in (
        ("rollout_forward", forward_shapes, Rollout),
        ("rollout_backward", backward_shapes, RolloutVjp),
    ):
        torch.library.register_fake(f"{namespace}::{name}", shapes)
        for key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
            library.impl(name, partial(apply_function, derivative), key)
    return Rollout


def backward_shapes(kept: Tensor, z: Tensor, tau: Tensor, dtau_dt: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    weights, (needs_z0, needs_features, needs_weights) = arguments[:6], arguments[-4:-1]
    wanted = (needs_z0, needs_features, needs_features, *[needs_weights] * 6)
    likes = (z[:, 0], tau, dtau_dt, *weights)
    return tuple(z.new_empty(like.shape if need else 0) for like, need in zip(likes, wanted, strict=True))
