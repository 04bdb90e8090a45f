"""Second rung: the closed form against the oracle in float64, every output and every cotangent of every case."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.models import PotentialMLP
from ffrl.ops import analytic, potential_derivatives
from ffrl.ops.analytic import stacked_velocity
from ffrl.ops.laplacian_forms import laplacian_form
from ffrl.records import PotentialWeights
from tests.cases import CASES, FULL_CASES, Case, build, cotangents_of, outputs_of
from tests.tolerances import FLOAT64, ROUNDING, assert_matches


def check_against_the_oracle(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = build(case)
    expected = outputs_of(inputs, "oracle")
    v_expected = cotangents_of(inputs, expected)
    for form in ("chosen", "gram", "jacobian") if case.laplacian else ("chosen",):
        if form != "chosen":
            monkeypatch.setattr(analytic, "laplacian_form", lambda *_, form=form, **__: form)
        actual = outputs_of(inputs, "analytic")
        assert_matches(actual, expected, FLOAT64, f"{case}, {form} form, outputs")
        assert_matches(cotangents_of(inputs, actual), v_expected, FLOAT64, f"{case}, {form} form, cotangents")
        tracked = bool(inputs.sources)
        assert all(value.requires_grad == tracked for value in actual.values() if value is not None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_analytic_matches_the_oracle(case: Case, monkeypatch: pytest.MonkeyPatch):
    check_against_the_oracle(case, monkeypatch)


@pytest.mark.parametrize("case", FULL_CASES, ids=str)
def test_analytic_matches_the_oracle_in_full(case: Case, monkeypatch: pytest.MonkeyPatch):
    check_against_the_oracle(case, monkeypatch)


@pytest.mark.parametrize("backend", ["oracle", "analytic"])
def test_what_was_not_asked_for_is_none(backend: str):
    for case in (c for c in CASES[:40] if c.rows < 10):
        outputs = outputs_of(build(case), backend)
        assert (outputs["d2u_dt2"] is not None) == case.d2u_dt2
        assert (outputs["lap_u"] is not None) == case.laplacian


def test_no_grad_gives_the_outputs_without_a_graph():
    for case in (c for c in CASES if c.tracked == "all" and c.laplacian and c.rows):
        inputs = build(case)
        with torch.no_grad():
            without = outputs_of(inputs, "analytic")
        assert not any(value.requires_grad for value in without.values() if value is not None)
        assert_matches(without, outputs_of(inputs, "analytic"), ROUNDING, str(case))


def test_without_the_laplacian_nothing_cubic_is_computed(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise AssertionError("the Laplacian was not asked for")

    for name in ("laplacian_gram", "laplacian_jacobian", "laplacian_gram_vjp", "laplacian_jacobian_vjp"):
        monkeypatch.setattr(analytic, name, fail)
    inputs = build(Case(7, 8, 17, 3, laplacian=False))
    cotangents_of(inputs, outputs_of(inputs, "analytic"))


def test_without_a_cotangent_of_the_laplacian_its_backward_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise AssertionError("the Laplacian has no cotangent")

    inputs = build(Case(7, 8, 17, 3, cotangents="u+du_dz"))
    outputs = outputs_of(inputs, "analytic")
    monkeypatch.setattr(analytic, "laplacian_gram_vjp", fail)
    monkeypatch.setattr(analytic, "laplacian_jacobian_vjp", fail)
    cotangents_of(inputs, outputs)


@pytest.mark.parametrize(
    ("latent_dim", "hidden1", "backward", "form"),
    [
        (324, 324, True, "gram"),
        (324, 324, False, "gram"),
        (3, 256, True, "jacobian"),
        (3, 256, False, "jacobian"),
        (32, 64, True, "gram"),
        (32, 64, False, "jacobian"),
        (32, 65, True, "jacobian"),
        (64, 32, True, "gram"),
        (64, 32, False, "gram"),
    ],
)
def test_the_cheaper_form_is_chosen(latent_dim: int, hidden1: int, backward: bool, form: str):
    assert laplacian_form(latent_dim, hidden1, backward=backward) == form


@pytest.mark.parametrize("form", ["gram", "jacobian"])
def test_parameters_with_transposed_memory_give_the_same_results(form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(analytic, "laplacian_form", lambda *_, **__: form)
    inputs = build(Case(7, 8, 17, 3, 3, "mixed"))
    expected = outputs_of(inputs, "analytic")
    v_expected = cotangents_of(inputs, expected)
    for parameter in inputs.pot.parameters():
        if parameter.dim() == 3:
            parameter.data = parameter.data.transpose(1, 2).contiguous().transpose(1, 2)
    actual = outputs_of(inputs, "analytic")
    assert_matches(actual, expected, ROUNDING)
    assert_matches(cotangents_of(inputs, actual), v_expected, ROUNDING)


def test_a_float_a_0d_tensor_and_equal_rows_are_the_same_time():
    pot = PotentialMLP(3, (8, 5), 2).double()
    z = torch.randn(9, 3, dtype=torch.float64)
    k = torch.arange(9) % 2
    times: list[float | Tensor] = [1.25, torch.tensor(1.25), torch.tensor(1.25).double(), torch.full((9,), 1.25)]
    results = [potential_derivatives(pot, z, t, k, d2u_dt2=True)._asdict() for t in times]
    for result in results[1:]:
        assert_matches(result, results[0], ROUNDING)


def test_a_time_of_another_precision_keeps_its_gradient():
    pot = PotentialMLP(3, (8, 5), 2).double()
    z, k = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 2
    for shape in ((), (9,)):
        single = torch.full(shape, 1.25, requires_grad=True)
        double = torch.full(shape, 1.25, dtype=torch.float64, requires_grad=True)
        for t in (single, double):
            potential_derivatives(pot, z, t, k, backend="analytic").du_dt.sum().backward()
        assert single.grad is not None and double.grad is not None and single.grad.dtype == torch.float32
        torch.testing.assert_close(single.grad, double.grad.float())


def test_repeated_times_are_embedded_once(monkeypatch: pytest.MonkeyPatch):
    pot = PotentialMLP(3, (8, 5), 1).double()
    lengths = []
    plain = PotentialMLP.time_features

    def counted(self: PotentialMLP, time: Tensor, k: int, *, order: int):
        lengths.append(time.numel())
        return plain(self, time, k, order=order)

    monkeypatch.setattr(PotentialMLP, "time_features", counted)
    z, t = torch.randn(12, 3, dtype=torch.float64), torch.arange(12).double() % 3
    potential_derivatives(pot, z, t, 0, backend="analytic")
    potential_derivatives(pot, z, 0.5, 0, backend="analytic")
    assert lengths == [3, 1]


@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_the_stacked_velocity_is_that_of_each_potential(activation: str):
    case = Case(12, 5, 8, 3, 3, "mixed", activation=activation, time="scalar")
    inputs = build(case)
    assert isinstance(inputs.t, Tensor)
    pot, z = inputs.pot, inputs.z.view(3, 4, 5)  # four rows of each of three potentials
    features = [pot.time_features(inputs.t, k, order=1) for k in range(3)]
    stacked = PotentialWeights(pot.weight1, pot.bias1, pot.weight2, pot.bias2, pot.weight3, pot.bias3)
    tau = torch.stack([feature.tau for feature in features])  # (3, 1, H1)
    inputs.k = torch.arange(3).repeat_interleave(4)
    inputs.cotangents = {name: inputs.cotangents[name] for name in ("du_dz", "du_dt")}
    expected = outputs_of(inputs, "oracle")
    du_dz, du_da2 = stacked_velocity(z, tau, stacked, tanh_output=activation == "tanh")
    omega = torch.stack([feature.dtau_dt for feature in features]) @ pot.weight2.mT  # (3, 1, H2)
    actual = {"du_dz": du_dz.reshape(12, 5), "du_dt": (du_da2 * omega).sum(2).reshape(12)}
    assert_matches(actual, {name: expected[name] for name in actual}, FLOAT64)
    assert_matches(cotangents_of(inputs, {**actual}), cotangents_of(inputs, expected), FLOAT64)
