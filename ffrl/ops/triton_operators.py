"""The operators ``torch.ops.ffrl_triton.*``: the Triton kernels. Imported where Triton can be used (backends.py)."""

# pyright: reportMissingImports=false
# ffrl.kernels is the folder kernels/, mapped by setup.py.

from __future__ import annotations

from typing import Any

from torch import Tensor

from ffrl.kernels.launch import FORMS, kept_width
from ffrl.kernels.potential_backward import potential_backward
from ffrl.kernels.potential_forward import potential_forward
from ffrl.kernels.row_plan import max_blocks
from ffrl.kernels.tiling import ROWS
from ffrl.ops.gpu_operators import potential_operators


def kept_shape(
    num_rows: int, latent: int, potentials: int, hidden1: int, hidden2: int, mixed: bool, form: int
) -> tuple[int, int]:
    """(slots, numbers of each)."""
    slots = max_blocks(num_rows, potentials, ROWS, mixed=mixed) * ROWS
    return slots, kept_width(latent, hidden1, hidden2, FORMS[form])


LIBRARY, FUNCTIONS = potential_operators("ffrl_triton", kept_shape)


def contiguous(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tensors row by row, and from 16 bytes on: a launch with other pointers is another kernel, with other rounding."""
    return tuple(aligned(value.contiguous()) if isinstance(value, Tensor) else value for value in arguments)


def aligned(value: Tensor) -> Tensor:
    return value.clone() if value.data_ptr() % 16 else value


def run_forward(*arguments: Any) -> tuple[Tensor, ...]:
    return potential_forward(*contiguous(arguments))


def run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    return potential_backward(*contiguous(arguments))


for key in ("CUDA", "CPU"):  # on the CPU in Triton's interpreter
    LIBRARY.impl("potential_forward", run_forward, key)
    LIBRARY.impl("potential_backward", run_backward, key)
