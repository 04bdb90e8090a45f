"""Rows of mixed k laid out as one padded line per potential that occurs, and back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.ops.rollout import RowGroups

MIXED = (2, 0, 2, 2, 0, 1, 2)  # uneven, unsorted
MISSING = (2, 0, 2, 2, 0, 0, 2)  # k = 1 does not occur


def rows_of(*k: int) -> tuple[Tensor, Tensor]:
    """Rows (N, D) and k (N,)."""
    return torch.randn(len(k), 3, dtype=torch.float64), torch.tensor(k, dtype=torch.int64)


@pytest.mark.parametrize(
    ("k", "potentials", "width"),
    [(MIXED, [0, 1, 2], 4), (MISSING, [0, 2], 4), ((1, 1), [1], 2), ((2,), [2], 1), ((), [0], 0)],
)
def test_row_groups(k: tuple[int, ...], potentials: list[int], width: int):
    rows, index = rows_of(*k)
    groups = RowGroups(index, len(k), 3)
    packed = groups.pack(rows)
    assert groups.potentials == potentials
    assert packed.shape == (len(potentials), width, 3)
    for line, one in zip(packed, potentials, strict=True):
        count = int((index == one).sum())
        assert torch.equal(line[:count], rows[index == one])
        assert not line[count:].any()
    assert torch.equal(groups.unpack(packed), rows)
    assert torch.equal(groups.unpack(packed[..., None].expand(-1, -1, -1, 2))[..., 1], rows)


def test_row_groups_of_one_potential_are_a_view():
    rows, _ = rows_of(0, 0)
    groups = RowGroups(1, 2, 3)
    assert groups.potentials == [1]
    assert groups.pack(rows).data_ptr() == rows.data_ptr()
    assert torch.equal(groups.unpack(groups.pack(rows)), rows)
