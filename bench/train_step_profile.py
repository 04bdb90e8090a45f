"""Where the time of an iteration of ours goes, part by part, beside the whole."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import torch

from bench.measure import SGEMM_SIZE
from bench.operator_calls import kernel_launches, operator_calls
from bench.timing import Call, Timing, sgemm_call, summary
from bench.train_step_cases import FFRL, PLAIN, SURROGATE, TrainCase, iteration, problem_of
from bench.train_step_flops import PartFlops, part_flops
from bench.train_step_parts import Part, discarding, parts_of
from bench.training_iteration import Problem

COUNTED = (FFRL, PLAIN, SURROGATE)
# Sequences of a batch whose operators are counted: their number does not depend on how many there are.
COUNTED_SEQUENCES = 6
WARM_UP_ROUNDS = 2


class PartFigures(NamedTuple):
    """A part at a case; None where it was not timed, or where it has no backward or no products."""

    part: str
    forward: Timing | None
    backward: Timing | None
    flops: PartFlops | None
    calls: int  # operators of both

    @property
    def milliseconds(self) -> float | None:
        if self.forward is None:
            return None
        return self.forward.median + (self.backward.median if self.backward else 0.0)


class Profile(NamedTuple):
    case: TrainCase
    parts: list[PartFigures]
    whole: Timing | None
    sgemm_gflops: float | None
    calls: dict[str, int]  # operators of an iteration, by contender
    launches: dict[str, int]  # kernels of it on a GPU

    def share(self, *names: str) -> float | None:
        """Of the time of the iteration, or where it was not timed of its FLOPs, that these parts take."""
        chosen = [part for part in self.parts if part.part in names]
        if self.whole is None:
            return sum(sum(part.flops or ()) for part in chosen) / self.flops
        return sum(part.milliseconds or 0.0 for part in chosen) / self.whole.median

    @property
    def flops(self) -> int:
        return sum(sum(part.flops) for part in self.parts if part.flops)


def timed(part: Part, wait: Call) -> list[float]:
    """Milliseconds of forward, and of backward where there is one."""
    wait()
    start = time.perf_counter()
    outputs = part.forward()
    wait()
    middle = time.perf_counter()
    if not part.sources:
        return [1e3 * (middle - start)]
    part.backward(outputs)
    wait()
    return [1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)]


def time_parts(
    problem: Problem, backend: str, rounds: int, wait: Call
) -> tuple[dict[str, list[Timing]], Timing, float]:
    """Times of every part, forward and where there is one backward; of the whole iteration; and GFLOP/s of sgemm.

    In every round: sgemm, the whole, and each part once in the order of the iteration, so that a part finds in the
    caches what it finds there in an iteration, or about that.
    """
    whole = iteration(FFRL, problem, backend)
    whole()
    sgemm = sgemm_call(SGEMM_SIZE, problem.data.device)
    parts = [Part("sgemm", discarding(sgemm)), Part("whole", discarding(whole)), *parts_of(whole)]
    samples: dict[str, list[list[float]]] = {part.name: [] for part in parts}
    for number in range(WARM_UP_ROUNDS + rounds):
        for part in parts:
            taken = timed(part, wait)
            if number >= WARM_UP_ROUNDS:
                samples[part.name].append(taken)
    timings = {
        name: [summary(list(values), 1) for values in zip(*taken, strict=True)] for name, taken in samples.items()
    }
    (rate,), (total,) = timings.pop("sgemm"), timings.pop("whole")
    return timings, total, 2 * SGEMM_SIZE**3 / rate.median / 1e6


class Counts(NamedTuple):
    """Of an iteration on a few sequences."""

    parts: dict[str, int]  # operators of each part of ours
    calls: dict[str, int]  # operators, by contender
    launches: dict[str, int]  # kernels on a GPU, by contender


def count(case: TrainCase, backend: str, device: torch.device) -> Counts:
    problem = problem_of(case, device)
    problem = problem._replace(config=dataclasses.replace(case.config, batch_size=COUNTED_SEQUENCES))
    counts = Counts({}, {}, {})
    for name in COUNTED:
        call = iteration(name, problem, backend)
        call()  # what is made once is made
        counts.calls[name] = operator_calls(call)
        if device.type == "cuda":
            counts.launches[name] = kernel_launches(call)
        if name == FFRL:
            for part in parts_of(call):
                counts.parts[part.name] = operator_calls(part.run)
    return counts


def profile(case: TrainCase, backend: str, device: torch.device, rounds: int, wait: Call) -> Profile:
    """Of a case with k given; without times on a device that is not one of the case."""
    counts, flops = count(case, backend, device), part_flops(case.config)
    timings, whole, gflops = {}, None, None
    if device.type in case.devices:
        timings, whole, gflops = time_parts(problem_of(case, device), backend, rounds, wait)
    parts = []
    for name, calls in counts.parts.items():
        forward, backward = [*timings.get(name, []), None, None][:2]
        parts.append(PartFigures(name, forward, backward, flops.get(name), calls))
    return Profile(case, parts, whole, gflops, counts.calls, counts.launches)
