"""Part "check": judge every contender at every case, several cases at a time: python -m bench.gpu.check.

Each case is judged in a process of its own (bench/gpu/check_case.py). One that a contender ends, or that gives no
answer for PATIENCE_S, is started again for the contenders after it. Most of the time is for compiling.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from bench.gpu.parity import BAD, CRASHED, UNCHECKED
from bench.gpu.part import Deadline, begin, parser_of
from bench.gpu.registry import BENCHMARKS

PATIENCE_S = 90.0
MOST_AT_A_TIME = 8
# Free memory of the GPU for each process.
GPU_BYTES = 8 << 30


class Job(NamedTuple):
    benchmark: str
    case: str
    contenders: list[str]


def jobs_of(cases: str) -> list[Job]:
    return [
        Job(name, case, [contender.name for contender in benchmark.contenders(case)])
        for name, benchmark in BENCHMARKS.items()
        for case in benchmark.chosen_cases(cases)
    ]


def at_a_time(device: str) -> int:
    """Processes that run beside each other: they share cores and the memory of the GPU."""
    number = min(MOST_AT_A_TIME, max(1, (os.cpu_count() or 1) // 2))
    return min(number, max(1, torch.cuda.mem_get_info()[0] // GPU_BYTES)) if device == "cuda" else number


def command_of(job: Job, contenders: Sequence[str], device: str) -> list[str]:
    command = [sys.executable, "-m", "bench.gpu.check_case", "--benchmark", job.benchmark, "--case", job.case]
    return [*command, "--device", device, "--contenders", *contenders]


class Child:
    """A process whose lines are read as they come, and which is killed when none comes for too long."""

    def __init__(self, command: Sequence[str], deadline: Deadline, threads: int) -> None:
        self.deadline, self.why_killed = deadline, ""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the child
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Until the process ends. What is not a JSON object is somebody else's message."""
        assert self.process.stdout is not None
        timer = self.watch()
        for text in self.process.stdout:
            timer.cancel()
            try:
                entry = json.loads(text)
            except json.JSONDecodeError:
                entry = None
            if isinstance(entry, dict):
                yield entry
            timer = self.watch()
        timer.cancel()
        self.process.wait()

    def watch(self) -> threading.Timer:
        def kill() -> None:
            self.why_killed = "out of time" if self.deadline.is_over else f"no answer for {PATIENCE_S:g} s"
            self.process.kill()

        timer = threading.Timer(max(0.0, min(PATIENCE_S, self.deadline.left)), kill)
        timer.daemon = True
        timer.start()
        return timer

    def end(self) -> str:
        """Why it ended too early."""
        if self.why_killed:
            return self.why_killed
        self.errors.seek(0)
        said = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        code = self.process.returncode
        return f"the process ended with {code}" + (f": {said[-1]}".replace("|", "/")[:300] if said else "")


def run_job(job: Job, device: str, deadline: Deadline, threads: int, write: Callable[..., None]) -> None:
    """Write a verdict for every contender of a case."""
    left = list(job.contenders)

    def verdict(name: str, **values: Any) -> None:
        left.remove(name)
        write("verdict", benchmark=job.benchmark, case=job.case, contender=name, **values)

    while left and not deadline.is_over:
        child, started = Child(command_of(job, left, device), deadline, threads), None
        for entry in child.lines():
            if entry["kind"] == "start":
                started = entry["contender"]
            else:
                verdict(entry["contender"], **{name: entry[name] for name in ("status", "why", "error")})
                started = None
        if left and not deadline.is_over:
            why = child.end()
            for name in [started] if started else list(left):  # ended before the first: for them all
                verdict(name, status=CRASHED, why=why, error=None)
            if started is None:
                return
    for name in list(left):
        verdict(name, status=UNCHECKED, why="out of time", error=None)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser_of("bench.gpu.check", __doc__).parse_args(argv)
    lines, deadline = begin(arguments)
    bad: list[str] = []

    def write(kind: str, **values: Any) -> None:
        lines.write(kind, **values)
        if values["status"] in BAD:
            bad.append(f"{values['case']}, {values['contender']}: {values['status']}, {values['why']}")
            print(bad[-1], file=sys.stderr, flush=True)

    workers = at_a_time(arguments.device)
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ThreadPoolExecutor(workers) as pool:
        jobs = jobs_of(arguments.cases)
        for future in [pool.submit(run_job, job, arguments.device, deadline, threads, write) for job in jobs]:
            future.result()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
