"""Under torch.autocast the op, the flow and the Hessian have the bits that they have outside it.

Only the cast of the inputs to float32 is left to autocast: bfloat16 inputs are taken, and their gradients are bfloat16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.models import LatentFlow
from ffrl.ops import available_backends, flow_rollout, log_abs_det, potential_derivatives, potential_hessian
from tests.cases import Case, random_potential
from tests.cpp_cases import needs_cpp

ROWS, LATENT, POTENTIALS = 40, 16, 3
CASE = Case(ROWS, LATENT, 32, 24, POTENTIALS)  # so wide that a product in bfloat16 is far from one in float32
BACKENDS = [
    pytest.param(name, marks=() if available_backends()[name] is None else needs_cpp)
    for name in ("oracle", "analytic", "cpp")
]
INDICES = {"int": 1, "tensor": torch.arange(ROWS) % POTENTIALS}

Results = list[Tensor]
Function = Callable[[Tensor, Tensor], Results]


def autocast(enabled: bool = True) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


class Problem:
    """A potential, rows that bfloat16 holds exactly, and functions of them by name."""

    def __init__(self, backend: str, k: int | Tensor) -> None:
        self.pot = random_potential(CASE, torch.float32)
        self.z, self.t = torch.randn(ROWS, LATENT).bfloat16(), torch.rand(ROWS).bfloat16()
        self.k, self.backend = k, backend

    def op(self, z: Tensor, t: Tensor) -> Results:
        out = potential_derivatives(self.pot, z, t, self.k, d2u_dt2=True, backend=self.backend)
        return [value for value in out if value is not None]

    def hutchinson(self, z: Tensor, t: Tensor) -> Results:
        generator = torch.Generator().manual_seed(3)
        out = potential_derivatives(
            self.pot, z, t, self.k, laplacian="hutchinson", backend=self.backend, generator=generator
        )
        assert out.lap_u is not None
        return [out.lap_u]

    def rollout(self, z: Tensor, t: Tensor) -> Results:
        return list(flow_rollout(self.pot, z, self.k, 3, backend=self.backend))

    def flow(self, z: Tensor, t: Tensor) -> Results:
        flow = LatentFlow(self.pot, backend=self.backend)
        trajectory = flow(z, self.k, 3, d2u_dt2=True)
        values = [value for value in trajectory if value is not None]
        return [*values, flow.log_det_exact(trajectory.z, self.k), flow.smallest_stretch(trajectory.z, self.k)]

    def hessian(self, z: Tensor, t: Tensor) -> Results:
        return [potential_hessian(self.pot, z, t, self.k)]

    def log_det(self, z: Tensor, t: Tensor) -> Results:
        return [log_abs_det(self.pot, z, t, self.k)]

    def run(
        self, name: str, dtype: torch.dtype = torch.float32, forward: bool = False, backward: bool = False
    ) -> tuple[Results, dict[str, Tensor | None]]:
        """Results and gradients by source; ``forward``, ``backward``: in a region of autocast."""
        function: Function = getattr(self, name)
        z, t = self.z.to(dtype, copy=True).requires_grad_(), self.t.to(dtype, copy=True).requires_grad_()
        with autocast(forward):
            results = function(z, t)
        loss = torch.stack([value.sin().sum() for value in results]).sum()
        sources = {"z": z, "t": t, **dict(self.pot.named_parameters())}
        with autocast(backward):
            gradients = torch.autograd.grad(loss, list(sources.values()), allow_unused=True)
        return results, dict(zip(sources, gradients, strict=True))


def assert_same_bits(
    actual: tuple[Results, dict[str, Tensor | None]], expected: tuple[Results, dict[str, Tensor | None]]
) -> None:
    for value, reference in zip(actual[0], expected[0], strict=True):
        assert value.dtype == torch.float32 and torch.equal(value, reference)
    for name, reference in expected[1].items():
        value = actual[1][name]
        assert (value is None) == (reference is None), name
        if value is not None and reference is not None:
            assert torch.equal(value, reference.to(value.dtype)), name


@pytest.mark.parametrize("k", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("name", ["op", "hutchinson", "rollout", "flow", "hessian", "log_det"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bits_under_autocast_are_those_outside(backend: str, name: str, k: int | Tensor):
    problem = Problem(backend, k)
    expected = problem.run(name)
    assert_same_bits(problem.run(name, forward=True), expected)

    low = problem.run(name, torch.bfloat16, forward=True)
    assert_same_bits(low, expected)
    for source in ("z", "t"):
        gradient = low[1][source]
        assert gradient is None or gradient.dtype == torch.bfloat16, source
    assert low[1]["z"] is not None
    assert all(low[1][source] is None or low[1][source].dtype == torch.float32 for source in problem.pot.state_dict())


@needs_cpp
@pytest.mark.parametrize("k", INDICES.values(), ids=INDICES)
def test_a_backward_inside_the_region_has_the_same_bits(k: int | Tensor):
    problem = Problem("cpp", k)
    assert_same_bits(problem.run("op", forward=True, backward=True), problem.run("op"))
    assert_same_bits(problem.run("op", backward=True), problem.run("op"))


def test_the_closed_form_of_a_backward_inside_the_region_has_the_same_bits():
    """Called there against torch's advice: autocast reaches the backward of plain torch, here of the time features."""
    problem = Problem("analytic", 1)
    results, gradients = problem.run("op", forward=True, backward=True)
    expected = problem.run("op")
    names = [name for name in gradients if name != "t" and not name.startswith("time_")]
    assert len(names) == 7
    assert_same_bits((results, {n: gradients[n] for n in names}), (expected[0], {n: expected[1][n] for n in names}))


@pytest.mark.parametrize("name", ["op", "rollout", "hessian", "log_det"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_lower_precision_is_an_error_outside_autocast(backend: str, name: str):
    problem = Problem(backend, 1)
    function: Function = getattr(problem, name)
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(ArgumentError, match=r"z\.dtype"):
            function(problem.z.to(dtype), problem.t)
    with autocast(), torch.autocast("cpu", enabled=False), pytest.raises(ArgumentError, match=r"z\.dtype"):
        function(problem.z, problem.t)


@needs_cpp
def test_a_float64_potential_keeps_its_precision_under_autocast():
    problem = Problem("cpp", 1)
    problem.pot.double()
    z, t = problem.z.double(), problem.t.double()
    expected = problem.op(z, t)
    with autocast():
        actual = problem.op(z, t)
    for value, reference in zip(actual, expected, strict=True):
        assert value.dtype == torch.float64 and torch.equal(value, reference)


@needs_cpp
def test_a_compiled_function_under_autocast_has_the_bits_of_one_outside():
    problem = Problem("cpp", 1)
    torch._dynamo.reset()
    compiled = torch.compile(problem.op, fullgraph=True, backend="aot_eager")
    results = []
    for dtype, enabled in ((torch.float32, False), (torch.bfloat16, True)):
        z, t = problem.z.to(dtype, copy=True).requires_grad_(), problem.t.to(dtype, copy=True)
        with autocast(enabled):
            values = compiled(z, t)
        loss = torch.stack([value.sin().sum() for value in values]).sum()
        (v_z,) = torch.autograd.grad(loss, z)
        assert v_z.dtype == dtype
        results.append((values, {"z": v_z}))
    assert_same_bits(results[1], results[0])
