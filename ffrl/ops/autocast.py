"""The op under torch.autocast: it stays in the dtype of the parameters, because its products cancel."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

LOWER_PRECISION = (torch.bfloat16, torch.float16)


def outside_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """A region without autocast on devices of that type."""
    return torch.autocast(device_type, enabled=False) if is_autocast(device_type) else contextlib.nullcontext()


def is_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def raised_precision(z: Tensor, t: float | Tensor) -> tuple[Tensor, float | Tensor]:
    """z and t in float32 where autocast has made them less; outside autocast they are what they are."""
    if not isinstance(z, Tensor) or not is_autocast(z.device.type):
        return z, t
    if z.dtype in LOWER_PRECISION:
        z = z.float()
    if isinstance(t, Tensor) and t.dtype in LOWER_PRECISION:
        t = t.float()
    return z, t
