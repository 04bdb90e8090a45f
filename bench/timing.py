"""Interleaved timing: every contender once a round, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Milliseconds over the rounds: the median, and the quartiles as its spread."""

    median: float
    lower: float
    upper: float


def interleaved(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time all contenders, one call each a round, after one round that does not count."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if number:
                samples[name].append(1e3 * (time.perf_counter() - start))
    timings = {}
    for name, values in samples.items():
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        timings[name] = Timing(statistics.median(values), quartiles[0], quartiles[2])
    return timings


def sgemm_call(size: int = 1024) -> Callable[[], object]:
    """A float32 product of two square matrices, the ceiling that rates are compared with: 2·size³ FLOPs."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    return lambda: left @ right
