"""Metrics by hand on 2x2 images, and the bounds against a model whose likelihood is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.losses import kl_standard_normal
from ffrl.metrics import (
    copy_baseline,
    equivariance_error,
    frame_errors,
    importance_weighted_bound,
    latent_equivariance_error,
    log_prob_ceiling,
    unit_gaussian_log_prob,
    zero_baseline,
)

# (B, T+1, C, I, I) = (2, 3, 1, 2, 2), in eighths: exact in binary
X = torch.tensor(
    [
        [[[[0, 1], [2, 3]]], [[[1, 1], [2, 3]]], [[[0, 1], [4, 8]]]],
        [[[[8, 8], [8, 8]]], [[[0, 0], [0, 0]]], [[[0, 0], [0, 4]]]],
    ],
    dtype=torch.float64,
).div(8)
PREDICTION = torch.tensor(
    [
        [[[[8, 8], [8, 8]]], [[[0, 3], [2, 3]]], [[[2, 1], [4, 4]]]],
        [[[[8, 8], [8, 7]]], [[[0, 0], [1, 0]]], [[[0, 0], [0, 4]]]],
    ],
    dtype=torch.float64,
).div(8)


def test_errors_by_hand():
    assert (frame_errors(X, PREDICTION) * 8).tolist() == [[26, 3, 6], [1, 1, 0]]
    assert (equivariance_error(X, PREDICTION) * 8).tolist() == [9, 1]  # frame 0 left out, the last frame in
    assert (copy_baseline(X) * 8).tolist() == [1 + 7, 32 + 28]
    assert (zero_baseline(X) * 8).tolist() == [7 + 13, 0 + 4]
    assert equivariance_error(X, X).tolist() == [0, 0]


def test_errors_sum_over_channels():
    x = torch.cat([X, X, X], dim=2)
    assert torch.equal(equivariance_error(x, torch.zeros_like(x)), 3 * zero_baseline(X))


def test_latent_error_by_hand():
    z = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]]])
    encoded = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [3.0, 7.5]]])
    assert latent_equivariance_error(z, encoded).tolist() == [1 + 2 + 0 + 3.5]


def test_unit_gaussian_by_hand():
    log_p = unit_gaussian_log_prob(X, PREDICTION)
    constant = -2 * math.log(2 * math.pi)
    # squared differences in sixty-fourths: 1 + 4 of the second frame, 4 + 16 of the third; 1, 1 and 0
    assert (64 * -2 * (log_p - constant))[:, 1:].flatten().tolist() == pytest.approx([5, 20, 1, 0], abs=1e-9)
    assert log_p[1, 2].item() == pytest.approx(log_prob_ceiling(1, 2), abs=1e-12)


@pytest.mark.parametrize(("image_size", "ceiling"), [(28, -2161.34), (64, -11291.92), (128, -45167.67)])
def test_ceiling(image_size: int, ceiling: float):
    assert round(log_prob_ceiling(3, image_size), 2) == ceiling


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.3, 30.0])
def test_log_prob_does_not_exceed_its_ceiling(spread: float):
    x = torch.rand(8, 4, 3, 28, 28, dtype=torch.float64)
    log_p = unit_gaussian_log_prob(x, x + spread * torch.randn_like(x))
    assert log_p.max() <= log_prob_ceiling(3, 28) + 1e-9


@pytest.mark.parametrize(
    "metric", [frame_errors, equivariance_error, latent_equivariance_error, unit_gaussian_log_prob]
)
def test_shapes_that_would_broadcast_are_refused(metric):
    with pytest.raises(ArgumentError, match="shape"):
        metric(X, PREDICTION[:, :1])
    with pytest.raises(ArgumentError, match="shape"):
        metric(X, PREDICTION[:1])


def test_bound_by_hand():
    log_weights = torch.tensor([[1.0, 5.0], [3.0, 5.0]], dtype=torch.float64).log()
    assert importance_weighted_bound(log_weights).exp().tolist() == pytest.approx([2, 5])
    assert torch.equal(importance_weighted_bound(log_weights[:1]), log_weights[0])
    huge = torch.tensor([[-45000.0], [-45001.0]], dtype=torch.float64)  # exp underflows
    assert importance_weighted_bound(huge).item() == pytest.approx(-45000 + math.log((1 + math.exp(-1)) / 2))
    assert importance_weighted_bound(torch.zeros(3, 2, 4, dtype=torch.float64)).tolist() == [[0.0] * 4] * 2


class LinearGaussian:
    """x | z ~ N(W z + b, I), z ~ N(0, I), with a posterior that is right in neither mean nor variance."""

    def __init__(self, rows: int = 5, latent_dim: int = 2, pixels: int = 12) -> None:
        self.weight = 0.5 * torch.randn(pixels, latent_dim, dtype=torch.float64)
        self.bias = torch.randn(pixels, dtype=torch.float64)
        identity = torch.eye(latent_dim, dtype=torch.float64)
        noise = torch.randn(rows, pixels, dtype=torch.float64)
        self.x = torch.randn(rows, latent_dim, dtype=torch.float64) @ self.weight.T + self.bias + noise
        precision = identity + self.weight.T @ self.weight
        posterior = torch.linalg.solve(precision, self.weight.T @ (self.x - self.bias).T).T  # (B, D)
        self.mu = posterior + 0.15
        self.log_var = (1.5 * torch.linalg.inv(precision).diagonal()).log().expand(rows, -1)

    def log_likelihood(self) -> Tensor:
        covariance = torch.eye(self.bias.shape[0], dtype=torch.float64) + self.weight @ self.weight.T
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(self.x)

    def elbo(self) -> Tensor:
        residual = self.x - self.bias - self.mu @ self.weight.T
        variance = (self.log_var.exp() * self.weight.square().sum(0)).sum(1)
        reconstruction = -0.5 * (residual.square().sum(1) + variance + self.bias.shape[0] * math.log(2 * math.pi))
        return reconstruction - kl_standard_normal(self.mu, self.log_var)

    def log_weights(self, samples: int) -> Tensor:
        """log p(x|z) + log p(z) - log q(z) of samples of the posterior, (n, B)."""
        scale = (0.5 * self.log_var).exp()
        z = self.mu + scale * torch.randn(samples, *self.mu.shape, dtype=torch.float64)
        mean = z @ self.weight.T + self.bias  # (n, B, pixels)
        log_p = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(-1)
        log_q = torch.distributions.Normal(self.mu, scale).log_prob(z).sum(-1)
        return unit_gaussian_log_prob(self.x.expand_as(mean), mean) + log_p - log_q


def test_bound_of_a_linear_gaussian_model_grows_to_its_likelihood():
    model = LinearGaussian()
    log_p, elbo = model.log_likelihood(), model.elbo()
    assert (log_p - elbo).min() > 0.02
    weights = model.log_weights(4096)
    bounds = []
    for n in (1, 4, 16, 64, 256, 1024, 4096):
        grouped = weights.view(n, 4096 // n, -1)
        bounds.append(importance_weighted_bound(grouped).mean(0))
    for smaller, larger in itertools.pairwise(bounds):
        assert bool((smaller < larger).all())  # Jensen: on the same samples, for every row
    assert (bounds[-1] - log_p).abs().max() < 0.02
    error = weights.std(0) / 64
    assert bool(((bounds[0] - elbo).abs() < 4 * error).all())
