"""The loss of a training batch as one module, and the random draws that go into it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ffrl.config import TrainConfig
from ffrl.distributed import num_ranks, rank
from ffrl.losses import sequence_losses
from ffrl.models import Autoencoder, SequenceVAE
from ffrl.models.baselines import Baseline
from ffrl.models.choice import draw_gumbel
from ffrl.ops.mlp_field import unread_values
from ffrl.records import ChosenFrames, SequenceBatch
from ffrl.supervision import is_labelled, supervise


class Draws(NamedTuple):
    """The noise of one iteration."""

    gumbel: Tensor | None  # (B, K) of k, where it is drawn
    noise: Tensor  # (B, *model.noise_shape) standard normal, of the codes


class TrainingObjective(nn.Module):
    """The weighted terms of the loss of a batch: what DistributedDataParallel wraps.

    Args:
        model: what is trained.
        config: of the run.
    """

    def __init__(self, model: Autoencoder, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def draw(self, iteration: int) -> Draws:
        """The noise of an iteration (1-based), from torch's generator.

        Each rank draws that of the joint batch and keeps its own rows, so that the generators of all ranks stay equal
        and the joint batch gets the noise that it would get in one process. (Only Hutchinson's signs are drawn within
        the op, the same on every rank.)
        """
        ranks, batch_size = num_ranks(), self.config.batch_size
        device = self.model.encoder.mu.weight.device
        gumbel = None
        if not is_labelled(self.config.supervision, iteration):
            kinds = len(self.config.sequence.transformations)
            gumbel = draw_gumbel(ranks * batch_size, kinds, device=device)[rank() :: ranks]
        shape = self.model.noise_shape(self.config.sequence.num_steps)
        return Draws(gumbel, torch.randn(ranks * batch_size, *shape, device=device)[rank() :: ranks])

    def forward(
        self, x: Tensor, k: Tensor, draws: Draws, iteration: int, frames: ChosenFrames | None = None
    ) -> dict[str, Tensor]:
        """Terms by name, each a scalar, of sequences x (B, T+1, C, I, I) and their k (B,), or of ``frames`` of them."""
        batch = SequenceBatch(x, k)
        with unread_values():
            if isinstance(self.model, Baseline):
                return self.model.terms(batch, draws.noise)
            assert isinstance(self.model, SequenceVAE)
            choice, index_terms = supervise(self.model, batch, self.config, iteration, draws.gumbel)
            losses = sequence_losses(self.model, batch, self.config.loss, draws.noise, choice, frames)
        return {**losses.terms(self.config.loss), **index_terms}
