"""The analytic backend's first-order gradients against differences of its own values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ffrl.ops import analytic, potential_derivatives
from ffrl.ops.analytic import LaplacianForm, potential_derivatives_analytic
from ffrl.records import PotentialWeights, TimeFeatures
from tests.cases import Case, build

GRADCHECK = (
    (Case(2, 2, 3, 4, seed=1), "gram"),
    (Case(2, 2, 3, 4, activation="identity", seed=2), "jacobian"),
    (Case(3, 3, 2, 1, 3, "mixed", seed=3), "jacobian"),
    (Case(3, 1, 3, 2, 3, "mixed", activation="identity", time="scalar", seed=4), "gram"),
    (Case(4, 2, 1, 3, time="repeated", tracked="parameters", d2u_dt2=False, seed=5), "gram"),
    (Case(4, 2, 1, 3, time="expanded", layout="transposed", laplacian=False, seed=6), "gram"),
)


@pytest.mark.parametrize(("case", "form"), GRADCHECK, ids=str)
def test_gradcheck_of_the_public_function(case: Case, form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(analytic, "laplacian_form", lambda *_, **__: form)
    inputs = build(case)
    # gradcheck perturbs each entry in place, so stride 0 has to go; the parameters act through the module.
    sources = {name: value.detach().contiguous().requires_grad_() for name, value in inputs.sources.items()}
    for name, value in inputs.sources.items():
        if name not in ("z", "t"):
            sources[name] = value

    def outputs(*_: Tensor) -> tuple[Tensor, ...]:
        z, t = sources.get("z", inputs.z), sources.get("t", inputs.t)
        laplacian = "exact" if case.laplacian else None
        out = potential_derivatives(
            inputs.pot, z, t, inputs.k, d2u_dt2=case.d2u_dt2, laplacian=laplacian, backend="analytic"
        )
        return tuple(value for value in out if value is not None)

    assert torch.autograd.gradcheck(outputs, tuple(sources.values()), eps=1e-6, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("rows_of_time", [1, 3], ids=["shared", "rows"])
@pytest.mark.parametrize("form", ["gram", "jacobian"])
@pytest.mark.parametrize("tanh_output", [True, False])
def test_gradcheck_of_the_closed_form_in_its_own_arguments(rows_of_time: int, form: LaplacianForm, tanh_output: bool):
    shapes = [(3, 2), *[(rows_of_time, 3)] * 3, (3, 2), (3,), (4, 3), (4,), (4,), ()]
    arguments = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def outputs(z: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        out = potential_derivatives_analytic(
            z, TimeFeatures(*rest[:3]), PotentialWeights(*rest[3:]), tanh_output=tanh_output, form=form
        )
        return tuple(value for value in out if value is not None)

    assert torch.autograd.gradcheck(outputs, arguments, eps=1e-6, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(
    ("case", "form"),
    [
        (Case(7, 3, 17, 8, 3, "mixed", seed=1), "jacobian"),
        (Case(7, 17, 8, 3, 3, "mixed", activation="identity", seed=2), "gram"),
        (Case(33, 8, 3, 17, seed=3), "gram"),
    ],
    ids=str,
)
def test_the_taylor_remainder_is_of_second_order(case: Case, form: str, monkeypatch: pytest.MonkeyPatch):
    """|f(x + ε d) - f(x) - ε ∇f·d| falls as ε² along one direction in z, t and every parameter at once."""
    monkeypatch.setattr(analytic, "laplacian_form", lambda *_, **__: form)
    inputs = build(case)
    names, sources = list(inputs.sources), list(inputs.sources.values())
    assert {"z", "t", "weight1", "time_weight1", "bias3"} <= set(names)
    directions = [torch.randn_like(value) for value in sources]
    length = math.sqrt(sum(float((d * d).sum()) for d in directions))
    start = [value.detach().clone() for value in sources]
    probes = torch.randn(5, case.rows, dtype=torch.float64)

    def loss(epsilon: float) -> Tensor:
        with torch.no_grad():
            for value, origin, direction in zip(sources, start, directions, strict=True):
                value.copy_(origin + epsilon / length * direction)
        out = potential_derivatives(inputs.pot, inputs.z, inputs.t, inputs.k, d2u_dt2=True, backend="analytic")
        rows = [value if value.dim() == 1 else value.sin().sum(1) for value in out if value is not None]
        assert len(rows) == 5
        return (torch.stack(rows) * probes).sum() + (torch.stack(rows) ** 2).sum()

    origin = loss(0.0)
    gradients = torch.autograd.grad(origin, sources)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True)) / length
    steps = [2.0**-i for i in range(7, 13)]
    with torch.no_grad():
        remainders = [abs(float(loss(e)) - origin.item() - e * slope) for e in steps]
    logs = [(math.log(e), math.log(r)) for e, r in zip(steps, remainders, strict=True)]
    mean_x, mean_y = (sum(pair[i] for pair in logs) / len(logs) for i in (0, 1))
    order = sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)
    assert abs(order - 2.0) <= 0.05, (order, remainders)
