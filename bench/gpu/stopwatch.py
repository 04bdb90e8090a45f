"""Time on a device: CUDA events around single calls, the L2 cache flushed before each; the host's clock on the CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import torch

from bench.gpu.part import Deadline
from bench.timing import Call, summary

K = TypeVar("K", bound=Hashable)

WARM_UP_CALLS = 3
# Short calls are sampled several times in a round, within this time and number.
TURN_MS = 30.0
MAX_SAMPLES_PER_TURN = 10
# A call that takes longer than this is sampled in only so many rounds.
SLOW_MS = 200.0
SLOW_ROUNDS = 5
# Rounds that a measurement has at least, also when its time is over.
LEAST_ROUNDS = 3
LEAST_FLUSH_BYTES = 64 << 20


class Sample(NamedTuple):
    """Milliseconds of one call: on the device, and until it had returned to its caller."""

    device: float
    host: float


class Figure(NamedTuple):
    """Milliseconds of a call: median and quartiles over the samples; ``host`` is the median until it returned."""

    median: float
    lower: float
    upper: float
    samples: int
    host: float


class HostStopwatch:
    """For tries without a GPU."""

    def sample(self, call: Call) -> Sample:
        start = time.perf_counter()
        call()
        elapsed = 1e3 * (time.perf_counter() - start)
        return Sample(elapsed, elapsed)


class CudaStopwatch:
    """Events before and after a call on an idle device, behind the zeroing of a buffer twice as large as the L2 cache.

    The call's kernels are launched while the device waits for them: a call whose launches take longer than its kernels
    is measured with its launches.
    """

    def __init__(self, device: torch.device) -> None:
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        self.flushed = torch.empty(max(2 * cache, LEAST_FLUSH_BYTES), dtype=torch.uint8, device=device)
        self.start, self.end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def sample(self, call: Call) -> Sample:
        torch.cuda.synchronize()
        self.flushed.zero_()
        self.start.record()
        begun = time.perf_counter()
        call()
        host = 1e3 * (time.perf_counter() - begun)
        self.end.record()
        self.end.synchronize()
        return Sample(self.start.elapsed_time(self.end), host)


Stopwatch = HostStopwatch | CudaStopwatch


def stopwatch_of(device: torch.device) -> Stopwatch:
    return CudaStopwatch(device) if device.type == "cuda" else HostStopwatch()


def interleaved(
    calls: Mapping[K, Call], stopwatch: Stopwatch, rounds: int, deadline: Deadline | None = None
) -> dict[K, Figure]:
    """Time all calls after a warm-up, each in turn in every round; every other round goes in the opposite order.

    Args:
        calls: what is timed, by name.
        stopwatch: of the device.
        rounds: of all calls that are not slow.
        deadline: after it no round begins, once LEAST_ROUNDS are done.
    """
    fastest = {name: min(stopwatch.sample(call).device for _ in range(WARM_UP_CALLS)) for name, call in calls.items()}
    repeats = {
        name: max(1, min(MAX_SAMPLES_PER_TURN, math.floor(TURN_MS / max(value, 1e-3))))
        for name, value in fastest.items()
    }
    samples: dict[K, list[Sample]] = {name: [] for name in calls}
    for number in range(rounds):
        if deadline is not None and deadline.is_over and number >= LEAST_ROUNDS:
            break
        for name in list(calls)[:: -1 if number % 2 else 1]:
            if fastest[name] <= SLOW_MS or number < SLOW_ROUNDS:
                samples[name] += [stopwatch.sample(calls[name]) for _ in range(repeats[name])]
    return {name: figure(values) for name, values in samples.items()}


def figure(samples: list[Sample]) -> Figure:
    times = summary([sample.device for sample in samples], 1)
    return Figure(
        times.median, times.lower, times.upper, len(samples), summary([sample.host for sample in samples], 1).median
    )
