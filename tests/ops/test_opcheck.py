"""The registered operators by torch.library.opcheck: schema, autograd, fakes, and what torch.compile makes of them.

The operators are called as they are, without ``potential_derivatives`` around them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from ffrl.errors import DerivativeOrderError
from ffrl.ops.registration import FORMS
from tests.cpp_cases import needs_cpp
from tests.tolerances import ROUNDING, relative_error

pytestmark = needs_cpp

OUTPUTS = ("v_u", "v_du_dz", "v_du_dt", "v_d2u_dt2", "v_lap_u")


@dataclass(frozen=True)
class Call:
    """Arguments of the operators. ``features``: "one" row for all, "rows", or a "table" with feature_row."""

    rows: int = 33
    latent: int = 3
    hidden1: int = 6
    hidden2: int = 5
    potentials: int = 1
    mixed: bool = False
    features: str = "one"
    d2u_dt2: bool = True
    form: str | None = "gram"
    tanh_output: bool = True
    keep: bool = True
    dtype: torch.dtype = torch.float64
    tracked: bool = True
    cotangents: tuple[str, ...] = OUTPUTS
    needs: tuple[bool, bool, bool] = (True, True, True)

    def operands(self) -> tuple[Any, ...]:
        """All arguments of potential_forward but ``keep``."""
        count, potentials = self.rows, self.potentials

        def draw(*shape: int) -> Tensor:
            return (torch.randn(shape, dtype=self.dtype) / 2).requires_grad_(self.tracked)

        k = torch.arange(count) % potentials if self.mixed else None
        lengths = {"one": 1, "rows": count, "table": 2 * potentials}
        row = None
        if self.features == "table":
            row = 2 * (torch.zeros(count, dtype=torch.int64) if k is None else k) + torch.arange(count) % 2
        length, h1, h2 = lengths[self.features], self.hidden1, self.hidden2
        features = (draw(length, h1), draw(length, h1), draw(length, h1) if self.d2u_dt2 else None)
        weights = (draw(potentials, h1, self.latent), draw(potentials, h1), draw(potentials, h2, h1))
        weights = (*weights, draw(potentials, h2), draw(potentials, h2), draw(potentials))
        constants = (k, potentials - 1, row, self.tanh_output, FORMS[self.form])
        return (draw(count, self.latent), *features, *weights, *constants)

    def forward(self) -> tuple[Any, ...]:
        return (*self.operands(), self.keep)

    def backward(self) -> tuple[Any, ...]:
        """Arguments of potential_backward: missing cotangents are None."""
        operands = self.operands()
        outputs = torch.ops.ffrl.potential_forward(*operands, True)
        asked = {"v_d2u_dt2": self.d2u_dt2, "v_lap_u": self.form is not None}
        cotangents = [
            torch.randn_like(output) if name in self.cotangents and asked.get(name, True) else None
            for name, output in zip(OUTPUTS, outputs, strict=False)
        ]
        return (outputs[-1].detach(), *operands, *cotangents, *self.needs)


BASE = Call()
MIXED = Call(potentials=3, mixed=True, features="table")
CALLS = (
    BASE,
    replace(BASE, features="rows"),
    replace(BASE, potentials=3),
    replace(BASE, features="table", d2u_dt2=False, form="jacobian"),
    replace(BASE, form=None, tanh_output=False),
    replace(BASE, form=None, d2u_dt2=False, rows=40),
    replace(BASE, form="jacobian", rows=64),
    replace(BASE, dtype=torch.float32, rows=7),
    replace(BASE, rows=0),
    replace(BASE, rows=0, features="rows", form=None),
    replace(BASE, rows=1, latent=1, hidden1=1, hidden2=1),
    replace(BASE, keep=False),
    MIXED,
    replace(MIXED, form="jacobian", d2u_dt2=False),
    replace(MIXED, form=None, features="rows"),
    replace(MIXED, rows=0),
    replace(MIXED, rows=5, keep=False, dtype=torch.float32),
    replace(MIXED, tracked=False),
    replace(BASE, tracked=False, keep=False, form="jacobian"),
)
NEEDS = {
    BASE: [(True, False, False), (False, True, False), (False, False, True), (False, False, False)],
    MIXED: [(True, True, False), (True, False, True), (False, True, True)],
}
BACKWARD_CALLS = (
    *(call for call in CALLS if call.keep and call.tracked),
    *(replace(call, needs=needs) for call, choices in NEEDS.items() for needs in choices),
    *(replace(BASE, cotangents=(name,)) for name in OUTPUTS[:3]),
    *(replace(MIXED, cotangents=(name,)) for name in OUTPUTS[3:]),
    replace(BASE, cotangents=()),
)


@dataclass(frozen=True)
class TimeCall:
    """Arguments of the time feature's operators. ``times`` 0: a 0-d time; ``k`` -1: all potentials."""

    times: int = 5
    hidden: int = 6
    width: int = 8
    potentials: int = 3
    k: int = 1
    order: int = 2
    dtype: torch.dtype = torch.float64
    tracked: bool = True
    cotangents: tuple[bool, bool, bool] = (True, True, True)
    needs: tuple[bool, bool] = (True, True)

    def forward(self) -> tuple[Any, ...]:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=self.dtype)

        potentials, hidden = self.potentials, self.hidden
        weights = (draw(potentials, hidden, self.width), draw(potentials, hidden), draw(potentials, hidden, hidden))
        time, frequencies = draw(*([self.times] if self.times else [])), draw(self.width // 2)
        tracked = (value.requires_grad_(self.tracked) for value in (*weights, draw(potentials, hidden)))
        return (time.requires_grad_(self.tracked), frequencies, *tracked, self.k, self.order)

    def backward(self) -> tuple[Any, ...]:
        arguments = replace(self, tracked=False).forward()
        *features, kept = torch.ops.ffrl.time_features(*arguments)
        given = zip(features, self.cotangents, strict=True)
        cotangents = (torch.randn_like(value) if wanted and value.numel() else None for value, wanted in given)
        return (kept, *arguments, *cotangents, *self.needs)


TIME = TimeCall()
TIME_CALLS = (
    TIME,
    replace(TIME, k=-1),
    replace(TIME, k=-1, order=1, times=0),
    replace(TIME, times=0, potentials=1, k=0),
    replace(TIME, times=1, order=1, hidden=1, width=4),
    replace(TIME, times=33, k=-1, dtype=torch.float32, order=1),
    replace(TIME, tracked=False),
)
TIME_BACKWARD_CALLS = (
    *TIME_CALLS,
    *(replace(TIME, k=-1, needs=needs) for needs in ((True, False), (False, True), (False, False))),
    *(replace(TIME, cotangents=(i == 0, i == 1, i == 2)) for i in range(4)),
)


def name_of(call: Call | TimeCall) -> str:
    plain = type(call)()
    changed = (f"{name}={value}" for name, value in vars(call).items() if value != getattr(plain, name))
    return ",".join(changed) or "plain"


@pytest.mark.parametrize("call", CALLS, ids=name_of)
def test_opcheck_of_the_forward(call: Call):
    """Where ``tracked``, gradients too: torch.compile's are compared with those of eager mode."""
    result = opcheck(torch.ops.ffrl.potential_forward.default, call.forward())
    assert set(result.values()) == {"SUCCESS"} and len(result) == 4


@pytest.mark.parametrize("call", BACKWARD_CALLS, ids=name_of)
def test_opcheck_of_the_backward(call: Call):
    arguments = replace(call, tracked=False).backward()  # the gradients have no derivative
    result = opcheck(torch.ops.ffrl.potential_backward.default, arguments)
    assert set(result.values()) == {"SUCCESS"} and len(result) == 4


@pytest.mark.parametrize("call", TIME_CALLS, ids=name_of)
def test_opcheck_of_the_time_features(call: TimeCall):
    result = opcheck(torch.ops.ffrl.time_features.default, call.forward())
    assert set(result.values()) == {"SUCCESS"} and len(result) == 4


@pytest.mark.parametrize("call", TIME_BACKWARD_CALLS, ids=name_of)
def test_opcheck_of_the_backward_of_the_time_features(call: TimeCall):
    result = opcheck(torch.ops.ffrl.time_features_backward.default, call.backward())
    assert set(result.values()) == {"SUCCESS"} and len(result) == 4


@pytest.mark.parametrize("call", [replace(BASE, features="rows"), MIXED], ids=name_of)
def test_the_operator_itself_has_first_order_gradients(call: Call):
    """What opcheck does not see: that they are right."""
    operands = call.operands()

    def values(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.ffrl.potential_forward(*tensors, *operands[10:], True)[:5]

    assert torch.autograd.gradcheck(values, operands[:10], eps=1e-6, atol=1e-7, rtol=1e-6)


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "grad": lambda f, z: torch.func.grad(lambda z: f(z).sum())(z),
    "vmap": lambda f, z: torch.func.vmap(f)(torch.stack([z, 2 * z])),
    "jacrev": lambda f, z: torch.func.jacrev(f)(z),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_operator_itself_can_be_transformed(transform: str):
    """Without a rule of its own torch.func would take its outputs for constants: gradients of zero."""
    operands = replace(MIXED, rows=6, tracked=False).operands()

    def f(z: Tensor) -> Tensor:
        return torch.ops.ffrl.potential_forward(z, *operands[1:], True)[1]

    z = operands[0]
    tracked = z.clone().requires_grad_()
    expected = {
        "grad": lambda: torch.autograd.grad(f(tracked).sum(), tracked)[0],
        "vmap": lambda: torch.stack([f(z), f(2 * z)]),
        "jacrev": lambda: torch.autograd.functional.jacobian(f, z),
    }[transform]()
    assert isinstance(expected, Tensor) and expected.norm() > 0.1
    assert relative_error(TRANSFORMS[transform](f, z), expected) < ROUNDING


def test_the_operator_itself_refuses_forward_mode_and_second_derivatives():
    operands = replace(BASE, tracked=False).operands()

    def f(z: Tensor) -> Tensor:
        return torch.ops.ffrl.potential_forward(z, *operands[1:], True)[0].sum()

    z = operands[0]
    with pytest.raises(DerivativeOrderError, match="forward-mode"):
        torch.func.jvp(f, (z,), (torch.ones_like(z),))
    with pytest.raises(DerivativeOrderError, match="first-order gradients only"):
        torch.func.grad(lambda z: torch.func.grad(f)(z).sum())(z)
    arguments = list(BASE.backward())
    with pytest.raises(DerivativeOrderError, match="first-order gradients only"):
        torch.ops.ffrl.potential_backward(*arguments)[0].sum().backward()
