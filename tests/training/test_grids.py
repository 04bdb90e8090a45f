"""Runs on grids of factors: trained, continued, evaluated, drawn; the split is kept with the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ffrl.catalogue import DATA_SETS, GRIDS
from ffrl.config import (
    DATA_NAMES,
    PRESET_NAMES,
    LossConfig,
    OptimizerConfig,
    SequenceConfig,
    SplitConfig,
    SupervisionConfig,
    TrainConfig,
)
from ffrl.data import FactorSequences, load_sequences
from ffrl.errors import ArgumentError, CheckpointError
from ffrl.evaluate import main as evaluate
from ffrl.generalisation import main as generalise
from ffrl.metrics import frame_errors
from ffrl.models import build_model
from ffrl.presets import preset_config
from ffrl.run_folder import load_config, read_metrics
from ffrl.split_file import SPLIT_FILE
from ffrl.train import parse_config
from ffrl.trained_run import load_trained_run
from ffrl.trainer import Trainer
from ffrl.traversals import decode
from ffrl.traverse import main as traverse
from tests.training.runs import run_differences

DATA = "dsprites-generated"


def run_of(out: Path, **changes: Any) -> TrainConfig:
    changes = {"iterations": 12, "checkpoint_every": 6, "log_every": 4, "tensorboard": False, "device": "cpu"} | changes
    changes = {"optimizer": OptimizerConfig(learning_rate=1e-2)} | changes
    return dataclasses.replace(preset_config("tiny", DATA), out=out, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grid") / "run"
    assert Trainer(run_of(out)).run()
    return out


def test_training_lowers_the_loss_and_keeps_the_split(run: Path, tmp_path: Path) -> None:
    records = read_metrics(run)
    assert [record["iteration"] for record in records] == [4, 8, 12]
    untrained, trained = Trainer(run_of(tmp_path / "run")), load_trained_run(run)
    x = trained.data.sequence(torch.arange(50), 0).x
    errors = [
        frame_errors(x[:, :1], decode(one, one.encoder(x[:, 0])[0][:, None])).mean()
        for one in (untrained.model, trained.model)
    ]
    assert errors[1] < 0.95 * errors[0]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"] == DATA and "drawn by ffrl, 737,280 images" in summary["data_source"]
    saved = json.loads((run / SPLIT_FILE).read_text())
    images, data = load_sequences(load_config(run), "test")
    assert isinstance(data, FactorSequences) and saved == data.split.as_dict() and images.name == DATA


def test_a_continued_run_is_bit_identical(run: Path, tmp_path: Path) -> None:
    first = Trainer(run_of(tmp_path / "run", iterations=12))
    while first.iteration < 6:
        first.step()
    first.save()
    first.wait_for_writes()
    assert Trainer(run_of(tmp_path / "run", resume=True)).run()
    differing = [name for name in run_differences(run, tmp_path / "run") if name != "metrics.jsonl"]
    assert differing == []


def test_a_run_on_some_frames_of_each_sequence_continues_bit_for_bit(tmp_path: Path) -> None:
    loss = dataclasses.replace(preset_config("tiny", DATA).loss, decoded_frames=2)
    runs = [run_of(tmp_path / name, loss=loss, iterations=6, checkpoint_every=3) for name in ("whole", "parts")]
    assert Trainer(runs[0]).run()
    first = Trainer(runs[1])
    while first.iteration < 3:
        first.step()
    first.save()
    first.wait_for_writes()
    assert Trainer(dataclasses.replace(runs[1], resume=True)).run()
    assert [name for name in run_differences(*(run.out for run in runs)) if name != "metrics.jsonl"] == []
    frames = dataclasses.replace(runs[0], loss=dataclasses.replace(loss, decoded_frames=3), resume=True)
    with pytest.raises(CheckpointError, match=r"loss\.decoded_frames: saved 2, now 3"):
        Trainer(frames)


def test_another_split_is_not_trained_or_tested_on(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"split.seed: saved 0, now 1"):
        Trainer(run_of(run, resume=True, split=SplitConfig(seed=1)))
    moved = tmp_path / "run"
    moved.mkdir()
    for name in ("config.json", SPLIT_FILE):
        (moved / name).write_bytes((run / name).read_bytes())
    saved = json.loads((moved / SPLIT_FILE).read_text())
    saved["factors"][0][1] = 2  # the run was on another grid
    (moved / SPLIT_FILE).write_text(json.dumps(saved))
    (moved / "checkpoints").symlink_to(run / "checkpoints")
    for call in (lambda: Trainer(run_of(moved, resume=True)), lambda: load_trained_run(moved)):
        with pytest.raises(ArgumentError, match=r"split.factors = .*that of the run"):
            call()
    (moved / SPLIT_FILE).unlink()
    with pytest.raises(ArgumentError, match=r"a run folder with a readable split\.json"):
        load_trained_run(moved)


def test_a_run_that_was_stopped_before_its_split_was_saved_starts_again(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes((run / "config.json").read_bytes())
    trainer = Trainer(run_of(tmp_path / "run", resume=True))
    assert trainer.iteration == 0
    assert (tmp_path / "run" / SPLIT_FILE).read_bytes() == (run / SPLIT_FILE).read_bytes()


def test_traversals_are_chosen_on_the_validation_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []

    def choose(model: object, data: FactorSequences, *, num_images: int) -> dict[str, object]:
        parts.append((data.part, data.split.config.seed))
        return {}

    monkeypatch.setattr("ffrl.trained_run.choose_traversals", choose)
    config = run_of(tmp_path / "run", method="vae", iterations=1, split=SplitConfig(seed=3))
    Trainer(config).run()
    assert load_trained_run(tmp_path / "run").traversal == {} and parts == [("validation", 3)]


def test_evaluated_and_drawn(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    common = ["--num-images", "12", "--device", "cpu"]
    assert evaluate([str(run), *common, "--likelihood-images", "3", "--importance-samples", "2"]) == 0
    assert "data: generated dSprites, drawn by ffrl" in capsys.readouterr().out
    result = json.loads((run / "evaluation.json").read_text())
    assert list(result["transformations"]) == list(DATA_SETS[DATA].transformations)
    assert result["num_images"] == 12 and result["num_steps"] == 5
    _, data = load_sequences(load_config(run), "test")
    x = data.sequence(torch.arange(12), 2).x
    copy = (x[:, 1:] - x[:, :1]).abs().flatten(1).sum(1).mean()
    assert result["transformations"]["posX"]["copy"] == pytest.approx(float(copy), rel=1e-5)
    assert traverse([str(run), *common, "--num-digits", "2", "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"traverse_{name}.png" for name in data.config.transformations} <= names
    assert {"overview.png", "switch.png", "superposition.gif", "backward.png"} <= names
    rows = json.loads((tmp_path / "out" / "composition.json").read_text())
    assert len(rows["backward"]) == 4 and all(row["copy"] > 0 for row in rows["switch"])


@pytest.mark.parametrize("data", ["shapes3d-generated", "isaac3d"])
@pytest.mark.parametrize("flags", [["--method", "vae"], ["--method=tvae"], ["--supervision.mode", "semi"]])
def test_what_needs_all_frames_gets_them_from_every_preset(data: str, flags: list[str]) -> None:
    assert parse_config(["--preset", "small", "--data", data]).loss.decoded_frames == 2
    assert parse_config(["--preset", "small", "--data", data, *flags]).loss.decoded_frames is None
    with pytest.raises(SystemExit):
        parse_config(["--data", data, *flags, "--loss.decoded-frames", "2"])


def test_generalisation_is_of_still_images(run: Path) -> None:
    with pytest.raises(ArgumentError, match="a run on still images; dsprites-generated is a grid"):
        generalise([str(run), "--num-images", "4"])


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("data", DATA_NAMES)
def test_every_preset_of_every_set(preset: str, data: Any) -> None:
    config = preset_config(preset, data)
    assert (config.preset, config.data) == (preset, data)
    if data in GRIDS:
        assert config.sequence.transformations == DATA_SETS[data].transformations
        assert (config.model.image_channels, config.model.image_size) == DATA_SETS[data].image_shape[:2]
    assert parse_config(["--preset", preset, "--data", data]) == config


@pytest.mark.parametrize(
    ("data", "steps", "kinds", "millions"),
    [("mnist", 8, 3, 70.9), ("shapes3d", 7, 4, 161.4), ("falcor3d", 4, 7, 32.6), ("isaac3d", 3, 8, 32.6)],
)
def test_paper_sizes(data: Any, steps: int, kinds: int, millions: float) -> None:
    config = preset_config("paper", data)
    assert (config.sequence.num_steps, len(config.sequence.transformations)) == (steps, kinds)
    with torch.device("meta"):
        model = build_model(config)
    count = sum(p.numel() for part in (model.encoder, model.decoder) for p in part.parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence": SequenceConfig()}, r"sequence.transformations = \('scale', 'rotation', 'hue'\)"),
        ({"sequence": SequenceConfig(("scale",), 6)}, "sequence.num_steps = 6 .* below 6, the values of scale"),
        ({"held_out_classes": (1,)}, "held_out_classes"),
        ({"loss": LossConfig(decoded_frames=7)}, "loss.decoded_frames = 7 .* at most 6, the frames of a sequence"),
        (
            {"loss": LossConfig(decoded_frames=2), "supervision": SupervisionConfig("semi")},
            "loss.decoded_frames = 2 .* None with supervision.mode 'semi'",
        ),
        ({"data": "shapes3d"}, "model.image_channels = 1"),
        ({"data": "mnist"}, "model.image_channels = 1 .* 3"),
    ],
)
def test_what_does_not_fit_the_grid_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        dataclasses.replace(preset_config("tiny", DATA), **changes)
