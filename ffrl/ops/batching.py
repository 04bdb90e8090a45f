"""torch.func.vmap of the fused operators: a batch of problems is one problem with more rows and more potentials.

Row n of problem b becomes row b·N + n, and its potential k becomes b·K + k where each problem has weights of its own.
The operators of the time feature, which have few rows, are called for one problem after the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl.ops.functions import apply_function


class Operands(NamedTuple):
    """The arguments that forward and backward share, in the order of the operators' schemas."""

    z: Tensor  # (N, D)
    tau: Tensor  # (M, H1)
    dtau_dt: Tensor  # (M, H1)
    d2tau_dt2: Tensor | None  # (M, H1)
    weight1: Tensor  # (K, H1, D)
    bias1: Tensor  # (K, H1)
    weight2: Tensor  # (K, H2, H1)
    bias2: Tensor  # (K, H2)
    weight3: Tensor  # (K, H2)
    bias3: Tensor  # (K,)
    k: Tensor | None  # (N,) int64; None: every row is of potential k_all
    k_all: int
    feature_row: Tensor | None  # (N,) int64; None: row n has feature row n, or the only one there is
    tanh_output: bool
    form: int


NUM_DIFFERENTIABLE = 10  # z to bias3, the first of them
FEATURES, WEIGHTS = slice(1, 4), slice(4, NUM_DIFFERENTIABLE)


def fold(value: Tensor | None, in_dim: int | None, batch: int) -> Tensor | None:
    """(batch·N, ...) for what is (N, ...) in each problem; repeated where it has no batch dimension."""
    if value is None:
        return None
    return (value.expand(batch, *value.shape) if in_dim is None else value.movedim(in_dim, 0)).flatten(0, 1)


def length(value: Tensor, in_dim: int | None) -> int:
    """N of what is (N, ...) in each problem."""
    return value.shape[1 if in_dim == 0 else 0]


def fold_batch(
    operands: Operands, in_dims: tuple[Any, ...], batch: int, *, own_rows: bool = False, own_weights: bool = False
) -> Operands:
    """One problem of batch·N rows.

    ``own_rows``, ``own_weights``: give each problem its own feature rows, its own potentials, even where the arguments
    are shared, so that its gradients are its own.
    """
    dims: Any = Operands(*in_dims)
    own_weights = own_weights or any(dim is not None for dim in in_dims[WEIGHTS])
    # A feature row belongs to one potential: problems with potentials, or a choice of them, of their own have their
    # own feature rows.
    own_rows = own_rows or own_weights or any(dim is not None for dim in (dims.k, *in_dims[FEATURES]))
    num_rows, features, potentials = lengths(operands, in_dims)
    row = torch.arange(batch * num_rows, device=operands.z.device)
    problem = row // max(num_rows, 1)

    k, feature_row = fold(operands.k, dims.k, batch), fold(operands.feature_row, dims.feature_row, batch)
    if own_weights:
        k = problem * potentials + (operands.k_all if k is None else k)
    if own_rows and feature_row is not None:
        feature_row = problem * features + feature_row
    elif own_rows and features == 1:
        feature_row = problem
    elif not own_rows and feature_row is None and features > 1:
        feature_row = row % num_rows

    folded = (True, *[own_rows] * 3, *[own_weights] * 6)  # of z to bias3
    tensors = (
        fold(value, dim, batch) if own else value
        for value, dim, own in zip(operands[:NUM_DIFFERENTIABLE], in_dims[:NUM_DIFFERENTIABLE], folded, strict=True)
    )
    return Operands(*tensors, k, operands.k_all, feature_row, operands.tanh_output, operands.form)  # type: ignore[arg-type]


def lengths(operands: Operands, in_dims: tuple[Any, ...]) -> tuple[int, int, int]:
    """N, M and K of each problem."""
    dims: Any = Operands(*in_dims)
    return length(operands.z, dims.z), length(operands.tau, dims.tau), length(operands.bias3, dims.bias3)


def split_batch(
    values: tuple[Tensor, ...], rows: tuple[int, ...], batch: int
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Outputs (batch·N, ...) as (batch, N, ...), with their out_dims; ``rows``: N of each, 0 if not asked for."""
    split = (value.unflatten(0, (batch, count)) for value, count in zip(values, rows, strict=True))
    return tuple(split), (0,) * len(values)


def loop_batch(
    function: type[torch.autograd.Function], batch: int, in_dims: tuple[int | None, ...], arguments: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The function of each problem, its results stacked, with their out_dims."""

    def one(i: int) -> list[Any]:
        # Without any problem there is no i-th: a sum over none of them is zeros of its shape.
        return [
            value if dim is None else value.select(dim, i) if batch else value.sum(dim)
            for value, dim in zip(arguments, in_dims, strict=True)
        ]

    values = zip(*(apply_function(function, *one(i)) for i in range(max(batch, 1))), strict=True)
    stacked = tuple(torch.stack(value)[:batch] for value in values)
    return stacked, (0,) * len(stacked)
