"""Where k comes from in training: from the data, or recognized from the frames (FFRL eq. 8)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ffrl.config import SupervisionConfig, TrainConfig
from ffrl.distributed import mean_over_ranks
from ffrl.errors import ArgumentError
from ffrl.models import SequenceVAE
from ffrl.models.choice import Choice, draw_choice, draw_gumbel
from ffrl.records import SequenceBatch

# So a batch that one potential takes whole costs 1,000 log K nats, more than reconstructions differ by at first.
# In trials on MNIST 100 was enough; with 0 one potential took over in one of two seeds.
BALANCE_WEIGHT = 1000.0


def gumbel_temperature(config: SupervisionConfig, iteration: int) -> float:
    """max(exp(-temperature_decay · iteration), min_temperature)."""
    return max(math.exp(-config.temperature_decay * iteration), config.min_temperature)


def is_labelled(config: SupervisionConfig, iteration: int) -> bool:
    """Whether the batch of an iteration (1-based) carries k.

    With "semi" these are spread evenly: of the first n batches, ⌊n · labelled_fraction⌋.
    """
    if config.mode != "semi":
        return config.mode == "supervised"
    fraction = config.labelled_fraction
    return math.floor(iteration * fraction) > math.floor((iteration - 1) * fraction)


def index_prior_kl(logits: Tensor) -> Tensor:
    """KL(q(k | x_0..x_T) || uniform), (B,), in nats, of logits (B, K)."""
    log_q = F.log_softmax(logits, dim=1)
    return (log_q.exp() * log_q).sum(1) + math.log(logits.shape[1])


def recognize(model: SequenceVAE, x: Tensor) -> Tensor:
    """Logits of q(k | x_0..x_T), (B, K), of sequences x (B, T+1, C, I, I).

    Raises:
        ArgumentError: the model has no recognition network (it was trained with k given), or one for another T.
    """
    if model.transformation is None:
        raise ArgumentError("model.transformation", "None", "a model trained with supervision.mode 'weak' or 'semi'")
    if x.shape[1] != model.transformation.num_frames:
        raise ArgumentError("x.shape[1]", x.shape[1], f"{model.transformation.num_frames}, the frames it was made for")
    with model.autocast():
        return model.transformation(x).to(x.dtype)


def balance_kl(logits: Tensor) -> Tensor:
    """KL(mean_b q(k | x_b) || uniform), a scalar in nats: 0 where the potentials share the batch (B, K) evenly.

    The mean over b of ``index_prior_kl`` is this plus the mutual information of k and x (Hoffman & Johnson, 2016). Of
    several processes the batch is the joint one.
    """
    q = mean_over_ranks(logits.softmax(1).mean(0))
    return torch.special.xlogy(q, q).sum() + math.log(logits.shape[1])


class Supervision(NamedTuple):
    """The k that the objective of an iteration goes by, and the weighted scalar terms of its recognition."""

    choice: Choice
    terms: dict[str, Tensor]


def supervise(
    model: SequenceVAE, batch: SequenceBatch, config: TrainConfig, iteration: int, gumbel: Tensor | None = None
) -> Supervision:
    """Where the k of a training batch comes from, and what its recognition adds to the loss.

    Supervised: the batch's own k, no terms. Weak: k drawn from q(k | x) and the terms "index", the batch mean of
    KL(q(k | x) || uniform), or with ``index_loss`` "label" of the cross-entropy -log q(k_batch | x), which the paper's
    pseudo-code has there; and "balance", the weighted ``balance_kl``. Semi: on labelled batches the batch's own k and
    the cross-entropy, on the others as weak. ``gumbel`` is the noise (B, K) of the drawing, by default from torch's
    generator.
    """
    how = config.supervision
    if how.mode == "supervised":
        return Supervision(Choice(batch.k), {})
    logits = recognize(model, batch.x)
    labelled = is_labelled(how, iteration)
    if labelled:
        choice = Choice(batch.k)
    else:
        gumbel = draw_gumbel(*logits.shape, device=logits.device) if gumbel is None else gumbel
        choice = draw_choice(logits, gumbel_temperature(how, iteration), gumbel)
    by_label = labelled or how.index_loss == "label"
    index = F.cross_entropy(logits, batch.k) if by_label else index_prior_kl(logits).mean()
    weight = how.balance_weight
    if weight is None:
        weight = BALANCE_WEIGHT if config.mixed_batches and how.index_loss == "prior" else 0.0
    balance = index.new_zeros(()) if labelled or not weight else weight * balance_kl(logits)
    return Supervision(choice, {"index": index, "balance": balance})


@torch.no_grad()
def recognized(model: SequenceVAE, x: Tensor) -> Tensor:
    """The most probable k of each sequence, (B,) int64."""
    return recognize(model, x).argmax(1)
