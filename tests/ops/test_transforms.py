"""torch.func.vmap over the C++ backend, and ensembles by stacked parameters: equal to a loop in Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.cpp_cases import needs_cpp
from tests.tolerances import ROUNDING, assert_matches, relative_error
from tests.transforms import (
    BATCH,
    BATCHED,
    LATENT,
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
