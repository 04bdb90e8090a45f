"""How a method without a latent operator traverses: for each k a latent dimension and its end value, by search."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl.data import TransformedImages
from ffrl.models.baselines import WithoutOperator

LARGEST, STEPS = 5.0, 50  # end values -5, -4.9, ..., 5

# Frames that are decoded at a time.
ROWS = 4096


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
    model: WithoutOperator, data: TransformedImages, *, num_images: int = 32, rows: int = ROWS
) -> Traversals:
    """For each k the dimension d and the end value e in [-5, 5] with the least mean of
    Σ_{t=1..T} |x_t - decode(z_t)|_1, where z_t[d] = z_0[d] + (e - z_0[d]) t/T and z_0 is the code of x_0.

    All D · 101 traversals of an image are decoded once and compared with the frames of every k.

    Args:
        model: as trained; it is left as it is.
        data: validation images, which neither training nor the score may have seen.
        num_images: of these, from the first on.
        rows: frames that are decoded at a time.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    count, kinds, steps = min(num_images, len(data)), data.num_transformations, data.num_steps
    frames = torch.stack([data.sequence(torch.arange(count, device=device), k).x for k in range(kinds)])
    wanted = frames[:, :, 1:].flatten(3)  # (K, n, T, P)
    z0 = model.code(frames[0, :, 0])  # (n, D): x_0 is the same under every k
    latent_dim = z0.shape[1]
    ends = end_values().to(z0)
    share = torch.arange(1, steps + 1, device=device, dtype=z0.dtype) / steps
    candidates = torch.cartesian_prod(torch.arange(latent_dim, device=device), torch.arange(len(ends), device=device))
    errors = torch.zeros(kinds, len(candidates), dtype=torch.float64, device=device)
    at_once = max(1, rows // steps)
    for image in range(count):
        for first in range(0, len(candidates), at_once):
            dimension, end = candidates[first : first + at_once].unbind(1)
            z = z0[image].expand(len(dimension), steps, latent_dim).clone()  # (M, T, D)
            start = z0[image, dimension][:, None]
            z[torch.arange(len(dimension), device=device), :, dimension] = start + (ends[end][:, None] - start) * share
            decoded = torch.sigmoid(model.decode_sequence(z)).flatten(2)  # (M, T, P)
            for k in range(kinds):
                distance = (decoded - wanted[k, image]).abs().sum((1, 2))
                errors[k, first : first + at_once] += distance.double()
    model.train(was_training)
    best = errors.argmin(1)  # the first of equals
    return Traversals(candidates[best, 0], ends[candidates[best, 1]], errors.gather(1, best[:, None])[:, 0] / count)


def choose_traversals(model: WithoutOperator, data: TransformedImages, *, num_images: int = 32) -> dict[str, Any]:
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
