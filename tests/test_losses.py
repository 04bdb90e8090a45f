"""The objective: every term by hand, per sample, and where its gradients go."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ffrl.config import LossConfig
from ffrl.errors import ArgumentError
from ffrl.losses import (
    SequenceLosses,
    gaussian_log_prob,
    kl_standard_normal,
    log_p_sequence,
    log_q_sequence,
    reconstruction_nll,
    sequence_losses,
    step_log_det,
)
from ffrl.models import SequenceOutputs, SequenceVAE
from ffrl.models.pde import hj_residual
from ffrl.records import ChosenFrames, FlowTrajectory, SequenceBatch
from tests.models.reference import naive_trajectory, random_batch, tiny_model
from tests.tolerances import FLOAT64, ROUNDING, assert_matches, relative_error

LOG_2PI = math.log(2 * math.pi)
LIKELIHOODS = ("gaussian", "laplace", "bernoulli")
DIFFUSIVITY = (0.1, 0.3, 0.7)


def model_with_diffusivity(**changes: object) -> SequenceVAE:
    model = tiny_model(**changes)  # type: ignore[arg-type]
    with torch.no_grad():
        model.prior.diffusivity.copy_(torch.tensor(DIFFUSIVITY))
    return model


def frames(*values: float) -> Tensor:
    """One sequence of 1x2x2 images, each of a single value: (1, T+1, 1, 2, 2)."""
    return torch.tensor(values, dtype=torch.float64)[None, :, None, None, None].expand(1, -1, 1, 2, 2)


def per_sample(losses: SequenceLosses) -> dict[str, Tensor]:
    return losses._asdict()


def test_reconstruction_by_hand():
    """Mean ½ (logit 0) and ¾ (logit ln 3) against 0 and 1, four pixels each."""
    logits, x = frames(0.0, math.log(3)), frames(0.0, 1.0)
    scale = 0.4
    expected = {
        "gaussian": [4 * (d * d / (2 * scale**2) + math.log(scale) + 0.5 * LOG_2PI) for d in (0.5, 0.25)],
        "laplace": [4 * (d / scale + math.log(2 * scale)) for d in (0.5, 0.25)],
        "bernoulli": [-4 * math.log(0.5), -4 * math.log(0.75)],
    }
    for likelihood, values in expected.items():
        nll = reconstruction_nll(logits, x, LossConfig(likelihood=likelihood, noise_scale=scale))  # type: ignore[arg-type]
        assert nll.shape == (1, 2)
        assert nll[0].tolist() == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
@pytest.mark.parametrize("scale", [0.15, 1.0])
def test_density_of_the_pixels_integrates_to_one(likelihood: str, scale: float):
    x = torch.linspace(-20, 20, 80_001, dtype=torch.float64)
    logits = torch.full_like(x, 0.7)
    shape = (-1, 1, 1, 1, 1)
    nll = reconstruction_nll(logits.view(shape), x.view(shape), LossConfig(likelihood=likelihood, noise_scale=scale))  # type: ignore[arg-type]
    density = (-nll[:, 0]).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)
    assert torch.trapezoid(density * x, x).item() == pytest.approx(1 / (1 + math.exp(-0.7)), abs=1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_reconstruction_is_that_of_the_distribution(likelihood: str):
    logits, x = torch.randn(3, 4, 2, 5, 5, dtype=torch.float64), torch.rand(3, 4, 2, 5, 5, dtype=torch.float64)
    x = x.round() if likelihood == "bernoulli" else x
    mean, scale = torch.sigmoid(logits), torch.tensor(0.3, dtype=torch.float64)
    distribution = {
        "gaussian": torch.distributions.Normal(mean, scale),
        "laplace": torch.distributions.Laplace(mean, scale),
        "bernoulli": torch.distributions.Bernoulli(mean),
    }[likelihood]
    nll = reconstruction_nll(logits, x, LossConfig(likelihood=likelihood, noise_scale=0.3))  # type: ignore[arg-type]
    assert nll.shape == (3, 4)
    assert relative_error(nll, -distribution.log_prob(x).sum((2, 3, 4))) < ROUNDING


def test_kl_0_is_that_of_the_gaussians():
    mu, log_var, z = torch.randn(3, 6, 4, dtype=torch.float64)
    q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    assert relative_error(kl_standard_normal(mu, log_var), torch.distributions.kl_divergence(q, p).sum(1)) < ROUNDING
    assert relative_error(gaussian_log_prob(z, mu, log_var), q.log_prob(z).sum(1)) < ROUNDING
    # N(1, e) in one dimension: ½ (1 + e - 1 - 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert kl_standard_normal(one, one).item() == pytest.approx(0.5 * (math.e - 1))


def test_hamilton_jacobi_residual_by_hand():
    du_dz = torch.tensor([[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 1.0]]])  # (B, T, D)
    du_dt, force = torch.tensor([[1.0, -2.0], [0.5, 0.0]]), torch.tensor([[-2.0, 0.0], [-1.0, -0.25]])
    assert hj_residual(du_dz, du_dt, force).tolist() == [[15.5, 0.0], [2.0, 1.25]]


def outputs_of(z: Tensor, mu: Tensor, log_var: Tensor, lap_u: Tensor | None = None) -> SequenceOutputs:
    trajectory = FlowTrajectory(z, z[:, 1:], z[:, 1:, 0], None, lap_u)
    return SequenceOutputs(mu, log_var, trajectory, z[:, 1:, 0], mu, z)


def test_change_of_variables_by_hand():
    """q(z_0) = N(1, 4) at z_0 = 3: log q = -½ (1 + ln 4 + ln 2π); then less the log-determinants 1, 2, 4."""
    z = torch.tensor([[[3.0], [9.0], [9.0], [9.0]]], dtype=torch.float64)
    outputs = outputs_of(z, torch.tensor([[1.0]]).double(), torch.tensor([[4.0]]).double().log())
    log_q = log_q_sequence(
        outputs.trajectory.z[:, 0], outputs.mu, outputs.log_var, torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    )
    first = -0.5 * (1 + math.log(4) + LOG_2PI)
    assert log_q[0].tolist() == pytest.approx([first, first - 1, first - 3, first - 7], abs=1e-12)


def test_prior_of_every_row_is_that_of_its_k_at_its_time():
    model = model_with_diffusivity()
    z, k = torch.randn(4, 6, 3, dtype=torch.float64), torch.tensor([2, 0, 1, 1])
    log_p = log_p_sequence(model, z, k)
    for b in range(4):
        for t in range(6):
            s = 1 + 2 * DIFFUSIVITY[int(k[b])] * t
            expected = -0.5 * z[b, t].square().sum().item() / s - 1.5 * math.log(2 * math.pi * s)
            assert log_p[b, t].item() == pytest.approx(expected, abs=1e-6)  # D_k were given in float32


def test_log_determinant_in_both_forms():
    model, (x, k) = model_with_diffusivity(), random_batch(3, 4)
    outputs = model(x, k)
    lap_u = outputs.trajectory.lap_u
    trace, exact = (step_log_det(model, outputs, k, LossConfig(log_det=form)) for form in ("trace", "exact"))  # type: ignore[arg-type]
    assert relative_error(trace, (1 + lap_u).abs().log()) < ROUNDING
    assert torch.equal(exact, model.flow.log_det_exact(outputs.trajectory.z, k))
    assert (trace - exact).abs().max() > 1e-3
    floor = lap_u.abs().max().item() + 2
    assert step_log_det(model, outputs, k, LossConfig(log_det_floor=floor)).unique().tolist() == [math.log(floor)]


def test_terms_by_hand():
    losses = SequenceLosses(
        reconstruction=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        kl_0=torch.tensor([1.0, 4.0]),
        kl_t=torch.tensor([[1.0, 2.0], [3.0, 6.0]]),
        hj_residual=torch.tensor([[1.0, -3.0], [2.0, 0.0]]),
        initial_condition=torch.tensor([0.5, 1.5]),
    )
    terms = losses.terms(LossConfig(kl_weight=0.5, hj_weight=10.0))
    # reconstruction (6 + 15)/2; kl_t ½ (3 + 9)/2; hj 10 ((1 + 9)/2 + 0.5 + 4/2 + 1.5)/2
    assert {name: term.item() for name, term in terms.items()} == {
        "reconstruction": 10.5,
        "kl_0": 2.5,
        "kl_t": 3.0,
        "hj": 45.0,
    }
    plain = losses.terms(LossConfig())
    assert plain["kl_t"].item() == 6
    assert plain["hj"].item() == 4.5
    assert torch.stack(list(plain.values())).sum().item() == 23.5
    off = losses.terms(LossConfig(kl_weight=0.0, hj_weight=0.0))
    assert (off["kl_t"].item(), off["hj"].item(), off["kl_0"].item()) == (0, 0, 2.5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("log_det", ["trace", "exact"])
def test_every_term_against_a_loop_over_samples_and_steps(likelihood: str, log_det: str):
    model, (x, k) = model_with_diffusivity(), random_batch(4, 3)
    config = LossConfig(likelihood=likelihood, log_det=log_det, noise_scale=0.5)  # type: ignore[arg-type]
    noise = torch.randn(4, 3, dtype=torch.float64)
    losses = sequence_losses(model, SequenceBatch(x, k), config, noise)
    mu, log_var = model.encoder(x[:, 0])
    path = naive_trajectory(model.potential, (mu + (0.5 * log_var).exp() * noise).detach(), k, 3)
    expected = {name: torch.zeros_like(value) for name, value in per_sample(losses).items()}
    for b, k_b in enumerate(k.tolist()):
        q = torch.distributions.Normal(mu[b], (0.5 * log_var[b]).exp())
        expected["kl_0"][b] = 0.5 * (mu[b] ** 2 + log_var[b].exp() - log_var[b] - 1).sum()
        z0 = path.z[b, :1].detach().requires_grad_()
        (velocity,) = torch.autograd.grad(model.potential(z0, 0.0, k_b).sum(), z0)
        expected["initial_condition"][b] = velocity.square().sum()
        log_q = q.log_prob(path.z[b, 0]).sum()
        for t in range(4):
            nll = reconstruction_nll(model.decoder.logits(path.z[b, t][None])[None], x[b : b + 1, t : t + 1], config)
            expected["reconstruction"][b, t] = nll[0, 0]
            if t == 0:
                continue
            z_before, time = path.z[b, t - 1 : t], torch.tensor([float(t)], dtype=torch.float64)
            force = -(model.force(z_before, time, k_b)[0] ** 2)
            kinetic = 0.5 * path.du_dz[b, t - 1].square().sum()
            expected["hj_residual"][b, t - 1] = path.du_dt[b, t - 1] + kinetic - force
            if log_det == "trace":
                log_q = log_q - (1 + path.lap_u[b, t - 1]).abs().log()  # type: ignore[index]
            else:
                hessian = torch.autograd.functional.hessian(
                    lambda z, time=time, k_b=k_b: model.potential(z, time, k_b).sum(), z_before.detach()
                )[0, :, 0]  # type: ignore[call-overload, index]
                log_q = log_q - torch.linalg.det(torch.eye(3, dtype=torch.float64) + hessian).abs().log()
            s = 1 + 2 * model.prior.diffusivity[k_b] * t
            log_p = -0.5 * path.z[b, t].square().sum() / s - 1.5 * (2 * math.pi * s).log()
            expected["kl_t"][b, t - 1] = log_q - log_p
    assert_matches(per_sample(losses), expected, FLOAT64)


def chosen(batch: SequenceBatch, times: Tensor) -> tuple[SequenceBatch, ChosenFrames]:
    """x_0 and the frames of times (B, M) of a batch of whole sequences."""
    rows = torch.arange(len(times))[:, None]
    x = torch.cat([batch.x[:, :1], batch.x[rows, times]], dim=1)
    return SequenceBatch(x, batch.k), ChosenFrames(times, batch.x.shape[1] - 1)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_reconstruction_of_some_frames_estimates_that_of_all_without_bias(likelihood: str, count: int):
    """Its mean over all choices of ``count`` of the 4 frames; every other term is that of the whole sequence."""
    model, batch = model_with_diffusivity(), random_batch(3, 3)
    config = LossConfig(likelihood=likelihood, noise_scale=0.5)  # type: ignore[arg-type]
    noise = torch.randn(3, 3, dtype=torch.float64)
    whole = sequence_losses(model, batch, config, noise)
    estimates = []
    for times in itertools.combinations(range(4), count):
        some, frames = chosen(batch, torch.tensor(times).expand(3, count))
        losses = sequence_losses(model, some, config, noise, frames=frames)
        assert relative_error(losses.reconstruction, whole.reconstruction[:, list(times)] * 4 / count) < 1e-12
        estimates.append(losses.reconstruction.sum(1))
        rest = {name: value for name, value in per_sample(losses).items() if name != "reconstruction"}
        assert_matches(rest, {name: per_sample(whole)[name] for name in rest}, ROUNDING)
    assert relative_error(torch.stack(estimates).mean(0), whole.reconstruction.sum(1)) < 1e-12


def test_every_row_has_frames_of_its_own():
    model, batch = model_with_diffusivity(), random_batch(3, 3)
    noise, times = torch.randn(3, 3, dtype=torch.float64), torch.tensor([[0, 3], [1, 2], [2, 3]])
    some, frames = chosen(batch, times)
    losses = sequence_losses(model, some, LossConfig(), noise, frames=frames)
    wanted = sequence_losses(model, batch, LossConfig(), noise).reconstruction.gather(1, times) * 2
    assert relative_error(losses.reconstruction, wanted) < 1e-12
    with pytest.raises(ArgumentError, match=r"frames.times = \(3, 1\) .*\(3, 2\), as x has"):
        sequence_losses(model, some, LossConfig(), noise, frames=ChosenFrames(times[:, :1], 3))


def test_losses_of_a_sample_do_not_depend_on_its_batch():
    model, batch = model_with_diffusivity(), random_batch(5, 3)
    noise = torch.randn(5, 3, dtype=torch.float64)
    losses = per_sample(sequence_losses(model, batch, LossConfig(), noise))
    order = torch.tensor([4, 1, 0, 3, 2, 0, 1, 2, 3, 4])
    doubled = sequence_losses(model, SequenceBatch(batch.x[order], batch.k[order]), LossConfig(), noise[order])
    assert_matches(per_sample(doubled), {name: value[order] for name, value in losses.items()}, ROUNDING)
    for b in range(5):
        alone = SequenceBatch(batch.x[b : b + 1], batch.k[b : b + 1])
        single = per_sample(sequence_losses(model, alone, LossConfig(), noise[b : b + 1]))
        assert_matches(single, {name: value[b : b + 1] for name, value in losses.items()}, ROUNDING, f"row {b}")


@pytest.mark.parametrize("log_det", ["trace", "exact"])
def test_loss_is_the_mean_over_the_batch_in_float32(log_det: str):
    model, batch = model_with_diffusivity(dtype=torch.float32), random_batch(4, 3, dtype=torch.float32)
    config = LossConfig(log_det=log_det)  # type: ignore[arg-type]
    noise = torch.randn(4, 3)
    once = sequence_losses(model, batch, config, noise)
    twice = sequence_losses(
        model, SequenceBatch(torch.cat([batch.x] * 2), torch.cat([batch.k] * 2)), config, torch.cat([noise] * 2)
    )
    for name, value in per_sample(once).items():
        assert relative_error(per_sample(twice)[name], torch.cat([value] * 2)) < 1e-6, name
    for name, term in once.terms(config).items():
        assert twice.terms(config)[name].item() == pytest.approx(term.item(), rel=1e-5), name


@pytest.mark.parametrize("t", [1, 2, 3])
def test_a_frame_counts_in_the_reconstruction_of_its_own_time_alone(t: int):
    model, batch = model_with_diffusivity(), random_batch(3, 3)
    noise = torch.randn(3, 3, dtype=torch.float64)
    other = batch.x.clone()
    other[:, t] = torch.rand_like(other[:, t])
    before = per_sample(sequence_losses(model, batch, LossConfig(), noise))
    after = per_sample(sequence_losses(model, SequenceBatch(other, batch.k), LossConfig(), noise))
    changed = (before.pop("reconstruction") - after.pop("reconstruction")).abs() > 1e-9
    assert changed.nonzero()[:, 1].tolist() == [t] * 3
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
