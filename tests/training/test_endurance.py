"""A long run costs at its end what it cost at its beginning."""

from __future__ import annotations

import dataclasses
import os
import statistics
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from ffrl.presets import preset_config
from ffrl.trainer import Trainer

ITERATIONS = 5_000
SETTLED = 1_000  # iterations after which everything has been done at least once, a checkpoint included


class Sample(NamedTuple):
    """What the process holds after an iteration."""

    megabytes: float
    threads: int
    files: int
    seconds: float


def sample(seconds: float) -> Sample:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = len(os.listdir("/proc/self/task"))
    return Sample(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads, len(os.listdir("/proc/self/fd")), seconds)


def medians(samples: list[Sample]) -> dict[str, float]:
    return {name: statistics.median(getattr(one, name) for one in samples) for name in Sample._fields}


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, which only Linux has")
def test_nothing_grows_over_5000_iterations_of_small(tmp_path: Path):
    """Memory, threads, open files and the time of an iteration."""
    changes = {"out": tmp_path / "run", "iterations": ITERATIONS, "device": "cpu", "checkpoint_every": 500}
    trainer = Trainer(dataclasses.replace(preset_config("small"), **changes))
    samples: list[Sample] = []
    step = trainer.step

    def sampled_step() -> None:
        start = time.perf_counter()
        step()
        samples.append(sample(time.perf_counter() - start))

    trainer.step = sampled_step  # type: ignore[method-assign]
    threads = threading.active_count()
    assert trainer.run() is True
    assert threading.active_count() == threads
    settled, first, last = samples[SETTLED:], samples[SETTLED : SETTLED + 1000], samples[-1000:]
    before, after = medians(first), medians(last)
    print(f"\nmedians of iterations 1001 to 2000: {before}\nmedians of iterations 4001 to 5000: {after}")
    assert after["megabytes"] - before["megabytes"] < 10
    assert max(x.threads for x in settled) <= max(x.threads for x in samples[:SETTLED])
    assert after["files"] <= before["files"]  # but for a checkpoint that is being written
    assert after["seconds"] < 1.15 * before["seconds"]
