"""torch's switch between float32 and TF32 products, for the time of a call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Matrix products of float32 operands in "highest" (float32) or "high" (TF32 on a GPU)."""
    before = torch.get_float32_matmul_precision()
    if before == name:
        yield
        return
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def float32_convolutions() -> Iterator[None]:
    """Convolutions in float32, where cuDNN computes them in TF32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
