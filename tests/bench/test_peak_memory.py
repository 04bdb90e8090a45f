"""Peak memory sees what torch and what the C library allocate, and little else."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import peak_memory
from bench.cases import CASE_OF

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 64
# Beside the pages that the measured allocation touches: counters in batches, page tables are not resident pages.
RESOLUTION_MB = 1.0


def torch_block() -> object:
    return torch.ones(MEGABYTES * 250_000)  # float32


def torch_block_that_is_gone() -> object:
    return float(torch.ones(MEGABYTES * 250_000)[0])


def c_block_that_is_gone() -> object:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    block = libc.malloc(MEGABYTES * 10**6)
    ctypes.memset(block, 1, MEGABYTES * 10**6)
    libc.free(block)
    return None


@pytest.mark.parametrize("call", [torch_block, torch_block_that_is_gone, c_block_that_is_gone])
def test_a_block_is_seen_whoever_allocates_it(call: Callable[[], object]):
    assert peak_memory.peak_extra_mb(call) == pytest.approx(MEGABYTES, abs=RESOLUTION_MB)


def test_an_earlier_peak_does_not_count():
    torch_block_that_is_gone()
    assert peak_memory.peak_extra_mb(lambda: None) < RESOLUTION_MB


def test_a_system_without_the_counters_is_told_so(monkeypatch: pytest.MonkeyPatch):
    def unreadable() -> dict[str, int]:
        raise FileNotFoundError(2, "No such file or directory", "/proc/self/status")

    monkeypatch.setattr(peak_memory, "resident", unreadable)
    with pytest.raises(peak_memory.PeakMemoryError, match="needs /proc/self/status: No such file"):
        peak_memory.peak_extra_mb(lambda: None)


def test_command_prints_a_number_between_the_bounds():
    case = CASE_OF["small64-n128"]
    command = [
        sys.executable,
        "-m",
        "bench.peak_memory",
        "--case",
        case.name,
        "--contender",
        "oracle",
        "--threads",
        "1",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # A lower bound: what the backward needs of D passes through both hidden layers, one activation each.
    lowest = case.latent_dim * case.num_rows * 2 * case.hidden * 4 / 1e6
    assert lowest < float(result.stdout) < 20 * lowest
