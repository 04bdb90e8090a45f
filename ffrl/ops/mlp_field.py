"""What the closed form needs of a potential, and its time features for the rows of a call."""

from __future__ import annotations

from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ffrl.records import PotentialWeights, TimeFeatures


@runtime_checkable
class MLPField(Protocol):
    """What the closed-form backends need of a potential; ``ffrl.models.PotentialMLP`` has it."""

    has_closed_form: bool
    latent_dim: int
    num_potentials: int
    output_activation: str

    def __call__(self, z: Tensor, t: float | Tensor, k: int | Tensor, /) -> Tensor: ...

    def weights(self, k: int | None) -> PotentialWeights: ...

    def time_features(self, time: Tensor, k: int | None, *, order: int) -> TimeFeatures: ...


def has_closed_form(pot: object) -> TypeGuard[MLPField]:
    """Whether the closed form is that of this potential: the class that defines its forward must say so itself.

    A subclass of ``PotentialMLP`` with another ``forward`` is another field, and must not be taken for its base.
    """
    owner = next((kind for kind in type(pot).__mro__ if "forward" in vars(kind)), object)
    return isinstance(pot, MLPField) and bool(vars(owner).get("has_closed_form", False))


def is_traced() -> bool:
    """Whether values cannot be looked at: in torch.compile, and inside a torch.func transform."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def distinct_times(time: Tensor) -> tuple[Tensor, Tensor] | None:
    """The distinct values of time (N,) and which of them each row has; None where each row needs a row of its own."""
    if is_traced() or time.requires_grad or forward_ad.unpack_dual(time).tangent is not None:
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


def feature_table(pot: MLPField, time: Tensor, k: int | Tensor, *, order: int) -> tuple[TimeFeatures, Tensor | None]:
    """Time features as a table (M, H1) and the row of it that each row has, (N,) or None.

    None means that row n has feature row n, or that M is 1. No two potentials share a feature row.
    """
    distinct = distinct_times(time) if time.dim() else None
    if isinstance(k, int):
        if distinct is None:
            return pot.time_features(time, k, order=order), None
        return pot.time_features(distinct[0], k, order=order), distinct[1]
    if time.dim() and distinct is None and not is_traced():
        return feature_rows_by_potential(pot, time, k, order=order)
    times, row = (time, 0) if distinct is None else distinct
    if distinct is None and time.dim():
        row = torch.arange(time.shape[0], device=time.device)
    stacked = pot.time_features(times, None, order=order)  # (K, M', H1)
    table = TimeFeatures(*(None if value is None else value.flatten(0, 1) for value in stacked))  # type: ignore[arg-type]
    return table, k * stacked.tau.shape[1] + row


def feature_rows_by_potential(pot: MLPField, time: Tensor, k: Tensor, *, order: int) -> tuple[TimeFeatures, Tensor]:
    """A feature row for each row, computed potential by potential."""
    by_potential = torch.argsort(k, stable=True)
    counts = torch.bincount(k, minlength=pot.num_potentials).tolist()
    parts = [
        pot.time_features(time[rows], k_one, order=order)
        for k_one, rows in enumerate(by_potential.split(counts))
        if rows.numel() or k_one == 0
    ]
    table = TimeFeatures(
        *(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True))  # type: ignore[arg-type]
    )
    row = torch.empty_like(by_potential)
    row[by_potential] = torch.arange(by_potential.shape[0], device=row.device)
    return table, row
