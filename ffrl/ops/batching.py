"""torch.func.vmap of the fused operators: a batch of problems is one problem with more rows and more potentials.

Row n of problem b becomes row b·N + n, and its potential k becomes b·K + k where each problem has weights of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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


FEATURES, WEIGHTS, K, FEATURE_ROW = slice(1, 4), slice(4, 10), 10, 12


def batch_first(value: Tensor | None, in_dim: int | None, batch: int) -> Tensor | None:
    """(batch, ...), expanded where the argument has no batch dimension."""
    if value is None:
        return None
    return value.expand(batch, *value.shape) if in_dim is None else value.movedim(in_dim, 0)


def fold_batch(
    operands: Operands,
    in_dims: tuple[int | None, ...],
    batch: int,
    *,
    own_weights: bool = False,
    own_rows: bool = False,
) -> Operands:
    """One problem of batch·N rows. ``own_weights``, ``own_rows``: give each member its own potentials, its own feature
    rows, even where the arguments are shared, so that its gradients are its own."""
    values = [
        batch_first(value, dim, batch) if isinstance(value, Tensor) else value
        for value, dim in zip(operands, in_dims, strict=True)
    ]
    own_weights = own_weights or any(dim is not None for dim in in_dims[WEIGHTS])
    # A feature row belongs to one potential: members with their own potentials have their own feature rows.
    own_rows = own_rows or own_weights or any(dim is not None for dim in in_dims[FEATURES])
    z, k, feature_row = values[0], values[K], values[FEATURE_ROW]
    num_rows, potentials, features = z.shape[1], values[4].shape[1], values[1].shape[1]
    member = torch.arange(batch, device=z.device)[:, None]  # (batch, 1)

    folded = [None if value is None else value.flatten(0, 1) for value in values[: WEIGHTS.stop]]
    if not own_weights:
        folded[WEIGHTS] = [value[0] for value in values[WEIGHTS]]
    if own_weights:
        k_rows = torch.full_like(member, operands.k_all) if k is None else k
        k = (k_rows + potentials * member).expand(batch, num_rows)
    if not own_rows:
        folded[FEATURES] = [None if value is None else value[0] for value in values[FEATURES]]
    if not own_rows and features == 1 and feature_row is None:
        shared_row = None
    else:
        base = feature_row
        if base is None:
            rows = torch.arange(num_rows, device=z.device)
            base = (rows if features == num_rows else torch.zeros_like(rows)).expand(batch, num_rows)
        shared_row = (base + features * member if own_rows else base).flatten()
    return Operands(
        *folded,  # type: ignore[arg-type]
        k=None if k is None else k.flatten(),
        k_all=operands.k_all,
        feature_row=shared_row,
        tanh_output=operands.tanh_output,
        form=operands.form,
    )


def split_batch(values: tuple[Tensor, ...], batch: int) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Outputs (batch·N, ...) as (batch, N, ...) with their out_dims; what has no elements has no batch dimension."""
    split = tuple(value.unflatten(0, (batch, value.shape[0] // batch)) if value.numel() else value for value in values)
    return split, tuple(0 if value.numel() else None for value in values)
