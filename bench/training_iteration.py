"""One iteration of training on synthetic images, as ``ffrl.trainer`` does it, which imports more than PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.contenders import PARITY_ROWS
from ffrl import models
from ffrl.config import TrainConfig
from ffrl.data import SequenceData, TransformedImages
from ffrl.ledger import LossLedger
from ffrl.models import Autoencoder
from ffrl.objective import Draws, TrainingObjective
from ffrl.records import ChosenFrames, SequenceBatch
from ffrl.training_step import take_step

NUM_IMAGES = 512

Terms = dict[str, Tensor]
# (model, batch, configuration, 1-based iteration, noise or None: drawn) -> the weighted terms whose sum is the loss.
Objective = Callable[[Any, SequenceBatch, TrainConfig, int, Tensor | None], Terms]


class Problem(NamedTuple):
    config: TrainConfig
    data: SequenceData
    batch: SequenceBatch  # of PARITY_ROWS sequences, or of all of a smaller batch, that results are compared on
    noise: Tensor  # (its sequences, D)

    def training_batch(self, number: int) -> SequenceBatch:
        """The batch of an iteration."""
        config = self.config
        return self.data.training_batch(config.seed, number, config.batch_size, config.mixed_batches)


def make_problem(config: TrainConfig, device: torch.device, parity_rows: int = PARITY_ROWS) -> Problem:
    """Always the same images and noise, on the device."""
    generator = torch.Generator().manual_seed(0)
    size = config.model.image_size
    images = torch.randint(0, 256, (NUM_IMAGES, size, size), dtype=torch.uint8, generator=generator)
    data = TransformedImages(images, config.sequence, device)
    noise = torch.randn(parity_rows, config.model.latent_dim, generator=generator).to(device)
    return Problem(config, data, data.training_batch(config.seed, 0, parity_rows, config.mixed_batches), noise)


def build_model(config: TrainConfig, backend: str) -> Any:
    """The model of the configuration's method, always with the same weights."""
    torch.manual_seed(config.seed)
    return models.build_model(dataclasses.replace(config, backend=backend))


def sequence_terms(
    model: Autoencoder,
    batch: SequenceBatch,
    config: TrainConfig,
    number: int,
    noise: Tensor | None = None,
    *,
    frames: ChosenFrames | None = None,
) -> Terms:
    """The objective that the trainer minimises; ``frames`` are those of the batch where it does not hold all."""
    objective = TrainingObjective(model, config)
    draws = objective.draw(number) if noise is None else Draws(None, noise)
    return objective(batch.x, batch.k, draws, number, frames)


class Iteration:
    """One step of the trainer: batch, loss, gradients, their norm, the check on the device, Adam, projection.

    Args:
        problem: the data and the configuration.
        model: whose ``parameter_groups`` are trained, with a ``project_``.
        objective: what is minimised.
    """

    def __init__(self, problem: Problem, model: Any, objective: Objective = sequence_terms) -> None:
        self.problem, self.model, self.objective, self.number = problem, model, objective, 0
        groups, rate = model.parameter_groups(), problem.config.optimizer.learning_rate
        self.optimizer = torch.optim.Adam(groups, lr=rate, fused=True)
        self.ledger = LossLedger(problem.data.device)

    def __call__(self) -> None:
        """Does not wait for the device."""
        self.number += 1
        batch = self.problem.training_batch(self.number)
        terms = self.objective(self.model, batch, self.problem.config, self.number, None)
        take_step(self.model, self.optimizer, terms, self.ledger, self.number)

    def values(self) -> list[float]:
        """The terms of the last iteration, their sum and the norm of its gradient."""
        return list(self.ledger.last().values())
