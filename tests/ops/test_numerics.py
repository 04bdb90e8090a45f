"""Saturation, non-finite rows, independence of rows, repeatability."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.ops import analytic, laplacian_forms
from tests.cases import Case, Inputs, build, cotangents_of, outputs_of
from tests.tolerances import ROUNDING, assert_matches

FORMS = ("gram", "jacobian")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(analytic, "laplacian_form", lambda *_, **__: request.param)
    return request.param


def values_of(inputs: Inputs, backend: str = "analytic") -> dict[str, Tensor]:
    outputs = outputs_of(inputs, backend)
    return {name: value for name, value in {**outputs, **cotangents_of(inputs, outputs)}.items() if value is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("layer", ["first", "second", "both"])
def test_saturated_layers_give_exact_zeros(form: str, layer: str, activation: str, dtype: torch.dtype):
    inputs = build(Case(7, 8, 17, 3, activation=activation, seed=3), dtype)
    with torch.no_grad():
        if layer in ("first", "both"):  # a1 = ±1e4
            inputs.pot.weight1.mul_(0.1)
            inputs.pot.bias1.copy_(1e4 * inputs.pot.bias1.sign())
        if layer in ("second", "both"):  # a2 = ±1e4
            inputs.pot.weight2.mul_(0.1)
            inputs.pot.bias2.copy_(1e4 * inputs.pot.bias2.sign())
    values = values_of(inputs)
    assert all(value.isfinite().all() for value in values.values())
    assert values["u"].abs().min() > 0
    zero = ["du_dz", "lap_u", "v_z", "v_weight1", "v_bias1"]
    if layer != "first":
        zero += ["du_dt", "d2u_dt2", "v_t", "v_weight2", "v_bias2", "v_time_weight1"]
    else:
        assert values["du_dt"].abs().min() > 0
    for name in zero:
        assert torch.equal(values[name], torch.zeros_like(values[name])), name
    assert_matches(values, values_of(inputs, "oracle"), 1e-5 if dtype == torch.float32 else ROUNDING)


def test_a_saturated_output_gives_exact_zeros(form: str):
    inputs = build(Case(7, 8, 17, 3, seed=3))
    with torch.no_grad():
        inputs.pot.bias3.fill_(1e4)
    values = values_of(inputs)
    assert torch.equal(values.pop("u"), torch.ones(7, dtype=torch.float64))
    for name, value in values.items():
        assert torch.equal(value, torch.zeros_like(value)), name


def test_arguments_up_to_1e4_stay_finite(form: str):
    inputs = build(Case(33, 8, 17, 3, seed=3))
    with torch.no_grad():
        inputs.z.mul_(torch.logspace(-4, 4, 33, dtype=torch.float64)[:, None])
        inputs.pot.weight2.mul_(100.0)
    values = values_of(inputs)
    assert all(value.isfinite().all() for value in values.values())
    assert_matches(values, values_of(inputs, "oracle"), 1e-10)


@pytest.mark.parametrize("tile", [1, 7, 1 << 22])
@pytest.mark.parametrize("source", ["z", "t"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("time", ["rows", "repeated"])
def test_a_row_that_is_not_finite_reaches_no_other_row(
    form: str, poison: float, source: str, tile: int, time: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(laplacian_forms, "TILE_ELEMENTS", tile)
    case = Case(12, 3, 8, 5, 3, "mixed", time=time, tracked="z+t" if time == "rows" else "z")
    clean = values_of(build(case))
    inputs = build(case)
    assert isinstance(inputs.t, Tensor)
    row = 5
    with torch.no_grad():
        (inputs.z[row, 1:2] if source == "z" else inputs.t[row : row + 1]).fill_(poison)
    poisoned = values_of(inputs)
    others = torch.arange(12) != row
    assert_matches(
        {name: value[others] for name, value in poisoned.items()},
        {name: value[others] for name, value in clean.items()},
        ROUNDING,
    )
    if poison != poison or source == "t":  # an infinite z saturates tanh, which is finite
        for name in ("u", "du_dz", "du_dt", "d2u_dt2", "lap_u"):
            assert poisoned[name][row].isnan().all(), name
    else:
        reference = outputs_of(inputs, "oracle")
        for name in ("u", "du_dt"):
            torch.testing.assert_close(poisoned[name][row], reference[name][row], equal_nan=True)  # type: ignore[index]


def test_a_row_does_not_depend_on_the_batch_it_is_in(form: str):
    case = Case(33, 8, 17, 3, 3, "mixed", tracked="z+t", seed=2)
    inputs = build(case)
    whole = values_of(inputs)
    assert isinstance(inputs.k, Tensor) and isinstance(inputs.t, Tensor)
    z, t, k, cotangents = inputs.z.detach(), inputs.t.detach(), inputs.k, inputs.cotangents
    for chosen in (torch.tensor([4]), torch.tensor([31, 2, 2, 17]), torch.randperm(33)):
        part = build(case)
        part.z, part.t, part.k = z[chosen].requires_grad_(), t[chosen].requires_grad_(), k[chosen]
        part.cotangents = {name: value[chosen] for name, value in cotangents.items()}
        part.sources = {"z": part.z, "t": part.t}
        assert_matches(values_of(part), {name: value[chosen] for name, value in whole.items()}, ROUNDING, str(chosen))


def test_parameter_cotangents_add_up_over_the_parts_of_a_batch(form: str):
    case = Case(33, 8, 17, 3, 3, "mixed", tracked="parameters", seed=2)
    inputs = build(case)
    whole = values_of(inputs)
    z, t, k, cotangents = inputs.z, inputs.t, inputs.k, inputs.cotangents
    assert isinstance(t, Tensor) and isinstance(k, Tensor)
    total: dict[str, Tensor] = {}
    for rows in (slice(0, 10), slice(10, 33)):
        inputs.z, inputs.t, inputs.k = z[rows], t[rows], k[rows]
        inputs.cotangents = {name: value[rows] for name, value in cotangents.items()}
        for name, value in cotangents_of(inputs, outputs_of(inputs, "analytic")).items():
            assert value is not None
            total[name] = total.get(name, torch.zeros_like(value)) + value
    assert_matches(total, {name: whole[name] for name in total}, ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_bitwise_repeatable(form: str, dtype: torch.dtype):
    inputs = build(Case(33, 17, 32, 8, 3, "mixed"), dtype)
    first, second = values_of(inputs), values_of(inputs)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_the_inputs_are_not_written_to(form: str):
    inputs = build(Case(7, 8, 17, 3, 3, "mixed"))
    before = {name: value.detach().clone() for name, value in inputs.sources.items()}
    kept = {name: value.clone() for name, value in inputs.cotangents.items()}
    values_of(inputs)
    assert all(torch.equal(value, before[name]) for name, value in inputs.sources.items())
    assert all(torch.equal(value, kept[name]) for name, value in inputs.cotangents.items())


def test_backward_twice_gives_the_same_gradient(form: str):
    inputs = build(Case(7, 8, 17, 3))
    sources = list(inputs.sources.values())
    total = sum(value.sum() for value in outputs_of(inputs, "analytic").values() if value is not None)
    assert isinstance(total, Tensor)
    first = torch.autograd.grad(total, sources, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(total, sources), strict=True):
        assert torch.equal(a, b)
