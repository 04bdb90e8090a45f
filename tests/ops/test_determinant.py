"""The whole Hessian and log|det(I + ∇²u)|, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ffrl.models import PotentialMLP
from ffrl.ops import log_abs_det, potential_derivatives, potential_hessian
from ffrl.ops.oracle import potential_hessian_oracle
from tests.cases import Case, build
from tests.potentials import HamiltonJacobiField, QuadraticField, exact_fields
from tests.tolerances import FLOAT64, assert_matches, relative_error

CASES = (
    Case(5, 1, 2, 3, seed=1),
    Case(7, 3, 8, 5, 3, "mixed", seed=2),
    Case(7, 8, 5, 17, 3, "mixed", activation="identity", time="scalar", seed=3),
    Case(4, 17, 8, 3, 2, activation="identity", time="float", layout="transposed", seed=4),
    Case(6, 2, 3, 8, 3, "mixed", time="repeated", tracked="parameters", seed=5),
)


def hessian_by_torch_func(pot: PotentialMLP, z: Tensor, t: float | Tensor, k: int | Tensor) -> Tensor:
    """(N, D, D), row by row."""
    times = torch.as_tensor(t, dtype=z.dtype).expand(z.shape[0])
    index = torch.as_tensor(k).expand(z.shape[0]).tolist()

    def u(row: Tensor, n: int) -> Tensor:
        return pot(row[None], times[n], index[n])[0]

    return torch.stack([torch.func.hessian(u)(row, n) for n, row in enumerate(z)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hessian_and_determinant_agree_with_torch_func(case: Case):
    inputs = build(case)
    arguments = inputs.pot, inputs.z, inputs.t, inputs.k
    expected = hessian_by_torch_func(*arguments)
    identity = torch.eye(case.latent, dtype=torch.float64)
    actual = {"hessian": potential_hessian(*arguments), "log_abs_det": log_abs_det(*arguments)}
    logabsdet = torch.linalg.slogdet(identity + expected).logabsdet
    assert_matches(actual, {"hessian": expected, "log_abs_det": logabsdet}, FLOAT64, str(case))
    assert relative_error(actual["hessian"], actual["hessian"].transpose(1, 2)) < 1e-13


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_nested_autograd(case: Case):
    inputs = build(case)
    time = torch.as_tensor(inputs.t, dtype=torch.float64).expand(case.rows)
    identity = torch.eye(case.latent, dtype=torch.float64)
    weights = torch.randn(case.rows, dtype=torch.float64)
    probe = torch.randn(case.rows, case.latent, case.latent, dtype=torch.float64)
    gradients = []
    for fused in (True, False):
        if fused:
            hessian = potential_hessian(inputs.pot, inputs.z, inputs.t, inputs.k)
            logabsdet = log_abs_det(inputs.pot, inputs.z, inputs.t, inputs.k)
        else:
            hessian = potential_hessian_oracle(inputs.pot, inputs.z, time, inputs.k)
            logabsdet = torch.linalg.slogdet(identity + hessian).logabsdet
        loss = (weights * logabsdet).sum() + (probe * hessian).sum()
        found = torch.autograd.grad(loss, list(inputs.sources.values()), allow_unused=True)
        gradients.append(
            {
                f"v_{name}": torch.zeros_like(source) if value is None else value
                for (name, source), value in zip(inputs.sources.items(), found, strict=True)
            }
        )
    assert_matches(gradients[0], gradients[1], FLOAT64, str(case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_trace_of_the_hessian_is_the_laplacian(case: Case):
    inputs = build(case)
    hessian = potential_hessian(inputs.pot, inputs.z, inputs.t, inputs.k)
    trace = hessian.diagonal(dim1=1, dim2=2).sum(1)
    for backend in ("oracle", "analytic"):
        out = potential_derivatives(inputs.pot, inputs.z, inputs.t, inputs.k, backend=backend)
        assert_matches({"lap_u": out.lap_u}, {"lap_u": trace}, FLOAT64, backend)


@pytest.mark.parametrize("latent_dim", [1, 4, 9])
def test_fields_with_exact_hessians(latent_dim: int):
    z, t = torch.randn(6, latent_dim, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    for field in exact_fields(latent_dim, 3):
        for index in (2, torch.arange(6) % 3):
            expected = field.hessian(z, t, index).expand(6, latent_dim, latent_dim)
            actual = potential_hessian(field, z, t, index)
            assert_matches({"hessian": actual}, {"hessian": expected}, FLOAT64, type(field).__name__)
            eigenvalues = torch.linalg.eigvalsh(expected)
            by_eigenvalues = (1 + eigenvalues).abs().log().sum(1)
            logabsdet = log_abs_det(field, z, t, index)
            assert_matches({"log_abs_det": logabsdet}, {"log_abs_det": by_eigenvalues}, FLOAT64, type(field).__name__)


def test_a_quadratic_field_is_exact_where_the_determinant_is_negative_or_zero():
    diagonal = torch.tensor([[1.0, 2.0, 0.5], [-3.0, 0.0, 0.0], [-1.0, 4.0, 4.0]], dtype=torch.float64)
    none = torch.zeros(3, 3, 3, dtype=torch.float64)
    field = QuadraticField(torch.diag_embed(diagonal), none, none)
    z = torch.randn(3, 3, dtype=torch.float64)
    value = log_abs_det(field, z, 0.5, torch.arange(3))
    assert value[0].item() == pytest.approx(math.log(2 * 3 * 1.5), rel=1e-14)
    assert value[1].item() == pytest.approx(math.log(2), rel=1e-14)  # det = -2
    assert value[2].item() == -math.inf


def test_the_determinant_of_the_hamilton_jacobi_flow():
    """I + ∇²u = (1 + 1/(t + a)) I."""
    z, t = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0.0, 0.5, 1.0, 7.0], dtype=torch.float64)
    value = log_abs_det(HamiltonJacobiField(a=0.6), z, t, 0)
    assert_matches({"log_abs_det": value}, {"log_abs_det": 5 * torch.log1p(1 / (t + 0.6))}, FLOAT64)


def test_the_determinant_of_the_flow_map_itself():
    """log|det| of d(z + ∇u)/dz, with the Jacobian taken of the map."""
    inputs = build(CASES[1])
    z = inputs.z.detach()

    def flow(rows: Tensor) -> Tensor:
        return (
            rows + potential_derivatives(inputs.pot, rows, inputs.t, inputs.k, laplacian=None, backend="oracle").du_dz
        )

    jacobian = torch.autograd.functional.jacobian(flow, z)  # (N, D, N, D)
    n = torch.arange(z.shape[0])
    expected = torch.linalg.slogdet(jacobian[n, :, n, :]).logabsdet
    actual = log_abs_det(inputs.pot, z, inputs.t, inputs.k)
    assert_matches({"log_abs_det": actual}, {"log_abs_det": expected}, FLOAT64)


def test_second_derivatives_of_the_determinant_exist():
    inputs = build(Case(2, 2, 3, 4, tracked="z", seed=9))
    assert torch.autograd.gradgradcheck(
        lambda z: log_abs_det(inputs.pot, z, inputs.t, inputs.k), (inputs.z,), eps=1e-6, atol=1e-6, rtol=1e-5
    )


def test_without_grad_mode_there_is_no_graph():
    inputs = build(CASES[1])
    with torch.no_grad():
        for field in (inputs.pot, HamiltonJacobiField(0.6)):
            assert not potential_hessian(field, inputs.z, inputs.t, inputs.k).requires_grad
            assert not log_abs_det(field, inputs.z, inputs.t, inputs.k).requires_grad
