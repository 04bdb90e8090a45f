"""SlowVAE: the Laplace cross-entropy against numerical integration, the loss by hand, and what moves."""

from __future__ import annotations

import math

import pytest
import torch

from ffrl.models.baselines.slow_vae import gaussian_entropy, laplace_cross_entropy
from tests.models.baselines.models import STEPS, baseline, batch_and_noise, moved_by, of


def integral(mu: float, sigma: float, value) -> float:
    """∫ N(z; mu, σ²) value(z) dz, by the midpoint rule over ±12 σ."""
    width = 24 * sigma / 400_000
    z = mu + width * (torch.arange(400_000, dtype=torch.float64) - 199_999.5)
    density = torch.exp(-0.5 * ((z - mu) / sigma).square()) / (sigma * math.sqrt(2 * math.pi))
    return (density * value(z)).sum().item() * width


@pytest.mark.parametrize("rate", [6.0, 0.5])
@pytest.mark.parametrize(("mu", "sigma", "centre"), [(0.3, 0.2, 0.3), (1.0, 0.5, -0.7), (-2.0, 1.5, 0.1), (0, 0.01, 1)])
def test_cross_entropy_is_the_integral(mu: float, sigma: float, centre: float, rate: float):
    log_var = torch.tensor(2 * math.log(sigma), dtype=torch.float64)
    found = laplace_cross_entropy(torch.tensor(mu, dtype=torch.float64), log_var, torch.tensor(centre), rate)
    expected = integral(mu, sigma, lambda z: rate * (z - centre).abs() - math.log(rate / 2))
    assert found.item() == pytest.approx(expected, rel=1e-7)
    normal = torch.distributions.Normal(torch.tensor(mu, dtype=torch.float64), sigma)
    assert gaussian_entropy(log_var).item() == pytest.approx(normal.entropy().item(), rel=1e-12)


def test_far_from_the_centre_and_with_tiny_variance_it_stays_finite_and_its_gradient_too():
    mu = torch.tensor([100.0, -100.0, 0.0], requires_grad=True)
    log_var = torch.tensor([-40.0, -40.0, -40.0], requires_grad=True)
    found = laplace_cross_entropy(mu, log_var, torch.zeros(3), 6.0)
    torch.testing.assert_close(found, 6 * mu.detach().abs() - math.log(3), atol=1e-5, rtol=1e-6)
    found.sum().backward()
    assert mu.grad is not None and log_var.grad is not None
    torch.testing.assert_close(mu.grad, torch.tensor([6.0, -6.0, 0.0]))
    assert log_var.grad.isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"rate": 2.0, "gamma": 3.0, "beta": 0.5}])
def test_transition_by_hand(settings):
    model = baseline("slow-vae", **settings)
    batch, noise = batch_and_noise(model, 2)
    terms = model.terms(batch, noise)
    rate, gamma = settings.get("rate", 6.0), settings.get("gamma", 10.0)
    total = 0.0
    for b in range(2):
        mu, log_var = model.encoder(batch.x[b])
        z = mu + torch.exp(0.5 * log_var) * noise[b]
        for t in range(1, STEPS + 1):
            for of_q, at in ((t, t - 1), (t - 1, t)):
                for m, v, centre in zip(mu[of_q].tolist(), log_var[of_q].tolist(), z[at].tolist(), strict=True):
                    sigma = math.exp(0.5 * v)

                    def log_ratio(x, m=m, v=v, sigma=sigma, centre=centre):
                        log_q = -0.5 * (((x - m) / sigma).square() + v + math.log(2 * math.pi))
                        return log_q - (math.log(rate / 2) - rate * (x - centre).abs())

                    total += 0.5 * integral(m, sigma, log_ratio)
    assert terms["transition"].item() == pytest.approx(gamma * total / 2, rel=1e-6)
    plain = baseline("beta-vae", beta=settings.get("beta", 1.0))
    plain.load_state_dict(model.state_dict())
    for name, value in plain.terms(batch, noise).items():
        torch.testing.assert_close(terms[name], value)
    assert list(terms) == ["reconstruction", "kl", "transition"]


def test_each_term_moves_the_parameters_it_should():
    model = baseline("slow-vae")
    terms = model.terms(*batch_and_noise(model))
    assert moved_by(model, "reconstruction", terms) == of(model, "encoder", "decoder")
    assert moved_by(model, "transition", terms) == moved_by(model, "kl", terms) == of(model, "encoder")


def test_codes_that_do_not_move_cost_less():
    model, mu = baseline("slow-vae"), torch.randn(4, 3, dtype=torch.float64)
    still, moved = (model.transition_kl(mu, torch.zeros_like(mu), mu + step) for step in (0.0, 1.0))
    assert (still < moved).all()
