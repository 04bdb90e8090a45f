"""The diffusion prior: a heat kernel with a diffusivity that trains, stays non-negative and is saved."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ffrl.models import DiffusionPrior


def prior_of(*diffusivity: float) -> DiffusionPrior:
    prior = DiffusionPrior(len(diffusivity)).double()
    with torch.no_grad():
        prior.diffusivity.copy_(torch.tensor(diffusivity, dtype=torch.float64))
    return prior


def samples(variance: float, count: int = 200, latent_dim: int = 5) -> Tensor:
    """(N, D), scaled so that the mean of z² over all elements is the variance."""
    z = torch.randn(count, latent_dim, dtype=torch.float64)
    return z * (variance / z.square().mean()).sqrt()


def test_log_prob_is_that_of_the_gaussian():
    prior = prior_of(0.0, 0.7, 2.5)
    z = 2 * torch.randn(4, 6, 3, dtype=torch.float64)  # (B, T+1, D)
    k = torch.tensor([2, 0, 1, 1])
    log_p = prior.log_prob(z, torch.arange(6, dtype=torch.float64), k[:, None])
    assert log_p.shape == (4, 6)
    for b in range(4):
        for t in range(6):
            scale = torch.tensor(1 + 2 * (0.0, 0.7, 2.5)[int(k[b])] * t, dtype=torch.float64).sqrt()
            expected = torch.distributions.Normal(torch.zeros_like(scale), scale).log_prob(z[b, t]).sum()
            assert log_p[b, t].item() == pytest.approx(expected.item(), abs=1e-12)


def test_starts_as_the_standard_normal_at_every_time():
    prior = DiffusionPrior(3).double()
    assert prior.diffusivity.tolist() == [0, 0, 0]
    z = torch.randn(50, 4, dtype=torch.float64)
    expected = -0.5 * z.square().sum(1) - 2 * math.log(2 * math.pi)
    for t in (0.0, 1.0, 8.0):
        found = prior.log_prob(z, torch.tensor(t, dtype=torch.float64), 1)
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [1.0, 8.0])
def test_is_the_convolution_of_the_initial_density_with_the_heat_kernel(t: float):
    diffusivity = 0.35
    prior = prior_of(diffusivity)
    y = torch.linspace(-30, 30, 12_001, dtype=torch.float64)
    z = torch.linspace(-9, 9, 61, dtype=torch.float64)
    initial = torch.exp(-0.5 * y.square()) / math.sqrt(2 * math.pi)
    kernel = torch.exp(-(z[:, None] - y).square() / (4 * diffusivity * t)) / math.sqrt(4 * math.pi * diffusivity * t)
    convolution = torch.trapezoid(kernel * initial, y, dim=1)
    density = prior.log_prob(z[:, None], torch.tensor(t, dtype=torch.float64), 0).exp()
    assert torch.allclose(density, convolution, rtol=1e-10, atol=0)
    initial_density = prior.log_prob(y[:, None], torch.tensor(0.0, dtype=torch.float64), 0).exp()
    assert torch.allclose(initial_density, initial, rtol=1e-12, atol=0)


def test_solves_the_diffusion_equation():
    """∂p/∂t = D Δp in the plane, both sides by central differences of fourth order."""
    diffusivity, t, h = 0.6, 2.0, 2e-2
    prior = prior_of(diffusivity)
    z = torch.randn(100, 2, dtype=torch.float64) * 1.8

    def density(z: Tensor, t: float) -> Tensor:
        return prior.log_prob(z, torch.tensor(t, dtype=torch.float64), 0).exp()

    dp_dt = (8 * (density(z, t + h) - density(z, t - h)) - (density(z, t + 2 * h) - density(z, t - 2 * h))) / (12 * h)
    lap_p = torch.zeros_like(dp_dt)
    for step in h * torch.eye(2, dtype=torch.float64):
        near, far = density(z + step, t) + density(z - step, t), density(z + 2 * step, t) + density(z - 2 * step, t)
        lap_p += (16 * near - far - 30 * density(z, t)) / (12 * h * h)
    assert lap_p.abs().max() > 1e-3
    assert (dp_dt - diffusivity * lap_p).abs().max() < 1e-5 * lap_p.abs().max()


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("t", [0.0, 3.0])
def test_integrates_to_one(latent_dim: int, t: float):
    prior = prior_of(0.4, 1.1)
    axis = torch.linspace(-25, 25, 401, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[axis] * latent_dim, indexing="ij"), dim=-1)
    for k in (0, 1):
        density = prior.log_prob(grid, torch.tensor(t, dtype=torch.float64), k).exp()
        assert density.sum().item() * 0.125**latent_dim == pytest.approx(1, abs=1e-10)


def test_gradient_of_the_diffusivity():
    """∂ log p_t/∂D = t (|z|²/s² - n/s) with s = 1 + 2 D t and n latent dimensions, also at D = 0."""
    for diffusivity in (0.0, 0.8):
        prior, t = prior_of(diffusivity, 5.0), 3.0
        z = samples(2.0)
        prior.log_prob(z, torch.tensor(t, dtype=torch.float64), 0).sum().backward()
        s = 1 + 2 * diffusivity * t
        expected = t * (z.square().sum() / s**2 - z.numel() / s)
        assert prior.diffusivity.grad is not None
        assert prior.diffusivity.grad[0].item() == pytest.approx(expected.item(), rel=1e-12)
        assert prior.diffusivity.grad[1].item() == 0


def fit(prior: DiffusionPrior, optimizer: torch.optim.Optimizer, z: Tensor, t: float, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        (-prior.log_prob(z, torch.tensor(t, dtype=z.dtype), 0).mean()).backward()
        optimizer.step()
        prior.project_()
        assert prior.diffusivity.item() >= 0
    return prior.diffusivity.item()


def test_diffusivity_trains_and_comes_back_from_zero():
    prior = DiffusionPrior(1).double()
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    t = 4.0
    assert fit(prior, optimizer, samples(3.0), t, 1) > 0.01  # leaves its start at once
    assert fit(prior, optimizer, samples(3.0), t, 400) == pytest.approx((3 - 1) / (2 * t), rel=1e-3)  # 1 + 2 D t = 3
    assert fit(prior, optimizer, samples(0.5), t, 100) == 0
    assert fit(prior, optimizer, samples(3.0), t, 400) == pytest.approx((3 - 1) / (2 * t), rel=1e-3)


def test_diffusivity_below_zero_counts_as_zero_until_it_is_projected():
    prior = prior_of(-0.2)
    t = torch.tensor(2.0, dtype=torch.float64)
    assert prior.variance(t, 0).item() == 1
    prior.project_()
    assert prior.diffusivity.tolist() == [0]
    assert prior.diffusivity.requires_grad
    prior.log_prob(samples(2.0), t, 0).mean().backward()
    assert prior.diffusivity.grad is not None and prior.diffusivity.grad.item() > 0.1


def test_diffusivity_is_saved():
    prior, other = prior_of(0.3, 0.9), DiffusionPrior(2).double()
    assert list(prior.state_dict()) == ["diffusivity"]
    other.load_state_dict(prior.state_dict())
    assert other.diffusivity.tolist() == [0.3, 0.9]
    assert [name for name, _ in prior.named_parameters()] == ["diffusivity"]
