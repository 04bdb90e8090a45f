"""Likelihoods of a trained model: parts that add up, a bound that reaches a known likelihood, a ceiling that holds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ffrl.config import EvaluationConfig, LossConfig, SequenceConfig
from ffrl.data import TransformedImages
from ffrl.evaluation import evaluate_model, frame_likelihoods, sequence_likelihoods
from ffrl.losses import sequence_losses
from ffrl.models import LatentFlow, SequenceVAE
from ffrl.records import SequenceBatch
from tests.models.baselines.models import baseline
from tests.models.reference import FieldPotential, random_batch, tiny_model
from tests.potentials import PlaneWave, QuadraticField
from tests.tolerances import ROUNDING, relative_error

PIXELS = 3 * 8 * 8
LIKELIHOODS = ("log_likelihood", "elbo", "importance_weighted_bound")


def trained(data: TransformedImages, iterations: int = 40) -> SequenceVAE:
    model = tiny_model(dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for iteration in range(iterations):
        batch = data.training_batch(seed=0, iteration=iteration, batch_size=12, mixed=True)
        loss = torch.stack(list(sequence_losses(model, batch, LossConfig()).terms(LossConfig()).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.project_()
    return model


@pytest.mark.parametrize("is_trained", [False, True])
def test_likelihoods_do_not_exceed_their_ceiling_and_the_bound_exceeds_the_elbo(is_trained: bool):
    images = torch.randint(0, 256, (12, 8, 8), dtype=torch.uint8)
    data = TransformedImages(images, SequenceConfig(num_steps=3))
    model = trained(data) if is_trained else tiny_model(dtype=torch.float32)
    result = evaluate_model(model, data, EvaluationConfig(importance_samples=8))
    ceiling = result["log_prob_ceiling"]
    assert ceiling == pytest.approx(-0.5 * PIXELS * math.log(2 * math.pi))
    for row in result["transformations"].values():
        assert all(row[metric] < ceiling for metric in LIKELIHOODS)
        assert row["elbo"] < row["importance_weighted_bound"]
    assert result["diffusivity"] == model.prior.diffusivity.tolist()
    assert (result["num_steps"], result["importance_samples"], result["log_det"]) == (3, 8, "exact")


class LinearGaussian(torch.nn.Module):
    """What ``sequence_likelihoods`` needs of a model: decode(z) = W z + ½, a quadratic flow, a rough posterior."""

    def __init__(self, a: Tensor, diffusivity: float, pixels: int, scale: float = 0.02) -> None:
        super().__init__()
        latent_dim = a.shape[-1]
        like = tiny_model(num_potentials=1, latent_dim=latent_dim)
        self.potential = QuadraticField(a[None], 0 * a[None], 0 * a[None])
        self.flow, self.prior = LatentFlow(self.potential), like.prior  # type: ignore[arg-type]
        torch.nn.init.constant_(self.prior.diffusivity, diffusivity)
        self.weight = scale * torch.randn(pixels, latent_dim, dtype=torch.float64)
        precision = torch.eye(latent_dim, dtype=torch.float64) + self.weight.T @ self.weight
        self.covariance = torch.linalg.inv(precision)

    def encoder(self, x_0: Tensor) -> tuple[Tensor, Tensor]:
        mu = (x_0.flatten(1) - 0.5) @ self.weight @ self.covariance + 0.1
        return mu, (1.5 * self.covariance.diagonal()).log().expand_as(mu)

    encode = encoder

    def decode_sequence(self, z: Tensor) -> Tensor:
        return torch.logit(0.5 + z @ self.weight.T)[:, :, None, None]  # (B, T+1, 1, 1, pixels)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x_t) = log N(x_t; ½, I + (1 + 2 D t) W Wᵀ) of x (B, T+1, 1, 1, pixels), the mean over t, (B,)."""
        total = torch.zeros(x.shape[0], dtype=x.dtype)
        for t in range(x.shape[1]):
            spread = (1 + 2 * self.prior.diffusivity.item() * t) * self.weight @ self.weight.T
            identity, half = torch.eye(spread.shape[0], dtype=x.dtype), torch.full(spread.shape[:1], 0.5, dtype=x.dtype)
            total += torch.distributions.MultivariateNormal(half, identity + spread).log_prob(x[:, t].flatten(1))
        return total / x.shape[1]


def test_likelihoods_of_a_linear_gaussian_model():
    """p(x_t) = N(½, I + (1 + 2 D t) W Wᵀ) is known: the bound comes from below and reaches it, the ELBO stays short."""
    pixels, diffusivity, samples = 600, 0.1, 400
    a = 0.1 * torch.tensor([[1.0, 0.5], [0.5, -1.0]], dtype=torch.float64)
    model = LinearGaussian(a, diffusivity, pixels)
    z0 = torch.randn(6, 2, dtype=torch.float64)
    z = torch.stack([z0, z0 + z0 @ a], dim=1)
    mean = torch.sigmoid(model.decode_sequence(z))
    x = mean + torch.randn_like(mean)
    k = torch.zeros(6, dtype=torch.int64)
    config = EvaluationConfig(importance_samples=samples)
    found = sequence_likelihoods(model, x, k, config, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    log_p = model.log_likelihood(x)
    assert relative_error(torch.sigmoid(model.decode_sequence(z)).flatten(2), 0.5 + z @ model.weight.T) < ROUNDING
    assert (found["importance_weighted_bound"] - log_p).abs().max() < 0.1
    assert (found["importance_weighted_bound"] - log_p).mean().abs() < 0.03
    assert (log_p - found["elbo"]).min() > 0.02
    assert bool((found["log_likelihood"] > found["elbo"]).all())


def test_bound_converges_to_the_likelihood_as_samples_are_added():
    """The error of the bound falls with n, to nothing, on three frames under a flow whose log-determinant is exact.

    det(I + A) is 1.55, and 1 + Δu of the trace form 1.5: with it every estimate is off by (1 + 2)/3 log(1.55/1.5).
    """
    a = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64)
    model = LinearGaussian(a, diffusivity=0.2, pixels=600, scale=0.014)
    step = torch.eye(2, dtype=torch.float64) + a
    z0 = 0.7 * torch.randn(16, 2, dtype=torch.float64)
    mean = torch.sigmoid(model.decode_sequence(torch.stack([z0, z0 @ step, z0 @ step @ step], dim=1)))
    x, k = mean + torch.randn_like(mean), torch.zeros(16, dtype=torch.int64)
    log_p = model.log_likelihood(x)

    def errors(samples: int, log_det: str = "exact") -> Tensor:
        config = EvaluationConfig(importance_samples=samples, log_det=log_det)  # type: ignore[arg-type]
        found = sequence_likelihoods(model, x, k, config, torch.Generator().manual_seed(5))  # type: ignore[arg-type]
        return found["importance_weighted_bound"] - log_p

    by_count = {n: errors(n) for n in (1, 8, 64, 512)}
    squared = [by_count[n].square().mean().sqrt().item() for n in by_count]
    assert all(larger > 1.5 * smaller for larger, smaller in itertools.pairwise(squared))
    assert squared[-1] < 0.03 < 0.3 < squared[0]
    assert abs(by_count[512].mean().item()) < 0.01 < 0.1 < -by_count[1].mean().item()  # from below
    shift = (1 + 2) / 3 * math.log(1.55 / 1.5)
    assert (errors(64, "trace") - by_count[64] + shift).abs().max() < 1e-9


@pytest.mark.parametrize("log_det", ["exact", "trace"])
def test_one_sample_is_the_elbo_and_its_parts_add_up(log_det: str):
    model, (x, k) = tiny_model(), random_batch(3, 2)
    config = EvaluationConfig(importance_samples=1, log_det=log_det)  # type: ignore[arg-type]
    found = sequence_likelihoods(model, x, k, config, torch.Generator().manual_seed(3))
    assert relative_error(found["importance_weighted_bound"], found["elbo"]) < ROUNDING
    noise = torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    losses = sequence_losses(model, SequenceBatch(x, k), LossConfig(log_det=log_det), noise)  # type: ignore[arg-type]
    assert relative_error(found["log_likelihood"], -losses.reconstruction.mean(1)) < ROUNDING
    mu, log_var = model.encoder(x[:, 0])
    z0 = mu + (0.5 * log_var).exp() * noise
    q, p = torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0 * mu, 1 + 0 * mu)
    kl = (q.log_prob(z0) - p.log_prob(z0)).sum(1) + losses.kl_t.sum(1)
    assert relative_error(found["elbo"], -losses.reconstruction.mean(1) - kl / 3) < ROUNDING


@pytest.mark.parametrize("bend", [90.0, 0.45])
def test_a_flow_that_folds_is_reported(bend: float):
    """u = a cos(κ z_1), A = a κ², where every z decodes to the image itself, so that log p(x) is the ceiling.

    A step adds E log|1 - A cos θ| = ln(A/2) for A > 1, ln((1 + √(1 - A²))/2) for A < 1, to E log p - E log q: a flow
    that folds has an "ELBO" above log p(x), however short its steps (a κ is 0.3).
    """
    kappa = 300.0
    model = tiny_model(num_potentials=1)
    with torch.no_grad():  # q(z_0|x) = N(0, I)
        for parameter in [*model.encoder.parameters(), *model.decoder.parameters()]:
            parameter.zero_()
    wave = PlaneWave(torch.tensor([[kappa, 0.0, 0.0]], dtype=torch.float64), omega=0.0, phase=math.pi / 2)
    model.flow.potential = FieldPotential(lambda z, time, k: bend / kappa**2 * wave(z, time, k))  # type: ignore[assignment]
    x, k = torch.full((200, 3, 3, 8, 8), 0.5, dtype=torch.float64), torch.zeros(200, dtype=torch.int64)
    found = sequence_likelihoods(model, x, k, EvaluationConfig(), torch.Generator().manual_seed(0))
    gain = math.log(bend / 2) if bend > 1 else math.log((1 + math.sqrt(1 - bend**2)) / 2)
    excess = found["elbo"].mean().item() + 0.5 * PIXELS * math.log(2 * math.pi)
    assert excess == pytest.approx((0 + gain + 2 * gain) / 3, abs=0.1)
    assert found["folding_steps"].tolist() == [float(bend > 1)] * 200


@pytest.mark.parametrize("method", ["vae", "factor-vae", "slow-vae", "tvae", "poflow"])
def test_likelihoods_of_frames_are_of_codes_as_they_are_trained(method):
    model, batch, samples = baseline(method, 14), random_batch(2, 3), 5
    config, generator = EvaluationConfig(importance_samples=samples), torch.Generator().manual_seed(4)
    found = frame_likelihoods(model, batch, config, generator)
    generator.manual_seed(4)
    shape = (samples, *model.noise_shape(3))
    noise = torch.stack([torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)], dim=1)
    trained_on = [model.terms(batch, one)["reconstruction"].item() / 4 for one in noise]
    assert found["log_likelihood"].mean().item() == pytest.approx(-sum(trained_on) / samples, rel=1e-10)

    parts = []
    for one in noise:
        z, log_ratio = model.sampled(batch, one)
        error = (torch.sigmoid(model.decode_sequence(z)) - batch.x).square().flatten(2).sum(2)
        parts.append((log_ratio - 0.5 * error - 0.5 * PIXELS * math.log(2 * math.pi)).detach())
    weights = torch.stack(parts)  # (n, B, T+1)
    torch.testing.assert_close(found["elbo"], weights.mean((0, 2)))
    shared = weights.sum(2, keepdim=True) if method == "tvae" else weights
    middle = shared.mean(0)
    bound = (shared - middle).exp().mean(0).log() + middle
    torch.testing.assert_close(found["importance_weighted_bound"], bound.sum(1) / 4)
