"""The compiled op at saturation, beside rows that are not finite, with denormal numbers and without rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.ops.fused import potential_derivatives_fused
from ffrl.records import PotentialWeights, TimeFeatures
from tests.cases import OUTPUTS, Case, Inputs, build, cotangents_of, outputs_of
from tests.cpp_cases import CAPABILITIES, FORMS, Setting, needs_cpp, values_of, values_with
from tests.tolerances import ROUNDING, assert_matches

pytestmark = needs_cpp
DTYPES = (torch.float32, torch.float64)
ROWS, POISONED_ROW = 230, 117  # a row in the second of three blocks of its potential


@pytest.fixture(params=[(c, f) for c in CAPABILITIES for f in FORMS], ids="-".join)
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(*request.param, 1)


def present(values: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("layer", ["first", "second", "both"])
def test_saturated_layers_give_exact_zeros(setting: Setting, layer: str, activation: str, dtype: torch.dtype):
    inputs = build(Case(35, 8, 17, 33, activation=activation, seed=3), dtype)
    with torch.no_grad():
        if layer in ("first", "both"):  # a1 = ±1e4
            inputs.pot.weight1.mul_(0.1)
            inputs.pot.bias1.copy_(1e4 * inputs.pot.bias1.sign())
        if layer in ("second", "both"):  # a2 = ±1e4
            inputs.pot.weight2.mul_(0.1)
            inputs.pot.bias2.copy_(1e4 * inputs.pot.bias2.sign())
    values = present(values_with(setting, inputs))
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_saturated_output_gives_exact_zeros(setting: Setting, dtype: torch.dtype):
    inputs = build(Case(35, 8, 17, 3, seed=3), dtype)
    with torch.no_grad():
        inputs.pot.bias3.fill_(1e4)
    values = present(values_with(setting, inputs))
    assert torch.equal(values.pop("u"), torch.ones(35, dtype=dtype))
    for name, value in values.items():
        assert torch.equal(value, torch.zeros_like(value)), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_arguments_up_to_1e4_stay_finite(setting: Setting, activation: str, dtype: torch.dtype):
    inputs = build(Case(35, 8, 17, 33, activation=activation, seed=3), dtype)
    with torch.no_grad():
        inputs.z.mul_(torch.logspace(-4, 4, 35, dtype=dtype)[:, None])
        inputs.pot.weight2.mul_(100.0)
    values = present(values_with(setting, inputs))
    assert all(value.isfinite().all() for value in values.values())
    if dtype == torch.float64:
        assert_matches(values, values_of(inputs, "oracle"), 1e-10)


def poisoned_case(time: str, laplacian: bool = True) -> Inputs:
    tracked = "all" if time == "rows" else "z"
    return build(Case(ROWS, 3, 8, 5, 3, "mixed", time=time, laplacian=laplacian, tracked=tracked))


def assert_only_that_row_differs(poisoned: dict[str, Tensor], clean: dict[str, Tensor], k: Tensor) -> None:
    """All other rows, and the parameters of all other potentials, have the same bits."""
    others, other_potentials = torch.arange(ROWS) != POISONED_ROW, torch.arange(3) != k[POISONED_ROW]
    for name, value in poisoned.items():
        kept = others if name in (*OUTPUTS, "v_z", "v_t") else other_potentials
        assert clean[name].isfinite().all(), name
        assert torch.equal(value[kept], clean[name][kept]), name


@pytest.mark.parametrize("laplacian", [True, False])
@pytest.mark.parametrize(("source", "time"), [("z", "rows"), ("z", "repeated"), ("t", "rows")])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_reaches_no_other_row(
    setting: Setting, poison: float, source: str, time: str, laplacian: bool
):
    inputs = poisoned_case(time, laplacian)
    assert isinstance(inputs.t, Tensor) and isinstance(inputs.k, Tensor)
    clean = present(values_with(setting, inputs))
    with torch.no_grad():
        row = slice(POISONED_ROW, POISONED_ROW + 1)
        (inputs.z[row, 1] if source == "z" else inputs.t[row]).fill_(poison)
    poisoned = present(values_with(setting, inputs))
    assert_only_that_row_differs(poisoned, clean, inputs.k)
    expected = present(outputs_of(inputs, "analytic"))
    for name, value in expected.items():  # an infinite z saturates tanh, which is finite
        torch.testing.assert_close(poisoned[name][POISONED_ROW], value[POISONED_ROW], equal_nan=True, msg=name)
    if poison != poison or source == "t":
        assert all(poisoned[name][POISONED_ROW].isnan().all() for name in (*expected, "v_z"))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_cotangent_that_is_not_finite_reaches_no_other_row(setting: Setting, poison: float, output: str):
    inputs = poisoned_case("rows")
    assert isinstance(inputs.k, Tensor)
    clean = present(values_with(setting, inputs))
    inputs.cotangents[output][POISONED_ROW] = poison
    poisoned = present(values_with(setting, inputs))
    assert_only_that_row_differs(poisoned, clean, inputs.k)
    assert all(torch.equal(poisoned[name], clean[name]) for name in OUTPUTS)
    assert not poisoned["v_z"][POISONED_ROW].isfinite().any()


@pytest.mark.parametrize("time", ["float", "scalar", "repeated", "rows"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_parameters_of_a_potential_without_rows_may_be_anything(setting: Setting, poison: float, time: str):
    """Nothing of theirs reaches a result, and their own gradients are zero, as with ``analytic``."""
    tracked = "parameters" if time == "repeated" else "all"
    inputs = build(Case(60, 3, 8, 5, 4, "mixed", time=time, tracked=tracked))
    inputs.k = torch.arange(60) % 3
    clean = present(values_with(setting, inputs))
    for name, parameter in inputs.pot.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter[3] = poison
        for other, value in present(values_with(setting, inputs)).items():
            assert torch.equal(value, clean[other]), f"{name} reaches {other}"
            if other[2:] in dict(inputs.pot.named_parameters()):
                assert value[:3].norm() > 1e-3 and torch.equal(value[3], torch.zeros_like(value[3])), other
        with torch.no_grad():
            parameter.copy_(before)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_feature_rows_that_no_row_has_may_be_anything(setting: Setting, poison: float, mixed: bool):
    rows, latent, hidden1, hidden2, used = 40, 5, 33, 17, [1, 3, 4]
    feature_row = torch.tensor([4, 1, 1, 3]).repeat(rows // 4)
    k = torch.tensor([2, 0, 0, 0]).repeat(rows // 4) if mixed else 2

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).requires_grad_()

    z, features = normal(rows, latent), TimeFeatures(*(normal(6, hidden1) for _ in range(3)))
    shapes = ((hidden1, latent), (hidden1,), (hidden2, hidden1), (hidden2,), (hidden2,), ())
    weights = PotentialWeights(*(normal(3, *shape) for shape in shapes))
    sources = [z, *features, *weights]

    def values() -> list[Tensor]:
        with setting.active():
            out = potential_derivatives_fused(z, features, weights, k=k, feature_row=feature_row, tanh_output=True)
            outputs = [value for value in out if value is not None]
            return outputs + list(torch.autograd.grad(outputs, sources, list(map(torch.ones_like, outputs))))  # type: ignore[arg-type]

    clean = values()
    assert all(gradient[used].norm() > 1e-3 for gradient in clean[6:9])
    with torch.no_grad():
        for value in features:
            assert value is not None
            value[[0, 2, 5]] = poison
    for value, expected in zip(values(), clean, strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("rows", [5, 32, 33])
def test_what_pads_a_block_overflows_only_where_a_row_of_it_does(setting: Setting, rows: int, activation: str):
    """Rows of z saturate the first layer at these weights; z = 0 would not, and its products would overflow."""
    inputs = build(Case(rows, 40, 48, 48, activation=activation, time="scalar"), torch.float32)
    with torch.no_grad():
        for name, parameter in inputs.pot.named_parameters():
            parameter.mul_(1e7 if name.startswith("weight") else 0)
    expected = present(values_of(inputs, "analytic"))
    assert all(value.isfinite().all() for value in expected.values())
    for name, value in present(values_with(setting, inputs)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=0, msg=name)


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-41), (torch.float64, 1e-312)])
def test_denormal_inputs_are_those_of_zero(setting: Setting, dtype: torch.dtype, tiny: float):
    inputs = build(Case(35, 8, 17, 33, seed=3), dtype)
    with torch.no_grad():
        inputs.z.zero_()
    expected = values_with(setting, inputs)
    with torch.no_grad():
        inputs.z.fill_(tiny)
    actual = values_with(setting, inputs)
    assert inputs.z.abs().max() > 0
    assert_matches(actual, expected, 1e-6 if dtype == torch.float32 else ROUNDING)


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-41), (torch.float64, 1e-312)])
def test_denormal_results_are_not_flushed_to_zero(setting: Setting, dtype: torch.dtype, tiny: float):
    inputs = build(Case(35, 8, 17, 33, activation="identity", seed=3), dtype)
    with torch.no_grad():  # linear in the last layer: every output is scaled
        inputs.pot.bias3.zero_()
        whole = present(outputs_of(inputs, "analytic"))
        inputs.pot.weight3.mul_(tiny)
        with setting.active():
            scaled = present(outputs_of(inputs, "cpp"))
    spacing = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for name, value in whole.items():
        # each of up to 33 x 17 products is rounded to that spacing, and then multiplied by numbers of order one
        assert (scaled[name] - value * tiny).abs().max() <= 1000 * spacing, name
        assert scaled[name].abs().max() >= 1000 * spacing, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", ["int", "same"])
@pytest.mark.parametrize("time", ["float", "scalar", "rows"])
def test_no_rows_give_no_results_and_gradients_of_zero(setting: Setting, time: str, index: str, dtype: torch.dtype):
    inputs = build(Case(0, 5, 33, 17, 2, index, time=time), dtype)
    with setting.active():
        outputs = outputs_of(inputs, "cpp")
        gradients = present(cotangents_of(inputs, outputs))
    for name, value in present(outputs).items():
        assert value.shape == ((0, 5) if name == "du_dz" else (0,)) and value.dtype == dtype, name
    assert set(gradients) == {f"v_{name}" for name in inputs.sources}
    for name, value in gradients.items():
        assert torch.equal(value, torch.zeros_like(value)) and value.shape == inputs.sources[name[2:]].shape


def test_the_inputs_are_not_written_to(setting: Setting):
    inputs = build(Case(ROWS, 8, 17, 3, 3, "mixed"))
    before = {name: value.detach().clone() for name, value in inputs.sources.items()}
    given = {name: value.clone() for name, value in inputs.cotangents.items()}
    values_with(setting, inputs)
    assert all(torch.equal(value, before[name]) for name, value in inputs.sources.items())
    assert all(torch.equal(value, given[name]) for name, value in inputs.cotangents.items())


def test_backward_twice_gives_the_same_gradient(setting: Setting):
    inputs = build(Case(ROWS, 8, 17, 3))
    sources = list(inputs.sources.values())
    with setting.active():
        total = torch.stack([v.sum() for v in outputs_of(inputs, "cpp").values() if v is not None]).sum()
        first = torch.autograd.grad(total, sources, retain_graph=True)
        second = torch.autograd.grad(total, sources)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
