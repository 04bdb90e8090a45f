"""What makes the host wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

# (owner, name) of the functions that need a value on the host, or a size that depends on values.
WAITING = (
    (torch, "unique"), (torch, "bincount"), (torch, "aminmax"), (torch, "nonzero"),
    *((Tensor, name) for name in ("tolist", "item", "nonzero", "unique", "__int__", "__bool__", "__float__")),
)  # fmt: skip
