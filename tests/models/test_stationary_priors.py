"""The priors that stand still: standard normal, mixture of Gaussians, VampPrior."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ffrl.config import LossConfig
from ffrl.errors import ArgumentError
from ffrl.losses import sequence_losses
from ffrl.models import DiffusionPrior, MixturePrior, Prior, StandardNormalPrior, VampPrior
from tests.models.reference import TINY, random_batch, tiny_model
from tests.tolerances import ROUNDING, relative_error

D = 3
STATIONARY = ("standard_normal", "mixture", "vamp")
PARAMETERS = {
    "diffusion": {"diffusivity"},
    "standard_normal": set(),
    "mixture": {"means", "log_vars", "logits"},
    "vamp": {"pseudo_inputs"},
}


def model_with(prior: str, **changes: Any):
    return tiny_model(prior=prior, prior_components=4, pseudo_inputs=5, **changes)


def mixture(num_components: int = 4) -> MixturePrior:
    prior = MixturePrior(2, D, num_components).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return prior


def distribution(means: Tensor, log_vars: Tensor, logits: Tensor) -> MixtureSameFamily:
    parts = Independent(Normal(means, (0.5 * log_vars).exp()), 1)
    return MixtureSameFamily(Categorical(logits=logits), parts)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_diffusivity_of_every_prior(name: str):
    prior = model_with(name).prior
    assert isinstance(prior, Prior)
    assert {parameter for parameter, _ in prior.named_parameters()} == set(prior.state_dict()) == PARAMETERS[name]
    assert prior.diffusivity.detach().tolist() == [0.0] * 3
    assert prior.diffusivity.dtype == torch.float64


@pytest.mark.parametrize("name", STATIONARY)
def test_density_is_the_same_at_every_time_of_every_k(name: str):
    model = model_with(name)
    z, k, times = torch.randn(4, 6, D, dtype=torch.float64), torch.tensor([2, 0, 1, 1]), torch.arange(6).double()
    log_p = model.prior.log_prob(z, times, k[:, None], model.encoder)
    assert log_p.shape == (4, 6)
    assert log_p.std() > 0.1
    for t in range(6):
        alone = model.prior.log_prob(z[:, t], torch.tensor(0.0, dtype=torch.float64), 0, model.encoder)
        assert relative_error(log_p[:, t], alone) < ROUNDING
    one = torch.randn(D, dtype=torch.float64)
    assert model.prior.log_prob(one, times, k[:, None], model.encoder).shape == (4, 6)


def test_standard_normal():
    z = torch.randn(50, D, dtype=torch.float64)
    found = StandardNormalPrior(2).double().log_prob(z, torch.tensor(3.0), 1)
    assert relative_error(found, -0.5 * z.square().sum(1) - 0.5 * D * math.log(2 * math.pi)) < ROUNDING


@pytest.mark.parametrize("num_components", [1, 4])
def test_mixture_is_that_of_the_distribution(num_components: int):
    prior, z = mixture(num_components), 3 * torch.randn(50, D, dtype=torch.float64)
    expected = distribution(prior.means, prior.log_vars, prior.logits).log_prob(z)
    assert relative_error(prior.log_prob(z, torch.tensor(0.0), 0), expected) < ROUNDING


def test_mixture_does_not_underflow_far_from_its_components():
    prior = mixture()
    z = torch.full((1, D), 1e3, dtype=torch.float64)
    log_p = prior.log_prob(z, torch.tensor(0.0), 0)
    assert torch.isfinite(log_p).all() and log_p.item() < -1e4


def test_mixture_starts_with_the_moments_of_the_standard_normal():
    prior = MixturePrior(1, 2, 20_000)
    covariance = torch.cov(prior.means.detach().T) + torch.diag(prior.log_vars.detach().exp().mean(0))
    assert prior.means.mean(0).abs().max() < 4 * 0.5 / math.sqrt(20_000)
    assert (covariance - torch.eye(2)).abs().max() < 0.02
    assert prior.logits.unique().tolist() == [0]


def test_vamp_is_the_mean_of_the_posteriors_of_its_pseudo_inputs():
    model = model_with("vamp")
    prior, z = model.prior, torch.randn(20, D, dtype=torch.float64)
    assert isinstance(prior, VampPrior)
    mu, log_var = model.encoder(prior.pseudo_inputs)
    density = torch.stack([Normal(m, (0.5 * v).exp()).log_prob(z).sum(1).exp() for m, v in zip(mu, log_var)])  # noqa: B905
    assert relative_error(prior.log_prob(z, torch.tensor(0.0), 0, model.encoder).exp(), density.mean(0)) < ROUNDING


def test_vamp_has_images_for_pseudo_inputs_and_keeps_them_so():
    prior = model_with("vamp").prior
    assert isinstance(prior, VampPrior)
    assert prior.pseudo_inputs.shape == (5, TINY.image_channels, TINY.image_size, TINY.image_size)
    assert prior.pseudo_inputs.min() >= 0 and prior.pseudo_inputs.max() <= 1
    brightness = prior.pseudo_inputs.detach().flatten(1).mean(1)
    assert brightness.sort().values.diff().min() > 1e-3
    with torch.no_grad():
        prior.pseudo_inputs[0], prior.pseudo_inputs[1] = -1, 2
    prior.project_()
    assert prior.pseudo_inputs[0].unique().tolist() == [0] and prior.pseudo_inputs[1].unique().tolist() == [1]


def test_gradients_of_vamp_reach_pseudo_inputs_and_encoder():
    model = model_with("vamp")
    z = torch.randn(6, D, dtype=torch.float64)
    model.prior.log_prob(z, torch.tensor(0.0), 0, model.encoder).sum().backward()
    for name, parameter in [*model.prior.named_parameters(), *model.encoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.any(), name
    grad = model.prior.pseudo_inputs.grad  # type: ignore[union-attr]
    assert bool(grad.flatten(1).any(1).all())  # type: ignore[union-attr]


def test_vamp_without_an_encoder_is_refused():
    with pytest.raises(ArgumentError, match=r"^encoder = None"):
        model_with("vamp").prior.log_prob(torch.zeros(1, D, dtype=torch.float64), torch.tensor(0.0), 0)


@pytest.mark.parametrize("name", ["standard_normal", "mixture", "vamp"])
def test_integrates_to_one(name: str):
    model = model_with(name, latent_dim=2)
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    density = model.prior.log_prob(grid, torch.tensor(0.0), 0, model.encoder).exp()
    assert density.sum().item() * 0.06**2 == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("name", PARAMETERS)
def test_kl_0_is_in_closed_form_exactly_where_p_0_is_standard_normal(name: str):
    """Closed: it does not depend on the noise. One sample: log q(z_0) - log p_0(z_0) of the same noise."""
    model, batch = model_with(name), random_batch(4, 2)
    noise = torch.randn(4, D, dtype=torch.float64)
    losses = sequence_losses(model, batch, LossConfig(), noise)
    again = sequence_losses(model, batch, LossConfig(), -noise)
    assert torch.equal(losses.kl_0, again.kl_0) == (name in ("diffusion", "standard_normal"))
    mu, log_var = model.encoder(batch.x[:, 0])
    q = Normal(mu, (0.5 * log_var).exp())
    z0 = mu + q.scale * noise
    log_ratio = q.log_prob(z0).sum(1) - model.prior.log_prob(z0, torch.tensor(0.0), 0, model.encoder)
    closed = torch.distributions.kl_divergence(q, Normal(0 * mu, 1 + 0 * mu)).sum(1)
    assert relative_error(losses.kl_0, closed if model.prior.standard_normal_at_0 else log_ratio) < ROUNDING


def test_sample_of_kl_0_has_the_closed_form_for_its_mean():
    """A mixture whose components are all N(0, I) is N(0, I): its one-sample KL_0 estimates the closed form."""
    model, count = model_with("mixture"), 40_000
    with torch.no_grad():
        model.prior.means.zero_()  # type: ignore[union-attr]
        model.prior.log_vars.zero_()  # type: ignore[union-attr]
    x = random_batch(1, 1).x
    mu, log_var = (value.detach() for value in model.encoder(x[:, 0]))
    closed = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum().item()
    z0 = mu + (0.5 * log_var).exp() * torch.randn(count, D, dtype=torch.float64)
    log_q = Normal(mu, (0.5 * log_var).exp()).log_prob(z0).sum(1)
    samples = (log_q - model.prior.log_prob(z0, torch.tensor(0.0), 0)).detach()
    error = samples.std().item() / math.sqrt(count)
    assert samples.mean().item() == pytest.approx(closed, abs=4 * error)
    assert error < 0.05
    assert (
        relative_error(
            model.prior.log_prob(z0, torch.tensor(0.0), 0), StandardNormalPrior(1).log_prob(z0, torch.tensor(0.0), 0)
        )
        < ROUNDING
    )


@pytest.mark.parametrize("name", ["mixture", "vamp"])
def test_fits_data_of_two_clusters_better_than_a_gaussian(name: str):
    """log p of two clusters: at most -log 2 - D (½ + log σ + ½ log 2π) with σ the clusters' width."""
    torch.manual_seed(0)  # of a vamp from another one, the components may not have parted after as many steps
    model = model_with(name, latent_dim=2)
    signs = torch.randint(0, 2, (400, 1), dtype=torch.float64) * 2 - 1
    z = 2 * signs + 0.3 * torch.randn(400, 2, dtype=torch.float64)
    parameters = [*model.prior.parameters(), *(model.encoder.parameters() if name == "vamp" else ())]
    optimizer = torch.optim.Adam(parameters, lr=3e-2 if name == "mixture" else 3e-3)
    for _ in range(500):
        optimizer.zero_grad()
        (-model.prior.log_prob(z, torch.tensor(0.0), 0, model.encoder).mean()).backward()
        optimizer.step()
        model.prior.project_()
    best = -math.log(2) - 2 * (0.5 + math.log(0.3) + 0.5 * math.log(2 * math.pi))
    fitted = model.prior.log_prob(z, torch.tensor(0.0), 0, model.encoder).mean().item()
    assert fitted == pytest.approx(best, abs=0.15)
    assert DiffusionPrior(1).double().log_prob(z, torch.tensor(0.0), 0).mean().item() < best - 3
