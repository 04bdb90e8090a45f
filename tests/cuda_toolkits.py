"""Stand-ins for what the CUDA extension is built with, and what ptxas says in its log."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.builds import COMPILER, ROOT

sys.path.append(str(ROOT / "csrc"))

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None or COMPILER is None, reason="needs nvcc on the path and a C++ compiler"
)

# The functions of csrc/cuda/potential_cuda.h and rollout_cuda.h in a second of compiling.
STAND_IN = """
#include "cuda/potential_cuda.h"
#include "cuda/rollout_cuda.h"

namespace ffrl::cuda {

__global__ void touch(float* memory) { memory[threadIdx.x] += 1; }

template <class T>
size_t forward_workspace(const PotentialShape&, bool, bool) { return sizeof(T) * 32; }
template <class T>
size_t backward_workspace(const PotentialShape&, bool, bool, bool) { return sizeof(T) * 32; }
template <class T>
cudaError_t forward(const PotentialShape&, const PotentialInputs<T>&, const PotentialOutputs<T>&, T*, bool,
                    void* workspace, Precision, cudaStream_t stream) {
    touch<<<1, 32, 0, stream>>>(static_cast<float*>(workspace));
    return cudaGetLastError();
}
template <class T>
cudaError_t backward(const PotentialShape&, const PotentialInputs<T>&, const T*, const PotentialCotangents<T>&,
                     const PotentialGradients<T>&, void*, Precision, cudaStream_t) { return cudaSuccess; }
cudaError_t rollout_device(int, RolloutDevice&) { return cudaSuccess; }
template <class T>
size_t rollout_forward_workspace(const PotentialShape&, int64_t, bool, const RolloutDevice&) { return sizeof(T) * 32; }
template <class T>
size_t rollout_backward_workspace(const PotentialShape&, int64_t, bool, bool, bool, const RolloutDevice&) {
    return sizeof(T) * 32;
}
template <class T>
cudaError_t rollout_forward(const PotentialShape&, const RolloutSteps&, const PotentialInputs<T>&,
                            const RolloutOutputs<T>&, void*, Precision, const RolloutDevice&, cudaStream_t) {
    return cudaSuccess;
}
template <class T>
cudaError_t rollout_backward(const PotentialShape&, const RolloutSteps&, const PotentialInputs<T>&, const T*,
                             const RolloutCotangents<T>&, const PotentialGradients<T>&, void*, Precision,
                             const RolloutDevice&, cudaStream_t) { return cudaSuccess; }

#define INSTANTIATE(T)                                                                                       \\
    template size_t forward_workspace<T>(const PotentialShape&, bool, bool);                                 \\
    template size_t backward_workspace<T>(const PotentialShape&, bool, bool, bool);                          \\
    template cudaError_t forward<T>(const PotentialShape&, const PotentialInputs<T>&, const PotentialOutputs<T>&, \\
                                    T*, bool, void*, Precision, cudaStream_t);                               \\
    template cudaError_t backward<T>(const PotentialShape&, const PotentialInputs<T>&, const T*,             \\
                                     const PotentialCotangents<T>&, const PotentialGradients<T>&, void*, Precision, \\
                                     cudaStream_t);                                                          \\
    template size_t rollout_forward_workspace<T>(const PotentialShape&, int64_t, bool, const RolloutDevice&); \\
    template size_t rollout_backward_workspace<T>(const PotentialShape&, int64_t, bool, bool, bool,          \\
                                                  const RolloutDevice&);                                     \\
    template cudaError_t rollout_forward<T>(const PotentialShape&, const RolloutSteps&, const PotentialInputs<T>&, \\
                                            const RolloutOutputs<T>&, void*, Precision, const RolloutDevice&, \\
                                            cudaStream_t);                                                   \\
    template cudaError_t rollout_backward<T>(const PotentialShape&, const RolloutSteps&, const PotentialInputs<T>&, \\
                                             const T*, const RolloutCotangents<T>&, const PotentialGradients<T>&, \\
                                             void*, Precision, const RolloutDevice&, cudaStream_t);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace ffrl::cuda
"""

# Says a version, knows architectures, and leaves empty files where the compiler leaves objects.
FAKE_NVCC = """#!/bin/sh
case "$*" in
*--version*) echo "Cuda compilation tools, release {release}, V{release}.1"; exit ;;
*--list-gpu-code*) printf '{codes}'; exit ;;
esac
echo "$@" >>"{log}"
while [ $# -gt 0 ]; do
    case "$1" in
    -o) : >"$2"; shift ;;
    -MF) echo "object : /dev/null" >"$2"; shift ;;
    esac
    shift
done
exit {status}
"""

# Stands for a torch that is built for CUDA, and lets any file be loaded.
FAKE_TORCH = """
import ctypes, types
__version__ = "2.11.0+cu130"
version = types.SimpleNamespace(cuda="13.0")
ctypes.CDLL = lambda path: None
"""


def fake_nvcc(
    folder: Path, release: str = "13.0", codes: tuple[str, ...] = ("80", "90", "100"), status: int = 0
) -> tuple[Path, Path]:
    """(its CUDA_HOME, the file that gets a line for each call that compiles)."""
    path, log = folder / "bin" / "nvcc", folder / "calls"
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = "".join(f"sm_{code}\\n" for code in codes)
    path.write_text(FAKE_NVCC.format(release=release, codes=listed, log=log, status=status), encoding="utf-8")
    path.chmod(0o755)
    return folder, log


def cuda_headers() -> Path:
    """Of the nvcc on the path, which may be a script that calls another."""
    said = subprocess.run(
        ["nvcc", "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True, timeout=60
    ).stderr
    top = re.search(r"^#\$ TOP=(.*)$", said, re.M)
    assert top is not None, said
    return Path(top[1].strip(), "include")


class KernelUse(NamedTuple):
    """What ptxas says of one kernel for one architecture."""

    kernel: str
    architecture: str
    registers: int
    spilled_bytes: int


def kernel_uses(log: str) -> list[KernelUse]:
    """From the text of ptxas.log."""
    pattern = re.compile(
        r"Compiling entry function '(\w+)' for '(sm_\w+)'\n.*\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*Used (\d+) registers"
    )
    return [KernelUse(name, of, int(used), int(stored) + int(loaded)) for name, of, stored, loaded, used in
            pattern.findall(log)]  # fmt: skip
