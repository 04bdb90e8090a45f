"""Samples are interleaved, long enough, and fewer of a slow contender."""

from __future__ import annotations

import itertools

import pytest

from bench import timing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that moves only when a call adds to its one entry, in seconds."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def calls_taking(clock: list[float], log: list[str], **milliseconds: float):
    def call(name: str) -> None:
        log.append(name)
        clock[0] += milliseconds[name] / 1e3

    return {name: lambda name=name: call(name) for name in milliseconds}


def test_a_sample_is_long_enough_and_reported_per_call(clock: list[float]):
    log: list[str] = []
    timings = timing.interleaved(calls_taking(clock, log, quick=4.0, slower=30.0), rounds=3)
    assert timings["quick"].calls_per_sample == 5 and timings["slower"].calls_per_sample == 1
    assert timings["quick"].median == pytest.approx(4.0) and timings["slower"].median == pytest.approx(30.0)
    warm_up, rounds = log[:-18], log[-18:]
    assert warm_up == ["quick"] * 13 + ["slower"] * 2
    assert [name for name, _ in itertools.groupby(rounds)] == ["quick", "slower", "quick", "slower"]


def test_every_other_round_goes_in_the_opposite_order(clock: list[float]):
    log: list[str] = []
    timing.interleaved(calls_taking(clock, log, a=100.0, b=100.0), rounds=4)
    assert "".join(log) == "aabb" + "abba" * 2


def test_a_slow_contender_is_sampled_in_few_rounds_from_first_to_last(clock: list[float]):
    log: list[str] = []
    timings = timing.interleaved(calls_taking(clock, log, a=100.0, slow=2100.0), rounds=5)
    assert timings["slow"].rounds == timing.SLOW_ROUNDS == 3 and timings["a"].rounds == 5
    assert log[4:] == ["a", "slow", "a", "a", "slow", "a", "a", "slow"]
    assert timing.turns(2100.0, 2) == {0, 1}


def test_quartiles_lie_within_the_samples():
    assert timing.summary([5.0, 1.0, 2.0, 4.0, 3.0], 7) == (3.0, 2.0, 4.0, 5, 7)
    assert timing.summary([6.0], 1) == (6.0, 6.0, 6.0, 1, 1)


def test_the_device_is_waited_for_around_every_sample(clock: list[float]):
    """Work that goes on after its call returned belongs to that call's sample."""
    left = [0.0]

    def launch() -> None:
        left[0] += 0.05

    def wait() -> None:
        clock[0] += left[0]
        left[0] = 0.0

    found = timing.interleaved({"launched": launch, "other": launch}, 3, wait)
    assert [figures.median for figures in found.values()] == pytest.approx([50.0, 50.0])
