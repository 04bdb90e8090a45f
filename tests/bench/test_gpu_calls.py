"""The calls that only a GPU gets, made to stand-ins for one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.gpu import ceilings, check, environment, measure, stopwatch
from bench.gpu.lines import Lines, read_lines

PROPERTIES = SimpleNamespace(
    name="A GPU", major=9, minor=0, multi_processor_count=132, total_memory=80 << 30, L2_cache_size=50, uuid="ab-12"
)


class Device:
    """A clock that every call moves on, in ms, and the order of what was called."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        event = SimpleNamespace(at=0.0, synchronize=lambda: self.calls.append("wait"))
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda other: other.at - event.at
        return event

    def call(self, name: str, ms: float) -> Any:
        def called() -> None:
            self.calls.append(name)
            self.now += ms

        return called


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(torch.cuda, "Event", found.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: found.calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: PROPERTIES)
    return found


def test_events_stand_around_single_calls(device: Device, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopwatch, "LEAST_FLUSH_BYTES", 64)
    watch = stopwatch.CudaStopwatch(torch.device("cpu"))
    assert watch.flushed.numel() == 2 * PROPERTIES.L2_cache_size
    watch.flushed.fill_(1)
    assert watch.sample(device.call("a", 1.5)).device == 1.5
    assert device.calls == ["synchronize", "a", "wait"] and not watch.flushed.any()


def test_rounds_are_interleaved(device: Device, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopwatch, "LEAST_FLUSH_BYTES", 64)
    watch = stopwatch.CudaStopwatch(torch.device("cpu"))
    calls = {"quick": device.call("quick", 15.0), "slow": device.call("slow", 2 * stopwatch.SLOW_MS)}
    figures = stopwatch.interleaved(calls, watch, 7)
    assert figures["quick"][:4] == (15.0, 15.0, 15.0, 2 * 7)
    assert figures["slow"][:4] == (400.0, 400.0, 400.0, stopwatch.SLOW_ROUNDS)
    timed = [name for name in device.calls if name in calls]
    warm_up = stopwatch.WARM_UP_CALLS
    assert timed[: 2 * warm_up] == ["quick"] * warm_up + ["slow"] * warm_up
    assert timed[2 * warm_up :][:6] == ["quick", "quick", "slow", "slow", "quick", "quick"]


def test_peak_memory(device: Device, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: device.calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 10_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 35_500_000)
    assert measure.peak_extra_mb(device.call("a", 1.0), torch.device("cuda")) == 25.5
    assert device.calls == ["synchronize", "reset", "a", "synchronize"]


def test_clocks_are_read_under_load(device: Device, tmp_path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, ...]] = []

    def output_of(*command: str) -> str:
        asked.append(command)
        return ", ".join(f"value {number}" for number in range(len(environment.SMI_FIELDS)))

    monkeypatch.setattr(environment, "output_of", output_of)
    monkeypatch.setattr(ceilings, "LOAD_SECONDS", 0.0)
    monkeypatch.setattr(ceilings, "product", lambda *_: device.call("product", 1.0))
    ceilings.clocks(torch.device("cuda"), Lines(tmp_path / "part.jsonl"), size=8192)
    lines = read_lines(tmp_path / "part.jsonl")
    assert [line["when"] for line in lines] == ["before the benchmarks", "under load"]
    assert lines[1]["values"]["driver"] == "value 1" and asked[0][-1] == "--id=GPU-ab-12"
    assert device.calls[-2:] == ["product", "synchronize"]


def test_facts_of_the_gpu(device: Device):
    facts = environment.gpu_facts(torch)
    assert facts["name"] == "A GPU" and facts["compute_capability"] == "9.0" and facts["uuid"] == "GPU-ab-12"


def test_processes_share_the_memory_of_the_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check.os, "cpu_count", lambda: 64)
    for free, expected in ((200 << 30, check.MOST_AT_A_TIME), (20 << 30, 2), (1 << 30, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 200 << 30))
        assert check.at_a_time("cuda") == expected
