"""What may be differentiated how: first reverse everywhere; beyond that the oracle, and an error that says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from ffrl.errors import DerivativeOrderError
from ffrl.ops import potential_derivatives
from tests.cases import Case, Inputs, build
from tests.tolerances import FLOAT64, ROUNDING, relative_error

CASE = Case(4, 3, 8, 5, 2, "mixed")
REPEATED = Case(8, 3, 8, 5, 2, "mixed", time="repeated")


def loss(inputs: Inputs, z: Tensor, t: float | Tensor, backend: str) -> Tensor:
    out = potential_derivatives(inputs.pot, z, t, inputs.k, d2u_dt2=True, backend=backend)
    return sum((value.sin().sum() for value in out if value is not None), z.new_zeros(()))


def rows(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """z and t that require no grad."""
    assert isinstance(inputs.t, Tensor)
    return inputs.z.detach(), inputs.t.detach()


@pytest.mark.parametrize("backend", ["analytic", "oracle"])
def test_autograd_and_its_functional_interface_give_the_same_gradient(backend: str):
    inputs = build(CASE)
    assert isinstance(inputs.t, Tensor)
    v_z, v_t = torch.autograd.grad(loss(inputs, inputs.z, inputs.t, backend), (inputs.z, inputs.t))
    z, t = rows(inputs)
    w_z, w_t = torch.autograd.functional.vjp(lambda z, t: loss(inputs, z, t, backend), (z, t))[1]
    assert relative_error(w_z, v_z) < ROUNDING and relative_error(w_t, v_t) < ROUNDING


@pytest.mark.parametrize("case", [CASE, REPEATED], ids=str)
def test_torch_func_grad_works(case: Case):
    inputs = build(case)
    assert isinstance(inputs.t, Tensor)
    expected = torch.autograd.grad(loss(inputs, inputs.z, inputs.t, "oracle"), (inputs.z, inputs.t))
    actual = torch.func.grad(lambda z, t: loss(inputs, z, t, "analytic"), argnums=(0, 1))(*rows(inputs))
    assert all(relative_error(a, e) < FLOAT64 for a, e in zip(actual, expected, strict=True))
    value, *vjp = torch.func.vjp(lambda z: loss(inputs, z, rows(inputs)[1], "analytic"), inputs.z.detach())
    assert relative_error(vjp[0](torch.ones_like(value))[0], expected[0]) < FLOAT64


def test_torch_func_grad_works_through_the_parameters():
    inputs = build(CASE)
    z, t = rows(inputs)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pot = inputs.pot

        def forward(self, z: Tensor) -> Tensor:
            return loss(inputs, z, t, "analytic")

    module = Loss()
    parameters = dict(module.named_parameters())
    gradients = torch.func.grad(lambda values: torch.func.functional_call(module, values, (z,)))(parameters)
    expected = torch.autograd.grad(loss(inputs, z, t, "oracle"), list(parameters.values()))
    for name, reference in zip(parameters, expected, strict=True):
        assert relative_error(gradients[name], reference) < FLOAT64, name


def second_by_create_graph(inputs: Inputs, source: str) -> None:
    target = inputs.sources[source]
    (gradient,) = torch.autograd.grad(
        loss(inputs, inputs.z, inputs.t, "analytic"), target, create_graph=True, allow_unused=False
    )
    gradient.square().sum().backward()


def second_by_functional_hessian(inputs: Inputs, source: str) -> None:
    z, t = rows(inputs)
    if source == "t":
        torch.autograd.functional.hessian(lambda time: loss(inputs, z, time, "analytic"), t)
    else:
        torch.autograd.functional.hessian(lambda z: loss(inputs, z, t, "analytic"), z)


def second_by_torch_func(inputs: Inputs, source: str) -> None:
    z, t = rows(inputs)

    def first(z: Tensor, t: Tensor) -> Tensor:
        argnum = 1 if source == "t" else 0
        return torch.func.grad(lambda z, t: loss(inputs, z, t, "analytic"), argnums=argnum)(z, t).square().sum()

    torch.func.grad(first, argnums=1 if source == "t" else 0)(z, t)


@pytest.mark.parametrize("source", ["z", "t"])
@pytest.mark.parametrize("second", [second_by_create_graph, second_by_functional_hessian, second_by_torch_func])
def test_a_second_derivative_raises_and_names_the_oracle(second: Callable[[Inputs, str], None], source: str):
    with pytest.raises(DerivativeOrderError, match='backend="oracle"'):
        second(build(CASE), source)


@pytest.mark.parametrize("tracked", ["parameters", "weight2", "biases", "time"])
def test_a_second_derivative_in_the_parameters_raises_too(tracked: str):
    inputs = build(Case(4, 3, 8, 5, tracked=tracked))
    value = loss(inputs, inputs.z, inputs.t, "analytic")
    gradients = torch.autograd.grad(value, list(inputs.sources.values()), create_graph=True)
    with pytest.raises(DerivativeOrderError, match='backend="oracle"'):
        sum(g.square().sum() for g in gradients).backward()  # type: ignore[union-attr]


def test_a_second_derivative_through_the_cotangents_raises_too():
    inputs = build(Case(4, 3, 8, 5, tracked="z"))
    scale = torch.ones(4, dtype=torch.float64, requires_grad=True)
    u = potential_derivatives(inputs.pot, inputs.z, 0.5, 0, backend="analytic").u
    (v_z,) = torch.autograd.grad((scale * u).sum(), inputs.z, create_graph=True)
    with pytest.raises(DerivativeOrderError, match='backend="oracle"'):
        torch.autograd.grad(v_z.sum(), scale)


def test_create_graph_alone_changes_no_number():
    inputs = build(CASE)
    sources = list(inputs.sources.values())
    value = loss(inputs, inputs.z, inputs.t, "analytic")
    plain = torch.autograd.grad(value, sources, retain_graph=True)
    for gradient, reference in zip(torch.autograd.grad(value, sources, create_graph=True), plain, strict=True):
        assert torch.equal(gradient, reference)


def test_the_oracle_has_the_second_derivative_that_the_message_promises():
    inputs = build(CASE)
    z, t = rows(inputs)
    (gradient,) = torch.autograd.grad(loss(inputs, inputs.z, t, "oracle"), inputs.z, create_graph=True)
    direction = torch.randn_like(z)
    (second,) = torch.autograd.grad((gradient * direction).sum(), inputs.z)
    h = 1e-5
    ends = []
    for sign in (1, -1):
        moved = (z + sign * h * direction).requires_grad_()
        ends.append(torch.autograd.grad(loss(inputs, moved, t, "oracle"), moved)[0])
    assert relative_error(second, (ends[0] - ends[1]) / (2 * h)) < 1e-8


@pytest.mark.parametrize("case", [CASE, REPEATED], ids=str)
@pytest.mark.parametrize("source", ["z", "t"])
def test_forward_mode_raises_and_names_the_oracle(case: Case, source: str):
    inputs = build(case)
    z, t = rows(inputs)
    with pytest.raises(DerivativeOrderError, match='backend="oracle"'):
        if source == "z":
            torch.func.jvp(lambda z: loss(inputs, z, t, "analytic"), (z,), (torch.ones_like(z),))
        else:
            torch.func.jvp(lambda t: loss(inputs, z, t, "analytic"), (t,), (torch.ones_like(t),))


@pytest.mark.parametrize("tracked", ["all", "none"])
@pytest.mark.parametrize("source", ["z", "t", "weight1", "time_weight2"])
def test_dual_numbers_raise_and_name_the_oracle(source: str, tracked: str):
    inputs = build(Case(4, 3, 8, 5, 2, "mixed", tracked=tracked))
    with forward_ad.dual_level():
        if source in ("z", "t"):
            value = getattr(inputs, source)
            setattr(inputs, source, forward_ad.make_dual(value, torch.ones_like(value)))
        else:
            value = getattr(inputs.pot, source)
            delattr(inputs.pot, source)
            setattr(inputs.pot, source, forward_ad.make_dual(value.detach(), torch.ones_like(value)))
        with pytest.raises(DerivativeOrderError, match='backend="oracle"'):
            loss(inputs, inputs.z, inputs.t, "analytic")


@pytest.mark.parametrize("tracked", ["all", "none"])
@pytest.mark.parametrize("source", ["z", "t"])
def test_the_oracle_has_the_forward_derivative_that_the_message_promises(source: str, tracked: str):
    inputs = build(Case(4, 3, 8, 5, 2, "mixed", tracked=tracked))
    h = 1e-6
    value = getattr(inputs, source).detach()
    ends = []
    for sign in (1, -1):
        moved = {"z": inputs.z.detach(), "t": rows(inputs)[1], source: value + sign * h}
        ends.append(loss(inputs, moved["z"], moved["t"], "oracle").item())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(getattr(inputs, source), torch.ones_like(value))
        setattr(inputs, source, dual)
        tangent = forward_ad.unpack_dual(loss(inputs, inputs.z, inputs.t, "oracle")).tangent
    assert tangent is not None, "the tangent was dropped"
    assert tangent.item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)
