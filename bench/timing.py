"""Interleaved timing: every contender in turn in every round, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Call = Callable[[], object]

SAMPLE_MS = 20.0  # a sample lasts at least about this long, by repeated calls: the clock and the loop must not count
WARM_UP_MS = 50.0
WARM_UP_CALLS = 2
# A contender whose call takes longer than this is sampled in only so many of the rounds.
SLOW_MS = 2000.0
SLOW_ROUNDS = 3


class Timing(NamedTuple):
    """Milliseconds per call over the rounds: the median, and the quartiles as its spread."""

    median: float
    lower: float
    upper: float
    rounds: int
    calls_per_sample: int


def no_wait() -> None:
    """For work that is over when its call returns."""


def warm_up(call: Call, wait: Call = no_wait) -> float:
    """Call at least WARM_UP_CALLS times and for WARM_UP_MS; milliseconds of the fastest call."""
    start, fastest, calls = time.perf_counter(), math.inf, 0
    while calls < WARM_UP_CALLS or 1e3 * (time.perf_counter() - start) < WARM_UP_MS:
        fastest = min(fastest, sample(call, 1, wait))
        calls += 1
    return fastest


def sample(call: Call, calls: int, wait: Call = no_wait) -> float:
    """Milliseconds per call, over ``calls`` calls, from an idle device to an idle device."""
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait()
    return 1e3 * (time.perf_counter() - start) / calls


def turns(milliseconds: float, rounds: int) -> set[int]:
    """The rounds in which a contender is sampled: all, or SLOW_ROUNDS of them from the first to the last."""
    if milliseconds <= SLOW_MS or rounds <= SLOW_ROUNDS:
        return set(range(rounds))
    return {round(number * (rounds - 1) / (SLOW_ROUNDS - 1)) for number in range(SLOW_ROUNDS)}


def interleaved(contenders: Mapping[str, Call], rounds: int, wait: Call = no_wait) -> dict[str, Timing]:
    """Time all contenders after a warm-up, one sample each a round; every other round goes in the opposite order.

    ``wait`` returns when the device has done all that it was given.
    """
    fastest = {name: warm_up(call, wait) for name, call in contenders.items()}
    calls = {name: max(1, math.ceil(SAMPLE_MS / max(value, 1e-6))) for name, value in fastest.items()}
    sampled = {name: turns(value, rounds) for name, value in fastest.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            if number in sampled[name]:
                samples[name].append(sample(contenders[name], calls[name], wait))
    return {name: summary(values, calls[name]) for name, values in samples.items()}


def summary(values: list[float], calls_per_sample: int) -> Timing:
    """Median and quartiles (by interpolation between the samples, so never outside them)."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Timing(median, lower, upper, len(values), calls_per_sample)


def sgemm_call(size: int, device: torch.device | str = "cpu") -> Call:
    """A float32 product of two square matrices, the ceiling that rates are compared with: 2·size³ FLOPs."""
    left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return lambda: left @ right
