"""Parts "op", "rollout" and "training": times of every contender that computes right: python -m bench.gpu.measure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.gpu.benchmark import Benchmark, Contender, Prepared
from bench.gpu.lines import Lines, message, read_lines
from bench.gpu.parity import BAD, FAILED, OK, UNCHECKED, judge
from bench.gpu.part import Deadline, begin, parser_of
from bench.gpu.registry import BENCHMARKS
from bench.gpu.stopwatch import interleaved, stopwatch_of
from bench.timing import Call

ROUNDS = 9


def admitted(benchmark: Benchmark, case: str, checked: Path | None) -> list[Contender]:
    """All contenders of a case, but for those that the part "check" has given a verdict against."""
    verdicts = {
        entry["contender"]: entry["status"]
        for entry in (read_lines(checked) if checked else [])
        if entry["kind"] == "verdict" and (entry["benchmark"], entry["case"]) == (benchmark.name, case)
    }
    return [
        contender
        for contender in benchmark.contenders(case)
        if verdicts.get(contender.name, UNCHECKED) in (OK, UNCHECKED)
    ]


def peak_extra_mb(call: Call, device: torch.device) -> float | None:
    """Memory of the GPU that one call needs beyond what was there before, in MB (10^6 bytes), by torch's allocator."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call()
    torch.cuda.synchronize()
    del kept
    return (torch.cuda.max_memory_allocated() - before) / 1e6


class Measurement:
    """Of one benchmark on one device, written line by line."""

    def __init__(self, benchmark: Benchmark, device: torch.device, lines: Lines, deadline: Deadline) -> None:
        self.benchmark, self.device, self.lines, self.deadline = benchmark, device, lines, deadline
        self.stopwatch = stopwatch_of(device)
        self.bad = 0

    def verdict(self, case: str, contender: str | None, **values: Any) -> None:
        self.lines.write("verdict", benchmark=self.benchmark.name, case=case, contender=contender, **values)
        if values["status"] in BAD:
            self.bad += 1
            print(f"{case}, {contender or 'all'}: {values['status']}, {values['why']}", file=sys.stderr, flush=True)

    def case(self, case: str, contenders: Sequence[Contender]) -> None:
        """Judge, then time those that passed; a case that time does not suffice for is left out as a whole."""
        torch.compiler.reset()
        problem = self.benchmark.problem(case, self.device)
        reference = self.benchmark.reference(problem)
        prepared: dict[Contender, tuple[Prepared, float | None]] = {}
        for contender in contenders:
            if self.deadline.is_over:
                self.verdict(case, None, status=UNCHECKED, why="out of time", error=None)
                return
            found = judge(self.benchmark, problem, reference, contender)
            if found.prepared is None:
                self.verdict(case, contender.name, **found.line())
            else:
                prepared[contender] = found.prepared, found.error
        self.time(case, prepared)

    def time(self, case: str, prepared: dict[Contender, tuple[Prepared, float | None]]) -> None:
        calls = {
            (contender, measurement): call
            for contender, (one, _) in prepared.items()
            for measurement, call in one.calls.items()
        }
        peaks = {key: peak_extra_mb(call, self.device) for key, call in calls.items()}
        figures = interleaved(calls, self.stopwatch, ROUNDS, self.deadline)
        for (contender, measurement), figure in figures.items():
            flops = self.benchmark.flops(case, measurement)
            self.lines.write(
                "figure",
                benchmark=self.benchmark.name,
                case=case,
                shape=self.benchmark.shape(case),
                contender=contender.name,
                backend=contender.backend,
                tolerance=contender.tolerance,
                error=prepared[contender][1],
                measurement=measurement,
                ms=figure._asdict(),
                flops=None if flops is None else flops._asdict(),
                peak_mb=peaks[contender, measurement],
            )


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("bench.gpu.measure", __doc__)
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--checked", type=Path, default=None, metavar="PATH", help="what the part check has written")
    arguments = parser.parse_args(argv)
    lines, deadline = begin(arguments)
    benchmark = BENCHMARKS[arguments.benchmark]
    measurement = Measurement(benchmark, torch.device(arguments.device), lines, deadline)
    for case in benchmark.chosen_cases(arguments.cases):
        if deadline.is_over:
            measurement.verdict(case, None, status=UNCHECKED, why="out of time", error=None)
            continue
        try:
            measurement.case(case, admitted(benchmark, case, arguments.checked))
        except Exception as error:  # the other cases can still be measured
            measurement.verdict(case, None, status=FAILED, why=message(error), error=None)
    return 1 if measurement.bad else 0


if __name__ == "__main__":
    sys.exit(main())
