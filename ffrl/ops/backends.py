"""Which backends of the potential op can be used here, and why not."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

import torch

from ffrl.errors import ArgumentError, BackendError
from ffrl.ops.extension import load_extension

logger = logging.getLogger(__name__)

# Fastest first: the order in which "auto" tries them.
PREFERENCE = ("cuda", "triton", "cpp", "analytic", "oracle")

# Those whose operators take rows of mixed potentials in one call, and where they run.
FUSED_BACKENDS = {"cpp": "cpu"}

NOT_IN_THIS_VERSION = "not part of this version of ffrl"

# Asked at import, not at the first call: torch.compile does not look into a loader.
CPP_REASON = load_extension()


def available_backends() -> dict[str, str | None]:
    """Name of each backend -> None where it can be used here, else the reason why not.

    >>> available_backends()["oracle"] is None
    True
    """
    return {
        "oracle": None,
        "analytic": None,
        "cpp": CPP_REASON,
        "triton": NOT_IN_THIS_VERSION,
        "cuda": NOT_IN_THIS_VERSION,
    }


def device_reason(name: str, device: torch.device | None) -> str | None:
    """Why a backend cannot take tensors of that device; None where it can."""
    only = FUSED_BACKENDS.get(name)
    if only is None or device is None or device.type == only:
        return None
    return f"its kernels take tensors on {only!r}, not on {str(device)!r}"


def check_backend(name: str) -> None:
    """Raise unless ``name`` is "auto" or a backend that can be used here."""
    reasons = available_backends()
    if not isinstance(name, str) or (name != "auto" and name not in reasons):
        raise ArgumentError("backend", repr(name), f"one of 'auto', {', '.join(map(repr, reasons))}")
    if name != "auto" and reasons[name] is not None:
        usable = [other for other, reason in reasons.items() if reason is None]
        raise BackendError(f"backend {name!r} cannot be used here: {reasons[name]}; usable: {', '.join(usable)}")


def usable_on(device: torch.device | None) -> Iterator[str]:
    """Names of the backends that can take tensors of that device, fastest first."""
    reasons = available_backends()
    return (name for name in PREFERENCE if reasons[name] is None and device_reason(name, device) is None)


def resolve_backend(name: str, device: torch.device | None, *, fused: bool) -> str:
    """The backend to run; ``fused`` says whether the potential is an MLP the closed form knows."""
    check_backend(name)
    if name == "auto":
        chosen = "oracle" if not fused else next(usable_on(device))
        return chosen if torch.compiler.is_compiling() else log_choice(chosen, str(device))
    if name != "oracle" and not fused:
        raise BackendError(f"backend {name!r} needs a PotentialMLP; other fields go through backend='oracle'")
    reason = device_reason(name, device)
    if reason is not None:
        raise BackendError(f"backend {name!r} cannot be used here: {reason}")
    return name


@functools.cache
def log_choice(name: str, device: str) -> str:
    logger.info("potential op: backend %r chosen on %s", name, device)
    return name
