"""Hutchinson's estimate of the Laplacian: its mean, its variance, and its gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ffrl.ops import potential_derivatives, potential_hessian
from ffrl.ops.hutchinson import draw_probes, hutchinson_rows, laplacian_hutchinson
from ffrl.ops.oracle import potential_hessian_oracle
from ffrl.records import PotentialWeights
from tests.cases import Case, Inputs, build, cotangents_of
from tests.potentials import HamiltonJacobiField, QuadraticField
from tests.tolerances import FLOAT64, ROUNDING, assert_matches

CASES = (
    Case(7, 3, 8, 5, cotangents="lap_u", seed=1),
    Case(7, 8, 5, 17, 3, "mixed", activation="identity", cotangents="lap_u", seed=2),
    Case(7, 17, 3, 8, 3, "mixed", time="scalar", layout="transposed", cotangents="lap_u", seed=3),
    Case(5, 1, 2, 3, 3, "same", time="repeated", layout="expanded", cotangents="lap_u", seed=4),
    Case(33, 2, 17, 8, 3, "int", activation="identity", layout="strided", cotangents="lap_u", seed=5),
    Case(1, 4, 3, 2, 3, "mixed", time="scalar", layout="offset", cotangents="lap_u", seed=6),
)
STANDARD_ERRORS = 4.5  # a normal deviate exceeds this seven times in a million


def estimate(inputs: Inputs, probes: Tensor, *, fused: bool) -> Tensor:
    time = torch.as_tensor(inputs.t, dtype=inputs.z.dtype)
    return hutchinson_rows(inputs.pot, inputs.z, time, inputs.k, probes, fused=fused)


def every_probe(latent_dim: int, rows: int) -> Tensor:
    """All 2^D vectors of signs, for each row: (2^D, N, D)."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=latent_dim)), dtype=torch.float64)
    return signs[:, None, :].expand(-1, rows, -1)


def quadratic_form(hessian: Tensor, probes: Tensor) -> Tensor:
    """ξᵀ H ξ, (P, N)."""
    return torch.einsum("pnd,nde,pne->pn", probes, hessian, probes)


def variance_of_one_probe(hessian: Tensor) -> Tensor:
    """2 (|H|_F² - Σ_d H_dd²), (N,)."""
    return 2 * (hessian.square().sum((1, 2)) - hessian.diagonal(dim1=1, dim2=2).square().sum(1))


@pytest.mark.parametrize("probe", range(4))
def test_one_probe_is_exact_for_a_field_with_a_diagonal_hessian(probe: int):
    diagonal = torch.randn(3, 3, 5, dtype=torch.float64)
    field = QuadraticField(*torch.diag_embed(diagonal))
    z, t = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    probes = every_probe(5, 6)[7 * probe : 7 * probe + 1]
    for pot in (field, HamiltonJacobiField(0.6)):
        for index in (1, torch.arange(6) % 3):
            for time in (t, torch.tensor(0.3, dtype=torch.float64)):
                value = hutchinson_rows(pot, z, time, index, probes, fused=False)
                expected = pot.exact(z, time.expand(6), index).lap_u
                assert_matches({"lap_u": value}, {"lap_u": expected}, 1e-14, type(pot).__name__)


@pytest.mark.parametrize("fused", [True, False])
def test_one_probe_is_exact_for_a_potential_mlp_with_a_diagonal_hessian(fused: bool):
    inputs = build(Case(7, 5, 5, 5, activation="identity", tracked="none"))
    with torch.no_grad():
        for weight in (inputs.pot.weight1, inputs.pot.weight2):
            weight.mul_(torch.eye(5))
    expected = potential_derivatives(inputs.pot, inputs.z, inputs.t, inputs.k, backend="oracle").lap_u
    value = estimate(inputs, draw_probes(inputs.z, 1), fused=fused)
    assert_matches({"lap_u": value}, {"lap_u": expected}, ROUNDING)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("index", ["int", "mixed"])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_the_mean_over_every_probe_is_the_laplacian(activation: str, index: str, fused: bool):
    inputs = build(Case(6, 4, 8, 5, 3, index, activation=activation, tracked="none"))
    expected = potential_derivatives(inputs.pot, inputs.z, inputs.t, inputs.k, backend="oracle").lap_u
    value = estimate(inputs, every_probe(4, 6), fused=fused)
    assert_matches({"lap_u": value}, {"lap_u": expected}, 1e-12)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_estimate_is_the_mean_of_quadratic_forms_in_the_hessian(case: Case, fused: bool):
    inputs = build(case)
    probes = draw_probes(inputs.z, 3)
    hessian = potential_hessian_oracle(
        inputs.pot, inputs.z, torch.as_tensor(inputs.t, dtype=torch.float64).expand(case.rows), inputs.k
    )
    expected = quadratic_form(hessian, probes).mean(0)
    assert_matches({"lap_u": estimate(inputs, probes, fused=fused)}, {"lap_u": expected}, FLOAT64)


@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_the_variance_formula_is_that_of_all_probes(activation: str):
    inputs = build(Case(6, 5, 8, 7, activation=activation, tracked="none"))
    hessian = potential_hessian(inputs.pot, inputs.z, inputs.t, inputs.k)
    values = torch.stack([estimate(inputs, probe[None], fused=True) for probe in every_probe(5, 6)])
    variance = values.var(0, correction=0)
    assert variance.min() > 1e-4
    assert_matches({"variance": variance}, {"variance": variance_of_one_probe(hessian)}, ROUNDING)


@pytest.mark.parametrize("num_probes", [1, 4])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_estimates_scatter_about_the_laplacian_with_the_stated_variance(activation: str, num_probes: int):
    """Mean and variance of S estimates within 4.5 of their standard errors.

    That of the variance is sqrt((μ4 - σ⁴) / S), up to a relative 1/S. The mean of P probes has the fourth central
    moment μ4 = (μ4(1) + 3 (P - 1) σ(1)⁴) / P³, in terms of those of one probe.
    """
    samples = 20_000
    inputs = build(Case(4, 5, 8, 7, activation=activation, time="scalar", tracked="none"))
    hessian = potential_hessian(inputs.pot, inputs.z, inputs.t, inputs.k)
    lap_u = hessian.diagonal(dim1=1, dim2=2).sum(1)
    one = variance_of_one_probe(hessian)
    fourth_of_one = (quadratic_form(hessian, every_probe(5, 4)) - lap_u).pow(4).mean(0)
    variance = one / num_probes
    fourth = (fourth_of_one + 3 * (num_probes - 1) * one.square()) / num_probes**3
    repeated = inputs.z.repeat(samples, 1)
    probes = draw_probes(repeated, num_probes)
    time = torch.as_tensor(inputs.t)
    values = hutchinson_rows(inputs.pot, repeated, time, inputs.k, probes, fused=True).view(samples, 4)
    assert ((values.mean(0) - lap_u).abs() <= STANDARD_ERRORS * (variance / samples).sqrt()).all()
    spread = ((fourth - variance.square()) / samples).sqrt()
    assert (spread < 0.05 * variance).all(), "the bound would prove nothing"
    assert ((values.var(0) - variance).abs() <= STANDARD_ERRORS * spread).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_nested_autograd_with_the_same_probes(case: Case):
    inputs = build(case)
    probes = draw_probes(inputs.z, 3)
    found = []
    for fused in (True, False):
        outputs: dict[str, Tensor | None] = {"lap_u": estimate(inputs, probes, fused=fused)}
        found.append(cotangents_of(inputs, outputs))
    assert {"v_z", "v_t", "v_weight1", "v_time_weight1"} <= found[0].keys()
    assert_matches(found[0], found[1], 1e-10)


def test_second_derivatives_are_those_of_nested_autograd():
    inputs = build(CASES[1])
    probes = draw_probes(inputs.z, 2)
    sources = list(inputs.sources.values())
    found = []
    for fused in (True, False):
        first = torch.autograd.grad(
            estimate(inputs, probes, fused=fused).square().sum(), sources, create_graph=True, materialize_grads=True
        )
        total = sum((value.square().sum() for value in first), torch.zeros(()))
        second = torch.autograd.grad(total, sources, materialize_grads=True)
        found.append(dict(zip(inputs.sources, second, strict=True)))
    assert min(value.norm() for name, value in found[0].items() if name != "bias3") > 1e-3
    assert_matches(found[0], found[1], FLOAT64)


@pytest.mark.parametrize("rows_of_time", [1, 3], ids=["shared", "rows"])
@pytest.mark.parametrize("tanh_output", [True, False])
def test_gradcheck_of_the_estimate_in_its_own_arguments(rows_of_time: int, tanh_output: bool):
    shapes = [(3, 2), (rows_of_time, 3), (3, 2), (3,), (4, 3), (4,), (4,), ()]
    arguments = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    probes = draw_probes(arguments[0], 2)

    def lap_u(z: Tensor, tau: Tensor, *weights: Tensor) -> Tensor:
        return laplacian_hutchinson(z, tau, PotentialWeights(*weights), probes, tanh_output=tanh_output)

    assert torch.autograd.gradcheck(lap_u, arguments, eps=1e-6, atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradgradcheck(lap_u, arguments, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_rows_of_several_potentials_are_those_of_each_row_alone(fused: bool):
    inputs = build(Case(12, 8, 17, 3, 3, "mixed", tracked="none"))
    assert isinstance(inputs.t, Tensor) and isinstance(inputs.k, Tensor)
    probes = draw_probes(inputs.z, 2)
    alone = []
    for n, k_one in enumerate(inputs.k.tolist()):
        row = slice(n, n + 1)
        alone.append(hutchinson_rows(inputs.pot, inputs.z[row], inputs.t[row], k_one, probes[:, row], fused=fused))
    assert_matches({"lap_u": estimate(inputs, probes, fused=fused)}, {"lap_u": torch.cat(alone)}, ROUNDING)


@pytest.mark.parametrize("source", ["z", "t"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_row_that_is_not_a_number_reaches_no_other_row(fused: bool, source: str):
    inputs = build(Case(12, 3, 8, 5, 3, "mixed", tracked="none"))
    assert isinstance(inputs.t, Tensor)
    probes = draw_probes(inputs.z, 2)
    clean = estimate(inputs, probes, fused=fused)
    (inputs.z[5, 1:2] if source == "z" else inputs.t[5:6]).fill_(float("nan"))
    poisoned = estimate(inputs, probes, fused=fused)
    others = torch.arange(12) != 5
    assert poisoned[5].isnan()
    assert_matches({"lap_u": poisoned[others]}, {"lap_u": clean[others]}, ROUNDING)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("index", ["int", "mixed"])
@pytest.mark.parametrize("time", ["scalar", "rows"])
def test_no_rows_is_no_error_forward_or_backward(time: str, index: str, fused: bool):
    inputs = build(Case(0, 3, 8, 5, 3, index, time=time))
    probes = draw_probes(inputs.z, 2)
    assert probes.shape == (2, 0, 3)
    value = estimate(inputs, probes, fused=fused)
    assert value.shape == (0,) and value.dtype == torch.float64
    for source in torch.autograd.grad(value.sum(), list(inputs.sources.values()), materialize_grads=True):
        assert torch.equal(source, torch.zeros_like(source))


def test_a_field_that_does_not_depend_on_z_has_no_laplacian():
    z = torch.randn(3, 2)
    for field in (lambda z, time, k: time * 1.0, lambda z, time, k: z.sum(1), lambda z, time, k: z[:, 0] * 0 + 2.0):
        value = hutchinson_rows(field, z, torch.rand(3), 0, draw_probes(z, 2), fused=False)
        assert torch.equal(value, torch.zeros(3))


@pytest.mark.parametrize("fused", [True, False])
def test_without_grad_mode_there_are_the_same_numbers_and_no_graph(fused: bool):
    inputs = build(CASES[1])
    probes = draw_probes(inputs.z, 2)
    with_graph = estimate(inputs, probes, fused=fused)
    with torch.no_grad():
        without = estimate(inputs, probes, fused=fused)
    assert with_graph.requires_grad and not without.requires_grad
    assert torch.equal(with_graph.detach(), without)
