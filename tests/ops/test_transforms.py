"""torch.func.vmap over the C++ backend, and ensembles by stacked parameters: equal to a loop in Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from ffrl.ops.fused import potential_derivatives_fused
from ffrl.records import PotentialWeights, TimeFeatures
from tests.cpp_cases import needs_cpp
from tests.tolerances import ROUNDING, assert_matches, relative_error
from tests.transforms import (
    BATCH,
    BATCHED,
    LATENT,
    POTENTIALS,
    ROWS,
    Loss,
    Outputs,
    draw,
    draw_batched,
    draw_k,
    loop,
    potential,
    problems,
)

pytestmark = needs_cpp


@pytest.mark.parametrize("out_dim", [0, 1])
@pytest.mark.parametrize("names", BATCHED, ids=", ".join)
def test_vmap_equals_a_loop(names: tuple[str, str, str], out_dim: int):
    arguments, in_dims = draw_batched(names)
    function = Outputs(potential())
    expected = loop(function, in_dims, *arguments)
    actual = vmap(function, in_dims=in_dims, out_dims=out_dim)(*arguments).movedim(out_dim, 0)
    assert actual.shape == expected.shape
    assert relative_error(actual, expected) < ROUNDING


def test_nested_vmap_equals_nested_loops():
    function = Outputs(potential())
    z, t, k = draw(BATCH, 2, ROWS, LATENT), draw(2), draw_k(BATCH, ROWS)
    actual = vmap(vmap(function, in_dims=(0, 0, None)), in_dims=(0, None, 0))(z, t, k)
    expected = torch.stack([loop(function, (0, 0, None), z[i], t, k[i]) for i in range(BATCH)])
    assert relative_error(actual, expected) < ROUNDING


@pytest.mark.parametrize("feature_row", [None, torch.arange(ROWS).flip(0)], ids=["own", "shared"])
def test_problems_share_feature_rows_though_their_rows_are_of_other_potentials(feature_row: Tensor | None):
    z, tau, dtau_dt, d2tau_dt2 = draw(ROWS, LATENT), *(draw(ROWS, 8) for _ in range(3))
    shapes = ((8, LATENT), (8,), (5, 8), (5,), (5,), ())
    weights = PotentialWeights(*(draw(POTENTIALS, *shape) for shape in shapes))
    k = torch.stack([(torch.arange(ROWS) + i) % POTENTIALS for i in range(POTENTIALS)])

    def outputs(k: Tensor, tau: Tensor) -> Tensor:
        features = TimeFeatures(tau, dtau_dt, d2tau_dt2)
        out = potential_derivatives_fused(z, features, weights, k=k, feature_row=feature_row, tanh_output=True)
        return torch.cat([value.view(ROWS, -1) for value in out if value is not None], dim=1)

    batched = vmap(outputs, in_dims=(0, None))
    assert relative_error(batched(k, tau), torch.stack([outputs(one, tau) for one in k])) < ROUNDING
    v_tau = grad(lambda tau: batched(k, tau).sin().sum())(tau)
    expected = grad(lambda tau: torch.stack([outputs(one, tau) for one in k]).sin().sum())(tau)
    assert expected.norm() > 1e-3 and relative_error(v_tau, expected) < ROUNDING


NO_PROBLEM = (
    ((0, ROWS), "float", 1),
    ((0, ROWS), "t", "k"),
    ((0, ROWS), "t of each row", "k of rows"),
    ((0, 0), "float", 1),
)


@pytest.mark.parametrize(("shape", "time", "index"), NO_PROBLEM, ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_batch_of_no_problem_has_results_and_gradients_of_no_problem(
    shape: tuple[int, int], time: str, index: str | int, per_sample: bool
):
    module = Loss(potential())
    rows = shape[1]
    arguments = (
        draw(*shape, LATENT),
        {"float": 0.3, "t": draw(0), "t of each row": draw(0, rows)}[time],
        {"k": draw_k(0, rows), "k of rows": draw_k(rows)}.get(index, index),  # type: ignore[call-overload]
    )
    in_dims = (0, None if time == "float" else 0, 0 if index == "k" else None)
    parameters = dict(module.named_parameters())
    if per_sample:
        loss = grad(lambda values, *call: functional_call(module, values, call))
        for name, value in vmap(loss, in_dims=(None, *in_dims))(parameters, *arguments).items():
            assert value.shape == (0, *parameters[name].shape), name
        return
    actual = vmap(Outputs(module.pot), in_dims=in_dims)(*arguments)
    assert actual.shape == (*shape, LATENT + 4) and actual.dtype == torch.float64
    for name, value in zip(parameters, torch.autograd.grad(actual.sum(), list(parameters.values())), strict=True):
        assert torch.equal(value, torch.zeros_like(parameters[name])), name


def test_an_ensemble_of_no_model_has_results_and_gradients_of_no_model():
    module = Loss(potential())
    stacked = {name: value.detach().new_zeros(0, *value.shape) for name, value in module.named_parameters()}
    z, k = draw(ROWS, LATENT), draw_k(ROWS)

    def loss(values: dict[str, Tensor]) -> Tensor:
        return functional_call(module, values, (z, 0.3, k))

    assert vmap(loss)(stacked).shape == (0,)
    for name, value in vmap(grad(loss))(stacked).items():
        assert value.shape == stacked[name].shape, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_bits_of_a_row_do_not_depend_on_its_batch(dtype: torch.dtype):
    function = Outputs(potential().to(dtype))
    z = draw(BATCH, ROWS, LATENT).to(dtype)
    expected = vmap(function, in_dims=(0, None, None))(z, 0.3, 1)
    assert expected.dtype == dtype
    for size in (1, 3):
        assert torch.equal(vmap(function, in_dims=(0, None, None), chunk_size=size)(z, 0.3, 1), expected)


ENSEMBLES = (("one z", "float", "int"), ("z", "t", "k"), ("z", "one t", "k of rows"))


@pytest.mark.parametrize("names", ENSEMBLES, ids=", ".join)
def test_ensembles_of_stacked_parameters_equal_a_loop(names: tuple[str, str, str]):
    """Values and gradients of BATCH models; each has its own rows where z, t or k are batched."""
    arguments, in_dims = draw_batched(names)
    models = [Loss(potential()) for _ in range(BATCH)]
    stacked, _ = stack_module_state(models)  # type: ignore[arg-type]

    def loss(values: dict[str, Tensor], *call: Any) -> Tensor:
        return functional_call(models[0], values, call)

    calls = problems((0, *in_dims), torch.arange(BATCH), *arguments)
    expected = torch.stack([model(*call[1:]) for model, call in zip(models, calls, strict=True)])
    actual = vmap(loss, in_dims=(0, *in_dims))(stacked, *arguments)
    assert relative_error(actual, expected) < ROUNDING

    gradients = vmap(grad(loss), in_dims=(0, *in_dims))(stacked, *arguments)
    reference = [
        torch.autograd.grad(model(*call[1:]), [dict(model.named_parameters())[name] for name in stacked])
        for model, call in zip(models, calls, strict=True)
    ]
    assert_matches(gradients, dict(zip(stacked, map(torch.stack, zip(*reference, strict=True)), strict=True)), ROUNDING)
