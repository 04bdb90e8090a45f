"""Which backends of the potential op can be used here, and why not."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Iterator

import torch

from ffrl.errors import ArgumentError, BackendError
from ffrl.ops.cuda_devices import cuda_reason, load_cuda_extension
from ffrl.ops.extension import load_extension

logger = logging.getLogger(__name__)

# Fastest first: the order in which "auto" tries them.
PREFERENCE = ("cuda", "triton", "cpp", "analytic", "oracle")

# Those whose operators take rows of mixed potentials in one call, and where "auto" takes them.
FUSED_BACKENDS = {"cpp": "cpu", "triton": "cuda", "cuda": "cuda"}
OLDEST_TRITON = (3, 6)


def is_interpreting() -> bool:
    """Whether Triton runs its kernels in its interpreter, which is slow and works on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def triton_reason() -> str | None:
    """None where the Triton kernels can be used, else the reason why not and what to do."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; install it with `pip install 'triton>=3.6'`"
    if not is_interpreting() and torch.cuda.device_count() == 0:
        return (
            "PyTorch finds no CUDA device here (torch.cuda.device_count() is 0); run on a machine with a GPU and a "
            "CUDA build of torch, or set TRITON_INTERPRET=1 before Python starts to run the kernels on the CPU, slowly"
        )
    import triton

    if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"Triton {triton.__version__} is older than {oldest}; update it with `pip install 'triton>={oldest}'`"
    return None


# Asked at import, not at the first call: torch.compile does not look into a loader. An import must not initialise
# CUDA: it could then no longer be used in a forked child, nor CUDA_VISIBLE_DEVICES be set.
CPP_REASON = load_extension()
TRITON_REASON = triton_reason()
CUDA_REASON = cuda_reason()

# Why the CUDA kernels do not run on each GPU, once it was asked.
CUDA_DEVICE_REASONS: list[str | None] | None = None


def cuda_device_reason(index: int) -> str | None:
    """Why the CUDA kernels do not run on a GPU that a tensor is on; so CUDA is initialised already."""
    global CUDA_DEVICE_REASONS
    if CUDA_DEVICE_REASONS is None:
        reason, reasons = load_cuda_extension()
        found: list[str | None] = [*reasons] if reason is None else [reason] * torch.cuda.device_count()
        CUDA_DEVICE_REASONS = found
    else:
        found = CUDA_DEVICE_REASONS
    return found[index] if index < len(found) else None


# As torch.compiler.assume_constant_result does, which imports the compiler, a second of every start.
cuda_device_reason._dynamo_marked_constant = True  # pyright: ignore


def available_backends() -> dict[str, str | None]:
    """Name of each backend -> None where it can be used here, else the reason why not.

    Of GPUs it says whether there is one, without initialising CUDA. Whether the kernels run on that one is asked by the
    first call with its tensors, which is an error that says why where they do not.

    >>> available_backends()["oracle"] is None
    True
    """
    return {
        "oracle": None,
        "analytic": None,
        "cpp": CPP_REASON,
        "triton": TRITON_REASON,
        "cuda": CUDA_REASON,
    }


def tensor_reason(name: str, device: torch.device | None, dtype: torch.dtype | None = None) -> str | None:
    """Why a backend cannot take tensors of that device and dtype; None where it can."""
    only = FUSED_BACKENDS.get(name)
    if only is None or device is None:
        return None
    if device.type != only and not (name == "triton" and device.type == "cpu" and is_interpreting()):
        return f"its kernels take tensors on {only!r}, not on {str(device)!r}"
    if name == "cuda" and device.type == "cuda" and device.index is not None:
        return cuda_device_reason(device.index)
    if name == "triton" and dtype not in (None, torch.float32):
        return f"its kernels take torch.float32, not {dtype}; backend 'analytic' takes it on every device"
    return None


def check_backend(name: str) -> None:
    """Raise unless ``name`` is "auto" or a backend that can be used here."""
    reasons = available_backends()
    if not isinstance(name, str) or (name != "auto" and name not in reasons):
        raise ArgumentError("backend", repr(name), f"one of 'auto', {', '.join(map(repr, reasons))}")
    if name != "auto" and reasons[name] is not None:
        usable = [other for other, reason in reasons.items() if reason is None]
        raise BackendError(f"backend {name!r} cannot be used here: {reasons[name]}; usable: {', '.join(usable)}")


def usable_on(device: torch.device | None, dtype: torch.dtype | None) -> Iterator[str]:
    """Names of the backends that can take such tensors, fastest first; never an interpreter, which is for tests."""
    reasons = available_backends()
    for name in PREFERENCE:
        if name == "triton" and is_interpreting():
            continue
        if reasons[name] is None and tensor_reason(name, device, dtype) is None:
            yield name


def resolve_backend(name: str, device: torch.device | None, *, fused: bool, dtype: torch.dtype | None = None) -> str:
    """The backend to run; ``fused`` says whether the potential is an MLP the closed form knows."""
    check_backend(name)
    if name == "auto":
        chosen = "oracle" if not fused else next(usable_on(device, dtype))
        return chosen if torch.compiler.is_compiling() else log_choice(chosen, str(device))
    if name != "oracle" and not fused:
        raise BackendError(f"backend {name!r} needs a PotentialMLP; other fields go through backend='oracle'")
    reason = tensor_reason(name, device, dtype)
    if reason is not None:
        raise BackendError(f"backend {name!r} cannot be used here: {reason}")
    return name


@functools.cache
def log_choice(name: str, device: str) -> str:
    logger.info("potential op: backend %r chosen on %s", name, device)
    return name
