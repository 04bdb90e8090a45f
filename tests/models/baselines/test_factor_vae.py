"""FactorVAE: what each of its two losses moves, the density ratio of known codes, and its share of the optimizer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ffrl.models.baselines.factor_vae import BETAS, Discriminator
from tests.models.baselines.models import STEPS, baseline, batch_and_noise, moved_by, of

WIDTH = 24


def test_the_discriminator_s_loss_moves_the_discriminator_alone_and_the_other_terms_all_else():
    model = baseline("factor-vae", discriminator_width=WIDTH)
    terms = model.terms(*batch_and_noise(model))
    assert list(terms) == ["reconstruction", "kl", "density_ratio", "discriminator"]
    assert moved_by(model, "discriminator", terms) == of(model, "discriminator")
    assert moved_by(model, "density_ratio", terms) == of(model, "encoder")
    assert moved_by(model, "reconstruction", terms) == of(model, "encoder", "decoder")
    assert moved_by(model, "kl", terms) == of(model, "encoder")


def test_one_backward_pass_of_the_sum_gives_each_its_own_gradient():
    model = baseline("factor-vae", discriminator_width=WIDTH)
    terms = model.terms(*batch_and_noise(model))
    parts = dict(model.named_parameters())
    own = {name: value for name, value in parts.items() if name.startswith("discriminator")}
    rest = {name: value for name, value in parts.items() if name not in own}
    vae_loss = terms["reconstruction"] + terms["kl"] + terms["density_ratio"]
    expected = dict(zip(rest, torch.autograd.grad(vae_loss, list(rest.values()), retain_graph=True), strict=True))
    of_own = torch.autograd.grad(terms["discriminator"], list(own.values()), retain_graph=True)
    expected |= dict(zip(own, of_own, strict=True))
    torch.stack(list(terms.values())).sum().backward()
    for name, value in parts.items():
        torch.testing.assert_close(value.grad, expected[name])


def test_losses_by_hand():
    model = baseline("factor-vae", discriminator_width=WIDTH, gamma=2.5)
    batch, noise = batch_and_noise(model)
    terms = model.terms(batch, noise)
    mu, log_var = model.encoder(batch.x.flatten(0, 1))
    z = mu + torch.exp(0.5 * log_var) * noise[:, :, 0].flatten(0, 1)
    logit = model.discriminator(z)
    assert terms["density_ratio"].item() == pytest.approx(2.5 * logit.sum().item() / 4, rel=1e-10)
    keys = noise[:, :, 1].flatten(0, 1)
    permuted = z.clone()
    for d in range(3):
        order = sorted(range(len(z)), key=keys[:, d].tolist().__getitem__)
        permuted[:, d] = torch.stack([z[i, d] for i in order])
    assert not torch.equal(permuted, z)
    cross_entropies = [-math.log(1 / (1 + math.exp(-v))) for v in logit.tolist()]
    cross_entropies += [-math.log(1 - 1 / (1 + math.exp(-v))) for v in model.discriminator(permuted).tolist()]
    assert terms["discriminator"].item() == pytest.approx(sum(cross_entropies) / (2 * len(z)), rel=1e-9)


def test_the_discriminator_is_five_leaky_layers_of_1000_units():
    layers = [module for module in baseline("factor-vae").discriminator.modules()]
    linear = [(m.in_features, m.out_features) for m in layers if isinstance(m, torch.nn.Linear)]
    assert linear == [(3, 1000), *[(1000, 1000)] * 4, (1000, 1)]
    assert [m.negative_slope for m in layers if isinstance(m, torch.nn.LeakyReLU)] == [0.2] * 5


def codes(correlation: float, count: int) -> Tensor:
    """Two standard normal dimensions; log q(z)/Πq(z_d) has the mean -½ log(1 - correlation²)."""
    noise = torch.randn(count, 2)
    noise[:, 1] = correlation * noise[:, 0] + math.sqrt(1 - correlation**2) * noise[:, 1]
    return noise


@pytest.mark.parametrize(("correlation", "low", "high"), [(0.0, -0.05, 0.05), (0.95, 0.8, 1.5)])
def test_density_ratio_of_independent_and_of_dependent_codes(correlation: float, low: float, high: float):
    model = baseline("factor-vae", 2, discriminator_width=32).float()
    assert isinstance(model.discriminator, Discriminator)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=2e-3, betas=BETAS)
    for _ in range(400):
        z = codes(correlation, 256)
        optimizer.zero_grad()
        model.discriminator_loss(z, torch.rand(256, 2).argsort(0)).backward()
        optimizer.step()
    found = model.density_ratio(codes(correlation, 20_000)).mean().item()
    assert low < found < high  # -½ log(1 - 0.95²) = 1.16


def test_the_discriminator_is_a_group_of_its_own():
    model = baseline("factor-vae", discriminator_width=WIDTH, discriminator_rate=3e-4)
    rest, own = model.parameter_groups()
    assert [id(p) for p in own["params"]] == [id(p) for p in model.discriminator.parameters()]
    assert len(rest["params"]) + len(own["params"]) == len(list(model.parameters()))
    assert (own["fixed_rate"], own["betas"]) == (3e-4, (0.5, 0.9)) and set(rest) == {"params"}
    assert model.noise_shape(STEPS) == (STEPS + 1, 2, 3)
