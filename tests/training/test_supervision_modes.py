"""Training with k recognized from the frames: losses fall, gradients go where they should, resuming changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from ffrl import evaluate
from ffrl.config import SupervisionConfig
from ffrl.losses import sequence_losses
from ffrl.run_folder import read_metrics
from ffrl.supervision import supervise
from ffrl.trained_run import load_trained_run
from ffrl.trainer import Trainer, load_model
from tests.training.runs import short_run

MODES = {
    "supervised": SupervisionConfig(),
    "weak": SupervisionConfig("weak"),
    "weak-label": SupervisionConfig("weak", "label"),
    "semi": SupervisionConfig("semi", labelled_fraction=0.5),
}


@pytest.mark.parametrize("mode", MODES)
def test_two_hundred_iterations_lower_the_loss(mode: str, tmp_path):
    config = short_run(tmp_path / "run", iterations=200, batch_size=12, log_every=20, checkpoint_every=200)
    Trainer(dataclasses.replace(config, supervision=MODES[mode])).run()
    lines = read_metrics(config.out)
    assert len(lines) == 10
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
    assert lines[-1]["reconstruction"] < lines[0]["reconstruction"] - 20
    assert ("index" in lines[0]) == ("balance" in lines[0]) == (mode != "supervised")
    if mode == "weak":
        assert all(-1e-6 <= line["index"] <= math.log(3) for line in lines)
    if mode == "weak-label":
        assert lines[-1]["index"] < 0.5 * lines[0]["index"]


@pytest.mark.parametrize(("mode", "labelled"), [("weak", False), ("semi", True), ("semi", False), ("supervised", True)])
def test_which_parameters_get_a_gradient(mode: str, labelled: bool, tmp_path):
    """By name: everything; the recognition network only where there is one, the potentials of absent k never."""
    config = short_run(tmp_path / "run", batch_size=6)
    trainer = Trainer(dataclasses.replace(config, supervision=MODES[mode]))
    model = trainer.model
    model.prior.diffusivity.data.fill_(0.1)
    batch = trainer.data.training_batch(0, 1, 6, True)
    batch = batch._replace(k=torch.zeros_like(batch.k)) if labelled else batch
    choice, terms = supervise(model, batch, trainer.config, 2 if labelled else 1)
    losses = sequence_losses(model, batch, config.loss, None, choice)
    torch.stack([*losses.terms(config.loss).values(), *terms.values()]).sum().backward()
    present = sorted(choice.k.unique().tolist())
    assert present == [0] if labelled else len(present) > 1
    names = {name for name, _ in model.named_parameters()}
    assert any(name.startswith("transformation.") for name in names) == (mode != "supervised")
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"flow.potential.bias3"}  # of an identity potential: the constant that no derivative sees
    for name, parameter in model.named_parameters():
        if name.startswith(("flow.", "force.", "prior.")) and name not in without:
            assert parameter.grad is not None
            reached = [k for k in range(3) if parameter.grad[k].any()]
            assert reached == present, name


def test_the_index_loss_alone_trains_the_recognition_network_alone(tmp_path):
    trainer = Trainer(short_run(tmp_path / "run", batch_size=6, supervision=MODES["weak"]))
    batch = trainer.data.training_batch(0, 1, 6, True)
    _, terms = supervise(trainer.model, batch, trainer.config, 1)
    assert list(terms) == ["index", "balance"]
    sum(terms.values()).backward()  # type: ignore[union-attr]
    reached = {name for name, p in trainer.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {name for name, _ in trainer.model.named_parameters() if name.startswith("transformation.")}


def test_a_resumed_weak_run_is_bit_identical(tmp_path):
    config = short_run(tmp_path / "whole", supervision=MODES["semi"], log_every=1, iterations=10)
    Trainer(config).run()
    Trainer(dataclasses.replace(config, out=tmp_path / "parts", iterations=5)).run()
    Trainer(dataclasses.replace(config, out=tmp_path / "parts", resume=True)).run()
    whole, parts = (load_model(tmp_path / name, device="cpu")[0].state_dict() for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    times = ("seconds", "iterations_per_second")
    lines = [
        [{name: value for name, value in line.items() if name not in times} for line in read_metrics(tmp_path / run)]
        for run in ("whole", "parts")
    ]
    assert lines[0] == lines[1]


def test_evaluation_of_a_weak_run_reports_its_matching(tmp_path, capsys):
    config = short_run(tmp_path / "run", iterations=10, supervision=MODES["weak"])
    Trainer(config).run()
    few = ["--num-images", "20", "--likelihood-images", "4", "--importance-samples", "2", "--device", "cpu"]
    assert evaluate.main([str(config.out), *few]) == 0
    result = json.loads((config.out / "evaluation.json").read_text())
    assert result["supervision"] == "weak"
    matching = result["matching"]
    assert sorted(matching["potential_of"].values()) == [0, 1, 2]
    assert matching["num_images"] == 20
    assert sum(map(sum, matching["confusion"])) == 60
    assert matching["accuracy"] == pytest.approx(sum(matching["confusion"][k][k] for k in range(3)) / 60)
    for row in result["transformations"].values():
        assert row["recognized_equivariance_error"] > 0
    printed = capsys.readouterr().out
    assert "k recognized from the frames" in printed
    assert f"hue: potential {matching['potential_of']['hue']}" in printed


@pytest.mark.parametrize(("mode", "reorders"), [("weak", True), ("weak-label", False), ("semi", False)])
def test_only_names_of_the_models_own_are_matched(mode: str, reorders: bool, tmp_path, monkeypatch):
    monkeypatch.setattr("ffrl.matching.best_assignment", lambda counts: [1, 2, 0])
    config = short_run(tmp_path / "run", iterations=1, supervision=MODES[mode])
    Trainer(config).run()
    trained = load_trained_run(config.out, device="cpu", match_images=3)
    assert trained.matching is not None
    assert list(trained.matching["potential_of"].values()) == ([1, 2, 0] if reorders else [0, 1, 2])
    saved, _, _ = load_model(config.out, device="cpu")
    weights = saved.potential.weight1[[1, 2, 0]] if reorders else saved.potential.weight1
    assert torch.equal(trained.model.potential.weight1, weights)
    assert trained.matching["num_images"] == 3


def test_all_test_images_are_matched_unless_fewer_are_asked_for(tmp_path):
    config = short_run(tmp_path / "run", iterations=1, supervision=MODES["weak"])
    Trainer(config).run()
    trained = load_trained_run(config.out, device="cpu")
    assert trained.matching is not None
    assert trained.matching["num_images"] == len(trained.data) > 300


def test_evaluation_of_a_supervised_run_matches_nothing(tmp_path):
    config = short_run(tmp_path / "run", iterations=5)
    Trainer(config).run()
    few = ["--num-images", "4", "--likelihood-images", "2", "--importance-samples", "1", "--device", "cpu"]
    assert evaluate.main([str(config.out), *few]) == 0
    result = json.loads((config.out / "evaluation.json").read_text())
    assert result["supervision"] == "supervised" and result["matching"] is None
    assert "recognized_equivariance_error" not in result["transformations"]["hue"]


@pytest.mark.parametrize(
    ("mixed", "mode", "warned"), [(False, "weak", True), (True, "weak", False), (False, "supervised", False)]
)
def test_weak_batches_of_one_transformation_are_warned_of(mixed, mode, warned, caplog, tmp_path):
    Trainer(short_run(tmp_path / "run", mixed_batches=mixed, supervision=SupervisionConfig(mode)))
    assert ("one potential from taking over" in caplog.text) == warned
