"""Every prior with every equation and every log-determinant trains, and each parameter gets the gradient it should."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, get_args

import pytest
import torch

import ffrl.train
from ffrl.config import EvaluationConfig, LogDet, LossConfig, OptimizerConfig, PDEName, PriorName, TrainConfig
from ffrl.evaluation import evaluate_model
from ffrl.run_folder import load_config, read_metrics
from ffrl.trainer import Trainer, load_model
from tests.training.runs import MODEL, check_resumed_in_parts, command_line, loss_above_floor, newest, short_run

PRIORS, PDES, LOG_DETS = get_args(PriorName), get_args(PDEName), get_args(LogDet)
VARIANTS = list(itertools.product(PRIORS, PDES, LOG_DETS))
# Each prior, each equation and each log-determinant at least once.
QUICK = [(PRIORS[i % len(PRIORS)], pde, LOG_DETS[i % len(LOG_DETS)]) for i, pde in enumerate(PDES)]
ITERATIONS = 200

NETWORKS = {
    *(f"encoder.body.{layer}.{part}" for layer in (0, 2, 5) for part in ("weight", "bias")),
    *(f"encoder.{head}.{part}" for head in ("mu", "log_var") for part in ("weight", "bias")),
    *(f"decoder.body.{layer}.{part}" for layer in (0, 4, 6) for part in ("weight", "bias")),
    *("decoder.body.2.bias", "decoder.body.2.linear.weight"),
}
MLP = {"weight1", "bias1", "weight2", "bias2", "weight3", "bias3"}
MLP |= {"time_weight1", "time_bias1", "time_weight2", "time_bias2"}
OF_PRIOR = {
    "diffusion": {"prior.diffusivity"},
    "standard_normal": set(),
    "mixture": {"prior.means", "prior.log_vars", "prior.logits"},
    "vamp": {"prior.pseudo_inputs"},
}
OF_PDE = {
    "hj_force": {f"force.{name}" for name in MLP},
    "hj": set(),
    "fokker_planck": {"flow.potential.bias3"},  # with output identity: the only equation with u itself in it
    "heat": set(),
    "wave": {"pde.speed"},
}


def variant(out: Any, prior: Any, pde: Any, log_det: Any, **changes: Any) -> TrainConfig:
    config = short_run(
        out,
        batch_size=12,
        iterations=ITERATIONS,
        log_every=20,
        checkpoint_every=ITERATIONS,
        model=dataclasses.replace(MODEL, prior=prior, prior_components=3, pseudo_inputs=4),
        loss=LossConfig(pde=pde, log_det=log_det),
        optimizer=OptimizerConfig(learning_rate=2e-3),
    )
    return dataclasses.replace(config, **changes)


def trained_parameters(prior: str, pde: str) -> set[str]:
    """Names of the parameters that the loss depends on."""
    potential = {f"flow.potential.{name}" for name in MLP - {"bias3"}}
    return NETWORKS | potential | OF_PRIOR[prior] | OF_PDE[pde]


@pytest.mark.parametrize(("prior", "pde", "log_det"), VARIANTS)
def test_gradients_reach_the_parameters_they_should_and_no_other(prior: str, pde: str, log_det: str, tmp_path):
    trainer = Trainer(variant(tmp_path / "run", prior, pde, log_det, checkpoint_every=1000))
    trainer.step()
    found = {name for name, p in trainer.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert found == trained_parameters(prior, pde)
    assert {name for name, _ in trainer.model.named_parameters()} == found | {"flow.potential.bias3"}


@pytest.mark.parametrize("pde", PDES)
def test_with_output_tanh_a_gradient_reaches_every_parameter(pde: str, tmp_path):
    """As in the paper's networks: the last bias moves the slope of tanh, and with it every derivative."""
    config = variant(tmp_path / "run", "diffusion", pde, "trace", checkpoint_every=1000)
    trainer = Trainer(dataclasses.replace(config, model=dataclasses.replace(config.model, output_activation="tanh")))
    trainer.step()
    without = {name for name, p in trainer.model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == set() and "flow.potential.bias3" in dict(trainer.model.named_parameters())


def check_training(config: TrainConfig) -> None:
    trainer = Trainer(config)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    assert trainer.run() is True
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == trained_parameters(config.model.prior, config.loss.pde)
    lines = read_metrics(config.out)
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
    first, last = (loss_above_floor(config, lines[i]) for i in (0, -1))
    assert last < 0.7 * first


@pytest.mark.parametrize(("prior", "pde", "log_det"), QUICK)
def test_variant_trains(prior: str, pde: str, log_det: str, tmp_path):
    check_training(variant(tmp_path / "run", prior, pde, log_det))


@pytest.mark.slow
@pytest.mark.parametrize(("prior", "pde", "log_det"), [one for one in VARIANTS if one not in QUICK])
def test_every_other_variant_trains(prior: str, pde: str, log_det: str, tmp_path):
    check_training(variant(tmp_path / "run", prior, pde, log_det))


@pytest.mark.parametrize(("prior", "pde", "log_det"), [("vamp", "wave", "hutchinson"), ("mixture", "heat", "exact")])
def test_resumed_run_is_the_uninterrupted_one(prior: str, pde: str, log_det: str, tmp_path):
    config = variant(tmp_path / "whole", prior, pde, log_det, iterations=14, log_every=4, checkpoint_every=5)
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, num_probes=3))
    check_resumed_in_parts(config, tmp_path / "parts")


@pytest.mark.parametrize("flags", ["vamp wave hutchinson", "mixture fokker_planck exact", "standard_normal hj trace"])
def test_command_line_chooses_the_variant(flags: str, tmp_path):
    prior, pde, log_det = flags.split()
    short = short_run(tmp_path / "run", iterations=3)
    more = (
        f"--model.prior {prior} --loss.pde {pde} --loss.log-det {log_det} --loss.num-probes 2 --model.pseudo-inputs 5"
    )
    assert ffrl.train.main(command_line(short, *more.split())) == 0
    config = load_config(short.out)
    assert (config.model.prior, config.loss.pde, config.loss.log_det) == (prior, pde, log_det)
    assert (config.loss.num_probes, config.model.pseudo_inputs) == (2, 5)
    names = set(newest(short.out).weights)
    assert OF_PRIOR[prior] | (OF_PDE[pde] if pde == "wave" else set()) <= names
    model, _, iteration = load_model(short.out, device="cpu")
    assert iteration == 3
    assert {name for name, _ in model.named_parameters()} == names


@pytest.mark.parametrize("log_det", ["trace", "exact"])
@pytest.mark.parametrize(("prior", "pde"), list(zip(PRIORS, PDES[1:], strict=True)))
def test_every_prior_and_equation_is_evaluated(prior: str, pde: str, log_det: Any, tmp_path):
    trainer = Trainer(variant(tmp_path / "run", prior, pde, "trace"))
    images = trainer.data
    evaluation = EvaluationConfig(num_images=6, likelihood_images=4, importance_samples=2, log_det=log_det)
    result = evaluate_model(trainer.model, images, evaluation)
    assert result["diffusivity"] == [0.0] * 3
    for row in result["transformations"].values():
        values = (row["elbo"], row["importance_weighted_bound"], row["hj_residual"], row["initial_condition"])
        assert all(math.isfinite(value) for value in values)
        assert row["elbo"] < row["importance_weighted_bound"] < result["log_prob_ceiling"]
        assert row["hj_residual"] >= 0
