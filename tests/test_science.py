"""Known answers: Gaussians under a quadratic potential, the Hamilton-Jacobi solution, the error of the trace form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ffrl.config import LossConfig
from ffrl.losses import log_p_sequence, log_q_sequence, sequence_losses, step_log_det
from ffrl.models import LatentFlow, SequenceOutputs, SequenceVAE
from ffrl.models.flow import log_det_trace
from ffrl.models.pde import hj_residual
from ffrl.ops import potential_derivatives
from ffrl.records import SequenceBatch
from tests.models.reference import FieldPotential, potential, random_batch, tiny_model
from tests.potentials import HamiltonJacobiField, QuadraticField
from tests.tolerances import relative_error

T = 5


def constant_quadratic(a: Tensor) -> QuadraticField:
    return QuadraticField(a, torch.zeros_like(a), torch.zeros_like(a))


def symmetric(*shape: int, scale: float = 0.3) -> Tensor:
    """(..., D, D) with eigenvalues well inside (-1, 1), so that a step is one to one."""
    a = torch.randn(*shape, shape[-1], dtype=torch.float64)
    a = a + a.mT
    return scale * a / torch.linalg.matrix_norm(a, 2)[..., None, None]


def quadratic_model(a: Tensor, *diffusivity: float) -> SequenceVAE:
    """A tiny model whose potentials are ½ zᵀ A_k z."""
    model = tiny_model(num_potentials=a.shape[0], latent_dim=a.shape[-1])
    model.flow.potential = FieldPotential(constant_quadratic(a))  # type: ignore[assignment]
    with torch.no_grad():
        model.prior.diffusivity.copy_(torch.tensor(diffusivity, dtype=torch.float64))
    return model


def pushed(mu: Tensor, log_var: Tensor, a: Tensor, t: int) -> torch.distributions.MultivariateNormal:
    """N((I+A)^t μ, (I+A)^t Σ (I+A)^t) of one row."""
    step = torch.linalg.matrix_power(torch.eye(a.shape[-1], dtype=a.dtype) + a, t)
    return torch.distributions.MultivariateNormal(step @ mu, step @ torch.diag(log_var.exp()) @ step.T)


def gaussian_rows(rows: int, latent_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """mu, log_var and z0 ~ N(mu, diag exp log_var), each (N, D)."""
    mu, log_var, noise = torch.randn(3, rows, latent_dim, dtype=torch.float64)
    return mu, log_var, mu + (0.5 * log_var).exp() * noise


@pytest.mark.parametrize("latent_dim", [1, 2, 6])
def test_exact_density_under_a_quadratic_potential_is_the_gaussian(latent_dim: int):
    a = symmetric(2, latent_dim)
    mu, log_var, z0 = gaussian_rows(4, latent_dim)
    k = torch.tensor([1, 0, 0, 1])
    flow = LatentFlow(constant_quadratic(a))  # type: ignore[arg-type]
    trajectory = flow(z0, k, T)
    outputs = SequenceOutputs(mu, log_var, trajectory, z0, z0, z0)
    log_q = log_q_sequence(outputs.trajectory.z[:, 0], outputs.mu, outputs.log_var, flow.log_det_exact(trajectory.z, k))
    for b in range(4):
        for t in range(T + 1):
            expected = pushed(mu[b], log_var[b], a[k[b]], t).log_prob(trajectory.z[b, t])
            assert log_q[b, t].item() == pytest.approx(expected.item(), abs=1e-9)
    if latent_dim > 1:
        trace = log_q_sequence(
            outputs.trajectory.z[:, 0], outputs.mu, outputs.log_var, log_det_trace(trajectory.lap_u, 1e-3)
        )  # type: ignore[arg-type]
        assert (trace - log_q)[:, 1:].abs().min() > 1e-4  # the approximation of FFRL eq. 10 is another number


def test_kl_of_a_quadratic_flow_is_that_of_the_gaussians():
    """kl_t is one sample of KL(N((I+A)^t μ, ...) || N(0, (1 + 2 D_k t) I)), without bias."""
    a, diffusivity, count = symmetric(2, 3), (0.4, 0.1), 20_000
    model = quadratic_model(a, *diffusivity)
    mu, log_var, _ = (0.7 * value for value in gaussian_rows(1, 3))
    for k, diffusivity_k in enumerate(diffusivity):
        index = torch.full((count,), k)
        z0 = mu + (0.5 * log_var).exp() * torch.randn(count, 3, dtype=torch.float64)
        trajectory = model.flow(z0, index, T)
        outputs = SequenceOutputs(mu.expand(count, 3), log_var.expand(count, 3), trajectory, z0, z0, z0)
        log_det = step_log_det(model, outputs, index, LossConfig(log_det="exact"))
        samples = log_q_sequence(outputs.trajectory.z[:, 0], outputs.mu, outputs.log_var, log_det) - log_p_sequence(
            model, trajectory.z, index
        )
        for t in range(T + 1):
            identity = torch.eye(3, dtype=torch.float64)
            prior = torch.distributions.MultivariateNormal(mu[0] * 0, (1 + 2 * diffusivity_k * t) * identity)
            expected = torch.distributions.kl_divergence(pushed(mu[0], log_var[0], a[k], t), prior).item()
            error = samples[:, t].std().item() / math.sqrt(count)
            assert error < 0.05 * expected
            assert samples[:, t].mean().item() == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("log_det", ["exact", "trace"])
def test_losses_of_a_quadratic_model(log_det: str):
    """Every flow term of the objective by hand: z_t = (I+A)^t z_0, and log q, log p_t, the residual from it."""
    a, diffusivity = symmetric(2, 3), (0.2, 0.5)
    model, (x, k) = quadratic_model(a, *diffusivity), random_batch(4, 3, num_potentials=2)
    noise = torch.randn(4, 3, dtype=torch.float64)
    losses = sequence_losses(model, SequenceBatch(x, k), LossConfig(log_det=log_det), noise)  # type: ignore[arg-type]
    outputs = model(x, k, noise)
    for b in range(4):
        a_b, mu, log_var = a[k[b]], outputs.mu[b], outputs.log_var[b]
        z = mu + (0.5 * log_var).exp() * noise[b]
        log_q = torch.distributions.Normal(mu, (0.5 * log_var).exp()).log_prob(z).sum().item()
        assert losses.initial_condition[b].item() == pytest.approx((a_b @ z).square().sum().item(), rel=1e-9)
        for t in (1, 2, 3):
            residual = 0.5 * (a_b @ z).square().sum() - outputs.force[b, t - 1]
            assert losses.hj_residual[b, t - 1].item() == pytest.approx(residual.item(), rel=1e-9)
            z = z + a_b @ z
            determinant = torch.linalg.det(torch.eye(3, dtype=torch.float64) + a_b).item()
            log_q -= math.log(abs(determinant if log_det == "exact" else 1 + a_b.trace().item()))
            variance = 1 + 2 * diffusivity[int(k[b])] * t
            log_p = -0.5 * z.square().sum().item() / variance - 1.5 * math.log(2 * math.pi * variance)
            assert losses.kl_t[b, t - 1].item() == pytest.approx(log_q - log_p, abs=1e-9)


def test_density_of_a_nonlinear_flow_integrates_to_one():
    """In one dimension the trace is the determinant, and the pushed density can be summed over the states reached."""
    pot = potential(latent_dim=1, num_potentials=2, activation="identity")
    z0 = torch.linspace(-9, 9, 8001, dtype=torch.float64)[:, None]
    for k in (0, 1):
        curvature = [potential_derivatives(pot, 1.5 * z0, float(t), k).lap_u for t in range(1, T + 1)]
        with torch.no_grad():  # u is linear in weight3: make |u''| < 1, so that a step is one to one
            pot.weight3[k] *= 0.7 / torch.stack(curvature).abs().max()  # type: ignore[arg-type]
        flow = LatentFlow(pot)
        trajectory = flow(z0, k, T)
        assert bool((trajectory.z.diff(dim=0) > 0).all())
        outputs = SequenceOutputs(0.3 + 0 * z0, torch.zeros_like(z0), trajectory, z0, z0, z0)
        exact, trace = flow.log_det_exact(trajectory.z, k), log_det_trace(trajectory.lap_u, 1e-3)  # type: ignore[arg-type]
        assert exact.abs().max() > 0.1
        assert relative_error(trace, exact) < 1e-12
        log_q = log_q_sequence(outputs.trajectory.z[:, 0], outputs.mu, outputs.log_var, exact)
        for t in range(T + 1):
            mass = torch.trapezoid(log_q[:, t].exp(), trajectory.z[:, t, 0]).item()
            assert mass == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_error_of_the_trace_form_is_of_second_order(latent_dim: int):
    basis, _ = torch.linalg.qr(torch.randn(latent_dim, latent_dim, dtype=torch.float64))
    a = basis @ torch.diag(torch.linspace(0.2, 1, latent_dim, dtype=torch.float64)) @ basis.T
    coefficient = 0.5 * (a.trace() ** 2 - (a @ a).trace()).item()
    assert coefficient > 0.1
    eps = torch.tensor([4e-3, 2e-3, 1e-3], dtype=torch.float64)
    z0 = torch.randn(3, latent_dim, dtype=torch.float64)
    flow = LatentFlow(constant_quadratic(eps[:, None, None] * a))  # type: ignore[arg-type]
    k = torch.arange(3)
    trajectory = flow(z0, k, 1)
    trace = log_det_trace(trajectory.lap_u, 1e-3)[:, 0]  # type: ignore[arg-type]
    error = flow.log_det_exact(trajectory.z, k)[:, 0] - trace
    assert error[-1].item() / eps[-1].item() ** 2 == pytest.approx(coefficient, rel=0.05)
    slopes = (error[:-1] / error[1:]).log2()
    assert slopes.tolist() == pytest.approx([2, 2], abs=0.1)


def test_trace_form_is_exact_for_a_hessian_of_rank_one():
    direction = torch.randn(4, dtype=torch.float64)
    a = 0.2 * torch.outer(direction, direction) / direction.square().sum()
    flow = LatentFlow(constant_quadratic(a[None]))  # type: ignore[arg-type]
    trajectory = flow(torch.randn(3, 4, dtype=torch.float64), 0, 2)
    exact = flow.log_det_exact(trajectory.z, 0)
    assert exact.min() > 0.05
    assert relative_error(log_det_trace(trajectory.lap_u, 1e-3), exact) < 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("a", [0.3, 1.0, 7.0])
def test_hamilton_jacobi_residual_of_the_solution_is_zero(a: float):
    z0 = torch.randn(20, 4, dtype=torch.float64)
    trajectory = LatentFlow(HamiltonJacobiField(a))(z0, 0, T)  # type: ignore[arg-type]
    residual = hj_residual(trajectory.du_dz, trajectory.du_dt, torch.zeros_like(trajectory.du_dt))
    assert residual.abs().max() < 1e-12 * trajectory.du_dt.abs().max()
    wrong_sign = hj_residual(trajectory.du_dz, -trajectory.du_dt, torch.zeros_like(trajectory.du_dt))
    assert wrong_sign.abs().min() > 1e-4
    t = torch.arange(T + 1, dtype=torch.float64)
    stretch = (t + a + 1) / (a + 1)  # Π (1 + 1/(s + a)), s = 1..t
    assert relative_error(trajectory.z, z0[:, None] * stretch[:, None]) < 1e-12


def test_floor_of_the_trace_form():
    lap_u = torch.tensor([-1.0, -1 + 5e-4, -1 - 5e-4, -0.5, -3.0, 0.0, 4.0], dtype=torch.float64, requires_grad=True)
    log_det = log_det_trace(lap_u, 1e-3)
    floor = math.log(1e-3)
    expected = [floor, floor, floor, math.log(0.5), math.log(2), 0, math.log(5)]
    assert log_det.tolist() == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(log_det.sum(), lap_u)
    assert gradient.tolist() == pytest.approx([0, 0, 0, 2, -0.5, 1, 0.2], abs=1e-12)
    assert log_det_trace(lap_u, 1e-4)[1].item() == pytest.approx(math.log(5e-4))
    assert torch.isfinite(log_det_trace(torch.tensor([-1.0]), 1e-30)).all()
