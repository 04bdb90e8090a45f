"""Where the gradients of the objective go: to every parameter that a term depends on, and to no other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.config import LossConfig
from ffrl.losses import sequence_losses
from ffrl.models import SequenceVAE
from ffrl.records import SequenceBatch
from tests.models.reference import random_batch, tiny_model
from tests.tolerances import ROUNDING, relative_error


def model_with_diffusivity(**changes: object) -> SequenceVAE:
    model = tiny_model(**changes)  # type: ignore[arg-type]
    with torch.no_grad():
        model.prior.diffusivity.copy_(torch.tensor([0.1, 0.3, 0.7]))
    return model


def gradients_of(model: SequenceVAE, batch: SequenceBatch, config: LossConfig) -> dict[str, Tensor]:
    """Gradient of the whole loss by parameter name; zero where the loss does not depend on it."""
    torch.manual_seed(1)
    loss = torch.stack(list(sequence_losses(model, batch, config).terms(config).values())).sum()
    parameters = dict(model.named_parameters())
    values = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, values, strict=True))


@pytest.mark.parametrize("log_det", ["trace", "exact"])
def test_a_gradient_reaches_every_parameter_of_every_k(log_det: str):
    model, batch = model_with_diffusivity(), random_batch(6, 3)
    for name, gradient in gradients_of(model, batch, LossConfig(log_det=log_det)).items():  # type: ignore[arg-type]
        slices = gradient.reshape(3 if name.startswith(("flow", "force", "prior")) else 1, -1)
        assert bool((slices.norm(dim=1) > 0).all()), name


def test_output_bias_of_an_identity_potential_is_the_only_parameter_without_a_gradient():
    model, batch = model_with_diffusivity(output_activation="identity"), random_batch(6, 3)
    zero = [name for name, value in gradients_of(model, batch, LossConfig()).items() if not value.any()]
    assert zero == ["flow.potential.bias3"]


def test_parameters_of_other_transformations_get_no_gradient():
    model, batch = model_with_diffusivity(), random_batch(4, 3)
    gradients = gradients_of(model, SequenceBatch(batch.x, torch.ones_like(batch.k)), LossConfig())
    stacked = [name for name in gradients if name.startswith(("flow", "force", "prior"))]
    assert len(stacked) == 21
    for name in stacked:
        assert gradients[name][1].any(), name
        assert not gradients[name][[0, 2]].any(), name


def test_each_weight_switches_off_its_own_term():
    model, batch = model_with_diffusivity(), random_batch(4, 3)
    no_kl = gradients_of(model, batch, LossConfig(kl_weight=0.0))
    assert not no_kl["prior.diffusivity"].any()
    assert no_kl["force.weight1"].any() and no_kl["flow.potential.weight1"].any()
    no_hj = gradients_of(model, batch, LossConfig(hj_weight=0.0))
    assert not any(value.any() for name, value in no_hj.items() if name.startswith("force"))
    assert no_hj["prior.diffusivity"].any() and no_hj["flow.potential.weight1"].any()


def test_initial_condition_of_every_k_is_kept():
    model, batch = model_with_diffusivity(), random_batch(6, 3)
    losses = sequence_losses(model, batch, LossConfig())
    without = losses._replace(hj_residual=torch.zeros_like(losses.hj_residual))
    term = without.terms(LossConfig(hj_weight=6.0))["hj"]
    assert term.item() == pytest.approx(losses.initial_condition.sum().item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(term, model.potential.weight2)
    assert bool((gradient.flatten(1).norm(dim=1) > 1e-3).all())


def test_gradient_of_the_diffusivity_by_hand():
    """∂/∂D_k of -log p_t(z_t) = t (n/s - |z_t|²/s²), s = 1 + 2 D_k t; the mean over the batch, the sum over t."""
    model, batch = model_with_diffusivity(), random_batch(4, 3)
    gradient = gradients_of(model, batch, LossConfig(kl_weight=2.0))["prior.diffusivity"]
    torch.manual_seed(1)
    z = model(batch.x, batch.k).trajectory.z[:, 1:]
    t = torch.arange(1, 4, dtype=torch.float64)
    s = 1 + 2 * model.prior.diffusivity[batch.k][:, None] * t
    rows = 2.0 * (t * (3 / s - z.square().sum(-1) / s**2)).sum(1) / 4  # (B,)
    expected = torch.zeros(3, dtype=torch.float64).index_add(0, batch.k, rows)
    assert relative_error(gradient, expected) < ROUNDING


@pytest.mark.parametrize("log_det", ["trace", "exact"])
def test_gradient_of_every_term_is_its_directional_derivative(log_det: str):
    """Nothing on the way is detached: <gradient, v> against a central difference along v in all parameters."""
    model, batch, h = model_with_diffusivity(), random_batch(4, 3), 1e-6
    config = LossConfig(log_det=log_det)  # type: ignore[arg-type]
    noise = torch.randn(4, 3, dtype=torch.float64)
    parameters = list(model.parameters())
    direction = [torch.randn_like(p) for p in parameters]
    terms = sequence_losses(model, batch, config, noise).terms(config)
    slopes, norms = {}, {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
        slopes[name] = sum((g * v).sum().item() for g, v in zip(gradients, direction, strict=True))
        norms[name] = torch.nn.utils.get_total_norm(gradients).item()
    values = []
    with torch.no_grad():
        for step in (h, -2 * h):
            for p, v in zip(parameters, direction, strict=True):
                p.add_(step * v)
            values.append(sequence_losses(model, batch, config, noise).terms(config))
    for name, slope in slopes.items():
        difference = (values[0][name] - values[1][name]).item() / (2 * h)
        assert norms[name] > 1e-2, name
        assert difference == pytest.approx(slope, abs=1e-5 * norms[name]), name
