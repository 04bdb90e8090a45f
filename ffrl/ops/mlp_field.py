"""What the closed form needs of a potential, and its time features for the rows of a call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol, TypeGuard

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ffrl.ops.backends import CPP_REASON
from ffrl.ops.time_features import time_features_fused
from ffrl.records import PotentialWeights, TimeFeatures, TimeWeights

_unread: ContextVar[bool] = ContextVar("unread_values", default=False)


class MLPField(Protocol):
    """What the closed-form backends need of a potential; ``ffrl.models.PotentialMLP`` has it."""

    has_closed_form: bool
    latent_dim: int
    num_potentials: int
    output_activation: str

    def __call__(self, z: Tensor, t: float | Tensor, k: int | Tensor, /) -> Tensor: ...

    def weights(self, k: int | None) -> PotentialWeights: ...

    frequencies: Tensor

    def time_weights(self) -> TimeWeights: ...

    def time_features(self, time: Tensor, k: int | None, *, order: int) -> TimeFeatures: ...


def has_closed_form(pot: object) -> TypeGuard[MLPField]:
    """Whether the closed form is that of this potential: its forward must be that of the class which says so.

    A subclass of ``PotentialMLP`` with another ``forward`` is another field, and must not be taken for its base.
    """
    kind = type(pot)
    if not getattr(kind, "has_closed_form", False):
        return False
    *_, first = (base for base in kind.__mro__ if hasattr(base, "has_closed_form"))
    return kind.forward is first.forward  # type: ignore[attr-defined]


def is_capturing(device: torch.device) -> bool:
    """Whether what is launched on that device goes into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def can_read_values(tensor: Tensor) -> bool:
    """Whether the host may look at the values: not in torch.compile, in a torch.func transform, for a CUDA graph, or
    on a GPU within ``unread_values``."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():  # pyright: ignore
        return False
    return not is_capturing(tensor.device) and not (_unread.get() and is_asynchronous(tensor.device))


def is_asynchronous(device: torch.device) -> bool:
    """Whether the host waits for a device whose values it looks at."""
    return device.type == "cuda"


@contextlib.contextmanager
def unread_values() -> Iterator[None]:
    """Let the ops not wait for a GPU to check k, which has to be in range, or to find equal times."""
    token = _unread.set(True)
    try:
        yield
    finally:
        _unread.reset(token)


def distinct_times(time: Tensor) -> tuple[Tensor, Tensor] | None:
    """The distinct values of time (N,) and which of them each row has; None where each row needs a row of its own."""
    if not can_read_values(time) or time.requires_grad or forward_ad.unpack_dual(time).tangent is not None:
        return None  # a derivative in t, or a tangent, belongs to one row
    times, row = torch.unique(time, return_inverse=True)
    return None if 2 * times.numel() > time.numel() else (times, row)


def distinct_time_features(pot: MLPField, time: Tensor, k: int, *, order: int) -> TimeFeatures:
    """Time feature rows for time () or (N,), computed once per distinct time and gathered where times repeat."""
    distinct = distinct_times(time) if time.dim() else None
    if distinct is None:
        return pot.time_features(time, k, order=order)
    features = pot.time_features(distinct[0], k, order=order)
    return TimeFeatures(*(None if value is None else value.index_select(0, distinct[1]) for value in features))  # type: ignore[arg-type]


def fused_time_features(pot: MLPField, time: Tensor, k: int | None, *, order: int) -> TimeFeatures:
    """Time features (M, H1) of potential k, or (K·M, H1) of all: by the operator, or, where traced, by plain torch."""
    if can_read_values(time) and CPP_REASON is None and time.device.type == "cpu":
        return time_features_fused(time, pot.frequencies, pot.time_weights(), k, order=order)
    features = pot.time_features(time, k, order=order)
    return TimeFeatures(*(None if value is None else value.flatten(0, -2) for value in features))  # type: ignore[arg-type]


def feature_table(pot: MLPField, time: Tensor, k: int | Tensor, *, order: int) -> tuple[TimeFeatures, Tensor | None]:
    """Time features as a table (M, H1) and the row of it that each row has, (N,) or None.

    None means that row n has feature row n, or that M is 1. No two potentials share a feature row. A table of all
    potentials at all times takes one call of the operator, and is made where it has no more rows than the batch.
    """
    distinct = distinct_times(time) if time.dim() else None
    if isinstance(k, int):
        if distinct is None:
            return fused_time_features(pot, time, k, order=order), None
        return fused_time_features(pot, distinct[0], k, order=order), distinct[1]
    if time.dim() and distinct is None and can_read_values(k):
        return feature_rows_by_potential(pot, time, k, order=order)
    if distinct is not None and pot.num_potentials * distinct[0].numel() > k.numel():
        count = distinct[0].numel()
        pairs, row = torch.unique(k * count + distinct[1], return_inverse=True)
        table, row_of_pair = feature_rows_by_potential(pot, distinct[0][pairs % count], pairs // count, order=order)
        return table, row_of_pair[row]
    times, row = (time, 0) if distinct is None else distinct
    if distinct is None and time.dim():
        row = torch.arange(time.shape[0], device=time.device)
    return fused_time_features(pot, times, None, order=order), k * times.numel() + row  # (K·M', H1)


def feature_rows_by_potential(pot: MLPField, time: Tensor, k: Tensor, *, order: int) -> tuple[TimeFeatures, Tensor]:
    """A feature row for each row, computed potential by potential."""
    by_potential = torch.argsort(k, stable=True)
    counts = torch.bincount(k, minlength=pot.num_potentials).tolist()
    parts = [
        fused_time_features(pot, time[rows], k_one, order=order)
        for k_one, rows in enumerate(by_potential.split(counts))
        if rows.numel() or k_one == 0
    ]
    table = TimeFeatures(
        *(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True))  # type: ignore[arg-type]
    )
    row = torch.empty_like(by_potential)
    row[by_potential] = torch.arange(by_potential.shape[0], device=row.device)
    return table, row
