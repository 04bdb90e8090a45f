"""The Triton kernels compiled for GPUs that are not here: registers, shared memory, and the instructions they use."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Compute capability -> bytes of shared memory that a block may have there.
SHARED = {80: 166_912, 90: 232_448, 100: 232_448}
INSTRUCTIONS = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
NUM_KERNELS, NUM_CUBIC = 20, 6

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module", params=SHARED)
def compiled(request: pytest.FixtureRequest) -> tuple[int, list[dict[str, Any]]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compiling", str(request.param)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return request.param, [json.loads(line) for line in result.stdout.splitlines()]


def test_every_kernel_is_compiled_in_every_arithmetic(compiled: tuple[int, list[dict[str, Any]]]):
    _, lines = compiled
    assert len({line["kernel"] for line in lines}) == NUM_KERNELS
    assert sum(line["precision"] == "tf32" for line in lines) == NUM_CUBIC
    assert len(lines) == 3 + 2 * (NUM_KERNELS - 3 - NUM_CUBIC) + 3 * NUM_CUBIC


def test_nothing_spills_and_shared_memory_suffices(compiled: tuple[int, list[dict[str, Any]]]):
    capability, lines = compiled
    spilling = [line for line in lines if line["stack"] or line["local"]]
    assert not spilling
    assert all(0 < line["registers"] <= 255 and line["shared"] <= SHARED[capability] for line in lines)


def test_tensor_cores_are_used_where_asked_for_and_nowhere_else(compiled: tuple[int, list[dict[str, Any]]]):
    capability, lines = compiled
    for line in lines:
        if line["precision"] in ("tf32", "tf32x3"):
            assert line["instructions"], line
        else:
            assert not line["instructions"], line
    cubic = [line for line in lines if line["kernel"] in ("gram_forward", "gram_backward") and line["instructions"]]
    assert len(cubic) == 4
    for line in cubic:
        assert all(name.startswith(INSTRUCTIONS[capability]) for name in line["instructions"]), line


def test_no_sum_is_left_to_atomics(compiled: tuple[int, list[dict[str, Any]]]):
    assert not [line for line in compiled[1] if line["float_atomics"]]
