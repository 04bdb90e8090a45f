"""Where k comes from in training: from the data, or recognized from the frames (FFRL eq. 8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ffrl.config import SupervisionConfig
from ffrl.errors import ArgumentError
from ffrl.models import SequenceVAE
from ffrl.models.choice import Choice, draw_choice
from ffrl.records import SequenceBatch


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
    return model.transformation(x)


def choose(
    model: SequenceVAE, batch: SequenceBatch, config: SupervisionConfig, iteration: int
) -> tuple[Choice, Tensor | None]:
    """The k that the objective of an iteration goes by, and the loss of its recognition.

    Returns:
        (choice, index_loss). Supervised: the batch's own k and None. Weak: k drawn from q(k | x), and (B,)
        KL(q(k | x) || uniform), or with ``index_loss`` "label" the cross-entropy -log q(k_batch | x), which the paper's
        pseudo-code has there. Semi: on labelled batches the batch's own k and the cross-entropy, on the others as weak.
    """
    if config.mode == "supervised":
        return Choice(batch.k), None
    logits = recognize(model, batch.x)
    labelled = is_labelled(config, iteration)
    choice = Choice(batch.k) if labelled else draw_choice(logits, gumbel_temperature(config, iteration))
    if labelled or config.index_loss == "label":
        return choice, F.cross_entropy(logits, batch.k, reduction="none")
    return choice, index_prior_kl(logits)


@torch.no_grad()
def recognized(model: SequenceVAE, x: Tensor) -> Tensor:
    """The most probable k of each sequence, (B,) int64."""
    return recognize(model, x).argmax(1)
