"""Bad input to the op: one typed error that names the argument, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.models import PotentialMLP
from ffrl.ops import log_abs_det, potential_derivatives, potential_hessian
from tests.potentials import HamiltonJacobiField

ROWS = 4
GOOD: dict[str, Any] = {"z": torch.zeros(ROWS, 3), "t": 0.5, "k": 0}


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


# what is wrong, the argument replaced, its value, the name and the given value in the message
BAD: tuple[tuple[str, str, Any, str, str], ...] = (
    ("no tensor", "z", [[0.0, 0.0, 0.0]], "z", "list"),
    ("none", "z", None, "z", "NoneType"),
    ("one dimension", "z", zeros(3), "z.shape", "(3,)"),
    ("no dimension", "z", zeros(), "z.shape", "()"),
    ("three dimensions", "z", zeros(2, ROWS, 3), "z.shape", "(2, 4, 3)"),
    ("half precision", "z", zeros(ROWS, 3, dtype=torch.float16), "z.dtype", "torch.float16"),
    ("bfloat16", "z", zeros(ROWS, 3, dtype=torch.bfloat16), "z.dtype", "torch.bfloat16"),
    ("integers", "z", zeros(ROWS, 3, dtype=torch.int64), "z.dtype", "torch.int64"),
    ("complex", "z", zeros(ROWS, 3, dtype=torch.complex64), "z.dtype", "torch.complex64"),
    ("integer time tensor", "t", zeros(ROWS, dtype=torch.int64), "t.dtype", "torch.int64"),
    ("integer 0-d time", "t", zeros(dtype=torch.int32), "t.dtype", "torch.int32"),
    ("boolean time tensor", "t", zeros(ROWS, dtype=torch.bool), "t.dtype", "torch.bool"),
    ("too few times", "t", zeros(ROWS - 1), "t.shape", "(3,)"),
    ("one time in a vector", "t", zeros(1), "t.shape", "(1,)"),
    ("time column", "t", zeros(ROWS, 1), "t.shape", "(4, 1)"),
    ("time on another device", "t", zeros(ROWS, device="meta"), "t.device", "meta"),
    ("boolean time", "t", True, "t", "True"),
    ("time as text", "t", "0.5", "t", "'0.5'"),
    ("no time", "t", None, "t", "None"),
    ("list of times", "t", [0.5] * ROWS, "t", "[0.5, 0.5, 0.5, 0.5]"),
    ("int32 index", "k", zeros(ROWS, dtype=torch.int32), "k.dtype", "torch.int32"),
    ("float index", "k", zeros(ROWS), "k.dtype", "torch.float32"),
    ("0-d index", "k", zeros(dtype=torch.int64), "k.shape", "()"),
    ("too many indices", "k", zeros(ROWS + 1, dtype=torch.int64), "k.shape", "(5,)"),
    ("index column", "k", zeros(ROWS, 1, dtype=torch.int64), "k.shape", "(4, 1)"),
    ("index on another device", "k", zeros(ROWS, dtype=torch.int64, device="meta"), "k.device", "meta"),
    ("boolean index", "k", True, "k", "True"),
    ("fractional index", "k", 1.0, "k", "1.0"),
    ("no index", "k", None, "k", "None"),
)

# these need a potential that knows its sizes
BAD_FOR_MLP: tuple[tuple[str, str, Any, str, str], ...] = (
    ("another latent size", "z", zeros(ROWS, 2), "z.shape", "(4, 2)"),
    ("no latent axis", "z", zeros(ROWS, 0), "z.shape", "(4, 0)"),
    ("another precision", "z", zeros(ROWS, 3, dtype=torch.float64), "z.dtype", "torch.float64"),
    ("another device", "z", zeros(ROWS, 3, device="meta"), "z.device", "meta"),
    ("index below", "k", -1, "k", "-1"),
    ("index above", "k", 2, "k", "2"),
    ("indices below", "k", torch.tensor([0, 1, -3, 0]), "k", "-3"),
    ("indices above", "k", torch.tensor([0, 1, 2, 0]), "k", "2"),
)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "auto": potential_derivatives,
    "oracle": lambda *arguments: potential_derivatives(*arguments, backend="oracle"),
    "analytic": lambda *arguments: potential_derivatives(*arguments, backend="analytic"),
    "potential_hessian": potential_hessian,
    "log_abs_det": log_abs_det,
    "forward": lambda pot, *arguments: pot(*arguments),
}


def check(function: Callable[..., Any], pot: Any, bad: tuple[str, str, Any, str, str]) -> None:
    _, argument, value, name, given = bad
    arguments = {**GOOD, argument: value}
    with pytest.raises(ArgumentError) as failure:
        function(pot, arguments["z"], arguments["t"], arguments["k"])
    assert str(failure.value).startswith(f"{name} = {given} is not allowed; expected ")
    assert failure.value.name == name and len(failure.value.allowed) > 2


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bad", [*BAD, *BAD_FOR_MLP], ids=lambda bad: f"{bad[1]}-{bad[0]}")
def test_bad_rows_for_a_potential_mlp(function: str, bad: tuple[str, str, Any, str, str]):
    check(FUNCTIONS[function], PotentialMLP(3, (5, 4), 2), bad)


@pytest.mark.parametrize("function", ["auto", "oracle", "potential_hessian", "log_abs_det"])
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad[1]}-{bad[0]}")
def test_bad_rows_for_any_other_field(function: str, bad: tuple[str, str, Any, str, str]):
    check(FUNCTIONS[function], HamiltonJacobiField(0.5), bad)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_good_rows_are_good(function: str):
    FUNCTIONS[function](PotentialMLP(3, (5, 4), 2), GOOD["z"], GOOD["t"], GOOD["k"])


@pytest.mark.parametrize("laplacian", ["trace", "", True, False, 1, ["exact"]])
def test_an_unknown_laplacian_is_refused(laplacian: object):
    with pytest.raises(ArgumentError) as failure:
        potential_derivatives(PotentialMLP(3, (5, 4)), GOOD["z"], 0.5, 0, laplacian=laplacian)  # type: ignore[arg-type]
    assert str(failure.value).startswith(f"laplacian = {laplacian!r} is not allowed; expected 'exact'")


@pytest.mark.parametrize(
    "t", [2, 2.0, torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64), torch.full((4,), 2.0)]
)
@pytest.mark.parametrize("k", [1, torch.ones(4, dtype=torch.int64)])
def test_what_is_allowed_is_accepted(t: float | Tensor, k: int | Tensor):
    out = potential_derivatives(PotentialMLP(3, (5, 4), 2), GOOD["z"], t, k, d2u_dt2=True)
    assert all(value is not None and value.dtype == torch.float32 for value in out)
