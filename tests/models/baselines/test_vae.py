"""VAE and beta-VAE: the loss by hand, the parameters that it moves, and how a code is carried."""

from __future__ import annotations

import math

import pytest
import torch

from ffrl.config import LossConfig
from ffrl.errors import ArgumentError
from ffrl.models import SequenceVAE
from ffrl.models.flow import LatentFlow
from ffrl.records import SequenceBatch
from tests.models.baselines.models import STEPS, baseline, batch_and_noise, moved_by, of
from tests.models.reference import tiny_model


@pytest.mark.parametrize(
    ("method", "settings", "beta"), [("vae", {}, 1.0), ("beta-vae", {}, 4.0), ("beta-vae", {"beta": 2.5}, 2.5)]
)
def test_loss_by_hand(method, settings, beta):
    model = baseline(method, loss=LossConfig(noise_scale=0.5), **settings)
    (x, k), noise = batch_and_noise(model)
    terms = model.terms(SequenceBatch(x, k), noise)
    reconstruction, kl = 0.0, 0.0
    for b in range(4):
        for t in range(STEPS + 1):
            mu, log_var = (part[0].tolist() for part in model.encoder(x[b, t][None]))
            z = [m + math.exp(0.5 * v) * e for m, v, e in zip(mu, log_var, noise[b, t].tolist(), strict=True)]
            mean = model.decoder(torch.tensor([z], dtype=torch.float64))[0]
            squares = (mean - x[b, t]).square().sum().item()
            reconstruction += squares / (2 * 0.25) + 0.5 * 192 * math.log(2 * math.pi * 0.25)
            kl += sum(0.5 * (m * m + math.exp(v) - 1 - v) for m, v in zip(mu, log_var, strict=True))
    assert terms["reconstruction"].item() == pytest.approx(reconstruction / 4, rel=1e-12)
    assert terms["kl"].item() == pytest.approx(beta * kl / 4, rel=1e-10)
    assert list(terms) == ["reconstruction", "kl"]


def test_each_term_moves_the_parameters_it_should():
    model = baseline("vae")
    terms = model.terms(*batch_and_noise(model))
    assert moved_by(model, "reconstruction", terms) == of(model, "encoder", "decoder")
    assert moved_by(model, "kl", terms) == of(model, "encoder")


def test_a_code_stays_where_it_is_until_a_traversal_is_chosen():
    model, z0, k = baseline("vae"), torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    assert torch.equal(model.carry(z0, k, STEPS), z0[:, None].expand(4, STEPS + 1, 3))
    model.move_along(torch.tensor([2, 0, 1]), torch.tensor([1.0, -5.0, 0.5]))
    z = model.carry(z0, k, STEPS)
    for b, (dimension, end) in enumerate([(2, 1.0), (0, -5.0), (1, 0.5), (0, -5.0)]):
        for t in range(STEPS + 1):
            expected = z0[b].clone()
            expected[dimension] += (end - z0[b, dimension]) * t / STEPS
            torch.testing.assert_close(z[b, t], expected)
    assert torch.equal(model.carry(z0, 1, STEPS)[1], z[1])
    assert not torch.equal(z0, z[:, -1])
    with pytest.raises(ArgumentError, match=r"^dimension = \(2,\)"):
        model.move_along(torch.tensor([2, 0]), torch.zeros(3))


def test_ffrl_carries_along_its_flow():
    model = tiny_model()
    assert isinstance(model, SequenceVAE) and isinstance(model.flow, LatentFlow)
    z0, k = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    z = model.carry(z0, k, 4)
    assert torch.equal(z, model.flow.roll(z0, k, 4).z) and not torch.equal(z[:, 4], z0)
    assert set(model.flow_errors(z, k)) == {"hj_residual", "initial_condition"}


def test_samples_are_the_posterior_s_and_weigh_what_a_gaussian_does():
    model = baseline("vae")
    batch, noise = batch_and_noise(model)
    z, log_ratio = model.sampled(batch, noise)
    mu, log_var = (part.unflatten(0, (4, STEPS + 1)) for part in model.encoder(batch.x.flatten(0, 1)))
    q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    p = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
    torch.testing.assert_close(z, mu + q.scale * noise)
    torch.testing.assert_close(log_ratio, (p.log_prob(z) - q.log_prob(z)).sum(2))


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 1, 3, 8, 8), (4, 4, 3, 8, 9)])
def test_other_shapes_are_refused(shape):
    model = baseline("vae")
    (_, k), noise = batch_and_noise(model)
    with pytest.raises(ArgumentError, match=r"^x\.shape = "):
        model.terms(SequenceBatch(torch.zeros(shape, dtype=torch.float64), k), noise)
