"""What a figure must stand with: machine, versions, threads."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

import ffrl
from ffrl.errors import BackendError
from ffrl.ops.extension import cpu_capability


def cpu_model() -> str:
    """The CPU's name by /proc/cpuinfo, or its architecture where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def kernel_capability() -> str | None:
    """The instruction set that ffrl's own kernels run with here; None where they cannot be used."""
    try:
        return cpu_capability()
    except BackendError:
        return None  # the reason is that of the backend, which the report gives


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "ffrl": ffrl.__version__,
        "platform": platform.platform(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "ffrl_cpu_capability": kernel_capability(),
    }


def header(facts: dict[str, Any]) -> str:
    return (
        f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']} ({facts['torch_cpu_capability']}), "
        f"ffrl {facts['ffrl']} (kernels: {facts['ffrl_cpu_capability'] or 'none'}), Python {facts['python']}, "
        f"{facts['platform']}, float32"
    )
