"""The operators ``torch.ops.ffrl_cuda.*``; their kernels are those of the extension ffrl._C_cuda, once it is loaded."""

from __future__ import annotations

from ffrl.ops.gpu_operators import potential_operators
from ffrl.ops.registration import FORMS
from ffrl.ops.rollout_operators import rollout_operators

# Rows of one potential that stand together in one block (kRows in csrc/cuda/potential_cuda.h).
ROWS = 64


def kept_shape(
    num_rows: int, latent: int, potentials: int, hidden1: int, hidden2: int, mixed: bool, form: int
) -> tuple[int, int]:
    """(max_blocks · kRows, kept_width) of csrc/cuda/potential_cuda.h."""
    blocks = num_rows // ROWS + potentials if mixed else (num_rows + ROWS - 1) // ROWS
    squares = hidden2 if form else 0
    column_sums = hidden1 if form == FORMS["gram"] else 0
    return blocks * ROWS, 2 * hidden1 + hidden2 + latent + 4 + squares + column_sums


LIBRARY, FUNCTIONS = potential_operators("ffrl_cuda", kept_shape)
Rollout = rollout_operators(LIBRARY, "ffrl_cuda", kept_shape)
