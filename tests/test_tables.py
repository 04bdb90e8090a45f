"""The paper's tables: rows, means over the seeds, Markdown; a command that repeats no finished cell."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from ffrl.cells import Cell, Settings, finished_result, measure, measured_by, result_file
from ffrl.checkpoint import latest_checkpoint
from ffrl.config import SequenceConfig, TrainConfig
from ffrl.data import load_images
from ffrl.errors import ArgumentError, DataError, TrainingDiverged
from ffrl.experiments import EXPERIMENTS, Experiment, Row, TableName, replaced
from ffrl.figures.table_plot import table_plot
from ffrl.models.baselines import BASELINES
from ffrl.run_folder import create_run, write_json
from ffrl.tables import (
    TablesCommand,
    aggregate,
    comparable,
    markdown,
    numbers,
    remark_on,
    run_cells,
    settings_of,
    table_cells,
    table_data,
)
from ffrl.trained_run import load_trained_run
from ffrl.trainer import Trainer
from ffrl.vp_config import VPConfig
from ffrl.vp_score import vp_score
from tests.training.runs import tiny_run

METHODS = ("vae", "beta-vae", "factor-vae", "slow-vae", "tvae", "poflow")
SETTINGS = Settings(20, VPConfig())
BUDGET = "tiny-digits-4"  # of ``command``


def tiny(name: TableName, out: Path, **changes: Any) -> TablesCommand:
    return TablesCommand(name, preset="tiny", data="digits", out=out, seeds=2, **changes)


def test_dotted_fields_are_replaced_and_checked():
    config = replaced(TrainConfig(), {"loss.pde": "heat", "seed": 3, "sequence.transformations": ("hue",)})
    expected = dataclasses.replace(
        TrainConfig(),
        seed=3,
        loss=dataclasses.replace(TrainConfig().loss, pde="heat"),
        sequence=dataclasses.replace(TrainConfig().sequence, transformations=("hue",)),
    )
    assert config == expected
    for name in ("nothing", "loss.nothing", "nothing.pde", "seed.pde"):
        with pytest.raises(ArgumentError, match="changes"):
            replaced(TrainConfig(), {name: 1})
    with pytest.raises(ArgumentError, match=r"loss\.pde"):
        replaced(TrainConfig(), {"loss.pde": "nothing"})


def test_all_methods_of_a_grid_decode_all_frames_in_one_process(tmp_path: Path):
    command = TablesCommand("falcor3d", data="rooms-generated", preset="small", seeds=1, out=tmp_path)
    cells = table_cells(command)
    assert {(cell.config.loss.decoded_frames, cell.config.compute.loader_workers) for cell in cells} == {(None, 0)}
    assert {cell.config.method for cell in cells} == {"ffrl", *BASELINES} and len(cells) == 8


def test_every_table_is_there_and_rows_of_one_key_are_one_configuration(tmp_path: Path):
    assert set(EXPERIMENTS) == set(get_args(TableName))
    by_folder: dict[Path, TrainConfig] = {}
    for name in get_args(TableName):
        data = "digits" if not EXPERIMENTS[name].data else EXPERIMENTS[name].data[-1]
        cells = table_cells(dataclasses.replace(tiny(name, tmp_path), data=data))
        assert len(cells) == 2 * len(EXPERIMENTS[name].rows)
        assert len({cell.config.out for cell in cells}) == len(cells)
        for cell in cells:
            assert by_folder.setdefault(cell.config.out, cell.config) == cell.config
            assert cell.config.threads == 1 and cell.config.iterations == 100
    configs = [dataclasses.replace(config, out=Path()) for config in by_folder.values()]
    assert all(config not in configs[:i] for i, config in enumerate(configs))  # another key is another configuration
    assert not any(tmp_path.iterdir())


def test_the_tiny_preset_is_measured_quickly_unless_that_was_said(tmp_path: Path):
    quick = settings_of(tiny("table1", tmp_path))
    assert quick.num_images == 200 and quick.vp.num_pairs <= len(load_images("digits", "test").labels)
    assert quick.vp.epochs * quick.vp.num_train * len(quick.vp.seeds) < 1000
    own = VPConfig(epochs=7)
    assert settings_of(tiny("table1", tmp_path, vp=own, num_images=9)) == Settings(9, own)
    assert settings_of(TablesCommand("table1", out=tmp_path)) == Settings(None, VPConfig())
    remark = remark_on(tiny("table1", tmp_path), table_cells(tiny("table1", tmp_path)), quick)
    said = f"VP is of 1 classifier on 300 pairs of test images, 20 % of them to train on, {quick.vp.epochs} epochs."
    assert remark.endswith(said)


def test_what_the_test_set_lacks_is_said_before_anything_is_trained(tmp_path: Path):
    count = len(load_images("digits", "test").labels)
    with pytest.raises(ArgumentError, match=rf"^vp\.num_pairs = {count + 1} .* {count}, the test images of digits$"):
        table_cells(tiny("vp", tmp_path, vp=VPConfig(num_pairs=count + 1)))
    assert len(table_cells(tiny("vp", tmp_path, vp=VPConfig(num_pairs=count)))) == 4
    with pytest.raises(ArgumentError, match=r"^data = 'shapes' .*\(5, 9\)"):
        table_cells(TablesCommand("generalisation", data="shapes", out=tmp_path))
    with pytest.raises(ArgumentError, match=r"^device = 'cuda:99'"):
        run_cells(table_cells(tiny("pdes", tmp_path, device="cuda:99")), SETTINGS, 1, tmp_path / "logs")
    assert not any(tmp_path.iterdir())
    assert len(table_cells(TablesCommand("pdes", data="shapes", seeds=1, out=tmp_path))) == 5


@pytest.mark.parametrize(("share", "paper"), [(0.1, {"VP": 95.7}), (0.01, {"VP": 92.7}), (0.2, {})])
def test_the_papers_vp_score_is_that_of_the_same_share_of_the_pairs(share: float, paper: dict[str, float]):
    experiment = comparable(EXPERIMENTS["vp"], "mnist", VPConfig(train_fraction=share))
    assert [dict(row.paper) for row in experiment.rows] == [paper, {}]
    assert comparable(EXPERIMENTS["pdes"], "mnist", VPConfig()) is EXPERIMENTS["pdes"]


def test_the_papers_numbers_are_beside_no_other_images(tmp_path: Path):
    assert any(row.paper for row in EXPERIMENTS["pdes"].rows)
    assert not any(row.paper for row in comparable(EXPERIMENTS["pdes"], "digits", VPConfig()).rows)
    for name in ("pdes", "vp", "table1"):
        with pytest.raises(ArgumentError, match=r"^data = 'dsprites-generated' .*'shapes'\) in table"):
            table_cells(TablesCommand(name, data="dsprites-generated", out=tmp_path))


def test_the_tables_of_other_sets_are_of_these_or_of_what_is_drawn_in_their_place(tmp_path: Path):
    """Nothing is drawn unless it was asked for, and the paper's numbers are not beside it."""
    for name, drawn in (
        ("shapes3d", "shapes3d-generated"),
        ("falcor3d", "rooms-generated"),
        ("isaac3d", "rooms-generated"),
    ):
        assert table_data(TablesCommand(name)) == table_data(TablesCommand(name, data=name)) == name
        assert table_data(TablesCommand(name, data=drawn)) == drawn
        with pytest.raises(ArgumentError, match=rf"^data = 'mnist' .*'{name}', '{drawn}'"):
            table_data(TablesCommand(name, data="mnist"))
    with pytest.raises(DataError, match="shapes3d-generated"):
        table_cells(TablesCommand("shapes3d", data_dir=tmp_path, out=tmp_path))
    command = TablesCommand("shapes3d", data="shapes3d-generated", preset="tiny", seeds=1, out=tmp_path)
    cells = table_cells(command)
    assert [cell.config.method for cell in cells] == [*METHODS, "ffrl", "ffrl"]
    assert [cell.config.supervision.mode for cell in cells] == ["supervised"] * 7 + ["weak"]
    assert {(cell.config.data, cell.config.validation_images) for cell in cells} == {("shapes3d-generated", 0)}
    assert "shapes3d-generated (drawn by this project)" in remark_on(command, cells, settings_of(command))
    experiment = EXPERIMENTS["shapes3d"]
    published = comparable(experiment, "shapes3d", VPConfig())
    paper = {"floor_hue": 613, "wall_hue": 653, "object_hue": 606, "scale": 600}
    assert [dict(row.paper) for row in published.rows] == [{}] * 6 + [paper, {}]
    drawn_instead = comparable(experiment, "shapes3d-generated", VPConfig())
    assert not any(row.paper for row in drawn_instead.rows)
    assert published.title.endswith(", on 3D Shapes") and "generated" in drawn_instead.title


def test_the_papers_errors_stand_beside_the_rows_they_are_of():
    """FFRL's MNIST rows as in the paper: scaling, rotation, colouring; of priors and equations scaling alone."""
    expected = {
        "supervision": {
            "supervised": (185.42, 153.54, 158.57),
            "weak prior": (193.84, 157.16, 165.19),
            "weak label": (),
            "semi prior": (186.07, 152.87, 160.13),
        },
        "priors": {"diffusion": (185.4,), "standard_normal": (190.2,), "mixture": (188.2,), "vamp": (192.8,)},
        "pdes": {"hj_force": (185.4,), "hj": (190.4,), "fokker_planck": (211.5,), "heat": (224.0,), "wave": ()},
    }
    found: dict[str, dict[str, tuple[float, ...]]] = {name: {} for name in expected}
    for name in expected:
        for row in EXPERIMENTS[name].rows:
            config = replaced(TrainConfig(), row.changes)
            how = config.supervision
            mode = how.mode if how.mode == "supervised" else f"{how.mode} {how.index_loss}"
            key = {"supervision": mode, "priors": config.model.prior, "pdes": config.loss.pde}[name]
            assert set(row.changes) <= {"supervision.mode", "supervision.index_loss", "model.prior", "loss.pde"}
            assert list(row.paper) == list(("scale", "rotation", "hue")[: len(row.paper)])
            found[name][key] = tuple(row.paper.values())
    assert found == expected


def errors(scale: float, hue: float, accuracy: float | None = None) -> dict[str, Any]:
    rows = {"scale": (scale, scale / 1000), "hue": (hue, None)}
    return {
        "transformations": {
            name: {"equivariance_error": error, "equivariance_over_copy": share}
            for name, (error, share) in rows.items()
        },
        "matching": None if accuracy is None else {"accuracy": accuracy},
    }


TWO_ROWS = Experiment(
    "Two rows",
    "errors",
    (Row("one", "the first", {}, {"scale": 185.42}), Row("two", "the second", {})),
)


def test_means_and_deviations_by_hand():
    results = {"one": [errors(100.0, 7.0), errors(200.0, 7.0), errors(600.0, 7.0)], "two": [errors(50.0, 8.0, 0.75)]}
    first, second = aggregate(TWO_ROWS, results)
    assert first["columns"]["scale"] == {
        "mean": 300.0,
        "standard_deviation": pytest.approx((70_000) ** 0.5),  # (200² + 100² + 300²) / 2
        "values": [100.0, 200.0, 600.0],
    }
    assert first["columns"]["hue"]["standard_deviation"] == 0.0
    assert list(first["columns"]) == ["scale", "hue", "scale, % of copy"]
    assert first["columns"]["scale, % of copy"]["mean"] == pytest.approx(30.0)
    assert second["columns"]["k recognized, %"] == {"mean": 75.0, "standard_deviation": None, "values": [75.0]}
    text = markdown("Two rows", "A remark.", [first, second])
    assert text == (
        "**Two rows.** A remark.\n\n"
        "| row | scale | scale, paper | hue | scale, % of copy | k recognized, % |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| the first | 300.0 ± 264.6 | 185.4 | 7.0 ± 0.0 | 30.0 ± 26.5 |  |\n"
        "| the second | 50.0 |  | 8.0 | 5.0 | 75.0 |\n"
    )
    picture = table_plot("Two rows", "A remark.", [first, second])
    assert picture.startswith(b"\x89PNG") and picture == table_plot("Two rows", "A remark.", [first, second])


def test_numbers_of_the_other_measures():
    vp = {"generated": {"last": 0.9, "best": 0.95}, "truth": {"last": 0.99}}
    assert numbers("vp", vp) == {"VP": 90.0, "VP, best epoch": 95.0, "true pairs": 99.0}
    row = {"equivariance_over_copy": 0.5}
    worse = {"equivariance_over_copy": 0.75}
    result = {
        "images": {"mnist": {"scale": row, "hue": {"equivariance_over_copy": None}}, "shapes": {"scale": worse}},
        "composition": {
            "switch": [
                row | {"clock": "own"},
                worse | {"clock": "own"},
                {"equivariance_over_copy": 2.0, "clock": "shared"},
            ],
            "superposition": [worse, row],
        },
    }
    assert numbers("generalisation", result) == {
        "mnist: scale": 50.0,
        "shapes: scale": 75.0,
        "worst switch": 75.0,
        "worst superposition": 75.0,
    }


def test_a_result_counts_only_for_its_own_configuration_iterations_and_settings(tmp_path: Path):
    config = dataclasses.replace(table_cells(tiny("pdes", tmp_path))[0].config, out=tmp_path / "run")
    cell = Cell("base", config, "errors")
    assert finished_result(cell, SETTINGS) is None
    create_run(config)
    assert finished_result(cell, SETTINGS) is None
    found = {"iteration": 100, "settings": measured_by("errors", SETTINGS), "result": {"a": 1}}
    write_json(result_file(cell), found)
    assert finished_result(cell, SETTINGS) == {"a": 1}
    assert finished_result(cell, Settings(None, VPConfig())) is None
    assert finished_result(cell, Settings(20, VPConfig(epochs=1))) == {"a": 1}  # of the VP score alone
    assert finished_result(cell._replace(measure="vp"), SETTINGS) is None
    longer = dataclasses.replace(config, iterations=200)
    assert finished_result(cell._replace(config=longer), SETTINGS) is None
    other = replaced(config, {"loss.pde": "heat"})
    assert finished_result(cell._replace(config=other), SETTINGS) is None
    result_file(cell).write_text(json.dumps(found)[:-4])
    assert finished_result(cell, SETTINGS) is None


def test_a_cell_is_measured_by_its_tables_measure_with_the_settings(tmp_path: Path):
    config = tiny_run(tmp_path / "run", iterations=2, sequence=SequenceConfig(num_steps=2))
    assert Trainer(config).run()
    settings = Settings(6, VPConfig(num_pairs=20, train_fraction=0.5, widths=(4,), epochs=1, seeds=(3,)))
    trained = load_trained_run(config.out, device="cpu")
    scored = measure(Cell("base", config, "vp"), settings)
    assert scored == vp_score(trained.model, trained.data, settings.vp) and scored["num_test"] == 10
    found = measure(Cell("base", config, "generalisation"), settings)
    assert list(found["images"]) == ["digits, other classes", "digits, classes (5, 9)", "shapes", "dsprites-generated"]
    assert {row["num_images"] for rows in found["images"].values() for row in rows.values()} == {6}
    errors = measure(Cell("base", config, "errors"), settings)
    assert errors["num_images"] == 6 and set(errors["transformations"]) == {"scale", "rotation", "hue"}
    for name, result in (("errors", errors), ("generalisation", found), ("vp", scored)):
        assert len(numbers(name, result)) >= 3


def test_finished_cells_of_another_backend_or_device_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trained = table_cells(tiny("seq_len", tmp_path, backend="analytic"))
    for cell in trained:
        create_run(cell.config)
        settings = measured_by(cell.measure, SETTINGS)
        write_json(result_file(cell), {"iteration": 100, "settings": settings, "result": {}})

    def said(**changes: Any) -> list[str]:
        assert run_cells(table_cells(tiny("seq_len", tmp_path, **changes)), SETTINGS, 1, tmp_path) == {}
        finished, *notes = capsys.readouterr().out.splitlines()
        assert finished == "4 of 4 cells are finished"
        return notes

    assert said(backend="analytic") == said(backend="analytic", device="auto") == []
    notes = said(backend="oracle", device="cuda:1")
    assert len(notes) == 4
    assert notes[0] == "note: base-seed0 was trained with backend analytic, device cpu; another --out trains it anew"


def command(out: Path, *more: str) -> list[str]:
    flags = ["--preset", "tiny", "--data", "digits", "--seeds", "1", "--iterations", "4", "--num-images", "10"]
    return [sys.executable, "-m", "ffrl.tables", "seq_len", *flags, "--out", str(out), *more]


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *more), capture_output=True, text=True, timeout=240)


def state(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_command_trains_measures_prints_and_repeats_nothing(tmp_path: Path):
    out, parent = tmp_path / "tables" / BUDGET, tmp_path / "tables"
    first = run(parent, "--workers", "2")
    assert first.returncode == 0, first.stderr
    assert "0 of 2 cells are finished" in first.stdout
    assert re.search(r"\| T = 8 \| \d+\.\d \|", first.stdout) and "| T = 11 |" in first.stdout
    assert {path.name for path in out.iterdir()} == {"runs", "seq_len.md", "seq_len.json", "seq_len.png"}
    table = json.loads((out / "seq_len.json").read_text())
    assert [row["key"] for row in table["rows"]] == ["base", "t11"]
    runs = state(out / "runs")
    again = run(parent)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 cells are finished" in again.stdout
    assert state(out / "runs") == runs
    # Other settings measure anew, without training anew.
    more = run(parent, "--num-images", "12")
    assert more.returncode == 0 and "0 of 2 cells are finished" in more.stdout
    changed = {name for name, when in state(out / "runs").items() if runs.get(name) != when}
    assert changed == {"base-seed0/cell_errors.json", "t11-seed0/cell_errors.json"}


def test_a_failing_cell_is_reported_and_the_others_are_finished(tmp_path: Path):
    blocked = tmp_path / BUDGET / "runs" / "base-seed0"
    blocked.mkdir(parents=True)
    (blocked / "precious.txt").write_text("not a run")
    result = run(tmp_path)
    assert result.returncode == 1
    assert "base-seed0 failed: out =" in result.stdout and "error: base-seed0" in result.stderr
    assert (tmp_path / BUDGET / "runs" / "t11-seed0" / "cell_errors.json").exists()
    assert not (tmp_path / BUDGET / "seq_len.md").exists()
    assert [path.name for path in blocked.iterdir()] == ["precious.txt"]


def started(out: Path, iterations: int) -> tuple[subprocess.Popen[str], Path]:
    """The command, with its first cell in training; and the folder of the runs."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command(out, "--iterations", str(iterations)), **pipes, start_new_session=True)
    runs = out / f"tiny-digits-{iterations}" / "runs"
    deadline = time.monotonic() + 120
    metrics = runs / "base-seed0" / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    return process, runs


def test_a_killed_cell_is_a_failure_and_the_others_go_on(tmp_path: Path):
    process, runs = started(tmp_path, 600)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    cells = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(cells) == 1
    os.kill(int(cells[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "error: base-seed0: its process was killed (exit code -9)" in said and "Traceback" not in said
    assert (runs / "t11-seed0" / "cell_errors.json").exists()


def test_an_interrupt_saves_the_cell_and_ends_the_command(tmp_path: Path):
    process, runs = started(tmp_path, 100_000)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "interrupted"
    assert not (runs / "t11-seed0").exists()
    assert latest_checkpoint(runs / "base-seed0").name != "00000000"


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path):
    process = subprocess.Popen(command(tmp_path, "--iterations", "40"), stdout=subprocess.PIPE, text=True)
    first, second = (tmp_path / "tiny-digits-40" / "runs" / f"{key}-seed0" for key in ("base", "t11"))
    deadline = time.monotonic() + 120
    while not (second / "config.json").exists():  # the first cell is finished, the second has begun
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = (first / "cell_errors.json").stat().st_mtime_ns
    again = run(tmp_path, "--iterations", "40")
    if "another process is training" in again.stdout:  # the cell of the killed command was still saving
        time.sleep(5)
        again = run(tmp_path, "--iterations", "40")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of 2 cells are finished" in again.stdout
    assert (first / "cell_errors.json").stat().st_mtime_ns == finished


@pytest.mark.parametrize("error", [ArgumentError("a", 1, "b"), TrainingDiverged("hj", math.nan, 3, "none")])
def test_errors_can_be_raised_in_another_process(error: Exception):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error)


def test_a_budget_has_a_folder_of_its_own(tmp_path: Path):
    cells = table_cells(tiny("pdes", tmp_path)), table_cells(tiny("pdes", tmp_path, iterations=7))
    assert [found[0].config.out.parents[1].name for found in cells] == ["tiny-digits-100", "tiny-digits-7"]


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path):
    for values in ({"seeds": 0}, {"workers": 0}, {"iterations": 0}, {"num_images": 0}):
        with pytest.raises(ArgumentError, match=next(iter(values))):
            TablesCommand("pdes", **{"seeds": 1, **values})
    result = run(tmp_path / "tables", "--data-dir", str(tmp_path / "nowhere"), "--data", "mnist")
    assert result.returncode == 2 and "error:" in result.stderr
    assert not (tmp_path / "tables").exists()
