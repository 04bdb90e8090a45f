"""Which GPUs the CUDA kernels of ffrl._C_cuda run on."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence

import torch

from ffrl.ops.extension import CUDA_MODULE, import_reason

Capability = tuple[int, int]

OLDEST_CAPABILITY: Capability = (8, 0)
NO_DEVICE = "CUDA finds no device here; run on a machine with a GPU and its driver"


def is_compiled_for(capability: Capability, architectures: Sequence[str]) -> bool:
    """Whether code for one of the architectures, such as "8.0", "9.0a" or "10.0+PTX", runs on a GPU of ``capability``.

    Machine code runs on later GPUs of the same major version, with the suffix "a" only on its own; what was kept as PTX
    is compiled by the driver for every later GPU.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", architecture)
        if match is None:
            raise ValueError(f"{architecture!r} is not an architecture")
        of = int(match[1]), int(match[2])
        own = capability == of if match[3] == "a" else capability[0] == of[0] and capability >= of
        if own or (match[4] and not match[3] and capability >= of):
            return True
    return False


def device_reason(capability: Capability, architectures: Sequence[str]) -> str | None:
    """Why the kernels do not run on a GPU of ``capability``; None where they do."""
    shown, oldest = (".".join(map(str, pair)) for pair in (capability, OLDEST_CAPABILITY))
    if capability < OLDEST_CAPABILITY:
        return f"the GPU is of compute capability {shown}, and the CUDA kernels need {oldest} or later"
    if not is_compiled_for(capability, architectures):
        return (
            f"the CUDA kernels were compiled for {', '.join(architectures)}, not for this GPU of compute capability "
            f"{shown}; run `TORCH_CUDA_ARCH_LIST={shown} FFRL_CUDA=1 pip install --no-build-isolation .` in the source "
            "tree of ffrl"
        )
    return None


def cuda_reason() -> str | None:
    """None once ffrl._C_cuda is imported and a GPU is here, else why not; which GPU it is is not asked.

    CUDA is not initialised by this where NVML counts the devices: a process that did no more can still fork children
    that use CUDA, and choose its devices by CUDA_VISIBLE_DEVICES.
    """
    reason = import_reason(CUDA_MODULE)
    return NO_DEVICE if reason is None and torch.cuda.device_count() == 0 else reason


def load_cuda_extension() -> tuple[str | None, list[str | None]]:
    """(None, why not for each GPU) once ffrl._C_cuda is imported and a GPU can run its kernels, else (why not, []).

    This initialises CUDA.
    """
    reason = import_reason(CUDA_MODULE)
    if reason is not None:
        return reason, []
    module = importlib.import_module(CUDA_MODULE)
    architectures = module.architectures().split("_")
    return choose([device_reason(capability, architectures) for capability in module.capabilities()])


def choose(reasons: list[str | None]) -> tuple[str | None, list[str | None]]:
    """Of all GPUs together, from those of each."""
    if not reasons:
        return NO_DEVICE, []
    return (None, reasons) if None in reasons else (reasons[0], [])
