"""The benchmark of loading times batches on one side and iterations without them on the other."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from bench import bench_loading, timing
from bench.bench_loading import COLUMNS, OneBatch, measure
from ffrl.config import ComputeConfig
from ffrl.data import FactorSequences
from ffrl.data.batch_source import BatchSource
from ffrl.data.download import DataUnavailable
from ffrl.presets import preset_config


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of one call, of the preset tiny."""
    monkeypatch.setattr(timing, "SAMPLE_MS", 0.0)
    monkeypatch.setattr(timing, "WARM_UP_MS", 0.0)
    monkeypatch.setattr(timing, "WARM_UP_CALLS", 1)
    monkeypatch.setattr(bench_loading, "preset_config", lambda name, data: preset_config("tiny", data))


def test_the_command_prints_a_table_and_writes_the_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    sets = ["dsprites-generated", "shapes3d-generated", "dsprites-generated"]
    assert bench_loading.main(["--sets", *sets, "--rounds", "2", "--json", str(path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in shown if row.startswith("| ")]
    assert rows[0] == [*COLUMNS] and [row[0] for row in rows[1:]] == sets[:2]
    figures = json.loads(path.read_text())["figures"]
    for entry, row, images in zip(figures, rows[1:], (12 * 6, 12 * 8), strict=True):
        assert entry["images"] == images and row[1:4] == [str(images), "0", "2"]
        assert entry["images_per_second"] == pytest.approx(1e3 * images / entry["load"]["median"])
        assert entry["consumed_per_second"] == pytest.approx(1e3 * images / entry["iteration"]["median"])
        ratio = entry["iteration"]["median"] / entry["load"]["median"]
        assert float(row[8]) == pytest.approx(ratio, abs=0.01)


def test_batches_are_made_on_one_side_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    made = FactorSequences.training_batch

    def training_batch(data: FactorSequences, seed: int, iteration: int, *others: object, **more: object) -> object:
        asked.append(iteration)
        return made(data, seed, iteration, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(FactorSequences, "training_batch", training_batch)
    figures = measure("dsprites-generated", 3)
    assert asked == [*range(1, 6)]  # that of all iterations, the warm-up, three samples
    assert figures["load"]["rounds"] == figures["iteration"]["rounds"] == 3


def test_batches_that_processes_make_are_timed_without_those_that_were_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Iteration 1 is the batch of all iterations; of 2 processes, 8 come before the samples of 4 each."""
    taken: list[int] = []
    made = BatchSource.batch

    def batch(source: BatchSource, iteration: int) -> object:
        assert source.workers == 2
        taken.append(iteration)
        return made(source, iteration)

    monkeypatch.setattr(BatchSource, "batch", batch)
    compute = ComputeConfig(loader_workers=2)
    monkeypatch.setattr(
        bench_loading,
        "preset_config",
        lambda name, data: dataclasses.replace(preset_config("tiny", data), compute=compute),
    )
    figures = measure("dsprites-generated", 3)
    assert taken == [*range(1, 8 + 3 * 4 + 1)] and figures["processes"] == 2
    assert figures["load"]["rounds"] == 3 and figures["load"]["calls_per_sample"] == 4
    assert not multiprocessing.active_children()


def test_sets_without_files_are_left_out_unless_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FFRL_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(bench_loading, "SETS", ("shapes3d", "dsprites-generated"))
    assert bench_loading.main(["--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "| dsprites-generated |" in shown and "shapes3d was not timed: 3D Shapes was not found" in shown
    with pytest.raises(DataUnavailable):
        bench_loading.main(["--rounds", "1", "--sets", "shapes3d"])


def test_an_iteration_has_the_batch_that_it_was_given() -> None:
    config = dataclasses.replace(preset_config("tiny", "dsprites-generated"))
    problem = OneBatch(config, None, "the batch", torch.empty(0))  # type: ignore[arg-type]
    assert problem.training_batch(1) == problem.training_batch(2) == "the batch"
