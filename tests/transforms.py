"""Modules and batched arguments for the tests of torch.func over the C++ backend, and the loop that they must equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ffrl.models import PotentialMLP
from ffrl.ops import potential_derivatives
from tests.cases import Case, random_potential

BATCH, ROWS, LATENT, POTENTIALS = 4, 9, 3, 3  # the rows of all problems do not fit in one block of 32
HIDDEN = {"gram": 8, "jacobian": 17}  # the form of the Laplacian that the op takes, forward and backward, at that H1


def potential(form: str = "gram") -> PotentialMLP:
    return random_potential(Case(ROWS, LATENT, HIDDEN[form], 5, POTENTIALS), torch.float64)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def draw_k(*shape: int) -> Tensor:
    return torch.randint(0, POTENTIALS, shape)


class Outputs(torch.nn.Module):
    """Every output of the op side by side, (N, D + 4)."""

    def __init__(self, pot: PotentialMLP) -> None:
        super().__init__()
        self.pot = pot

    def forward(self, z: Tensor, t: float | Tensor, k: int | Tensor) -> Tensor:
        u, du_dz, du_dt, d2u_dt2, lap_u = potential_derivatives(self.pot, z, t, k, d2u_dt2=True, backend="cpp")
        assert d2u_dt2 is not None and lap_u is not None
        return torch.cat([du_dz, torch.stack([u, du_dt, d2u_dt2, lap_u], dim=1)], dim=1)


class Loss(Outputs):
    def forward(self, z: Tensor, t: float | Tensor, k: int | Tensor) -> Tensor:
        return super().forward(z, t, k).sin().sum()


def problems(in_dims: tuple[int | None, ...], *arguments: Any) -> list[tuple[Any, ...]]:
    """The arguments of each problem of a batch."""
    pairs = list(zip(arguments, in_dims, strict=True))
    size = next(value.shape[dim] for value, dim in pairs if dim is not None)
    return [tuple(value if dim is None else value.select(dim, i) for value, dim in pairs) for i in range(size)]


def loop(function: Callable[..., Tensor], in_dims: tuple[int | None, ...], *arguments: Any) -> Tensor:
    """What vmap should give, one problem at a time."""
    return torch.stack([function(*call) for call in problems(in_dims, *arguments)])


def draw_batched(names: tuple[str, str, str]) -> tuple[tuple[Any, ...], tuple[int | None, ...]]:
    """(z, t, k) as those names say, and their in_dims."""
    return tuple(ARGUMENTS[name][0]() for name in names), tuple(ARGUMENTS[name][1] for name in names)


INDICES = {"int": 1, "tensor": torch.arange(ROWS) % POTENTIALS}
ARGUMENTS: dict[str, tuple[Callable[[], Any], int | None]] = {
    "z": (lambda: draw(BATCH, ROWS, LATENT), 0),
    "z in dimension 1": (lambda: draw(ROWS, BATCH, LATENT), 1),
    "z in the last dimension": (lambda: draw(ROWS, LATENT, BATCH), -1),
    "z expanded": (lambda: draw(1, ROWS, LATENT).expand(BATCH, -1, -1), 0),
    "no row": (lambda: draw(BATCH, 0, LATENT), 0),
    "one z": (lambda: draw(ROWS, LATENT), None),
    "float": (lambda: 0.7, None),
    "one t": (lambda: draw(), None),
    "t of rows": (lambda: draw(ROWS), None),
    "t": (lambda: draw(BATCH), 0),
    "t of each row": (lambda: draw(BATCH, ROWS), 0),
    "t in dimension 1": (lambda: draw(ROWS, BATCH), 1),
    "int": (lambda: 1, None),
    "k of rows": (lambda: draw_k(ROWS), None),
    "k": (lambda: draw_k(BATCH, ROWS), 0),
    "k in dimension 1": (lambda: draw_k(ROWS, BATCH), 1),
    "k of no row": (lambda: draw_k(BATCH, 0), 0),
}
BATCHED = (
    ("z", "float", "int"),
    ("z", "float", "k of rows"),
    ("z", "one t", "int"),
    ("z", "t of rows", "int"),
    ("z", "t of rows", "k of rows"),
    ("z expanded", "t of rows", "k"),
    ("z in dimension 1", "t", "k"),
    ("z in the last dimension", "t in dimension 1", "k in dimension 1"),
    ("one z", "t", "int"),
    ("one z", "t", "k of rows"),
    ("one z", "t of each row", "int"),
    ("one z", "float", "k"),
    ("one z", "one t", "k"),
    ("one z", "t of rows", "k"),
    ("z", "t of each row", "k"),
    ("no row", "float", "int"),
    ("no row", "t", "k of no row"),
)
