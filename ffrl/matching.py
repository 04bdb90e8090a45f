"""A learned k names the transformations in an order of its own: find it, and put the model into that of the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ffrl.data import SequenceData
from ffrl.errors import ArgumentError
from ffrl.models import SequenceVAE
from ffrl.supervision import recognized


def confusion(model: SequenceVAE, data: SequenceData, *, num_images: int, batch_size: int = 250) -> Tensor:
    """How often transformation i is recognized as potential j, (K, K) int64, over the first ``num_images`` images."""
    kinds = data.num_transformations
    counts = torch.zeros(kinds, kinds, dtype=torch.int64)
    device = next(model.parameters()).device
    for k in range(kinds):
        for indices in torch.arange(min(num_images, len(data)), device=device).split(batch_size):
            found = recognized(model, data.sequence(indices, k).x)
            counts[k] += torch.bincount(found, minlength=kinds).cpu()
    return counts


def best_assignment(counts: Tensor) -> list[int]:
    """The potential of each transformation that agrees with the most sequences: Hungarian, each potential used once."""
    from scipy.optimize import linear_sum_assignment  # here: only a learned k needs SciPy

    return linear_sum_assignment(counts.numpy(), maximize=True)[1].tolist()


@torch.no_grad()
def reorder_potentials(model: SequenceVAE, order: list[int]) -> None:
    """Make potential ``order[i]`` number i, in place, with its force, diffusivity, wave speed and logit."""
    kinds = model.num_potentials
    if sorted(order) != list(range(kinds)):
        raise ArgumentError("order", order, f"a permutation of 0..{kinds - 1}")
    stacked = [*model.potential.parameters(), *model.pde.parameters(), model.prior.diffusivity]
    if model.pde.needs_force:
        stacked += model.force.parameters()
    if model.transformation is not None:
        stacked += model.transformation.logits.parameters()
    for parameter in stacked:
        parameter.copy_(parameter[order])


def match_potentials(
    model: SequenceVAE, data: SequenceData, *, reorder: bool = True, num_images: int = 1000, batch_size: int = 250
) -> dict[str, Any] | None:
    """How well a model recognizes k; where it named its potentials itself, they are first put into the data's order.

    Args:
        model: as trained.
        data: test images.
        reorder: whether the names of k are the model's own, so that its potentials are reordered, in place, to agree
            with the data as often as possible. Where labels were seen in training, they name the potentials.
        num_images: test images that are looked at, under each transformation.
        batch_size: at a time.

    Returns:
        None for a model without recognition, which is left alone. Otherwise {"potential_of": {name: index in the saved
        model}, "accuracy": share of sequences whose k is recognized, "confusion": rows of transformations, columns of
        potentials in their new order, "num_images": ...}.
    """
    if model.transformation is None:
        return None
    was_training = model.training
    model.eval()
    counts = confusion(model, data, num_images=num_images, batch_size=batch_size)
    model.train(was_training)
    order = list(range(model.num_potentials))
    if reorder:
        order = best_assignment(counts)
        reorder_potentials(model, order)
    matched = counts[:, order]
    return {
        "potential_of": dict(zip(data.config.transformations, order, strict=True)),
        "accuracy": matched.trace().item() / matched.sum().item(),
        "confusion": matched.tolist(),
        "num_images": min(num_images, len(data)),
    }
