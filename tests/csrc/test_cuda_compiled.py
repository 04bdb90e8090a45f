"""The CUDA kernels compiled for GPUs that are not here: registers, shared memory, and the instructions they use."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.csrc.programs import CSRC
from tests.cuda_toolkits import needs_nvcc

import build_cuda  # isort: skip  # in csrc/, which the import above makes known
import cuda_toolkit  # isort: skip

# Architecture -> bytes of shared memory that a block may have there.
SHARED = {"8.0": 166_912, "9.0a": 232_448, "10.0": 232_448}
STATIC_SHARED = 48 * 1024  # of a block everywhere, of what is not asked for at the launch
SOURCES = sorted(path.stem for path in (CSRC / "cuda").glob("*.cu"))
# Kernels of a source: in plain arithmetic, of the tensor cores.
KERNELS = {
    "cubic_backward": (17, 11),
    "cubic_forward": (10, 9),
    "potential_cuda": (16, 0),
    "quadratic_backward": (10, 4),
    "quadratic_forward": (10, 4),
    "rollout_backward": (6, 3),
    "rollout_cuda": (23, 1),
    "rollout_forward": (6, 3),
    "weight_gradients": (4, 2),
}
ROUNDS_TO_TF32 = re.compile(r"9PrecisionE[12]E")
NEEDS_CLUSTERS = re.compile(r"14cluster_kernel.*Li[2-9]ELb[01]E")
TENSOR_CORES = re.compile(r"\b[A-Z]+MMA\b")
KERNEL = re.compile(r"Compiling entry function '(\S+)'(.*?)Used (\d+) registers(.*?)\n", re.S)
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
STATIC = re.compile(r"(\d+) bytes smem")

pytestmark = [
    needs_nvcc,
    pytest.mark.timeout(900),  # the first test of a source waits for those before it, on a machine that may be busy
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton, whose cuobjdump is used"),
]


class Kernel(NamedTuple):
    name: str  # mangled
    registers: int
    stack: list[int]  # frame, spill stores, spill loads
    shared: int  # bytes, without what a launch asks for
    tensor_cores: set[str]

    @property
    def rounds_to_tf32(self) -> bool:
        return bool(ROUNDS_TO_TF32.search(self.name))

    def is_compiled_for(self, architecture: str) -> bool:
        """Whether it is more than a trap, as clusters are before compute capability 9.0."""
        return architecture[0] != "8" or not NEEDS_CLUSTERS.search(self.name)


def cuobjdump() -> Path:
    spec = importlib.util.find_spec("triton")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def tensor_cores(code: str) -> set[str]:
    """The instructions of the tensor cores; HFMA2.MMA is none of them."""
    return {name for line in code.splitlines() if "MMA" in line for name in TENSOR_CORES.findall(line)}


class Compilations:
    """Every source for every architecture, as many at a time as there are cores; started from one thread.

    A compilation is two processes, one after the other: nvcc, and the disassembly of what it made.
    """

    def __init__(self, folder: Path) -> None:
        nvcc = shutil.which("nvcc")
        assert nvcc is not None
        self.folder, self.nvcc = folder, os.path.abspath(nvcc)
        self.waiting = [
            (source, architecture, step) for source in SOURCES for architecture in SHARED for step in ("log", "sass")
        ]
        self.running: dict[tuple[str, str, str], subprocess.Popen[bytes]] = {}
        self.ended: dict[tuple[str, str, str], int] = {}  # exit status

    def path(self, source: str, architecture: str, suffix: str) -> Path:
        return self.folder / f"{source}.{architecture}.{suffix}"

    def start(self, source: str, architecture: str, step: str) -> None:
        target = str(self.path(source, architecture, "cubin"))
        if step == "log":
            flags = [*build_cuda.FLAGS, *build_cuda.KERNEL_FLAGS, *cuda_toolkit.architecture(architecture).flags]
            flags += ["-Werror", "all-warnings", f"-I{CSRC}", "-cubin"]
            command = [self.nvcc, *flags, str(CSRC / "cuda" / f"{source}.cu"), "-o", target]
        else:
            command = [str(cuobjdump()), "-sass", target]
        with self.path(source, architecture, step).open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        self.running[source, architecture, step] = process

    def can_start(self, source: str, architecture: str, step: str) -> bool:
        return step == "log" or (source, architecture, "log") in self.ended

    def advance(self) -> None:
        for key, process in list(self.running.items()):
            status = process.poll()
            if status is not None:
                self.ended[key] = status
                del self.running[key]
        while len(self.running) < len(os.sched_getaffinity(0)):
            key = next((key for key in self.waiting if self.can_start(*key)), None)
            if key is None:
                return
            self.waiting.remove(key)
            self.start(*key)

    def output(self, source: str, architecture: str, step: str) -> str:
        self.advance()
        while (source, architecture, step) not in self.ended:
            time.sleep(0.02)
            self.advance()
        said = self.path(source, architecture, step).read_text(encoding="utf-8", errors="replace")
        assert self.ended[source, architecture, step] == 0, said
        return said

    def kernels(self, source: str, architecture: str) -> list[Kernel]:
        said = self.output(source, architecture, "log")
        functions = self.output(source, architecture, "sass").split("Function : ")[1:]
        instructions = {function.split(None, 1)[0]: tensor_cores(function) for function in functions}
        kernels = []
        for name, between, registers, used in KERNEL.findall(said):
            stack, shared = STACK.search(between), STATIC.search(used)
            assert stack is not None, between
            numbers = [int(number) for number in stack.groups()]
            kernels.append(
                Kernel(name, int(registers), numbers, int(shared[1]) if shared else 0, instructions.pop(name))
            )
        assert not instructions  # what ptxas spoke of is what there is
        return kernels

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=60)


@pytest.fixture(scope="module")
def compilations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compilations]:
    started = Compilations(tmp_path_factory.mktemp("cuda"))
    yield started
    started.stop()


def test_every_architecture_of_the_build_is_looked_at():
    assert set(SHARED) == set(cuda_toolkit.DEFAULT_ARCHITECTURES)


@pytest.mark.parametrize("architecture", SHARED)
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_do_not_spill_and_use_the_tensor_cores_where_asked_for(
    source: str, architecture: str, compilations: Compilations
):
    kernels = compilations.kernels(source, architecture)
    rounding = [kernel for kernel in kernels if kernel.rounds_to_tf32]
    assert (len(kernels) - len(rounding), len(rounding)) == KERNELS[source]
    assert not [kernel for kernel in kernels if any(kernel.stack)]
    assert not [kernel for kernel in kernels if not 0 < kernel.registers <= 255]
    assert not [kernel for kernel in kernels if kernel.shared > STATIC_SHARED]
    for kernel in kernels:
        asked_for = kernel.rounds_to_tf32 and kernel.is_compiled_for(architecture)
        assert kernel.tensor_cores == ({"HMMA"} if asked_for else set()), kernel


def test_shared_memory_suffices():
    """Kernels assert at compile time that their blocks fit into this much, as many as shall run side by side."""
    header = (CSRC / "cuda" / "cubic_forward.h").read_text(encoding="utf-8")
    found = re.search(r"constexpr size_t kSharedMemory = (\d+), kLargeSharedMemory = (\d+);", header)
    assert found is not None
    assert int(found[1]) == 101_376  # of compute capability 8.6, 8.9 and 12.0, where no block may have more
    assert int(found[2]) <= min(SHARED.values())
    assertion = r"static_assert\([^;]*fits_into_shared_memory\(sizeof\(Shared\), kMinBlocks\)\)"
    headers = [path for path in sorted((CSRC / "cuda").glob("cubic_*.h")) if "struct Shared {" in path.read_text()]
    assert len(headers) >= 2
    for path in headers:
        text = path.read_text(encoding="utf-8")
        assert len(re.findall(r"struct Shared \{", text)) == len(re.findall(assertion, text)) > 0
