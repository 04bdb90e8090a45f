"""The operators ``torch.ops.ffrl_triton.rollout_*``: the Triton kernels. Imported where Triton can be used."""

# pyright: reportMissingImports=false
# ffrl.kernels is the folder kernels/, mapped by setup.py.

from __future__ import annotations

from typing import Any

from torch import Tensor

from ffrl.kernels.flow_rollout import flow_backward, flow_forward
from ffrl.ops.rollout_operators import rollout_operators
from ffrl.ops.triton_operators import LIBRARY, contiguous, kept_shape

Rollout = rollout_operators(LIBRARY, "ffrl_triton", kept_shape)


def run_forward(*arguments: Any) -> tuple[Tensor, ...]:
    return flow_forward(*contiguous(arguments))


def run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    return flow_backward(*contiguous(arguments))


for key in ("CUDA", "CPU"):  # on the CPU in Triton's interpreter
    LIBRARY.impl("rollout_forward", run_forward, key)
    LIBRARY.impl("rollout_backward", run_backward, key)
