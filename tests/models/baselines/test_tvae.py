"""TVAE: the topographic variable by hand, its equivariance to rolls, and the parameters of each term."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ffrl.baseline_config import BaselineConfig
from ffrl.config import LossConfig
from ffrl.models.baselines import BASELINES
from tests.models.baselines.models import STEPS, baseline, batch_and_noise, moved_by, of
from tests.models.reference import TINY

D = 14  # 3 capsules of 4, and two variables left over


def rolled(code: torch.Tensor, k: int, t: int) -> torch.Tensor:
    """One code (14,) whose k-th capsule of four is rolled by t, place by place."""
    found = code.clone()
    for place in range(4):
        found[4 * k + (place + t) % 4] = code[4 * k + place]
    return found


@pytest.mark.parametrize("settings", [{}, {"time_window": 1}, {"time_window": 0}, {"capsule_window": 0}])
def test_codes_of_rolled_sequences_are_rolls_at_every_frame(settings):
    model, k = baseline("tvae", D, **settings), torch.tensor([2, 0, 1, 1])
    assert (model.capsules, model.capsule_dim) == (3, 4)
    z0, u0 = torch.randn(2, 4, D, dtype=torch.float64)
    z, u = model.carry(z0, k, STEPS), model.carry(u0, k, STEPS)
    for b in range(4):
        for t in range(STEPS + 1):
            assert torch.equal(z[b, t], rolled(z0[b], int(k[b]), t))
    code = model.topographic(z, u.square(), k)
    torch.testing.assert_close(code, model.carry(code[:, 0], k, STEPS))
    alone = model.topographic(z[:, :1], u[:, :1].square(), k)  # as x_0 alone is encoded
    torch.testing.assert_close(alone[:, 0], code[:, 0])
    assert (code[:, 1] - code[:, 0]).abs().amax(1).min() > 1e-3
    other = model.topographic(z, u.square(), (k + 1) % 3)  # the wrong transformation is not equivariant
    if settings.get("time_window") != 0:
        assert (other - code).abs().max() > 1e-2


@pytest.mark.parametrize(("time_window", "capsule_window"), [(1, 1), (2, 0), (5, 7)])
def test_the_variable_by_hand(time_window: int, capsule_window: int):
    model = baseline("tvae", D, time_window=time_window, capsule_window=capsule_window, initial_mu=2.5)
    z, u = torch.randn(2, 1, STEPS + 1, D, dtype=torch.float64)
    found = model.topographic(z, u.square(), torch.tensor([1]))
    for t in range(STEPS + 1):
        seen = [s for s in range(STEPS + 1) if abs(s - t) <= time_window]
        for i in range(D):
            energy = 0.0
            for s in seen:
                aligned = rolled(u[0, s].square(), 1, t - s)
                if i >= 12:
                    energy += aligned[i].item()
                else:
                    places = {(i % 4 + j) % 4 for j in range(-capsule_window, capsule_window + 1)}
                    energy += sum(aligned[i - i % 4 + place].item() for place in places)
            energy *= (2 * time_window + 1) / len(seen)
            expected = (z[0, t, i].item() + 2.5) / math.sqrt(energy + 1e-6)
            assert found[0, t, i].item() == pytest.approx(expected, rel=1e-10)


def test_the_default_capsules_hold_a_sequence_where_they_can():
    for latent_dim, capsules in ((324, 81), (35, 6), (24, 6), (23, 3), (5, 3)):  # K = 3, T = 3
        model = baseline("tvae", latent_dim)
        assert model.capsules == capsules and model.capsule_dim == latent_dim // capsules
        assert latent_dim < 12 or model.capsule_dim >= STEPS + 1
    assert baseline("tvae", D, capsules=7).capsule_dim == 2


def test_the_spread_before_training_is_of_z_alone():
    config = dataclasses.replace(TINY, latent_dim=D, initial_log_var=-5.0)
    model = BASELINES["tvae"](config, 3, STEPS, LossConfig(), BaselineConfig())
    x = torch.rand(6, 3, 8, 8)
    assert (model.encoder(x)[1] + 5).abs().max() < 1.5 and model.energy_encoder(x)[1].abs().max() < 1.5


def test_loss_by_hand():
    model = baseline("tvae", D)
    batch, noise = batch_and_noise(model)
    terms = model.terms(batch, noise)
    kl, reconstruction = 0.0, 0.0
    posteriors = [
        [encoder(batch.x[:, t]) for t in range(STEPS + 1)] for encoder in (model.encoder, model.energy_encoder)
    ]
    for b in range(4):
        drawn = []
        for i, frames in enumerate(posteriors):
            states = []
            for t, (mu, log_var) in enumerate(frames):
                q = torch.distributions.Normal(mu[b], (0.5 * log_var[b]).exp())
                p = torch.distributions.Normal(torch.zeros_like(mu[b]), 1.0)
                kl += torch.distributions.kl_divergence(q, p).sum().item()
                states.append(mu[b] + q.scale * noise[b, t, i])
            drawn.append(torch.stack(states)[None])
        code = model.topographic(drawn[0], drawn[1].square(), batch.k[b : b + 1])
        squares = (model.decoder(code[0]) - batch.x[b]).square().sum().item()
        reconstruction += 0.5 * squares + 0.5 * (STEPS + 1) * 192 * math.log(2 * math.pi)
    assert list(terms) == ["reconstruction", "kl"]
    assert terms["kl"].item() == pytest.approx(kl / 4, rel=1e-10)
    assert terms["reconstruction"].item() == pytest.approx(reconstruction / 4, rel=1e-10)


def test_each_term_moves_the_parameters_it_should():
    model = baseline("tvae", D)
    terms = model.terms(*batch_and_noise(model))
    assert model.mu.item() == 30
    everything = {name for name, _ in model.named_parameters()}
    assert moved_by(model, "reconstruction", terms) == everything
    assert moved_by(model, "kl", terms) == of(model, "encoder", "energy_encoder")
    assert everything == of(model, "encoder", "energy_encoder", "decoder") | {"mu"}


def test_samples_and_what_they_weigh():
    model = baseline("tvae", D)
    batch, noise = batch_and_noise(model)
    code, log_ratio = model.sampled(batch, noise)
    drawn, expected = [], torch.zeros(4, STEPS + 1, dtype=torch.float64)
    for i, encoder in enumerate((model.encoder, model.energy_encoder)):
        mu, log_var = (part.unflatten(0, (4, STEPS + 1)) for part in encoder(batch.x.flatten(0, 1)))
        q, p = torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0.0, 1.0)
        drawn.append(mu + q.scale * noise[:, :, i])
        expected += (p.log_prob(drawn[i]) - q.log_prob(drawn[i])).sum(2)
    torch.testing.assert_close(log_ratio, expected)
    torch.testing.assert_close(code, model.topographic(drawn[0], drawn[1].square(), batch.k))


def test_the_code_of_an_image_is_at_the_mean_energy():
    model = baseline("tvae", D)
    x, samples = torch.rand(2, TINY.image_channels, 8, 8, dtype=torch.float64), 20_000
    (mu, _), (mu_u, log_var_u) = model.encoder(x), model.energy_encoder(x)
    u = mu_u + (0.5 * log_var_u).exp() * torch.randn(samples, 2, D, dtype=torch.float64)
    energy = 7 * torch.stack([model.smoothed(one) for one in u.square().mean(0)[:, None]])[:, 0]
    torch.testing.assert_close(model.code(x), (mu + 30) / (energy + 1e-6).sqrt(), rtol=0.03, atol=0.0)

    with torch.no_grad():  # u as it is before anything is known of an image
        for head in (model.energy_encoder.mu, model.energy_encoder.log_var):
            head.weight.zero_()
            head.bias.zero_()
    neighbours = torch.tensor([3.0] * 12 + [1.0] * (D - 12), dtype=torch.float64)
    torch.testing.assert_close(model.code(x), (mu + 30) / (7 * neighbours + 1e-6).sqrt())
