"""Tile sizes of the kernels, looked up in one table by architecture, arithmetic, shape class and kind of product.

Nothing is tuned at a first call: the table, tile_table.py, is written by ``python -m bench.tune_tiles``. Sizes are
powers of two, as Triton wants them; what hangs over is masked.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from ffrl.kernels.tile_table import TILES

ROWS = 64  # rows of one potential that stand together in one block, in every kernel of a call


class Tile(NamedTuple):
    """Sizes of one program: columns of its output, and one step of its contraction."""

    columns: int
    depth: int
    num_warps: int
    num_stages: int


# Of products; each has a tile of its own.
KINDS = (
    "quadratic",  # rows times a weight
    "quadratic_time",  # the same with up to three left operands (the sum h1 + τ and the rates of τ)
    "weights",  # contraction over rows, gradients of W1 and W2
    "gram_forward",  # (10)
    "gram_backward",  # (16)
    "jacobian",  # the Jacobian of a block of rows
    "jacobian_backward",  # its cotangent times W2
    "jacobian_weights",  # its cotangent times d1 ∘ W1, contraction over rows
    "rollout_forward",  # a time step of a rollout, with fewer rows a program
    "rollout_backward",
)
# Kinds of the cubic products: only these are computed in "tf32" where that is asked for, the others in "tf32x3".
CUBIC_KINDS = tuple(kind for kind in KINDS if kind.startswith(("gram", "jacobian")))

SHAPE_CLASSES = ("narrow", "wide")
NARROW = 32  # a call is narrow where neither D, H1 nor H2 is larger

INTERPRETER = Tile(64, 64, 4, 1)  # Triton's interpreter takes its time by the operation, not by the number
OLDEST_WITH_TENSOR_CORES = 80  # for TF32


def shape_class(latent: int, hidden1: int, hidden2: int) -> str:
    """ "narrow" or "wide", by the weights alone: the tile, and so the bits of a row, must not follow the batch."""
    return "narrow" if max(latent, hidden1, hidden2) <= NARROW else "wide"


def nearest_capability(capability: int) -> int:
    """The capability whose tiles serve this one: the nearest in the table that is not above it, else the oldest."""
    return max(listed for listed in TILES if listed <= max(capability, min(TILES)))


@functools.cache
def tile_of(capability: int | None, precision: str, shapes: str, kind: str) -> Tile:
    """The tile for compute capability 10·major + minor, None in the interpreter.

    ``precision`` is one of launch.PRECISIONS; "tf32" is looked up as "tf32x3", which needs more registers, where the
    table has no entry of its own. Raises ValueError where an argument is none of those, or the GPU has no TF32.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r} is not allowed; expected one of {KINDS}")
    if shapes not in SHAPE_CLASSES:
        raise ValueError(f"shapes = {shapes!r} is not allowed; expected one of {SHAPE_CLASSES}")
    if capability is None:
        return INTERPRETER
    tables = TILES[nearest_capability(capability)]
    if precision not in tables:
        allowed = f"one of {tuple(tables)} for sm_{capability}"
        raise ValueError(f"precision = {precision!r} is not allowed; expected {allowed}")
    entries = tables[precision][shapes]
    if kind not in entries and precision == "tf32":
        entries = tables["tf32x3"][shapes]
    return Tile(*entries[kind])
