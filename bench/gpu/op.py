"""The potential op at the cases of bench/cases.py: every backend, and the closed form under torch.compile."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.cases import CASES, Case, Flops
from bench.closed_form import FORMS, closed_form_derivatives
from bench.contenders import COMPILED, TIME, Derivatives, forward, forward_backward, named, problem
from bench.gpu.benchmark import (
    BOTH,
    FORWARD,
    TINY,
    Benchmark,
    Contender,
    Prepared,
    Results,
    backend_contenders,
    compiled_contender,
    parity_rows,
)
from bench.gpu.precision import matmul_precision
from ffrl.models import PotentialMLP
from ffrl.ops import potential_derivatives
from ffrl.ops.laplacian_forms import LaplacianForm
from ffrl.records import PotentialDerivatives

CASE_OF = {case.name: case for case in (*CASES, Case(TINY, 40, 3, 5))}


class Problem(NamedTuple):
    pot: PotentialMLP
    z: Tensor
    rows: Tensor  # that results are compared on


class OpBenchmark(Benchmark):
    name = "op"
    case_names = tuple(CASE_OF)

    def shape(self, case: str) -> str:
        return CASE_OF[case].shape

    def flops(self, case: str, measurement: str) -> Flops:
        return CASE_OF[case].flops(backward=measurement == BOTH)

    def contenders(self, case: str) -> list[Contender]:
        plain, *others = backend_contenders(with_precisions=True)
        analytic, *kernels = others
        compiled = [compiled_contender(form) for form in FORMS]
        fewer_flops: LaplacianForm = "gram" if CASE_OF[case].hidden <= 2 * CASE_OF[case].latent_dim else "jacobian"
        in_tf32 = [analytic._replace(name=f"{analytic.name}, TF32", matmul="high")]
        in_tf32.append(compiled_contender(fewer_flops, "high"))
        return [plain, analytic, *compiled, *in_tf32, *kernels]

    def problem(self, case: str, device: torch.device) -> Problem:
        pot, z = problem(CASE_OF[case])
        return Problem(pot.to(device), z.detach().to(device).requires_grad_(), parity_rows(z.shape[0], device))

    def reference(self, problem: Problem) -> Results:
        pot = copy.deepcopy(problem.pot).double()
        z = problem.z[problem.rows].detach().double().requires_grad_()
        return forward_backward(of_backend(pot, Contender("oracle", "oracle")), pot, z)

    def prepare(self, problem: Problem, contender: Contender) -> Prepared:
        pot, z, rows = problem
        derivatives = derivatives_of(pot, contender)

        def within(call: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(call)
            def called(*given: Any) -> Any:
                with matmul_precision(contender.matmul):
                    return call(*given)

            return called

        run_forward, run_both = within(forward), within(forward_backward)
        calls = {
            FORWARD: functools.partial(run_forward, derivatives, z),
            BOTH: functools.partial(run_both, derivatives, pot, z),
        }
        return Prepared(calls, lambda: [named(run_forward(derivatives, z), rows), run_both(derivatives, pot, z, rows)])


def derivatives_of(pot: PotentialMLP, contender: Contender) -> Derivatives:
    if contender.backend != COMPILED:
        return of_backend(pot, contender)
    assert contender.form is not None
    return torch.compile(compilable(pot, contender.form), dynamic=False, fullgraph=True)


def of_backend(pot: PotentialMLP, contender: Contender) -> Derivatives:
    options: dict[str, Any] = {} if contender.precision is None else {"precision": contender.precision}
    return lambda z: potential_derivatives(pot, z, TIME, 0, backend=contender.backend, **options)


def compilable(pot: PotentialMLP, form: LaplacianForm) -> Derivatives:
    """z -> derivatives at TIME by the closed form, the time features computed in every call.

    A function with a code object of its own: torch.compile counts what it compiled by code objects, and gives up beyond
    a number.
    """
    time = torch.tensor(TIME, dtype=pot.weight1.dtype, device=pot.weight1.device)
    tanh_output = pot.output_activation == "tanh"

    def derivatives(z: Tensor) -> PotentialDerivatives:
        tau, dtau_dt, _ = pot.time_features(time, 0, order=1)
        return closed_form_derivatives(z, tau, dtau_dt, pot.weights(0), tanh_output=tanh_output, form=form)

    return types.FunctionType(
        derivatives.__code__.replace(), globals(), f"derivatives_{form}", None, derivatives.__closure__
    )
