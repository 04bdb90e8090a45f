"""How many operators a call runs: on a GPU each is a launch, or several, whatever the size of its tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

from bench.timing import Call


class OperatorCalls(TorchDispatchMode):
    """Counts the operators below autograd, backward included, but those whose results are views of their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operator_calls(call: Call) -> int:
    """Of one call."""
    with OperatorCalls() as calls:
        call()
    return calls.count


def kernel_launches(call: Call) -> int:
    """Kernels, copies and fills that one call gives to the GPU, by torch's profiler."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profile.events() or ())
