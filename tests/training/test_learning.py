"""A run learns: the loss falls, the diffusivities leave zero, and E_k gets below that of copying the first frame."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ffrl.checkpoint import WEIGHTS_FILE, checkpoint_folders, latest_checkpoint
from ffrl.config import EvaluationConfig, LossConfig, OptimizerConfig, SequenceConfig
from ffrl.data import TransformedImages, load_images
from ffrl.evaluation import evaluate_model
from ffrl.presets import preset_config
from ffrl.run_folder import read_metrics
from ffrl.trainer import Trainer, load_model
from tests.training.runs import loss_above_floor, newest, short_run

DIFFUSIVITY = "prior.diffusivity"
SEEDS = (0, 1, 2)


def test_diffusivities_are_trained_and_saved(tmp_path):
    out = tmp_path / "run"
    trainer = Trainer(short_run(out, iterations=30, checkpoint_every=15, log_every=30, keep_checkpoints=3))
    assert trainer.model.prior.diffusivity.tolist() == [0.0, 0.0, 0.0]
    trainer.run()
    saved = {
        int(folder.name): safetensors.torch.load_file(folder / WEIGHTS_FILE)[DIFFUSIVITY]
        for folder in checkpoint_folders(out)
    }
    assert list(saved) == [0, 15, 30]
    assert saved[0].tolist() == [0.0, 0.0, 0.0]
    assert float(saved[30].max()) > 1e-3
    assert float(saved[30].min()) >= 0
    assert not torch.equal(saved[15], saved[30])
    assert torch.equal(saved[30], trainer.model.prior.diffusivity.detach())
    assert read_metrics(out)[-1]["diffusivity"] == saved[30].tolist()
    model, _, _ = load_model(out, device="cpu")
    assert torch.equal(model.prior.diffusivity, saved[30])


def test_every_parameter_but_the_constants_of_the_potentials_moves(tmp_path):
    trainer = Trainer(short_run(tmp_path / "run", iterations=6))
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.run()
    still = {name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])}
    assert still <= {"flow.potential.bias3"}


def test_every_iteration_has_a_batch_of_its_own(monkeypatch, tmp_path):
    """The batch depends on the seed and the iteration, which a resumed run goes on counting."""
    asked = []
    original = TransformedImages.training_batch

    def training_batch(data, *arguments, frames, rank, num_ranks):
        asked.append((*arguments, frames, rank, num_ranks))
        return original(data, *arguments, frames=frames, rank=rank, num_ranks=num_ranks)

    monkeypatch.setattr(TransformedImages, "training_batch", training_batch)
    config = short_run(tmp_path / "run", iterations=2, seed=7)
    Trainer(config).run()
    Trainer(dataclasses.replace(config, iterations=4, resume=True)).run()
    assert asked == [(7, iteration, 4, True, None, 0, 1) for iteration in (1, 2, 3, 4)]


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_falls(seed, tmp_path):
    config = short_run(tmp_path / "run", seed=seed, iterations=60, log_every=15, batch_size=12, checkpoint_every=60)
    config = dataclasses.replace(config, optimizer=OptimizerConfig(learning_rate=5e-3))
    Trainer(config).run()
    first, *_, last = [loss_above_floor(config, line) for line in read_metrics(config.out)]
    assert 0 < last < 0.75 * first


def test_loss_does_not_fall_without_learning(tmp_path):
    """The control: what falls above is not an artefact of the batches."""
    config = short_run(tmp_path / "run", iterations=60, log_every=15, batch_size=12, checkpoint_every=60)
    config = dataclasses.replace(config, optimizer=OptimizerConfig(learning_rate=1e-12))
    Trainer(config).run()
    first, *_, last = [loss_above_floor(config, line) for line in read_metrics(config.out)]
    assert last > 0.9 * first


@pytest.mark.parametrize("changes", [{"mixed_batches": False}, {"backend": "oracle"}, {"batch_size": 1}])
def test_variants_of_a_run_train(changes, tmp_path):
    config = short_run(tmp_path / "run", iterations=3, **changes)
    assert Trainer(config).run() is True
    assert all(bool(torch.isfinite(value).all()) for value in newest(config.out).weights.values())


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_one_transformation_and_other_losses_train(likelihood, tmp_path):
    sequence = SequenceConfig(transformations=("rotation",), num_steps=2)
    loss = LossConfig(likelihood=likelihood, log_det="exact")
    config = short_run(tmp_path / "run", iterations=2, sequence=sequence, loss=loss)
    assert Trainer(config).run() is True
    assert math.isfinite(read_metrics(config.out)[-1]["loss"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_short_run_on_mnist_beats_copying(seed, tmp_path):
    """E_k of every transformation on 1,000 test images is below the copy baseline of the same images."""
    folder = os.environ.get("FFRL_DATA")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("FFRL_DATA does not name a folder that holds mnist")
    config = dataclasses.replace(
        preset_config("small"),
        out=tmp_path / "run",
        data="mnist",
        device="cpu",
        seed=seed,
        iterations=700,
        tensorboard=False,
    )
    assert Trainer(config).run() is True
    assert latest_checkpoint(config.out).name == "00000700"
    model, trained, _ = load_model(config.out, device="cpu")
    images = load_images("mnist", "test")
    data = TransformedImages(images.images, trained.sequence)
    evaluation = EvaluationConfig(num_images=1000, likelihood_images=1, importance_samples=1)
    rows = evaluate_model(model, data, evaluation)["transformations"]
    shares = {name: row["equivariance_over_copy"] for name, row in rows.items()}
    print(f"seed {seed}: E_k / copy = { {name: round(share, 3) for name, share in shares.items()} }")
    assert set(shares) == {"scale", "rotation", "hue"}
    for name, row in rows.items():
        assert row["equivariance_error"] < row["copy"], (name, row["equivariance_error"], row["copy"])
