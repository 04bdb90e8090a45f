"""Table 1: its rows differ in the method alone, and a cell is measured by the common evaluator."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ffrl.baseline_config import METHOD_NAMES
from ffrl.cells import Cell, Settings, finished_result, measure, measured_by, result_file
from ffrl.comparison import compare, comparison_numbers, traversal_picture
from ffrl.config import TrainConfig
from ffrl.experiments import EXPERIMENTS, replaced
from ffrl.figures import strips
from ffrl.figures.canvas import Canvas
from ffrl.figures.table_plot import table_plot
from ffrl.run_folder import write_json
from ffrl.trained_run import load_trained_run
from ffrl.trainer import Trainer
from ffrl.vp_config import VPConfig
from tests.training.runs import MODEL, short_run

VP = VPConfig(num_pairs=30, train_fraction=0.5, widths=(4,), epochs=1, seeds=(0,))


def test_rows_are_all_methods_and_differ_in_nothing_else():
    rows = {row.changes["method"]: row for row in EXPERIMENTS["table1"].rows}
    assert set(rows) == set(METHOD_NAMES) and len(EXPERIMENTS["table1"].rows) == len(METHOD_NAMES)
    configs = [dataclasses.replace(replaced(TrainConfig(), row.changes), method="ffrl") for row in rows.values()]
    assert all(config == configs[0] for config in configs) and configs[0].validation_images == 100
    assert rows["poflow"].paper == {"scale": 234.78, "rotation": 231.42, "hue": 240.57}
    assert rows["vae"].paper["hue"] == 1369 and rows["ffrl"].paper["rotation"] == 153.54


def row(error: float, nats: float) -> dict[str, float]:
    found = {"equivariance_error": error, "copy": 7.0, "zero": 8.0, "autoencoding": 9.0}
    return {**found, "log_likelihood": nats, "elbo": nats - 1, "importance_weighted_bound": nats - 0.5}


def test_columns_by_hand():
    result = {
        "transformations": {"scale": row(5.0, -10.0), "hue": row(6.0, -20.0)},
        "vp": None,
        "seconds_per_iteration": 0.25,
        "parameters": 1500,
    }
    expected = {
        **{"scale": 5.0, "hue": 6.0, "scale: copy": 7.0, "hue: copy": 7.0, "scale: black": 8.0, "hue: black": 8.0},
        **{"scale: autoencoding": 9.0, "hue: autoencoding": 9.0, "E log p": -15.0, "ELBO": -16.0, "IW bound": -15.5},
        **{"ms/iteration": 250.0, "parameters, thousands": 1.5},
    }
    assert comparison_numbers(result) == expected
    assert list(comparison_numbers(result)) == list(expected)
    scored: dict[str, Any] = {**result, "vp": {"generated": {"last": 0.75, "best": 0.9}}}
    assert comparison_numbers(scored) == {**expected, "VP": 75.0}


@pytest.mark.parametrize("method", ["ffrl", "slow-vae", "tvae"])
def test_a_cell_is_measured(method: str, tmp_path: Path):
    model = dataclasses.replace(MODEL, latent_dim=3)
    config = short_run(tmp_path / "run", method=method, validation_images=4, iterations=3, model=model)
    cell, settings = Cell("row", config, "comparison"), Settings(5, VP)
    trainer = Trainer(config)
    trainer.run()
    result = measure(cell, settings)
    found = comparison_numbers(result)
    assert list(found)[:3] == ["scale", "rotation", "hue"] and 0 <= found["VP"] <= 100
    assert result["parameters"] == sum(p.numel() for p in trainer.model.parameters())
    assert found["ms/iteration"] > 0
    assert (result["traversal"] is None) == (method != "slow-vae")
    written = {"iteration": 3, "settings": measured_by("comparison", settings), "result": result}
    write_json(result_file(cell), written)
    assert finished_result(cell, settings) is not None
    assert finished_result(cell, Settings(5, dataclasses.replace(VP, epochs=2))) is None
    assert finished_result(cell, Settings(6, VP)) is None
    trained = load_trained_run(config.out, device="cpu")
    assert compare(trained, 5, VPConfig())["vp"] is None  # too few test images for its pairs


def test_the_picture_shows_every_method_along_its_own_traversal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rows are what the evaluated model makes of the image; of a slow VAE, along what was chosen for it."""
    shown: list[Any] = []
    draw = strips.strips

    def kept(title: str, note: str, truth: Any, rows: Any, names: Any) -> bytes:
        shown.append((truth, rows, names))
        return draw(title, note, truth, rows, names)

    monkeypatch.setattr(strips, "strips", kept)
    runs, models = [], []
    for method in ("slow-vae", "poflow"):
        config = short_run(tmp_path / method, method=method, validation_images=4, iterations=3)
        Trainer(config).run()
        trained = load_trained_run(config.out, device="cpu")
        runs.append((f"{method}, of a kind", config, {"traversal": trained.traversal}))
        models.append(trained)
    picture = traversal_picture("A title", runs)
    assert picture.startswith(b"\x89PNG") and picture == traversal_picture("A title", runs)
    (truth, rows, names), _ = shown
    assert [row.label for row in rows] == ["slow-vae", "poflow"] and names == ("scale", "rotation", "hue")
    data = models[0].data
    for k in range(3):
        assert torch.equal(truth[k], data.sequence(torch.tensor([0]), k).x[0])
        for row, trained in zip(rows, models, strict=True):
            with torch.no_grad():
                z = trained.model.carry(trained.model.code(truth[k : k + 1, 0]), k, truth.shape[1] - 1)
                wanted = torch.sigmoid(trained.model.decode_sequence(z))[0]
            torch.testing.assert_close(row.decoded[k], wanted)
    runs[0][2]["traversal"] = None  # codes stay
    traversal_picture("A title", runs)
    still = shown[2][1][0].decoded
    torch.testing.assert_close(still, still[:, :1].expand_as(still))


def test_columns_of_copies_are_lines_in_the_plot(monkeypatch: pytest.MonkeyPatch):
    drawn: list[tuple[str, float]] = []

    class Spy(Canvas):
        def axes(self, *place: float) -> Any:
            axes = super().axes(*place)
            line, title = axes.axhline, axes.set_title
            axes.axhline = lambda y, **style: (drawn.append(("line", y)), line(y, **style))[1]
            axes.set_title = lambda name, **style: (drawn.append((name, 0.0)), title(name, **style))[1]
            return axes

    monkeypatch.setattr("ffrl.figures.table_plot.Canvas", Spy)
    columns = {
        name: {"mean": mean, "standard_deviation": None, "values": [mean]}
        for name, mean in (("scale", 5.0), ("hue", 6.0), ("scale: copy", 7.0), ("hue: copy", 8.0), ("ELBO", -9.0))
    }
    table_plot("A title", "A remark.", [{"label": "a", "columns": columns, "paper": {}}])
    assert drawn == [("line", 7.0), ("scale", 0.0), ("line", 8.0), ("hue", 0.0)]


def test_many_columns_and_long_labels_stay_on_a_page_of_three_panels(monkeypatch: pytest.MonkeyPatch):
    pages: list[Canvas] = []

    class Spy(Canvas):
        def __init__(self, *size: int) -> None:
            super().__init__(*size)
            pages.append(self)

    monkeypatch.setattr("ffrl.figures.table_plot.Canvas", Spy)
    columns = {f"column {i}": {"mean": 1.0 + i, "standard_deviation": 0.1, "values": [1.0]} for i in range(7)}
    label = "a label of a row that is longer than anything that fits beside the panels"
    rows = [{"label": label, "columns": columns, "paper": {}} for _ in range(9)]
    table_plot("A title", "A remark.", rows)
    (page,) = pages
    assert page.width < 1100
    places = [axes.get_position() for axes in page.figure.axes]
    assert len(places) == 6 and len({round(place.x0, 6) for place in places}) == 3
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(places[:3]))
    assert places[3].y1 < places[0].y0 and places[3].y0 > 0
    page.figure.canvas.draw()
    for text in page.figure.texts:
        box = text.get_window_extent()
        assert box.x1 < page.width * page.zoom and box.y0 > 0, text.get_text()
    drawn = " ".join(text.get_text() for text in page.figure.texts)
    assert drawn.count(label) == len(rows)


@pytest.mark.slow
def test_the_command_prints_the_table(tmp_path: Path):
    flags = ["--preset", "tiny", "--data", "digits", "--seeds", "1", "--iterations", "4", "--num-images", "10"]
    command = [sys.executable, "-m", "ffrl.tables", "table1", *flags, "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    for label in (one.label for one in EXPERIMENTS["table1"].rows):
        assert f"| {label} | " in result.stdout
    assert "| scale | scale, paper |" in result.stdout and "parameters, thousands" in result.stdout
