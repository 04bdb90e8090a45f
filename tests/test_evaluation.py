"""Evaluation over a whole test set: the right frames, every image once, each k on its own, no noise in the errors."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from ffrl.config import EvaluationConfig, SequenceConfig
from ffrl.data import TransformedImages
from ffrl.evaluation import evaluate_model, sequence_errors, summarize
from ffrl.models import LatentFlow, SequenceVAE
from ffrl.records import SequenceBatch
from tests.models.reference import naive_trajectory, random_batch, tiny_model
from tests.tolerances import FLOAT64, assert_matches

NAMES = ("scale", "rotation", "hue")
PIXELS = 3 * 8 * 8
QUICK = EvaluationConfig(batch_size=4, likelihood_images=3, importance_samples=2)
ERRORS = ("equivariance_error", "copy", "zero", "autoencoding", "reconstruction_0", "latent_equivariance_error")
LIKELIHOODS = ("log_likelihood", "elbo", "importance_weighted_bound")


def random_images(count: int, transformations: tuple[Any, ...] = NAMES, num_steps: int = 3) -> TransformedImages:
    images = torch.randint(0, 256, (count, 8, 8), dtype=torch.uint8)
    return TransformedImages(images, SequenceConfig(transformations=transformations, num_steps=num_steps))


class FlatImages:
    """Frame t >= 1 of image i under k is ½ + shift_k (i+1) 2^-t everywhere, frame 0 is ½ + ¼: every error is known."""

    def __init__(self, count: int, num_steps: int, shift: dict[str, float]) -> None:
        self.count, self.shift = count, list(shift.values())
        self.config = SequenceConfig(transformations=tuple(shift), num_steps=num_steps)  # type: ignore[arg-type]
        self.seen: list[tuple[int, list[int]]] = []

    def __len__(self) -> int:
        return self.count

    def sequence(self, indices: Tensor, k: int) -> SequenceBatch:
        self.seen.append((k, indices.tolist()))
        t = torch.arange(self.config.num_steps + 1, dtype=torch.float64)
        x = 0.5 + self.shift[k] * (indices[:, None].double() + 1) * 2.0**-t  # (B, T+1)
        x[:, 0] = 0.75
        return SequenceBatch(x[:, :, None, None, None].expand(-1, -1, 3, 8, 8), torch.full_like(indices, k))


def grey_model() -> SequenceVAE:
    """A model that decodes everything to ½."""
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    return model


def evaluate(model: SequenceVAE, data: Any, config: EvaluationConfig = QUICK, **changes: object) -> dict[str, Any]:
    return evaluate_model(model, data, dataclasses.replace(config, **changes))["transformations"]  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [NAMES, ("hue", "scale", "rotation"), ("rotation", "hue", "scale")])
def test_every_transformation_has_its_own_error(order: tuple[str, ...]):
    """One k is perfect, the others are not, in any order: a running mean over k would mix them."""
    shift = {"scale": 0.0, "rotation": 0.02, "hue": 0.03}
    data = FlatImages(7, 3, {name: shift[name] for name in order})
    result = evaluate(grey_model(), data)
    assert tuple(result) == order
    for name in NAMES:
        # Σ_{t=1..3} 2^-t = 7/8, the mean of i+1 over 7 images is 4
        assert result[name]["equivariance_error"] == pytest.approx(PIXELS * shift[name] * 4 * 7 / 8, abs=1e-9)
        assert result[name]["error_per_step"] == pytest.approx(
            [PIXELS * shift[name] * 4 * 2.0**-t for t in (1, 2, 3)], abs=1e-9
        )
        assert result[name]["reconstruction_0"] == pytest.approx(PIXELS * 0.25, abs=1e-9)
        assert result[name]["autoencoding"] == pytest.approx(result[name]["equivariance_error"], abs=1e-9)
        assert result[name]["copy"] == pytest.approx(PIXELS * (0.75 - shift[name] * 4 * 7 / 8), abs=1e-9)
        assert result[name]["zero"] == pytest.approx(PIXELS * (1.5 + shift[name] * 4 * 7 / 8), abs=1e-9)
        squared = (1 / 16 + shift[name] ** 2 * 14 / 3 * 21 / 64) / 4  # mean over 4 frames of the first 3 images
        likelihood = -0.5 * PIXELS * (math.log(2 * math.pi) + squared)
        assert result[name]["log_likelihood"] == pytest.approx(likelihood, abs=1e-9)
        assert result[name]["equivariance_over_copy"] == pytest.approx(
            result[name]["equivariance_error"] / result[name]["copy"], rel=1e-12
        )


@pytest.mark.parametrize(
    ("count", "batch_size", "num_images"),
    [(7, 4, None), (8, 4, None), (5, 100, None), (9, 4, 6), (3, 2, 50), (1, 1, None)],
)
def test_every_image_counts_once(count: int, batch_size: int, num_images: int | None):
    data = FlatImages(count, 2, {"scale": 0.01, "hue": 0.03})
    config = dataclasses.replace(QUICK, batch_size=batch_size, num_images=num_images)
    result = evaluate_model(grey_model(), data, config)  # type: ignore[arg-type]
    used = min(count, num_images or count)
    for k in (0, 1):
        batches = [indices for seen, indices in data.seen if seen == k]
        assert sorted(i for batch in batches for i in batch) == list(range(used))
        assert max(map(len, batches)) <= batch_size
    assert (result["num_images"], result["likelihood_images"]) == (used, min(used, 3))
    for name, shift in (("scale", 0.01), ("hue", 0.03)):
        row = result["transformations"][name]
        assert row["equivariance_error"] == pytest.approx(PIXELS * shift * 0.75 * (used + 1) / 2, abs=1e-9)
        # the variance of 1..n is n (n+1) / 12
        deviation = PIXELS * shift * 0.75 * math.sqrt(used * (used + 1) / 12) if used > 1 else 0
        assert row["equivariance_error_standard_error"] == pytest.approx(deviation / math.sqrt(used), abs=1e-9)


def test_summary_by_hand():
    errors = [torch.tensor([1.0, 2.0]), torch.tensor([6.0])]
    steps = [torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[6.0, 3.0]])]
    summary = summarize({"equivariance_error": errors, "copy": [torch.full((3,), 12.0)], "error_per_step": steps})
    assert summary["equivariance_error"] == 3
    assert summary["equivariance_error_standard_error"] == pytest.approx(math.sqrt(7 / 3))  # variance (4 + 1 + 9)/2
    assert summary["error_per_step"] == [3, 1]
    assert summary["equivariance_over_copy"] == 0.25


def test_errors_follow_the_posterior_mean_along_the_flow():
    model, (x, k) = tiny_model(), random_batch(4, 3)
    with torch.no_grad():
        model.encoder.log_var.bias.fill_(3.0)  # a wide posterior, so that a sample would show
    errors = sequence_errors(model, x, k)
    encoded = torch.stack([model.encoder(x[:, t])[0] for t in range(4)], dim=1)
    path = naive_trajectory(model.potential, encoded[:, 0].detach(), k, 3)
    decoded = torch.stack([model.decoder(path.z[:, t]) for t in range(4)], dim=1)
    autoencoded = torch.stack([model.decoder(encoded[:, t]) for t in range(4)], dim=1)
    force = torch.zeros(4, 3, dtype=torch.float64)
    initial = torch.zeros(4, dtype=torch.float64)
    for b, k_b in enumerate(k.tolist()):
        for t in (1, 2, 3):
            time = torch.tensor([float(t)], dtype=torch.float64)
            force[b, t - 1] = -(model.force(path.z[b, t - 1][None], time, k_b)[0] ** 2)
        z0 = encoded[b, :1].detach().requires_grad_()
        (velocity,) = torch.autograd.grad(model.potential(z0, 0.0, k_b).sum(), z0)
        initial[b] = velocity.square().sum()
    residual = path.du_dt + 0.5 * path.du_dz.square().sum(-1) - force
    per_step = (x - decoded).abs().sum((2, 3, 4))
    copy_per_step = (x - x[:, :1]).abs().sum((2, 3, 4))
    expected = {
        "equivariance_error": per_step[:, 1:].sum(1),
        "copy": copy_per_step[:, 1:].sum(1),
        "zero": x[:, 1:].abs().sum((1, 2, 3, 4)),
        "autoencoding": (x - autoencoded)[:, 1:].abs().sum((1, 2, 3, 4)),
        "reconstruction_0": per_step[:, 0],
        "latent_equivariance_error": (encoded - path.z)[:, 1:].abs().sum((1, 2)),
        "error_per_step": per_step[:, 1:],
        "copy_per_step": copy_per_step[:, 1:],
        "hj_residual": residual.square().mean(1),
        "initial_condition": initial,
    }
    assert_matches(errors, expected, FLOAT64)
    assert all(not value.requires_grad for value in errors.values())


def test_errors_have_no_noise_in_them():
    model, data = tiny_model(dtype=torch.float32).train(), random_images(6)
    first, again = evaluate(model, data), evaluate(model, data)
    assert first == again
    other = evaluate(model, data, seed=1)
    for name in NAMES:
        for metric in ERRORS:
            assert other[name][metric] == first[name][metric]
        for metric in LIKELIHOODS:
            assert other[name][metric] != first[name][metric]


def test_global_generators_are_left_alone():
    model, data = tiny_model(dtype=torch.float32), random_images(5)
    before = torch.get_rng_state(), random.getstate(), str(numpy.random.get_state())
    first = evaluate(model, data)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(numpy.random.get_state()))
    torch.manual_seed(99)
    assert evaluate(model, data) == first


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_batch_size_does_not_matter(batch_size: int):
    model, data = tiny_model(dtype=torch.float32), random_images(10)
    whole = evaluate(model, data, batch_size=100, likelihood_images=8)
    parts = evaluate(model, data, batch_size=batch_size, likelihood_images=8)
    for name in NAMES:
        for metric, value in whole[name].items():
            assert parts[name][metric] == pytest.approx(value, rel=1e-5, abs=1e-6), f"{name}, {metric}"


def test_baselines_are_those_of_the_data():
    data = random_images(5)
    result = evaluate(tiny_model(dtype=torch.float32), data)
    for k, name in enumerate(NAMES):
        x = data.sequence(torch.arange(5), k).x.double()
        assert result[name]["copy"] == pytest.approx(
            (x[:, 1:] - x[:, :1]).abs().sum((1, 2, 3, 4)).mean().item(), rel=1e-6
        )
        assert result[name]["zero"] == pytest.approx(x[:, 1:].sum((1, 2, 3, 4)).mean().item(), rel=1e-6)
        assert sum(result[name]["copy_per_step"]) == pytest.approx(result[name]["copy"], rel=1e-6)
        ratio = result[name]["equivariance_error"] / result[name]["copy"]
        assert result[name]["equivariance_over_copy"] == pytest.approx(ratio, rel=1e-12)


def test_a_transformation_that_does_nothing_is_evaluated():
    """Its copy baseline is zero, so that the ratio to it has no value; the errors have."""
    images = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    data = TransformedImages(images, SequenceConfig(transformations=("rotation",), num_steps=2, max_rotation=0.0))
    row = evaluate(tiny_model(num_potentials=1, dtype=torch.float32), data)["rotation"]
    assert row["copy"] == 0
    assert row["equivariance_error"] > 1
    assert row["equivariance_over_copy"] is None


@pytest.mark.parametrize(
    ("stretch", "log_det", "is_bound"), [(0.1, "exact", True), (-0.1, "exact", False), (0.1, "trace", False)]
)
def test_only_an_exact_determinant_of_a_flow_that_does_not_fold_gives_bounds(monkeypatch, stretch, log_det, is_bound):
    monkeypatch.setattr(LatentFlow, "smallest_stretch", lambda _, z, k: torch.full(z[:, 1:, 0].shape, stretch))
    config = dataclasses.replace(QUICK, log_det=log_det)
    rows = evaluate_model(tiny_model().float(), random_images(5), config)["transformations"]
    assert [row["is_bound"] for row in rows.values()] == [is_bound] * 3
    assert [row["folding_steps"] for row in rows.values()] == [float(stretch < 0)] * 3
