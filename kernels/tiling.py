"""Tile sizes of the kernels: one table, by architecture, arithmetic and kind of product.

Nothing is tuned at a first call. The sizes are the largest tried that the compiler fits into registers
(tests/kernels/test_compiled.py holds them to that); they have not been measured on a GPU yet. Sizes are powers of two,
as Triton wants them; what hangs over is masked.
"""

from __future__ import annotations

from typing import NamedTuple

ROWS = 64  # rows of one potential that stand together in one block, in every kernel of a call


class Tile(NamedTuple):
    """Sizes of one program: columns of its output, and one step of its contraction."""

    columns: int
    depth: int
    num_warps: int
    num_stages: int


# Kind of product -> tile:
# quadratic            rows times a weight
# quadratic_time       the same with up to three left operands (the sum h1 + τ and the rates of τ)
# weights              contraction over rows, gradients of W1 and W2
# gram_forward         (10)
# gram_backward        (16)
# jacobian             the Jacobian of a block of rows
# jacobian_backward    its cotangent times W2
# jacobian_weights     its cotangent times d1 ∘ W1, contraction over rows
Table = dict[str, Tile]

KINDS = (
    "quadratic",
    "quadratic_time",
    "weights",
    "gram_forward",
    "gram_backward",
    "jacobian",
    "jacobian_backward",
    "jacobian_weights",
)
# Triton's interpreter takes its time by the operation, not by the number.
INTERPRETER: Table = dict.fromkeys(KINDS, Tile(64, 64, 4, 1))

# Oldest compute capability that a table is for -> by arithmetic, "tf32" for the tensor cores and "ieee".
TABLES: dict[int, dict[str, Table]] = {
    75: {
        "ieee": {
            "quadratic": Tile(32, 16, 4, 1),
            "quadratic_time": Tile(16, 16, 4, 1),
            "weights": Tile(32, 16, 4, 1),
            "gram_forward": Tile(32, 16, 4, 1),
            "gram_backward": Tile(32, 16, 4, 1),
            "jacobian": Tile(32, 16, 4, 1),
            "jacobian_backward": Tile(16, 16, 4, 1),
            "jacobian_weights": Tile(32, 16, 4, 1),
        },
    },
    80: {
        "tf32": {
            "quadratic": Tile(32, 32, 8, 2),
            "quadratic_time": Tile(32, 16, 8, 2),
            "weights": Tile(32, 16, 8, 2),
            "gram_forward": Tile(64, 16, 8, 1),
            "gram_backward": Tile(32, 32, 8, 2),
            "jacobian": Tile(64, 16, 8, 2),
            "jacobian_backward": Tile(32, 16, 8, 2),
            "jacobian_weights": Tile(16, 16, 4, 1),
        },
        "ieee": {
            "quadratic": Tile(64, 16, 8, 2),
            "quadratic_time": Tile(32, 16, 8, 2),
            "weights": Tile(32, 16, 8, 2),
            "gram_forward": Tile(64, 16, 8, 2),
            "gram_backward": Tile(32, 16, 4, 1),
            "jacobian": Tile(64, 32, 8, 2),
            "jacobian_backward": Tile(32, 32, 8, 2),
            "jacobian_weights": Tile(32, 16, 4, 2),
        },
    },
    90: {
        "tf32": {
            "quadratic": Tile(64, 32, 8, 2),
            "quadratic_time": Tile(64, 16, 8, 2),
            "weights": Tile(64, 16, 8, 2),
            "gram_forward": Tile(128, 16, 8, 1),
            "gram_backward": Tile(64, 32, 8, 2),
            "jacobian": Tile(64, 32, 8, 2),
            "jacobian_backward": Tile(64, 32, 8, 2),
            "jacobian_weights": Tile(64, 16, 8, 2),
        },
        "ieee": {
            "quadratic": Tile(64, 32, 8, 2),
            "quadratic_time": Tile(32, 32, 8, 2),
            "weights": Tile(64, 16, 8, 2),
            "gram_forward": Tile(64, 32, 8, 2),
            "gram_backward": Tile(32, 32, 8, 2),
            "jacobian": Tile(64, 32, 8, 2),
            "jacobian_backward": Tile(32, 32, 8, 2),
            "jacobian_weights": Tile(64, 16, 8, 2),
        },
    },
    100: {
        "tf32": {
            "quadratic": Tile(64, 32, 8, 2),
            "quadratic_time": Tile(64, 16, 8, 2),
            "weights": Tile(64, 16, 8, 2),
            "gram_forward": Tile(64, 32, 8, 2),
            "gram_backward": Tile(64, 32, 8, 2),
            "jacobian": Tile(64, 32, 8, 2),
            "jacobian_backward": Tile(64, 16, 8, 2),
            "jacobian_weights": Tile(64, 16, 8, 2),
        },
        "ieee": {
            "quadratic": Tile(64, 32, 8, 2),
            "quadratic_time": Tile(32, 16, 8, 2),
            "weights": Tile(64, 16, 8, 2),
            "gram_forward": Tile(64, 32, 8, 2),
            "gram_backward": Tile(32, 32, 8, 2),
            "jacobian": Tile(64, 32, 8, 2),
            "jacobian_backward": Tile(64, 16, 8, 1),
            "jacobian_weights": Tile(64, 16, 8, 2),
        },
    },
}
OLDEST_WITH_TENSOR_CORES = 80  # for TF32


def table_of(capability: int | None, precision: str) -> Table:
    """The table for compute capability 10·major + minor, None in the interpreter, and one of launch.PRECISIONS."""
    if capability is None:
        return INTERPRETER
    oldest = max(lowest for lowest in TABLES if lowest <= max(capability, min(TABLES)))
    return TABLES[oldest]["ieee" if precision == "ieee" else "tf32"]
