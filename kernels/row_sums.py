"""Sums over rows: where a program's share of them stands, and the sums that are no products.

A sum over the rows of one potential or feature row is cut into chunks, whose number follows from shapes alone; each
chunk has a program and a result of its own, and these are added up in their order. The same inputs give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ffrl.kernels.launch import MAX_CHUNKS, Call, cdiv, chunks_of_sum
from ffrl.kernels.row_plan import RowPlan
from ffrl.kernels.tiling import ROWS, Tile

COLUMNS = 32


@triton.jit
def chunk_of_segment(p_first, i_segment, i_chunk, num_chunks):
    """First item, and the one behind the last, of a chunk of a segment first[i] .. first[i + 1] - 1."""
    first = tl.load(p_first + i_segment)
    count = tl.load(p_first + i_segment + 1) - first
    return first + count * i_chunk // num_chunks, first + count * (i_chunk + 1) // num_chunks


@triton.jit
def load_rows(p_rows, o_first, o_r, m_row, o_column, m_column, width):
    """(rows, columns): columns ``o_column`` of rows o_first + o_r of an array with so many columns; masked: zero."""
    p_first = p_rows + o_first * width
    return tl.load(p_first + o_r[:, None] * width + o_column, mask=m_row[:, None] & m_column, other=0.0)


@triton.jit
def segment_sums(
    p_rows, p_order, p_first, p_parts, WIDTH, num_chunks,
    ORDERED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """parts (S, chunks, width): sums of rows (R, width) from first[s] to first[s + 1] - 1, in ``order`` (R,) if given.

    Grid (S · chunks · tiles). Rows in no segment are not read.
    """
    num_tiles = tl.cdiv(WIDTH, COLUMNS)
    i_tile, i_part = tl.program_id(0) % num_tiles, (tl.program_id(0) // num_tiles).to(tl.int64)
    o_c = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_c = o_c < WIDTH
    first, last = chunk_of_segment(p_first, i_part // num_chunks, i_part % num_chunks, num_chunks)
    b_sum = tl.zeros((COLUMNS,), tl.float32)
    for i in range(first, last, ROWS):
        b_row = i + tl.arange(0, ROWS)
        m_row = b_row < last
        if ORDERED:
            b_row = tl.load(p_order + b_row, mask=m_row, other=0)
        b_sum += tl.sum(tl.load(p_rows + b_row[:, None] * WIDTH + o_c, mask=m_row[:, None] & m_c, other=0.0), 0)
    tl.store(p_parts + i_part * WIDTH + o_c, b_sum, mask=m_c)


def sum_segments(rows: Tensor, first: Tensor, order: Tensor | None = None) -> Tensor:
    """(S, ...): sums of rows (R, ...), the segment s being first[s] .. first[s + 1] - 1, first (S + 1,), of ``order``.

    A segment without rows gets zeros, whatever the rows in no segment hold.
    """
    segments, width = first.shape[0] - 1, rows[0].numel()
    tiles = cdiv(width, COLUMNS)
    steps = cdiv(rows.shape[0], segments * ROWS)
    chunks = chunks_of_sum(segments * tiles, steps, steps)
    parts = rows.new_empty(segments, chunks, *rows.shape[1:])
    segment_sums[segments * chunks * tiles,](
        rows, first if order is None else order, first, parts, width, chunks,
        ORDERED=order is not None, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=4,
    )  # fmt: skip
    return add_parts(parts, 1)


def grid_of_sum(call: Call, plan: RowPlan, left: int, right: int, tile: Tile) -> tuple[int, int, int]:
    """(tiles, chunks, K) of a product over rows with a result (K, left, right)."""
    tiles = cdiv(left, tile.columns) * cdiv(right, tile.columns)
    steps, blocks = cdiv(plan.slots, call.potentials * tile.depth), cdiv(plan.blocks, call.potentials)
    return tiles, chunks_of_sum(tiles * call.potentials, steps, min(blocks, MAX_CHUNKS)), call.potentials


def sum_by_potential(parts: Tensor, plan: RowPlan) -> Tensor:
    """(K, ...): sums over the blocks of each potential of parts (blocks, ...)."""
    return sum_segments(parts, plan.first_block)


def add_parts(parts: Tensor, dim: int) -> Tensor:
    """The sum over the chunks, which are that dimension."""
    return parts.squeeze(dim) if parts.shape[dim] == 1 else parts.sum(dim)
