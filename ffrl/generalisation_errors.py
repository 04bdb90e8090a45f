"""How a trained model does where it was not trained: order of flows, more steps, unseen classes, other images.

Compositions against their ground truth are ``ffrl.traversals.composition_errors``. Errors are L1 distances as in
``ffrl.metrics``, per sample, from the posterior mean of x_0. Shapes: B batch, S steps, D latent.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ffrl.checks import require_integer
from ffrl.config import SequenceConfig
from ffrl.data import TransformedImages
from ffrl.data.sequences import transformation_parameter
from ffrl.errors import ArgumentError
from ffrl.evaluation import mean_values, sequence_errors, summarize
from ffrl.metrics import check_sequences, frame_errors
from ffrl.models import SequenceVAE
from ffrl.traversals import composed_frames, decode, follow, progress_of, schedule_steps

Values = dict[str, list[Tensor]]


def index_batches(model: SequenceVAE, data: TransformedImages, num_images: int, batch_size: int) -> Iterator[Tensor]:
    """The first ``num_images`` image numbers in batches, on the device of the model; ArgumentError below 1."""
    require_integer("num_images", num_images, 1)
    require_integer("batch_size", batch_size, 1)
    device = next(model.parameters()).device
    yield from torch.arange(min(num_images, len(data)), device=device).split(batch_size)


def commutator(one: Tensor, other: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """How far two ways from one start end apart, and how long they are.

    Args:
        one, other: ends of the two ways, (B, ...), images or latent codes.
        start: where both began, the same shape.

    Returns:
        |one - other|_1 and ½ (|one - start|_1 + |other - start|_1), (B,) each. By the triangle inequality the first is
        at most twice the second.
    """
    check_sequences("other", other, one)
    check_sequences("start", start, one)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().flatten(1).sum(1)

    return distance(one, other), (distance(one, start) + distance(other, start)) / 2


@torch.no_grad()
def commutator_errors(
    model: SequenceVAE, data: TransformedImages, *, num_images: int = 1000, batch_size: int = 250
) -> list[dict[str, Any]]:
    """How much the order of two flows matters: k then j against j then k, n = max(1, T // 2) steps each, own clocks.

    The true transformations commute, so that both ways have one true end x_{2n}, which shows both at n steps.

    Returns:
        A row for each pair, with its "transformations", "num_steps" (n) and the means of
        "commutator", |decode(z_kj) - decode(z_jk)|_1 at the end, beside "step", ½ Σ |decode(z_end) - decode(z_0)|_1;
        "latent_commutator" and "latent_step", the same of the codes;
        "error_forward" and "error_reversed", |x_{2n} - decode(z_end)|_1 either way; "copy", |x_{2n} - x_0|_1.
        "commutator_over_step" and "latent_commutator_over_step" are ratios of the means, None where no step is taken;
        0 is commuting, 2 the most there can be.
    """
    half = max(1, data.num_steps // 2)
    names, kinds = data.config.transformations, range(data.num_transformations)
    rows = []
    for k, j in itertools.combinations(kinds, 2):
        ways = [schedule_steps([first] * half + [second] * half) for first, second in ((k, j), (j, k))]
        progress = progress_of(ways[0], len(kinds))[[0, -1]]  # (2, K): the start and the end
        values: Values = defaultdict(list)
        for indices in index_batches(model, data, num_images, batch_size):
            x = composed_frames(data, indices, progress)  # (B, 2, 3, I, I)
            z0 = model.encoder(x[:, 0])[0]
            ends = [follow(model.potential, z0, way, backend=model.flow.backend)[:, -1] for way in ways]
            z = torch.stack([z0, *ends], dim=1)  # (B, 3, D)
            images = decode(model, z)
            truth = torch.stack([x[:, 0], x[:, 1], x[:, 1]], dim=1)
            errors = frame_errors(truth, images)
            found, step = commutator(images[:, 1], images[:, 2], images[:, 0])
            latent, latent_step = commutator(ends[0], ends[1], z0)
            values["commutator"].append(found)
            values["step"].append(step)
            values["latent_commutator"].append(latent)
            values["latent_step"].append(latent_step)
            values["error_forward"].append(errors[:, 1])
            values["error_reversed"].append(errors[:, 2])
            values["copy"].append(frame_errors(x, x[:, :1].expand_as(x))[:, 1])
        row: dict[str, Any] = {"transformations": [names[k], names[j]], "num_steps": half, **mean_values(values)}
        for name in ("commutator", "latent_commutator"):
            step = row[name.replace("commutator", "step")]
            row[f"{name}_over_step"] = row[name] / step if step else None
        rows.append(row)
    return rows


def meaningful_steps(config: SequenceConfig, name: str, num_steps: int) -> int:
    """The most steps, up to ``num_steps``, for which a transformation continued linearly is one.

    Angles of rotation and hue always are. A magnification below 1 at the last frame reaches 0 at some step; before it,
    the steps count.
    """
    if name != "scale":
        return num_steps
    good = (step for step in range(num_steps, 0, -1) if transformation_parameter(config, name, step) > 0)
    return next(good, 0)


@torch.no_grad()
def extrapolation_errors(
    model: SequenceVAE, data: TransformedImages, *, factor: int = 2, num_images: int = 1000, batch_size: int = 250
) -> dict[str, dict[str, Any]]:
    """Error of every step of flows that run ``factor`` times as long as in training.

    The truth continues linearly: step s shows the transformation at s/T of its range (scale 1 + (max_scale - 1) s/T,
    angles in proportion), as far as that has a meaning (``meaningful_steps``). A hue that comes round to where it began
    makes copying right again. The potentials meet times t > T that they never saw.

    Returns:
        {name: row}. A row has the lists over s = 1..S "error_per_step", "copy_per_step" (|x_s - x_0|_1) and
        "zero_per_step" (|x_s|_1), "trained_steps" (T), "num_steps" (S <= factor T), and the sums "trained" over
        s <= T and "extrapolated" over s > T, each {"equivariance_error", "copy", "zero"}; the latter is None without
        such steps.
    """
    require_integer("factor", factor, 1)
    trained = data.num_steps
    results: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(data.config.transformations):
        count = meaningful_steps(data.config, name, factor * trained)
        steps = schedule_steps([k] * count)
        values: Values = defaultdict(list)
        for indices in index_batches(model, data, num_images, batch_size):
            x = composed_frames(data, indices, progress_of(steps, data.num_transformations))
            z = follow(model.potential, model.encoder(x[:, 0])[0], steps, backend=model.flow.backend)
            values["error_per_step"].append(frame_errors(x, decode(model, z))[:, 1:])
            values["copy_per_step"].append(frame_errors(x, x[:, :1].expand_as(x))[:, 1:])
            values["zero_per_step"].append(frame_errors(x, torch.zeros_like(x))[:, 1:])
        row = mean_values(values)
        sums = [
            {
                metric: sum(row[f"{short}_per_step"][part])
                for metric, short in (("equivariance_error", "error"), ("copy", "copy"), ("zero", "zero"))
            }
            for part in (slice(trained), slice(trained, None))
        ]
        row |= {"trained": sums[0], "extrapolated": sums[1] if count > trained else None}
        results[name] = row | {"trained_steps": trained, "num_steps": count}
    return results


@torch.no_grad()
def equivariance_errors(
    model: SequenceVAE, data: TransformedImages, *, num_images: int = 1000, batch_size: int = 250
) -> dict[str, Any]:
    """The errors of ``ffrl.evaluation.sequence_errors`` on any images, such as unseen classes: {name: summary}."""
    if data.num_transformations != model.num_potentials:
        raise ArgumentError("data.num_transformations", data.num_transformations, f"the model's {model.num_potentials}")
    results = {}
    for k, name in enumerate(data.config.transformations):
        values: Values = defaultdict(list)
        for indices in index_batches(model, data, num_images, batch_size):
            for metric, value in sequence_errors(model, *data.sequence(indices, k)).items():
                values[metric].append(value)
        results[name] = {"num_images": min(num_images, len(data)), **summarize(values)}
    return results
