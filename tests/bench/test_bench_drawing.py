"""The benchmark of the drawings reports what it timed, and times nothing that depends on the batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import bench_drawing, timing
from bench.bench_drawing import COLUMNS, DRAWINGS, Drawing, random_factors


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of one call."""
    monkeypatch.setattr(timing, "SAMPLE_MS", 0.0)
    monkeypatch.setattr(timing, "WARM_UP_MS", 0.0)
    monkeypatch.setattr(timing, "WARM_UP_CALLS", 1)


def test_the_command_prints_a_table_and_writes_the_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "b.json"
    bench_drawing.main(["--images", "3", "--rounds", "2", "--json", str(path)])
    shown = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in shown if row.startswith("| ")]
    assert rows[0] == [*COLUMNS] and [row[0] for row in rows[1:]] == ["dsprites", "shapes3d", "rooms"]
    assert [row[1] for row in rows[1:]] == ["1 x 64 x 64", "3 x 64 x 64", "3 x 128 x 128"]
    assert all(row[2:4] == ["3", "2"] and len(row) == len(COLUMNS) for row in rows[1:])
    content = json.loads(path.read_text())
    assert content["command"].endswith(f"--json {path}") and content["machine"]["threads"] == torch.get_num_threads()
    for entry, row in zip(content["figures"], rows[1:], strict=True):
        assert entry["images_per_second"] == pytest.approx(3e3 / entry["timing"]["median"])
        assert float(row[5]) == pytest.approx(entry["images_per_second"], rel=1e-3)
        assert float(row[6]) == pytest.approx(entry["images_per_second"] / torch.get_num_threads(), rel=1e-3)


def test_a_set_once_and_those_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    bench_drawing.main(["--images", "2", "--rounds", "1", "--sets", "shapes3d", "dsprites", "shapes3d"])
    rows = [row.split("|")[1].strip() for row in capsys.readouterr().out.splitlines() if row.startswith("| ")]
    assert rows == ["set", "shapes3d", "dsprites"]


def test_images_that_depend_on_the_others_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(factors: Tensor) -> Tensor:
        return torch.full((len(factors), 1, 2, 2), len(factors), dtype=torch.uint8)

    monkeypatch.setitem(DRAWINGS, "rooms", Drawing(draw, {"a": 2}))
    with pytest.raises(AssertionError, match="rooms: the last of 5 images"):
        bench_drawing.main(["--images", "5", "--rounds", "1"])
    assert "| rooms" not in capsys.readouterr().out


def test_factors_are_the_same_in_every_run_and_in_range() -> None:
    for drawing in DRAWINGS.values():
        first = random_factors(drawing, 50, torch.device("cpu"))
        assert torch.equal(first, random_factors(drawing, 50, torch.device("cpu")))
        assert (first.amin(0) >= 0).all() and (first.amax(0) < torch.tensor([*drawing.sizes.values()])).all()
        assert first.unique(dim=0).shape[0] > 45


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--images", "0"], "0 is not allowed; expected an integer >= 1"),
        (["--sets", "faces"], "faces"),
        (["--device", "abacus"], "--device: "),
        (["--json", "."], "--json: . is a folder"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        bench_drawing.main(arguments)
    shown = capsys.readouterr()
    assert stop.value.code == 2 and shown.out == "" and why in shown.err.splitlines()[-1]
