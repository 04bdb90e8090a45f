"""How a method without a latent operator traverses: for each k a latent dimension and its end value, by search."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl.bars import counted
from ffrl.data import SequenceData
from ffrl.models.baselines import WithoutOperator

LARGEST, STEPS = 5.0, 50  # end values -5, -4.9, ..., 5

# Pixels that are decoded at a time: 4,096 frames of 28x28.
PIXELS = 4096 * 28 * 28


class Traversals(NamedTuple):
    """The best of all traversals of each transformation."""

    dimension: Tensor  # (K,) int64
    end_value: Tensor  # (K,)
    error: Tensor  # (K,) mean equivariance error on the images of the search


def end_values() -> Tensor:
    """The 101 end values -5, -4.9, ..., 5, float64."""
    return torch.arange(-STEPS, STEPS + 1, dtype=torch.float64) * (LARGEST / STEPS)


@torch.no_grad()
def search_traversals(
    model: WithoutOperator, data: SequenceData, *, num_images: int = 32, pixels: int = PIXELS
) -> Traversals:
    """For each k the dimension d and the end value e in [-5, 5] with the least mean of
    Σ_{t=1..T} |x_t - decode(z_t)|_1, where z_t[d] = z_0[d] + (e - z_0[d]) t/T and z_0 is the code of x_0.

    All D · 101 traversals of an image are decoded, once for all k that begin with it (in still images all do, in grids
    of factors every k has images of its own), and compared with the frames of these k.

    Args:
        model: as trained; it is left as it is.
        data: validation images, which neither training nor the score may have seen.
        num_images: of these, from the first on.
        pixels: that are decoded at a time, in whole traversals.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    count, kinds, steps = min(num_images, len(data)), data.num_transformations, data.num_steps
    frames = torch.stack([data.sequence(torch.arange(count, device=device), k).x for k in range(kinds)])
    wanted = frames[:, :, 1:].flatten(3)  # (K, n, T, P)
    starts = frames[:, :, 0]  # (K, n, C, I, I)
    together = bool((starts == starts[0]).all())
    share = torch.arange(1, steps + 1, device=device, dtype=frames.dtype) / steps
    ends = end_values().to(frames)
    candidates = torch.cartesian_prod(
        torch.arange(model.config.latent_dim, device=device), torch.arange(len(ends), device=device)
    )
    errors = torch.zeros(kinds, len(candidates), dtype=torch.float64, device=device)
    at_once = max(1, pixels // (steps * starts.shape[-1] ** 2))
    joined = [range(kinds)] if together else [range(k, k + 1) for k in range(kinds)]
    total = len(joined) * count * len(candidates)
    with counted("traversals that are tried", total, stays=False) as advance:
        for ks in joined:
            z0 = model.code(starts[ks[0]])  # (n, D)
            for image, first in itertools.product(range(count), range(0, len(candidates), at_once)):
                dimension, end = candidates[first : first + at_once].unbind(1)
                z = z0[image].expand(len(dimension), steps, -1).clone()  # (M, T, D)
                start = z0[image, dimension][:, None]
                moved = start + (ends[end][:, None] - start) * share
                z[torch.arange(len(dimension), device=device), :, dimension] = moved
                decoded = torch.sigmoid(model.decode_sequence(z)).flatten(2)  # (M, T, P)
                for k in ks:
                    distance = (decoded - wanted[k, image]).abs().sum((1, 2))
                    errors[k, first : first + at_once] += distance.double()
                advance(len(dimension))
    model.train(was_training)
    best = errors.argmin(1)  # the first of equals
    return Traversals(candidates[best, 0], ends[candidates[best, 1]], errors.gather(1, best[:, None])[:, 0] / count)


def choose_traversals(model: WithoutOperator, data: SequenceData, *, num_images: int = 32) -> dict[str, Any]:
    """Search, and let the model's ``carry`` move as found.

    Returns:
        {"num_images": ..., "transformations": {name: {"dimension": ..., "end_value": ..., "validation_error": ...}}}.
    """
    found = search_traversals(model, data, num_images=num_images)
    model.move_along(found.dimension, found.end_value)
    rows = [
        {"dimension": dimension, "end_value": end, "validation_error": error}
        for dimension, end, error in zip(*(part.tolist() for part in found), strict=True)
    ]
    return {
        "num_images": min(num_images, len(data)),
        "transformations": dict(zip(data.config.transformations, rows, strict=True)),
    }
