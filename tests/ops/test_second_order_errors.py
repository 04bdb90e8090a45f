"""Whatever way is taken to a second derivative or to forward mode, the C++ backend raises and names the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, functional
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from ffrl.errors import DerivativeOrderError
from ffrl.ops import potential_derivatives
from ffrl.ops.analytic import FORWARD_MODE_MESSAGE, SECOND_DERIVATIVE_MESSAGE
from tests.cpp_cases import needs_cpp
from tests.transforms import INDICES, LATENT, ROWS, Loss, draw, potential

pytestmark = needs_cpp

Scalar = Callable[[Tensor], Tensor]
# What is differentiated, t of rows or time shared by all, and whether k is a tensor.
SOURCES = (
    ("z", "tensor"),
    ("t", "int"),
    ("time", "tensor"),
    ("weight2", "int"),
    ("bias3", "tensor"),
    ("time_weight1", "int"),
)


def directional(f: Scalar, x: Tensor) -> Tensor:
    return jvp(f, (x,), (torch.ones_like(x),))[1]


def twice_by_create_graph(f: Scalar, x: Tensor) -> None:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(f(x), x)[0]), "create_graph alone changes no number"
    gradient.square().sum().backward()


def twice(x: Tensor) -> Tensor:
    return torch.stack([x, x])


FORWARD: dict[str, Callable[[Scalar, Tensor], object]] = {
    "jvp": directional,
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "vmap of jvp": lambda f, x: vmap(lambda x: directional(f, x))(twice(x)),
    "jvp of vmap": lambda f, x: directional(lambda x: vmap(f)(x).sum(), twice(x)),
    "grad of jvp": lambda f, x: grad(lambda x: directional(f, x))(x),
    "jvp of grad": lambda f, x: directional(grad(f), x),
    "hessian": lambda f, x: hessian(f)(x),
    "functional.jacobian": lambda f, x: functional.jacobian(f, x, vectorize=True, strategy="forward-mode"),
}
REVERSE: dict[str, Callable[[Scalar, Tensor], object]] = {
    "create_graph": twice_by_create_graph,
    "grad of grad": lambda f, x: grad(lambda x: grad(f)(x).square().sum())(x),
    "jacrev of jacrev": lambda f, x: jacrev(jacrev(f))(x),
    "vmap of grad of grad": lambda f, x: vmap(grad(lambda x: grad(f)(x).square().sum()))(twice(x)),
    "grad of vmap of grad": lambda f, x: grad(lambda x: vmap(grad(f))(x).square().sum())(twice(x)),
    "functional.hessian": lambda f, x: functional.hessian(f, x),
    "functional.hessian vectorized": lambda f, x: functional.hessian(f, x, vectorize=True),
    "functional.jvp": lambda f, x: functional.jvp(f, x, torch.ones_like(x)),  # by two reverse passes
    "functional.hvp": lambda f, x: functional.hvp(f, x, torch.ones_like(x)),
    "functional.vhp": lambda f, x: functional.vhp(f, x, torch.ones_like(x)),
}


def function_of(source: str, k: int | Tensor) -> tuple[Scalar, Tensor]:
    """The loss as a function of z, t or a parameter, and where to differentiate it."""
    module = Loss(potential())
    z, t = draw(ROWS, LATENT), draw(ROWS)
    if source == "z":
        return lambda x: module(x, t, k), z
    if source == "t":
        return lambda x: module(z, x, k), t
    if source == "time":
        return lambda x: module(z, x, k), draw()
    name = f"pot.{source}"
    return lambda x: functional_call(module, {name: x}, (z, t, k)), getattr(module.pot, source).detach()


@pytest.mark.parametrize(("source", "index"), SOURCES)
@pytest.mark.parametrize("way", [*FORWARD, *REVERSE])
def test_every_way_raises(way: str, source: str, index: str):
    f, x = function_of(source, INDICES[index])
    with pytest.raises(DerivativeOrderError) as failure:
        {**FORWARD, **REVERSE}[way](f, x)
    expected = FORWARD_MODE_MESSAGE if way in FORWARD else SECOND_DERIVATIVE_MESSAGE
    assert str(failure.value) == expected


@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("k", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("source", ["z", "t", "repeated t", "weight1", "bias3", "time_weight2"])
def test_dual_numbers_raise(source: str, k: int | Tensor, tracked: bool):
    pot = potential().requires_grad_(tracked)
    z, t = draw(ROWS, LATENT), draw(ROWS)
    with forward_ad.dual_level():

        def dual(value: Tensor) -> Tensor:
            return forward_ad.make_dual(value.detach(), torch.ones_like(value))

        if source == "z":
            z = dual(z)
        elif source == "t":
            t = dual(t)
        elif source == "repeated t":
            t = dual(torch.full_like(t, 0.5))
        else:
            weight = getattr(pot, source)
            delattr(pot, source)
            setattr(pot, source, dual(weight))
        with pytest.raises(DerivativeOrderError) as failure:
            potential_derivatives(pot, z, t, k, backend="cpp")
    assert str(failure.value) == FORWARD_MODE_MESSAGE


def test_a_second_derivative_through_the_cotangents_raises():
    pot, z = potential(), draw(ROWS, LATENT).requires_grad_()
    scale = torch.ones(ROWS, dtype=torch.float64, requires_grad=True)
    u = potential_derivatives(pot, z, 0.5, 0, backend="cpp").u
    (v_z,) = torch.autograd.grad((scale * u).sum(), z, create_graph=True)
    with pytest.raises(DerivativeOrderError, match='backend="oracle"'):
        torch.autograd.grad(v_z.sum(), scale)


def test_dual_cotangents_raise():
    pot, z = potential(), draw(ROWS, LATENT).requires_grad_()
    u = potential_derivatives(pot, z, 0.5, 0, backend="cpp").u
    with forward_ad.dual_level(), pytest.raises(DerivativeOrderError, match='backend="oracle"'):
        torch.autograd.grad(u, z, forward_ad.make_dual(torch.ones_like(u), torch.ones_like(u)))


def test_a_second_derivative_between_two_parameters_raises():
    module = Loss(potential())
    value = module(draw(ROWS, LATENT), draw(ROWS), torch.arange(ROWS) % 3)
    for first, second in (("weight2", "weight1"), ("time_weight1", "bias2"), ("bias1", "time_bias2")):
        source, target = getattr(module.pot, first), getattr(module.pot, second)
        (gradient,) = torch.autograd.grad(value, source, create_graph=True)
        with pytest.raises(DerivativeOrderError, match='backend="oracle"'):
            torch.autograd.grad(gradient.square().sum(), target, retain_graph=True)
