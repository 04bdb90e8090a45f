"""Every method trains by the one trainer, resumes bit for bit, and is scored by the one evaluator."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

import ffrl.evaluate
import ffrl.train
from ffrl.config import BaselineConfig, EvaluationConfig, OptimizerConfig, TrainConfig
from ffrl.errors import ArgumentError
from ffrl.evaluation import evaluate_model
from ffrl.models.baselines import BASELINES, WithoutOperator
from ffrl.ops.backends import log_choice
from ffrl.run_folder import SUMMARY_FILE, load_config, read_metrics
from ffrl.trained_run import load_trained_run
from ffrl.trainer import Trainer
from tests.training.runs import MODEL, check_resumed_in_parts, command_line, loss_above_floor, newest, short_run

# Terms of the loss of each method.
TERMS: dict[str, list[str]] = {
    "vae": ["reconstruction", "kl"],
    "beta-vae": ["reconstruction", "kl"],
    "slow-vae": ["reconstruction", "kl", "transition"],
    "factor-vae": ["reconstruction", "kl", "density_ratio", "discriminator"],
    "tvae": ["reconstruction", "kl"],
    "poflow": ["reconstruction", "kl", "matching", "wave"],
}
# Metrics that only some methods have.
OF_FLOWS = {"hj_residual", "initial_condition"}
SETTINGS = {"factor-vae": BaselineConfig(discriminator_width=32)}
METHODS = list(BASELINES)


def method_run(out: Any, method: Any, **changes: Any) -> TrainConfig:
    settings = SETTINGS.get(method, BaselineConfig())
    model = dataclasses.replace(MODEL, latent_dim=9)
    return short_run(out, method=method, model=model, baseline=settings, validation_images=20, **changes)


def test_every_method_is_here():
    assert set(METHODS) == set(TERMS)


@pytest.mark.parametrize("method", METHODS)
def test_300_iterations_lower_the_loss_and_the_result_is_evaluated(method: str, tmp_path):
    rates = OptimizerConfig(learning_rate=2e-3)
    config = method_run(
        tmp_path / "run", method, iterations=300, log_every=20, checkpoint_every=300, batch_size=6, optimizer=rates
    )
    trainer = Trainer(config)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    assert trainer.run() is True
    still = {name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])}
    assert still <= {"flow.potential.bias3"}
    lines = read_metrics(config.out)
    assert [*lines[0]][: len(TERMS[method]) + 3] == ["iteration", *TERMS[method], "loss", "gradient_norm"]
    first, last = (loss_above_floor(config, lines[i]) for i in (0, -1))
    assert last < 0.8 * first
    trained = load_trained_run(config.out, device="cpu")
    assert (trained.traversal is None) == (not isinstance(trained.model, WithoutOperator))
    evaluation = EvaluationConfig(num_images=6, likelihood_images=4, importance_samples=3)
    result = evaluate_model(trained.model, trained.data, evaluation)
    for row in result["transformations"].values():
        assert set(row) & OF_FLOWS == (OF_FLOWS if method == "poflow" else set())
        assert "folding_steps" not in row and row["is_bound"]
        assert row["elbo"] < row["importance_weighted_bound"] < result["log_prob_ceiling"]
        assert math.isfinite(row["equivariance_error"])
    assert "diffusivity" not in result
    with pytest.raises(ArgumentError, match=rf"^run = '{config.out}' .*'ffrl'.* of method '{method}'$"):
        trained.flow_model()


@pytest.mark.parametrize("method", METHODS)
def test_resumed_run_is_the_uninterrupted_one(method: str, tmp_path):
    config = method_run(tmp_path / "whole", method)
    check_resumed_in_parts(config, tmp_path / "parts")


@pytest.mark.parametrize("method", METHODS)
def test_command_line_chooses_the_method_and_shows_its_terms(method: str, tmp_path, capsys):
    short = short_run(tmp_path / "run", iterations=2)
    assert ffrl.train.main(command_line(short, "--method", method, "--validation-images", "5")) == 0
    config = load_config(short.out)
    assert (config.method, config.validation_images) == (method, 5)
    line = capsys.readouterr().err.splitlines()[-1]
    shown = [name for name in ("loss", *TERMS[method], "kl_t", "hj") if f" {name} " in line]
    assert shown == ["loss", *TERMS[method]]
    assert newest(short.out).iteration == 2


def test_the_validation_images_are_not_trained_on(tmp_path):
    fewer = Trainer(method_run(tmp_path / "fewer", "vae"))
    whole = Trainer(dataclasses.replace(method_run(tmp_path / "none", "vae"), validation_images=0))
    assert len(whole.data) - 20 == len(fewer.data)
    assert torch.equal(whole.data.images[:-20], fewer.data.images)
    assert "without the last 20" in fewer.images.source


def test_the_discriminator_has_its_own_rate_and_moments_in_training_and_after_a_resume(tmp_path):
    config = method_run(tmp_path / "run", "factor-vae", optimizer=OptimizerConfig(1e-2, "cosine", 2))
    trainer = Trainer(config)
    trainer.step()
    first, second = trainer.optimizer.param_groups
    assert (first["lr"], first["betas"]) == (5e-3, (0.9, 0.999))
    assert (second["lr"], second["betas"]) == (1e-4, (0.5, 0.9))
    trainer.run()
    resumed = Trainer(dataclasses.replace(config, resume=True))
    for old, new in zip(trainer.optimizer.param_groups, resumed.optimizer.param_groups, strict=True):
        assert [old[name] for name in ("lr", "betas")] == [new[name] for name in ("lr", "betas")]
    assert second["fixed_rate"] == resumed.optimizer.param_groups[1]["fixed_rate"] == 1e-4

    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            assert trainer.optimizer.state[parameter]["step"] == 14


def test_a_method_without_an_operator_says_what_it_lacks_and_what_moves(tmp_path, capsys, caplog):
    for count, said in (
        ("5", "on 5 validation images: scale: dimension "),
        ("0", "of which the run has none: they stay"),
    ):
        caplog.clear()
        short = short_run(tmp_path / count, iterations=2)
        assert ffrl.train.main(command_line(short, "--method", "vae", "--validation-images", count)) == 0
        assert ("validation_images = 0: method 'vae'" in caplog.text) == (count == "0")
        capsys.readouterr()
        evaluated = [str(short.out), "--num-images", "3", "--likelihood-images", "2", "--importance-samples", "2"]
        assert ffrl.evaluate.main(evaluated) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    caplog.clear()
    assert ffrl.train.main(command_line(short_run(tmp_path / "tvae", iterations=1), "--method", "tvae")) == 0
    assert "validation_images" not in caplog.text


@pytest.mark.parametrize(("method", "has_potentials"), [("vae", False), ("poflow", True)])
def test_a_backend_is_chosen_for_potentials_alone(method, has_potentials, tmp_path, caplog):
    log_choice.cache_clear()
    caplog.set_level("INFO", "ffrl.ops.backends")
    config = short_run(tmp_path / "run", iterations=1, method=method, backend="auto")
    assert Trainer(config).run()
    assert ("potential op" in caplog.text) == has_potentials
    assert (json.loads((config.out / SUMMARY_FILE).read_text())["backend"] is not None) == has_potentials
