"""``potential_derivatives(..., laplacian="hutchinson")``: backends, generators, potentials, bad arguments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.models import PotentialMLP
from ffrl.ops import available_backends, potential_derivatives, potential_hessian
from ffrl.ops.hutchinson import draw_probes, hutchinson_rows
from tests.cases import Case, Inputs, build, cotangents_of
from tests.potentials import HamiltonJacobiField
from tests.tolerances import (
    FLOAT32_COTANGENT_RATIO,
    FLOAT32_FLOOR,
    FLOAT32_OUTPUT_RATIO,
    FLOAT64,
    ROUNDING,
    assert_matches,
    relative_error,
)

BACKENDS = [name for name, reason in available_backends().items() if reason is None]
CASES = (
    Case(7, 3, 8, 5, seed=1),
    Case(7, 8, 5, 17, 3, "mixed", activation="identity", time="repeated", tracked="parameters", seed=2),
    Case(33, 17, 3, 8, 3, "mixed", time="scalar", layout="transposed", seed=3),
    Case(1, 1, 2, 3, 3, "same", d2u_dt2=False, seed=4),
    Case(0, 3, 8, 5, 3, "mixed", seed=5),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs_of(inputs: Inputs, backend: str, num_probes: int, generator: torch.Generator | None) -> dict[str, Any]:
    return potential_derivatives(
        inputs.pot,
        inputs.z,
        inputs.t,
        inputs.k,
        d2u_dt2=inputs.case.d2u_dt2,
        laplacian="hutchinson",
        num_probes=num_probes,
        generator=generator,
        backend=backend,
    )._asdict()


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_backends_agree_in_every_output_and_cotangent_from_equal_seeds(case: Case, backend: str):
    inputs = build(case)
    expected, actual = (outputs_of(inputs, name, 3, seeded(7)) for name in ("oracle", backend))
    assert_matches(actual, expected, FLOAT64)
    assert_matches(cotangents_of(inputs, actual), cotangents_of(inputs, expected), FLOAT64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_laplacian_is_the_estimate_from_the_probes_of_the_generator_and_the_rest_is_as_without(
    case: Case, backend: str
):
    inputs = build(case)
    actual = outputs_of(inputs, backend, 2, seeded(7))
    probes = draw_probes(inputs.z, 2, seeded(7))
    time = torch.as_tensor(inputs.t, dtype=torch.float64)
    lap_u = hutchinson_rows(inputs.pot, inputs.z, time, inputs.k, probes, fused=backend != "oracle")
    rest = potential_derivatives(
        inputs.pot, inputs.z, inputs.t, inputs.k, d2u_dt2=case.d2u_dt2, laplacian=None, backend=backend
    )
    assert_matches(actual, {**rest._asdict(), "lap_u": lap_u}, ROUNDING)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_generator_decides_the_values_and_advances(backend: str):
    inputs = build(CASES[2])
    generator = seeded(3)
    default = torch.get_rng_state()
    first, second = (outputs_of(inputs, backend, 1, generator)["lap_u"] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(outputs_of(inputs, backend, 1, seeded(3))["lap_u"], first)
    assert torch.equal(torch.get_rng_state(), default), "the default generator was used"
    torch.manual_seed(3)
    assert torch.equal(outputs_of(inputs, backend, 1, None)["lap_u"], first)
    assert torch.equal(outputs_of(inputs, backend, 1, None)["lap_u"], second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_probes_of_a_row_do_not_depend_on_the_potentials_of_the_others(backend: str):
    inputs = build(Case(33, 8, 17, 3, 3, "mixed", tracked="none"))
    with torch.no_grad():
        for parameter in inputs.pot.parameters():
            parameter.copy_(parameter[:1].clone().expand_as(parameter))
    mixed = outputs_of(inputs, backend, 2, seeded(1))
    one = copy.copy(inputs)
    one.k = 0
    assert_matches(mixed, outputs_of(one, backend, 2, seeded(1)), ROUNDING)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_probes_come_within_the_standard_error_of_the_exact_laplacian(backend: str):
    inputs, num_probes = build(Case(7, 4, 8, 5, 3, "mixed", tracked="none")), 1000
    hessian = potential_hessian(inputs.pot, inputs.z, inputs.t, inputs.k)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    variance = 2 * (hessian.square().sum((1, 2)) - diagonal.square().sum(1))
    difference = outputs_of(inputs, backend, num_probes, seeded(0))["lap_u"] - diagonal.sum(1)
    assert (difference.abs() <= 4.5 * (variance / num_probes).sqrt()).all()
    assert difference.abs().max() > 1e-6, "this is the exact Laplacian"


def test_one_probe_is_exact_for_a_field_with_a_diagonal_hessian():
    z, t = torch.randn(4, 5, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    field = HamiltonJacobiField(0.6)
    out = potential_derivatives(field, z, t, 0, laplacian="hutchinson", num_probes=1, generator=seeded(0))
    assert_matches({"lap_u": out.lap_u}, {"lap_u": field.exact(z, t, 0).lap_u}, FLOAT64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [Case(33, 8, 17, 32, 3, "mixed"), CASES[2]], ids=str)
def test_float32_has_the_probes_of_float64_and_an_error_bounded_by_that_of_autograd(case: Case, backend: str):
    single = build(case, torch.float32)
    results: list[dict[str, Tensor | None]] = []
    for inputs, name in ((single.double(), "oracle"), (single, "oracle"), (single, backend)):
        outputs = outputs_of(inputs, name, 2, seeded(5))
        results.append({**outputs, **cotangents_of(inputs, outputs)})
    for name in results[0]:
        expected, plain, value = (result[name] for result in results)
        assert expected is not None and plain is not None and value is not None and value.dtype == torch.float32
        ratio = FLOAT32_COTANGENT_RATIO if name.startswith("v_") else FLOAT32_OUTPUT_RATIO
        bound = max(ratio * relative_error(plain, expected), FLOAT32_FLOOR)
        assert relative_error(value, expected) <= bound < 1e-3, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_probes", 0, "num_probes = 0 is not allowed; expected an int >= 1"),
        ("num_probes", 2.0, "num_probes = 2.0 is not allowed; expected an int >= 1"),
        ("num_probes", True, "num_probes = True is not allowed; expected an int >= 1"),
        ("generator", 7, "generator = 7 is not allowed; expected a torch.Generator, or None"),
    ],
)
def test_bad_probe_arguments_are_refused(name: str, value: object, message: str, backend: str):
    arguments: dict[str, Any] = {"num_probes": 1, "generator": seeded(0), name: value}
    with pytest.raises(ArgumentError) as failure:
        potential_derivatives(
            PotentialMLP(3, 4), torch.zeros(2, 3), 0.5, 0, laplacian="hutchinson", backend=backend, **arguments
        )
    assert str(failure.value) == message


def test_a_generator_on_another_device_is_refused():
    pot, z = PotentialMLP(3, 4).to("meta"), torch.zeros(2, 3, device="meta")
    with pytest.raises(ArgumentError) as failure:
        potential_derivatives(pot, z, 0.5, 0, laplacian="hutchinson", num_probes=1, generator=seeded(0))
    assert str(failure.value) == "generator.device = cpu is not allowed; expected the device of z, meta"


@pytest.mark.parametrize("bad", [{"z": torch.zeros(2, 4)}, {"k": 3}, {"t": torch.zeros(3)}], ids=["z", "k", "t"])
def test_bad_rows_are_refused_before_the_generator_advances(bad: dict[str, Any]):
    generator = seeded(0)
    before: Tensor = generator.get_state()
    arguments: dict[str, Any] = {"z": torch.zeros(2, 3), "t": 0.5, "k": 0, **bad}
    with pytest.raises(ArgumentError):
        potential_derivatives(
            PotentialMLP(3, 4), **arguments, laplacian="hutchinson", num_probes=1, generator=generator
        )
    assert torch.equal(generator.get_state(), before)
