"""Correctness first: nothing is reported for a contender whose results differ from the oracle's in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from bench.gpu.benchmark import Benchmark, Contender, Prepared, Results
from bench.gpu.lines import message
from ffrl.errors import BackendError

# Of a contender at a case. "crashed" and "unchecked" are given by bench.gpu.check, where no answer came.
OK, REFUSED, UNUSABLE, FAILED, CRASHED, UNCHECKED = "ok", "refused", "unusable", "failed", "crashed", "unchecked"
# Verdicts that make a part fail.
BAD = (REFUSED, FAILED, CRASHED, UNCHECKED)


class Verdict(NamedTuple):
    status: str
    why: str | None = None
    error: float | None = None  # the largest relative one, in norm, of all results
    prepared: Prepared | None = None

    def line(self) -> dict[str, Any]:
        return {"status": self.status, "why": self.why, "error": self.error}


def worst_error(results: Iterable[Results], reference: Results) -> tuple[float, str]:
    """The largest relative error, in norm, and the name of that result; a result that is not finite counts as inf."""
    worst = (-1.0, "nothing")
    for given in results:
        for name, value in given.items():
            wanted = reference[name].detach()
            if value.shape != wanted.shape:
                return float("inf"), f"{name}, of shape {tuple(value.shape)} and not {tuple(wanted.shape)}"
            difference = (value.detach().double() - wanted).norm()
            error = float(difference / wanted.norm().clamp(min=1e-6))
            worst = max(worst, (error if error < float("inf") else float("inf"), name))
    return worst


def judge(benchmark: Benchmark, problem: Any, reference: Results, contender: Contender) -> Verdict:
    """Prepare a contender and compare the very calls that are to be timed; never raises an Exception."""
    try:
        prepared = benchmark.prepare(problem, contender)
        error, name = worst_error(prepared.results(), reference)
        if problem_device(problem).type == "cuda":
            torch.cuda.synchronize()  # an error of a kernel is reported late
    except BackendError as reason:
        return Verdict(UNUSABLE, message(reason))
    except Exception as reason:  # whatever it is, it is reported in the place of a figure
        return Verdict(FAILED, message(reason))
    if not error < contender.tolerance:
        return Verdict(REFUSED, f"{name} is off by {error:.1e}, allowed is {contender.tolerance:g}", error)
    return Verdict(OK, None, error, prepared)


def problem_device(problem: Any) -> torch.device:
    """Of the tensors of a problem."""
    for value in problem:
        if isinstance(value, torch.Tensor):
            return value.device
    raise TypeError(f"a {type(problem).__name__} has no tensor")
