"""The table of time features that rows of a call share: its size, and what each row finds in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.models import PotentialMLP
from ffrl.ops.mlp_field import feature_table
from tests.cases import Case, random_potential
from tests.cpp_cases import needs_cpp
from tests.tolerances import ROUNDING, assert_matches

pytestmark = needs_cpp

# K, potentials that rows have, N, distinct times, rows of the table
TABLES = (
    (3, 3, 60, 8, 24),  # all potentials at all times: one call of the operator
    (4, 3, 60, 8, 32),
    (1, 1, 60, 30, 30),
    (50, 2, 200, 100, 100),  # pairs of a potential and a time that occur
    (50, 1, 200, 7, 7),
    (3, 3, 30, 11, 21),
    (3, 3, 30, 20, 30),  # times that hardly repeat: a row for each
)


def features_of_rows(pot: PotentialMLP, time: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    """By plain torch, one row after the other."""
    rows = [pot.time_features(time[n], int(k[n]), order=2) for n in range(len(k))]
    return tuple(torch.cat(values) for values in zip(*rows, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(("potentials", "used", "rows", "times", "length"), TABLES)
def test_a_table_holds_no_more_than_a_row_for_each_row(potentials: int, used: int, rows: int, times: int, length: int):
    pot = random_potential(Case(rows, 3, 9, 5, potentials), torch.float64)
    time = 0.2 + torch.arange(rows).remainder(times).flip(0) / 7
    k = potentials - 1 - torch.arange(rows).div(2, rounding_mode="floor") % used
    table, row = feature_table(pot, time.double(), k, order=2)
    assert row is not None and table.tau.shape == (length, 9) and length <= rows
    found = {name: value.index_select(0, row) for name, value in table._asdict().items() if value is not None}
    expected = dict(zip(found, features_of_rows(pot, time.double(), k), strict=True))
    assert_matches(found, expected, ROUNDING)
    weights = dict(pot.named_parameters())
    names = [name for name in weights if name.startswith("time_")]
    cotangents = [torch.randn_like(value) for value in found.values()]
    given, wanted = (
        torch.autograd.grad(list(values.values()), [weights[name] for name in names], cotangents)
        for values in (found, expected)
    )
    assert_matches(dict(zip(names, given, strict=True)), dict(zip(names, wanted, strict=True)), ROUNDING)
