"""Part "environment": what is here and what is missing. Needs nothing but Python: python -m bench.gpu.environment.

Ends with 3 where nothing can be measured, with 1 where something is missing that only a part of the rest needs.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.gpu.lines import message
from bench.gpu.part import begin, parser_of

OLDEST_TORCH, OLDEST_TRITON = (2, 11), (3, 6)
NOTHING_CAN_RUN = 3
# What nvidia-smi is asked for, by the name in the report.
SMI_FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "memory": "memory.total",
    "graphics_clock": "clocks.gr",
    "graphics_clock_max": "clocks.max.gr",
    "memory_clock": "clocks.mem",
    "memory_clock_max": "clocks.max.mem",
    "power": "power.draw",
    "power_limit": "power.limit",
    "power_max": "power.max_limit",
    "temperature": "temperature.gpu",
    "performance_state": "pstate",
}


class Missing(NamedTuple):
    what: str
    essential: bool  # nothing can be measured without it


def module_version(name: str) -> tuple[str | None, str | None]:
    """(version, None), or (None, why there is none)."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken installation fails in many ways
        return None, message(error)
    return str(getattr(module, "__version__", "unknown")), None


def is_older(version: str, oldest: tuple[int, int]) -> bool:
    numbers = re.findall(r"\d+", version)[:2]
    return len(numbers) == 2 and tuple(map(int, numbers)) < oldest


def output_of(*command: str) -> str | None:
    """What a program prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def smi(uuid: str | None = None) -> dict[str, str] | None:
    """Clocks, power and driver as nvidia-smi reports them now, of the GPU with this UUID or the first."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS.values())}", "--format=csv,noheader"]
    text = output_of(*command, *([f"--id={uuid}"] if uuid else [])) or (output_of(*command) if uuid else None)
    values = [value.strip() for value in text.splitlines()[0].split(",")] if text and text.strip() else []
    return dict(zip(SMI_FIELDS, values, strict=True)) if len(values) == len(SMI_FIELDS) else None


def nvcc_version() -> str | None:
    """CUDA's compiler: on the path, or where CUDA_HOME says, or in its usual place."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [shutil.which("nvcc"), *(os.path.join(home, "bin", "nvcc") for home in homes if home)]
    found = next((path for path in candidates if path and os.access(path, os.X_OK)), None)
    text = output_of(found, "--version") if found else None
    match = re.search(r"release ([\d.]+)", text or "")
    return match[1] if match else None


def gpu_uuid(properties: Any) -> str | None:
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"


def gpu_facts(torch: Any) -> dict[str, Any]:
    """The first CUDA device as torch sees it."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "uuid": gpu_uuid(properties),
    }


def facts_and_missing(device: str) -> tuple[dict[str, Any], list[Missing]]:
    missing: list[Missing] = []
    facts: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    facts["cpus"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts["torch"], why = module_version("torch")
    if facts["torch"] is None:
        missing.append(Missing(f"PyTorch 2.11 or later for {sys.executable} ({why})", True))
    elif is_older(facts["torch"], OLDEST_TORCH):
        missing.append(Missing(f"PyTorch 2.11 or later (here is {facts['torch']})", True))
    if facts["torch"] is not None:
        torch = importlib.import_module("torch")
        facts["cuda"] = torch.version.cuda
        if torch.cuda.is_available():
            facts["gpu"] = gpu_facts(torch)
        elif device == "cuda":
            built = "a build of PyTorch without CUDA" if torch.version.cuda is None else "no device or no driver"
            missing.append(Missing(f"a CUDA GPU that PyTorch can use (torch {facts['torch']}: {built})", True))
    facts["smi"] = smi((facts.get("gpu") or {}).get("uuid"))
    if facts["smi"] is None and device == "cuda":
        missing.append(Missing("an nvidia-smi that answers (driver, clocks, power)", False))
    facts["triton"], why = module_version("triton")
    if facts["triton"] is None:
        missing.append(Missing(f"Triton 3.6 or later ({why})", False))
    elif is_older(facts["triton"], OLDEST_TRITON):
        missing.append(Missing(f"Triton 3.6 or later (here is {facts['triton']})", False))
    facts["nvcc"] = nvcc_version()
    if facts["nvcc"] is None and device == "cuda":
        missing.append(Missing("nvcc, the CUDA compiler", False))
    return facts, missing


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser_of("bench.gpu.environment", __doc__).parse_args(argv)
    lines, _ = begin(arguments)
    facts, missing = facts_and_missing(arguments.device)
    lines.write("facts", **facts)
    for what, essential in missing:
        lines.write("missing", what=what, essential=essential)
        print(f"missing: {what}", file=sys.stderr)
    if any(essential for _, essential in missing):
        print("nothing can be measured here without that", file=sys.stderr)
        return NOTHING_CAN_RUN
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
