"""Who takes part, how each is called, and whether its results are right.

Every contender starts from a potential and z, at t = 1 and k = 0, and ends with u, ∇u, ∂u/∂t and Δu; or with those and
the gradients in z and every parameter, for cotangents v_X = X of every output X.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from bench.cases import Case
from bench.closed_form import closed_form_at
from ffrl.models import PotentialMLP
from ffrl.ops import available_backends, potential_derivatives
from ffrl.ops.laplacian_forms import LaplacianForm
from ffrl.records import PotentialDerivatives

Derivatives = Callable[[Tensor], PotentialDerivatives]

COMPILED = "compiled"
TIME = 1.0
# Relative error against the float64 oracle, in norm, beyond which a figure would be of a wrong result.
TOLERANCE = 1e-4
# The oracle in float64 is slow: so many rows, spread over the batch, show a wrong formula as well as all of them.
PARITY_ROWS = 32


class ParityError(RuntimeError):
    """A contender disagrees with the oracle: its figures would be of a wrong result."""


def contender_names(*, usable: bool) -> list[str]:
    """The oracle, the analytic backend, the compiled closed form and the other backends; all, or those usable here."""
    reasons = available_backends()
    first = ["oracle", "analytic"]
    backends = [*first, *(name for name in reasons if name not in first)]
    names = [name for name in backends if not usable or reasons[name] is None]
    return [*names[: len(first)], COMPILED, *names[len(first) :]]


def problem(case: Case) -> tuple[PotentialMLP, Tensor]:
    """A potential and rows z (N, D) for a case, always the same."""
    torch.manual_seed(0)
    pot = PotentialMLP(case.latent_dim, case.hidden)
    return pot, torch.randn(case.num_rows, case.latent_dim, requires_grad=True)


def derivatives_of(name: str, pot: PotentialMLP, form: LaplacianForm = "gram") -> Derivatives:
    """z -> derivatives by the contender of this name; ``form`` is the compiled one's; backends choose theirs."""
    if name == COMPILED:
        return torch.compile(closed_form_at(pot, TIME, form), dynamic=False, fullgraph=True)
    return lambda z: potential_derivatives(pot, z, TIME, 0, backend=name)


def forward(derivatives: Derivatives, z: Tensor) -> PotentialDerivatives:
    """The op alone, without a graph."""
    with torch.no_grad():
        return derivatives(z)


def forward_backward(
    derivatives: Derivatives, pot: PotentialMLP, z: Tensor, rows: Tensor | None = None
) -> dict[str, Tensor]:
    """Outputs X of the given rows (None: all), and v_z and v_<parameter> for cotangents X of those rows, by name."""
    out = named(derivatives(z), rows)
    parameters = dict(pot.named_parameters())
    cotangents = [value.detach() for value in out.values()]
    v_z, *v_parameters = torch.autograd.grad([*out.values()], [z, *parameters.values()], cotangents)
    gradients = zip(parameters, v_parameters, strict=True)
    return {**out, "v_z": v_z if rows is None else v_z[rows], **{f"v_{name}": value for name, value in gradients}}


def named(out: PotentialDerivatives, rows: Tensor | None = None) -> dict[str, Tensor]:
    found = {name: value for name, value in out._asdict().items() if value is not None}
    return found if rows is None else {name: value[rows] for name, value in found.items()}


def check_parity(name: str, derivatives: Derivatives, pot: PotentialMLP, z: Tensor) -> None:
    """Raise ParityError unless the very calls that are timed agree with the float64 oracle, on PARITY_ROWS rows.

    The cotangents are of those rows alone, so that the oracle needs no others; the contender gets the whole batch.
    """
    rows = torch.linspace(0, z.shape[0] - 1, min(PARITY_ROWS, z.shape[0])).long()
    pot64 = copy.deepcopy(pot).double()
    z64 = z[rows].detach().double().requires_grad_()
    wanted = forward_backward(derivatives_of("oracle", pot64), pot64, z64)
    for given in (named(forward(derivatives, z), rows), forward_backward(derivatives, pot, z, rows)):
        for result, value in given.items():
            difference = (value.detach().double() - wanted[result].detach()).norm()
            error = float(difference / wanted[result].detach().norm().clamp(min=1e-6))
            if not error < TOLERANCE:
                raise ParityError(f"{name}: {result} of shape {tuple(value.shape)} is off by {error:.1e}")
