"""The operators ``torch.ops.ffrl_triton.rollout_*``: the flow along all its steps, and its derivatives.

Imported where Triton can be used (``ffrl.ops.backends``).
"""

# pyright: reportMissingImports=false
# ffrl.kernels is the folder kernels/, mapped by setup.py.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ffrl.errors import DerivativeOrderError
from ffrl.kernels.flow_rollout import flow_backward, flow_forward
from ffrl.kernels.launch import kept_width
from ffrl.kernels.row_plan import max_blocks
from ffrl.kernels.tiling import ROWS
from ffrl.ops.analytic import FORWARD_MODE_MESSAGE, SECOND_DERIVATIVE_MESSAGE
from ffrl.ops.batching import loop_batch
from ffrl.ops.functions import apply_function
from ffrl.ops.registration import below_autograd
from ffrl.ops.triton_operators import LIBRARY, contiguous

WEIGHTS = "Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor weight3, Tensor bias3"
OPTIONS = "Tensor? k, int k_all, int num_steps, int direction, bool tanh_output"
LIBRARY.define(
    f"rollout_forward(Tensor z0, Tensor tau, Tensor dtau_dt, {WEIGHTS}, {OPTIONS}, bool keep, int precision) "
    "-> (Tensor z, Tensor du_dz, Tensor du_dt, Tensor kept)"
)
LIBRARY.define(
    f"rollout_backward(Tensor kept, Tensor z, Tensor tau, Tensor dtau_dt, {WEIGHTS}, {OPTIONS}, Tensor? v_z, "
    "Tensor? v_du_dz, Tensor? v_du_dt, bool needs_z0, bool needs_features, bool needs_weights, int precision) "
    "-> (Tensor v_z0, Tensor v_tau, Tensor v_dtau_dt, Tensor v_weight1, Tensor v_bias1, Tensor v_weight2, "
    "Tensor v_bias2, Tensor v_weight3, Tensor v_bias3)"
)
NUM_DIFFERENTIABLE = 9  # z0 to bias3, the first arguments of both


class Rollout(torch.autograd.Function):
    """(z0, tau, dtau_dt, *weights, k, k_all, num_steps, direction, tanh_output, keep, precision) -> z, du_dz, du_dt,
    kept."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        with below_autograd():
            return torch.ops.ffrl_triton.rollout_forward(*arguments)

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
        gradients = apply_function(RolloutVjp, *ctx.saved_tensors, *ctx.options, *v_outputs[:3], *needs, ctx.precision)
        found = (gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True))
        return *found, *[None] * 7

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return loop_batch(Rollout, info.batch_size, in_dims, arguments)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise DerivativeOrderError(FORWARD_MODE_MESSAGE)


class RolloutVjp(torch.autograd.Function):
    """(kept, z, tau, ..., *cotangents, *needs, precision) -> gradients of z0 to bias3, without derivatives."""

    @staticmethod
    def forward(kept: Tensor, z: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        with below_autograd():
            if kept.numel() == 0:  # the forward did not know of this backward
                operands, precision = arguments[: NUM_DIFFERENTIABLE - 1 + 5], arguments[-1]
                kept = torch.ops.ffrl_triton.rollout_forward(z[:, 0], *operands, True, precision)[-1]
            return torch.ops.ffrl_triton.rollout_backward(kept, z, *arguments)

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
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return loop_batch(RolloutVjp, info.batch_size, in_dims, arguments)


def forward_shapes(z0: Tensor, tau: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    _, _, _, weight2, _, _, _, k, _, num_steps, _, _, keep, _ = arguments
    batch, latent = z0.shape
    potentials, hidden2, hidden1 = weight2.shape
    slots = max_blocks(batch, potentials, ROWS, mixed=k is not None) * ROWS
    kept = (slots * num_steps, kept_width(latent, hidden1, hidden2, "none")) if keep else (0,)
    shapes = (batch, num_steps + 1, latent), (batch, num_steps, latent), (batch, num_steps), kept
    return tuple(z0.new_empty(shape) for shape in shapes)


def backward_shapes(kept: Tensor, z: Tensor, tau: Tensor, dtau_dt: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    weights, (needs_z0, needs_features, needs_weights) = arguments[:6], arguments[-4:-1]
    wanted = (needs_z0, needs_features, needs_features, *[needs_weights] * 6)
    likes = (z[:, 0], tau, dtau_dt, *weights)
    return tuple(z.new_empty(like.shape if need else 0) for like, need in zip(likes, wanted, strict=True))


def register(name: str, kernel: Any, shapes: Any, derivative: type[torch.autograd.Function]) -> None:
    for key in ("CUDA", "CPU"):  # on the CPU in Triton's interpreter
        LIBRARY.impl(name, lambda *arguments: kernel(*contiguous(arguments)), key)
    torch.library.register_fake(f"ffrl_triton::{name}", shapes)
    for key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
        LIBRARY.impl(name, lambda *arguments: apply_function(derivative, *arguments), key)


register("rollout_forward", flow_forward, forward_shapes, Rollout)
register("rollout_backward", flow_backward, backward_shapes, RolloutVjp)
