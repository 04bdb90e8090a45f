"""Which rows stand in which block: rows of one potential together, in their order, each potential's last block padded.

Everything stays on the device: no size depends on the values of k, so nothing waits for them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RowPlan(NamedTuple):
    """Slots of all blocks; ``blocks`` of them at most, of which the last may be without rows."""

    blocks: int
    slot_row: Tensor  # (blocks · block_rows,) int64: the row in that slot, -1: padding
    block_k: Tensor  # (blocks,) int64
    first_block: Tensor  # (K + 1,) int64: blocks of potential k are first_block[k] .. first_block[k + 1] - 1

    @property
    def slots(self) -> int:
        return self.slot_row.shape[0]


def max_blocks(num_rows: int, num_potentials: int, block_rows: int, *, mixed: bool) -> int:
    """Blocks that so many rows, of one potential or of mixed ones, can need."""
    return num_rows // block_rows + num_potentials if mixed else (num_rows + block_rows - 1) // block_rows


def plan_rows(
    num_rows: int, num_potentials: int, k: Tensor | None, k_all: int, block_rows: int, device: torch.device
) -> RowPlan:
    """The plan for rows of potentials k (N,), or with None all of ``k_all``."""
    blocks = max_blocks(num_rows, num_potentials, block_rows, mixed=k is not None)
    slots = torch.arange(blocks * block_rows, device=device)
    potentials = torch.arange(num_potentials + 1, device=device)
    if k is None:
        slot_row = torch.where(slots < num_rows, slots, -1)
        first_block = torch.where(potentials > k_all, blocks, 0)
        return RowPlan(blocks, slot_row, torch.full((blocks,), k_all, device=device), first_block)
    inside = ((k >= 0) & (k < num_potentials)).all()
    if k.is_cuda:  # an assertion of the device: nothing waits for it, and a graph may hold it
        torch._assert_async(inside, f"ffrl: k is outside 0 <= k < {num_potentials}")
    elif not inside:
        raise RuntimeError(f"ffrl: k is outside 0 <= k < {num_potentials}")
    of_row, order = torch.sort(k, stable=True)
    first_row = torch.searchsorted(of_row, potentials)  # (K + 1,)
    counts = first_row.diff()
    ends = ((counts + block_rows - 1) // block_rows).cumsum(0)  # in blocks
    first_block = torch.cat([ends.new_zeros(1), ends])
    rank = torch.arange(num_rows, device=device) - first_row[of_row]
    slot_row = torch.full_like(slots, -1).scatter(0, first_block[of_row] * block_rows + rank, order)
    block_k = torch.searchsorted(ends, torch.arange(blocks, device=device), right=True)
    return RowPlan(blocks, slot_row, block_k.clamp(max=num_potentials - 1), first_block)
