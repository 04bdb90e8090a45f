"""The CUDA kernels compiled for GPUs that are not here: registers, shared memory, and the instructions they use."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.csrc.programs import CSRC

# Architecture -> bytes of shared memory that a block may have there.
SHARED = {"sm_80": 166_912, "sm_90a": 232_448, "sm_100": 232_448}
# Kernels of a source: in plain multiply-adds, of the tensor cores.
SOURCES = {"cubic_forward": (10, 9), "cubic_backward": (17, 11)}
TENSOR_CORES = re.compile(r"\b[HD]MMA\b")
KERNEL = re.compile(r"Compiling entry function '(\S+)'(.*?)Used (\d+) registers", re.S)
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")

pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the path"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton, whose cuobjdump is used"),
]


class Kernel(NamedTuple):
    name: str  # mangled
    registers: int
    stack: list[int]  # frame, spill stores, spill loads
    tensor_cores: set[str]

    @property
    def rounds_to_tf32(self) -> bool:
        return bool(re.search(r"ArithmeticIfLNS\d+_9PrecisionE[12]E", self.name))


def cuobjdump() -> Path:
    spec = importlib.util.find_spec("triton")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def output(*command: object) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def compiled(source: str, architecture: str, folder: Path) -> list[Kernel]:
    cubin = folder / f"{source}.{architecture}.cubin"
    flags = ["-std=c++17", f"-arch={architecture}", "-Werror", "all-warnings", "-Xptxas", "-v", f"-I{CSRC}"]
    said = output("nvcc", *flags, "-cubin", CSRC / "cuda" / f"{source}.cu", "-o", cubin)
    functions = output(cuobjdump(), "-sass", cubin).split("Function : ")[1:]
    instructions = {function.split(None, 1)[0]: set(TENSOR_CORES.findall(function)) for function in functions}
    kernels = []
    for name, between, registers in KERNEL.findall(said):
        stack = SPILLS.search(between)
        assert stack is not None, between
        kernels.append(Kernel(name, int(registers), [int(n) for n in stack.groups()], instructions[name]))
    assert len(kernels) == len(functions)
    return kernels


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Future[list[Kernel]]]]:
    """Every source for every architecture, as many at a time as there are cores."""
    folder = tmp_path_factory.mktemp("cuda")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pairs = [(source, architecture) for architecture in SHARED for source in SOURCES]
        yield {pair: pool.submit(compiled, *pair, folder) for pair in pairs}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("architecture", SHARED)
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_do_not_spill_and_use_the_tensor_cores_where_asked_for(
    source: str, architecture: str, jobs: dict[tuple[str, str], Future[list[Kernel]]]
):
    kernels = jobs[source, architecture].result()
    rounding = [kernel for kernel in kernels if kernel.rounds_to_tf32]
    assert (len(kernels) - len(rounding), len(rounding)) == SOURCES[source]
    assert not [kernel for kernel in kernels if any(kernel.stack)]
    assert all(0 < kernel.registers <= 255 for kernel in kernels)
    assert all(kernel.tensor_cores == ({"HMMA"} if kernel.rounds_to_tf32 else set()) for kernel in kernels)


def test_shared_memory_suffices():
    """Kernels assert at compile time that their blocks fit into this much, as many as shall run side by side."""
    header = (CSRC / "cuda" / "cubic_forward.h").read_text(encoding="utf-8")
    found = re.search(r"constexpr size_t kSharedMemory = (\d+), kLargeSharedMemory = (\d+);", header)
    assert found is not None
    assert int(found[1]) == 101_376  # of compute capability 8.6, 8.9 and 12.0, where no block may have more
    assert int(found[2]) <= min(SHARED.values())
    assertion = r"static_assert\([^;]*fits_into_shared_memory\(sizeof\(Shared\), kMinBlocks\)\)"
    for name in SOURCES:
        text = (CSRC / "cuda" / f"{name}.h").read_text(encoding="utf-8")
        assert len(re.findall(r"struct Shared \{", text)) == len(re.findall(assertion, text)) > 0
