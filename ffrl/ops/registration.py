"""What the operators ``torch.ops.ffrl.*`` are beside their kernels: shapes for torch.compile, and derivatives."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ffrl.ops.functions import apply_function

# Rows that stand together in one block of what the forward keeps (kRowsPerBlock in csrc/cpu/row_plan.h).
ROWS_PER_BLOCK = 32
# Latent dimensions up to which the Jacobian is kept (kKeptJacobianDims in csrc/cpu/potential_cpu.h).
KEPT_JACOBIAN_DIMS = 4
LIBRARY = torch.library.Library("ffrl", "IMPL")  # what is registered through it lives as long as this object
FORMS = {None: 0, "gram": 1, "jacobian": 2}


def kept_shape(
    num_rows: int, potentials: int, latent_dim: int, hidden1: int, hidden2: int, *, mixed: bool, form: int
) -> tuple[int, int, int]:
    """Shape of what the forward keeps for the backward: blocks of rows, O(H) of them, 32 numbers each."""
    blocks = num_rows // ROWS_PER_BLOCK + potentials if mixed else (num_rows + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK
    squares = hidden2 if form else 0
    column_sums = hidden1 if form == FORMS["gram"] else 0
    jacobian = latent_dim * hidden2 if form == FORMS["jacobian"] and latent_dim <= KEPT_JACOBIAN_DIMS else 0
    return blocks, 2 * hidden1 + hidden2 + latent_dim + 4 + squares + column_sums + jacobian, ROWS_PER_BLOCK


def forward_shapes(
    z: Tensor,
    tau: Tensor,
    dtau_dt: Tensor,
    d2tau_dt2: Tensor | None,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    weight3: Tensor,
    bias3: Tensor,
    k: Tensor | None,
    k_all: int,
    feature_row: Tensor | None,
    tanh_output: bool,
    form: int,
    keep: bool,
) -> tuple[Tensor, ...]:
    num_rows, latent_dim = z.shape
    potentials, hidden2, hidden1 = weight2.shape
    kept = kept_shape(num_rows, potentials, latent_dim, hidden1, hidden2, mixed=k is not None, form=form)
    return (
        z.new_empty(num_rows),
        z.new_empty(num_rows, latent_dim),
        z.new_empty(num_rows),
        z.new_empty(0 if d2tau_dt2 is None else num_rows),
        z.new_empty(num_rows if form else 0),
        z.new_empty(kept if keep else 0),
    )


def backward_shapes(
    kept: Tensor,
    z: Tensor,
    tau: Tensor,
    dtau_dt: Tensor,
    d2tau_dt2: Tensor | None,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    weight3: Tensor,
    bias3: Tensor,
    k: Tensor | None,
    k_all: int,
    feature_row: Tensor | None,
    tanh_output: bool,
    form: int,
    v_u: Tensor | None,
    v_du_dz: Tensor | None,
    v_du_dt: Tensor | None,
    v_d2u_dt2: Tensor | None,
    v_lap_u: Tensor | None,
    needs_z: bool,
    needs_features: bool,
    needs_weights: bool,
) -> tuple[Tensor, ...]:
    def gradient(wanted: bool, like: Tensor) -> Tensor:
        return like.new_empty(like.shape if wanted else 0)

    weights = (weight1, bias1, weight2, bias2, weight3, bias3)
    return (
        gradient(needs_z, z),
        gradient(needs_features, tau),
        gradient(needs_features, dtau_dt),
        gradient(needs_features and d2tau_dt2 is not None, tau),
        *(gradient(needs_weights, weight) for weight in weights),
    )


def time_features_shapes(
    time: Tensor,
    frequencies: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    k: int,
    order: int,
) -> tuple[Tensor, ...]:
    potentials, hidden = bias2.shape
    rows = time.numel() * (potentials if k < 0 else 1)
    shapes = (rows, hidden), (rows, hidden), (rows, hidden) if order > 1 else (0,), (rows, order + 1, hidden)
    return tuple(time.new_empty(shape) for shape in shapes)


def time_features_backward_shapes(
    kept: Tensor,
    time: Tensor,
    frequencies: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    k: int,
    order: int,
    v_tau: Tensor | None,
    v_dtau_dt: Tensor | None,
    v_d2tau_dt2: Tensor | None,
    needs_time: bool,
    needs_weights: bool,
) -> tuple[Tensor, ...]:
    weights = (value.new_empty(value.shape if needs_weights else 0) for value in (weight1, bias1, weight2, bias2))
    return time.new_empty(time.shape if needs_time else 0), *weights


def below_autograd() -> contextlib.AbstractContextManager[Any]:
    """Where a call of an operator reaches its kernel, and not the derivative registered for it."""
    return torch._C._AutoDispatchBelowAutograd()


def register_operator(name: str, fake: Callable[..., Any], derivative: type[torch.autograd.Function]) -> None:
    """Register what ``torch.ops.ffrl.<name>`` is beside its kernels, once, after the extension is loaded.

    Args:
        name: of the operator.
        fake: its shapes.
        derivative: what differentiates and batches it; its forward runs the operator in ``below_autograd()``.
    """
    torch.library.register_fake(f"ffrl::{name}", fake)
    # Wherever the operator is called, it is this Function: under autograd, and under the transforms of torch.func,
    # which come by the other key. Without the second they would take its outputs for constants.
    for key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
        LIBRARY.impl(name, functools.partial(apply_function, derivative), key)
