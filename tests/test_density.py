"""The three log-determinants of a step, exact, by the trace and with Hutchinson's trace, and how far they differ."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from ffrl.config import LossConfig
from ffrl.losses import sequence_losses, step_log_det
from ffrl.models import LatentFlow, PotentialMLP
from ffrl.models.flow import log_det_trace, step_rows
from ffrl.models.pde import build_pde
from ffrl.ops.hutchinson import hutchinson_rows
from tests.models.reference import potential, random_batch, tiny_model
from tests.tolerances import ROUNDING, relative_error

EPS = (1e-3, 3e-4, 1e-4)
SIZES = (2, 5, 16, 48)


def scaled_potential(latent_dim: int, eps: float) -> PotentialMLP:
    """u of a random network with Δu and |∇²u| of order one, times eps."""
    torch.manual_seed(3)
    pot = PotentialMLP(latent_dim, (32, 32), 2, "identity").double()
    with torch.no_grad():
        pot.weight1.mul_(2)
        pot.weight3.mul_(20 * eps)
    return pot


def slope(x: list[float], y: list[float]) -> float:
    """Of log y over log x, by least squares."""
    design = torch.stack([torch.tensor(x).double().log(), torch.ones(len(x)).double()], dim=1)
    return torch.linalg.lstsq(design, torch.tensor(y).double().log()[:, None]).solution[0].item()


def all_signs(latent_dim: int, rows: int) -> Tensor:
    """(2^D, N, D): every vector of signs, for every row."""
    signs = torch.cartesian_prod(*latent_dim * [torch.tensor([-1.0, 1.0], dtype=torch.float64)])
    return signs.view(-1, 1, latent_dim).expand(-1, rows, -1)


@pytest.mark.parametrize("latent_dim", SIZES)
def test_trace_form_is_of_second_order_in_the_potential(latent_dim: int):
    """log|det(I + εH)| - log|1 + ε tr H| = ½ ε² ((tr H)² - |H|²) + O(ε³), row by row."""
    z0, k = torch.randn(8, latent_dim, dtype=torch.float64), torch.arange(8) % 2
    errors = []
    for eps in EPS:
        flow = LatentFlow(scaled_potential(latent_dim, eps))
        trajectory = flow(z0, k, 1)
        assert trajectory.lap_u is not None
        error = flow.log_det_exact(trajectory.z, k) - log_det_trace(trajectory.lap_u, 1e-3)
        errors.append(error.square().mean().sqrt().item())
    assert slope(list(EPS), errors) == pytest.approx(2, abs=0.1)
    assert errors[0] > 1e-9  # of a difference, not of rounding


@pytest.mark.parametrize("latent_dim", [2, 5, 9])
def test_mean_of_the_estimated_form_is_of_second_order_and_one_estimate_of_first(latent_dim: int):
    z0, k = torch.randn(8, latent_dim, dtype=torch.float64), torch.arange(8) % 2
    biases, spreads = [], []
    for eps in EPS:
        pot = scaled_potential(latent_dim, eps)
        flow = LatentFlow(pot)
        z = flow.roll(z0, k, 1).z
        rows, time, k_rows = step_rows(z, k)
        signs = all_signs(latent_dim, rows.shape[0])
        estimates = torch.stack([hutchinson_rows(pot, rows, time, k_rows, one[None], fused=True) for one in signs])
        error = flow.log_det_exact(z, k)[:, 0] - log_det_trace(estimates, 1e-3)  # (2^D, B)
        biases.append(error.mean(0).square().mean().sqrt().item())
        spreads.append(error.std(0).square().mean().sqrt().item())
    assert slope(list(EPS), biases) == pytest.approx(2, abs=0.1)
    assert slope(list(EPS), spreads) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("latent_dim", SIZES[1:])
def test_estimate_along_a_flow_is_unbiased_and_its_error_falls_with_the_root_of_the_probes(latent_dim: int):
    count, probes = 256, [1, 4, 16, 64]
    flow = LatentFlow(scaled_potential(latent_dim, 0.1))
    z0 = torch.randn(1, latent_dim, dtype=torch.float64).expand(count, -1)
    k = torch.ones(count, dtype=torch.int64)
    exact = flow(z0, k, 2).lap_u
    assert exact is not None
    errors = []
    for num_probes in probes:
        estimate = flow(z0, k, 2, num_probes=num_probes).lap_u
        assert estimate is not None
        error = (estimate - exact).detach()  # (B, T), independent draws
        errors.append(error.square().mean().sqrt().item())
        assert error.mean(0).abs().max().item() < 4.5 * error.std(0).max().item() / math.sqrt(count)
    # the relative error of each of the four is (2·2·256)^-½ = 3 % or so
    assert slope([float(number) for number in probes], errors) == pytest.approx(-0.5, abs=0.05)


def test_losses_with_the_mean_over_probes_come_near_those_with_the_trace():
    model, batch = tiny_model(), random_batch(4, 3)
    noise = torch.randn(4, 3, dtype=torch.float64)
    config = LossConfig(log_det="hutchinson", num_probes=4096)
    trace = sequence_losses(model, batch, dataclasses.replace(config, log_det="trace"), noise)
    estimated = sequence_losses(model, batch, config, noise)
    assert relative_error(estimated.kl_t, trace.kl_t) < 0.05
    assert (estimated.kl_t - trace.kl_t).abs().max() > 0
    for name in ("reconstruction", "kl_0", "hj_residual", "initial_condition"):
        assert torch.equal(getattr(estimated, name), getattr(trace, name)), name


def test_probes_are_drawn_from_the_generator_of_torch():
    model, batch, config = tiny_model(), random_batch(3, 2), LossConfig(log_det="hutchinson", num_probes=2)
    noise = torch.randn(3, 3, dtype=torch.float64)
    torch.manual_seed(8)
    first = sequence_losses(model, batch, config, noise)
    second = sequence_losses(model, batch, config, noise)
    torch.manual_seed(8)
    again = sequence_losses(model, batch, config, noise)
    assert torch.equal(first.kl_t, again.kl_t)
    assert not torch.equal(first.kl_t, second.kl_t)


def test_floor_holds_for_the_estimate():
    model, (x, k) = tiny_model(), random_batch(3, 2)
    outputs = model(x, k, num_probes=1)
    floor = outputs.trajectory.lap_u.abs().max().item() + 2
    config = LossConfig(log_det="hutchinson", log_det_floor=floor)
    assert step_log_det(model, outputs, k, config).unique().tolist() == [math.log(floor)]


@pytest.mark.parametrize("name", ["heat", "wave", "fokker_planck"])
def test_square_of_a_residual_with_the_estimate_exceeds_the_true_one_by_its_variance(name):
    """In the mean over all probes; the residual itself is unbiased."""
    pot = potential(latent_dim=4, num_potentials=3)
    z0, k = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    trajectory, pde = LatentFlow(pot)(z0, k, 2, d2u_dt2=True), build_pde(name, 3).double()
    rows, time, k_rows = step_rows(trajectory.z, k)
    signs = all_signs(4, rows.shape[0])
    residuals = []
    for one in signs:
        lap_u = hutchinson_rows(pot, rows, time, k_rows, one[None], fused=True).view(5, 2)
        residuals.append(pde.residual(trajectory._replace(lap_u=lap_u), None, k))
    found, exact = torch.stack(residuals), pde.residual(trajectory, None, k)
    assert relative_error(found.mean(0), exact) < ROUNDING
    assert found.var(0).max() > 1e-3
    excess = found.square().mean(0) - exact.square()
    assert relative_error(excess, found.var(0, unbiased=False)) < 1e-10
