"""The Triton kernels compiled for GPUs that are not here: registers, shared memory, and the instructions they use."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Compute capability -> bytes of shared memory that a block may have there.
SHARED = {75: 65_536, 80: 166_912, 86: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
INSTRUCTIONS = {80: "mma.sync", 86: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
CUBIC_KINDS = ("gram_forward", "gram_backward", "jacobian", "jacobian_backward", "jacobian_weights")
ROLLOUT_KINDS = ("rollout_forward", "rollout_backward")
# One before the first step and one after each phase of a step. The interpreter would not miss them.
BARRIERS = {"rollout_forward": 5, "rollout_backward": 6}
# Kernels with a quadratic product, in two arithmetics; with a cubic one, in three; with none; with options.
NUM_QUADRATIC, NUM_CUBIC, NUM_WITHOUT, NUM_WITH_OPTIONS = 13, 6, 3, 13


class Job(NamedTuple):
    """A process that compiles kernels for both shape classes: every one, the cubic ones, those with options, or the
    cubic ones and the rollout for sizes that are multiples of 16."""

    capability: int
    kernels: str = "all"

    @property
    def options(self) -> list[str]:
        return {
            "all": [],
            "cubic": ["--kinds", *CUBIC_KINDS],
            "smallest": ["--smallest"],
            "aligned": ["--kinds", *CUBIC_KINDS, *ROLLOUT_KINDS, "--aligned"],
        }[self.kernels]


JOBS = [
    *(Job(100), Job(90), Job(80), Job(90, "smallest"), Job(120, "cubic"), Job(86, "cubic"), Job(75, "cubic")),
    *(Job(100, "aligned"), Job(90, "aligned"), Job(80, "aligned")),
]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def compile_job(job: Job) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.compiled_kernels", str(job.capability), *job.options]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Iterator[dict[Job, Future[list[dict[str, Any]]]]]:
    """What the jobs of the tests that run print, as many jobs at a time as there are cores."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    jobs = dict.fromkeys(call.params["job"] for call in calls if call and isinstance(call.params.get("job"), Job))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {job: pool.submit(compile_job, job) for job in jobs}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.capability}-{job.kernels}")
def test_kernels_fit_and_use_the_tensor_cores_where_asked_for(
    job: Job, compiled: dict[Job, Future[list[dict[str, Any]]]]
):
    lines = compiled[job].result()
    check_coverage(job, lines)
    assert not [line for line in lines if line["stack"] or line["local"]]
    assert all(0 < line["registers"] <= 255 and line["shared"] <= SHARED[job.capability] for line in lines)
    assert not [line for line in lines if line["float_atomics"]]
    for line in lines:
        if line["kernel"] in BARRIERS:
            assert line["barriers"] == BARRIERS[line["kernel"]] and not line["read_only_loads"], line
        assert bool(line["instructions"]) == (line["precision"] in ("tf32", "tf32x3")), line
        # Warp-group and fifth-generation instructions make 64 rows or more.
        rows = 64 if line["kernel"] == "gram_forward" else line["tile"][0] if line["kernel"] == "gram_backward" else 0
        if rows >= 64:
            assert all(name.startswith(INSTRUCTIONS[job.capability]) for name in line["instructions"]), line


def check_coverage(job: Job, lines: list[dict[str, Any]]) -> None:
    """Every kernel in every arithmetic, at each of its tiles once."""
    assert len({(line["kernel"], line["precision"], tuple(line["tile"])) for line in lines}) == len(lines)
    if job.kernels == "smallest":
        assert len({line["kernel"] for line in lines}) == NUM_WITH_OPTIONS
        return
    counts = {"all": (NUM_QUADRATIC, NUM_WITHOUT), "aligned": (len(ROLLOUT_KINDS), 0)}
    quadratic, without = counts.get(job.kernels, (0, 0))
    numbers = {"ieee": NUM_CUBIC + quadratic}
    if job.capability >= 80:
        numbers |= {"tf32x3": NUM_CUBIC + quadratic, "tf32": NUM_CUBIC}
    if without:
        numbers |= {None: without}
    kernels = {precision: {line["kernel"] for line in lines if line["precision"] == precision} for precision in numbers}
    assert {precision: len(names) for precision, names in kernels.items()} == numbers
    assert {line["precision"] for line in lines} == set(numbers)
