"""torch.func.grad, vjp and jacrev over the C++ backend, and what vmap makes of them: equal to a loop of autograd."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, stack_module_state, vjp, vmap

from ffrl.ops import potential_derivatives, potential_hessian
from tests.cpp_cases import needs_cpp
from tests.tolerances import FLOAT64, ROUNDING, assert_matches, relative_error
from tests.transforms import (
    BATCH,
    BATCHED,
    INDICES,
    LATENT,
    ROWS,
    Loss,
    Outputs,
    draw,
    draw_batched,
    draw_k,
    potential,
    problems,
)

pytestmark = needs_cpp


def stacked(names: Iterable[str], rows: Iterable[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """One tensor for each name, from a tuple for each problem."""
    return dict(zip(names, map(torch.stack, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("form", ["gram", "jacobian"])
@pytest.mark.parametrize("names", BATCHED, ids=", ".join)
def test_gradients_of_each_problem_equal_a_loop(names: tuple[str, str, str], form: str):
    arguments, in_dims = draw_batched(names)
    module = Loss(potential(form))
    parameters = dict(module.named_parameters())

    def loss(values: dict[str, Tensor], z: Tensor, t: float | Tensor, k: int | Tensor) -> Tensor:
        return functional_call(module, values, (z, t, k))

    def one(z: Tensor, t: float | Tensor, k: int | Tensor) -> tuple[Tensor, ...]:
        z = z.detach().requires_grad_()
        return torch.autograd.grad(module(z, t, k), [z, *parameters.values()])

    v_parameters, v_z = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, *in_dims))(parameters, *arguments)
    expected = stacked(["z", *parameters], (one(*call) for call in problems(in_dims, *arguments)))
    assert_matches({"z": v_z, **v_parameters}, expected, ROUNDING)


class OneOutput(Loss):
    """One output of one row; the cotangents of the others are missing."""

    name = "u"
    laplacian: str | None = None

    def forward(self, z: Tensor, t: float | Tensor, k: int | Tensor) -> Tensor:
        assert isinstance(k, Tensor)
        laplacian = self.laplacian
        out = potential_derivatives(self.pot, z[None], t, k[None], laplacian=laplacian, backend="cpp")  # type: ignore[arg-type]
        return getattr(out, self.name).sum()


@pytest.mark.parametrize(
    ("name", "laplacian"),
    [("u", None), ("du_dz", None), ("du_dt", None), ("u", "exact"), ("du_dt", "exact"), ("lap_u", "exact")],
)
def test_per_sample_gradients_of_one_output_equal_a_loop(name: str, laplacian: str | None):
    module = OneOutput(potential())
    module.name, module.laplacian = name, laplacian
    parameters = dict(module.named_parameters())
    z, t, k = draw(BATCH, LATENT), draw(BATCH), draw_k(BATCH)

    def loss(values: dict[str, Tensor], z: Tensor, t: Tensor, k: Tensor) -> Tensor:
        return functional_call(module, values, (z, t, k))

    def one(z: Tensor, t: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        t = t.detach().requires_grad_()
        sources = [t, *parameters.values()]
        gradients = torch.autograd.grad(module(z, t, k), sources, allow_unused=True)
        return tuple(torch.zeros_like(s) if g is None else g for s, g in zip(sources, gradients, strict=True))

    v_parameters, v_t = vmap(grad(loss, argnums=(0, 2)), in_dims=(None, 0, 0, 0))(parameters, z, t, k)
    expected = stacked(["t", *parameters], (one(*call) for call in zip(z, t, k, strict=True)))
    assert_matches({"t": v_t, **v_parameters}, expected, ROUNDING)


def test_gradients_of_every_model_in_every_sample():
    models = [Loss(potential()) for _ in range(2)]
    values, _ = stack_module_state(models)  # type: ignore[arg-type]
    z, k = draw(BATCH, ROWS, LATENT), draw_k(BATCH, ROWS)
    one = grad(lambda values, *call: functional_call(models[0], values, call))
    actual = vmap(vmap(one, in_dims=(None, 0, None, 0)), in_dims=(0, None, None, None))(values, z, 0.4, k)
    for name in values:
        weights = [dict(model.named_parameters())[name] for model in models]
        expected = [
            torch.stack([torch.autograd.grad(model(z[i], 0.4, k[i]), weight)[0] for i in range(BATCH)])
            for model, weight in zip(models, weights, strict=True)
        ]
        assert relative_error(actual[name], torch.stack(expected)) < ROUNDING, name


@pytest.mark.parametrize("k", INDICES.values(), ids=INDICES)
def test_the_gradient_of_a_vmap_is_the_gradient_of_the_loop(k: int | Tensor):
    module = Loss(potential())
    parameters = dict(module.named_parameters())
    z, t = draw(BATCH, ROWS, LATENT), draw(BATCH)

    def total(values: dict[str, Tensor], z: Tensor, t: Tensor) -> Tensor:
        return vmap(lambda z, t: functional_call(module, values, (z, t, k)))(z, t).square().sum()

    by_grad = grad(total, argnums=(0, 1, 2))(parameters, z, t)
    sources = {"z": z.requires_grad_(), "t": t.requires_grad_(), **parameters}
    looped = torch.stack([module(z[i], t[i], k) for i in range(BATCH)]).square().sum()
    expected = dict(zip(sources, torch.autograd.grad(looped, list(sources.values())), strict=True))
    assert_matches({"z": by_grad[1], "t": by_grad[2], **by_grad[0]}, expected, ROUNDING, "torch.func.grad")
    by_autograd = torch.autograd.grad(total(parameters, z, t), list(sources.values()))
    assert_matches(dict(zip(sources, by_autograd, strict=True)), expected, ROUNDING, "autograd")


@pytest.mark.parametrize("k", INDICES.values(), ids=INDICES)
def test_jacrev_of_the_velocity_is_the_hessian(k: int | Tensor):
    pot, z = potential().requires_grad_(False), draw(ROWS, LATENT)
    jacobian = jacrev(lambda z: potential_derivatives(pot, z, 0.6, k, backend="cpp").du_dz)(z)  # (N, D, N, D)
    rows = torch.arange(ROWS)
    assert relative_error(jacobian[rows, :, rows], potential_hessian(pot, z, 0.6, k)) < FLOAT64
    others = jacobian.movedim(2, 1)[~torch.eye(ROWS, dtype=torch.bool)]
    assert torch.equal(others, torch.zeros_like(others)), "the velocity of a row depends on another row"


def test_jacrev_in_a_parameter_equals_a_loop():
    module = Outputs(potential())
    z, k = draw(ROWS, LATENT), draw_k(ROWS)
    weight = module.pot.weight2

    def outputs(weight2: Tensor) -> Tensor:
        return functional_call(module, {"pot.weight2": weight2}, (z, 0.6, k))

    actual = jacrev(outputs)(weight.detach())
    flat = module(z, 0.6, k).flatten()
    expected = torch.stack([torch.autograd.grad(value, weight, retain_graph=True)[0] for value in flat])
    assert relative_error(actual, expected.view(actual.shape)) < ROUNDING


def test_vjp_of_many_cotangents_equals_a_loop():
    module = Outputs(potential())
    z, t, k = draw(ROWS, LATENT), draw(ROWS), draw_k(ROWS)
    value, pullback = vjp(lambda z, t: module(z, t, k), z, t)
    cotangents = draw(BATCH, *value.shape)
    v_z, v_t = vmap(pullback)(cotangents)
    assert_matches(dict(zip("zt", pullback(cotangents[0]), strict=True)), {"z": v_z[0], "t": v_t[0]}, ROUNDING)
    sources = (z.detach().requires_grad_(), t.detach().requires_grad_())
    expected = stacked("zt", (torch.autograd.grad(module(*sources, k), sources, one) for one in cotangents))
    assert_matches({"z": v_z, "t": v_t}, expected, ROUNDING)


@pytest.mark.parametrize("k", INDICES.values(), ids=INDICES)
def test_batched_cotangents_of_autograd_equal_a_loop(k: int | Tensor):
    module = Outputs(potential())
    z, t = draw(ROWS, LATENT).requires_grad_(), draw(ROWS).requires_grad_()
    sources = {"z": z, "t": t, **dict(module.named_parameters())}
    value = module(z, t, k)
    cotangents = draw(BATCH, *value.shape)

    def gradients(cotangent: Tensor, batched: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            value, list(sources.values()), cotangent, retain_graph=True, is_grads_batched=batched
        )

    expected = stacked(sources, (gradients(one, False) for one in cotangents))
    assert_matches(dict(zip(sources, gradients(cotangents, True), strict=True)), expected, ROUNDING)
