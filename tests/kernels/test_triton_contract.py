"""What the Triton backend promises beside its numbers: operators, transforms, errors, repeatability."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from ffrl.errors import ArgumentError, BackendError, DerivativeOrderError
from ffrl.models import PotentialMLP
from ffrl.ops import backends, potential_derivatives
from ffrl.ops.registration import FORMS as FORM_NUMBERS
from tests.cases import Case, build, cotangents_of, outputs_of
from tests.kernels.cases import FORMS, form_of, triton_values
from tests.kernels.devices import DEVICE, needs_triton, on_device
from tests.tolerances import relative_error

pytestmark = needs_triton

K, D, H1, H2 = 3, 5, 9, 7
FLOAT32_ROUNDING = 1e-5  # the same kernels, other launches


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def operands(rows: int, features: str, *, mixed: bool, second: bool, form: str | None, tracked: bool) -> tuple:
    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, device=DEVICE) / 2).requires_grad_(tracked)

    k = torch.arange(rows, device=DEVICE) % K if mixed else None
    count = {"one": 1, "rows": rows, "table": 2 * K}[features]
    row = None
    if features == "table":
        row = (torch.zeros(rows, dtype=torch.int64, device=DEVICE) if k is None else k) * 2
    rates = draw(count, H1), draw(count, H1), draw(count, H1) if second else None
    weights = draw(K, H1, D), draw(K, H1), draw(K, H2, H1), draw(K, H2), draw(K, H2), draw(K)
    return (draw(rows, D), *rates, *weights, k, K - 1, row, True, FORM_NUMBERS[form])


CALLS = [
    {"rows": 40, "features": "one", "mixed": False, "second": True, "form": "gram"},
    {"rows": 40, "features": "table", "mixed": True, "second": True, "form": "jacobian"},
    {"rows": 33, "features": "rows", "mixed": True, "second": False, "form": None},
    {"rows": 0, "features": "table", "mixed": True, "second": True, "form": "gram"},
]


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_opcheck_of_the_forward(call: dict, tracked: bool):
    if not tracked or not call["rows"]:
        opcheck(torch.ops.ffrl_triton.potential_forward, (*operands(**call, tracked=tracked), True, 1))
        return
    opcheck(torch.ops.ffrl_triton.potential_forward, (*operands(**call, tracked=True), False, 1))


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_opcheck_of_the_backward(call: dict):
    given = operands(**call, tracked=False)
    outputs = torch.ops.ffrl_triton.potential_forward(*given, True, 1)
    asked = [True, True, True, call["second"], call["form"] is not None]
    v_outputs = [torch.randn_like(v) if ask else None for v, ask in zip(outputs[:5], asked, strict=True)]
    for needs in ((True, True, True), (True, False, False)):
        opcheck(torch.ops.ffrl_triton.potential_backward, (outputs[-1], *given, *v_outputs, *needs, 1))


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("index", ["int", "mixed"])
def test_torch_compile_gives_the_numbers_of_eager_mode(index: str):
    pot = PotentialMLP(D, (H1, H2), K).to(DEVICE)

    def loss(z: Tensor, t: Tensor, k: int | Tensor) -> Tensor:
        out = potential_derivatives(pot, z, t, k, d2u_dt2=True, backend="triton")
        rows = [value if value.dim() == 1 else value.sin().sum(1) for value in out if value is not None]
        return torch.stack(rows).square().sum()

    compiled = torch.compile(loss, fullgraph=True)
    for rows in (40, 33, 64, 65, 3):
        z = torch.randn(rows, D, device=DEVICE, requires_grad=True)
        t = torch.rand(rows, device=DEVICE, requires_grad=True)
        k = 1 if index == "int" else torch.randint(K, (rows,), device=DEVICE)
        sources = [z, t, *pot.parameters()]
        results = []
        for function in (loss, compiled):
            value = function(z, t, k)
            results.append([value.detach(), *torch.autograd.grad(value, sources)])
        for one, other in zip(*results, strict=True):
            assert relative_error(one, other) < FLOAT32_ROUNDING


@pytest.mark.parametrize("form", FORMS)
def test_vmap_and_grad_are_a_loop_over_problems(form: str):
    pot = PotentialMLP(D, (H1, H2), 1).to(DEVICE)
    z = torch.randn(4, 6, D, device=DEVICE)

    def value(rows: Tensor) -> Tensor:
        out = potential_derivatives(pot, rows, 0.5, 0, backend="triton")
        return (out.lap_u + out.u * out.du_dt).sum()

    with form_of(form):
        together = torch.func.vmap(torch.func.grad(value))(z)
        for rows, gradient in zip(z, together, strict=True):
            rows = rows.clone().requires_grad_()
            (expected,) = torch.autograd.grad(value(rows), rows)
            assert expected.norm() > 1e-3 and relative_error(gradient, expected) < FLOAT32_ROUNDING


def test_second_derivatives_and_forward_mode_are_errors():
    pot = PotentialMLP(D, (H1, H2), 1).to(DEVICE)
    z = torch.randn(4, D, device=DEVICE, requires_grad=True)

    def value(rows: Tensor) -> Tensor:
        return potential_derivatives(pot, rows, 0.5, 0, backend="triton").u.sum()

    (gradient,) = torch.autograd.grad(value(z), z, create_graph=True)
    with pytest.raises(DerivativeOrderError, match="oracle"):
        torch.autograd.grad(gradient.sum(), z)
    with pytest.raises(DerivativeOrderError, match="oracle"):
        torch.func.jvp(value, (z.detach(),), (torch.ones_like(z),))


def test_float64_is_refused_with_what_to_do():
    pot = PotentialMLP(D, (H1, H2), 1).double().to(DEVICE)
    with pytest.raises(BackendError, match=r"'triton'.*torch\.float32, not torch\.float64.*analytic"):
        potential_derivatives(pot, torch.zeros(2, D, dtype=torch.float64, device=DEVICE), 0.5, 0, backend="triton")


def test_a_precision_that_is_unknown_is_refused():
    pot = PotentialMLP(D, (H1, H2), 1).to(DEVICE)
    z = torch.zeros(2, D, device=DEVICE)
    with pytest.raises(ArgumentError, match="precision = 'bf16' is not allowed; expected one of 'ieee', 'tf32x3'"):
        potential_derivatives(pot, z, 0.5, 0, backend="triton", precision="bf16")  # type: ignore[arg-type]
    for precision in ("ieee", "tf32x3", "tf32"):
        assert potential_derivatives(pot, z, 0.5, 0, backend="triton", precision=precision).u.isfinite().all()


def test_auto_takes_the_kernels_on_the_gpu_and_never_the_interpreter(caplog: pytest.LogCaptureFixture):
    pot, z = PotentialMLP(D, (H1, H2), 1).to(DEVICE), torch.zeros(2, D, device=DEVICE)
    backends.log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="ffrl"):
        for _ in range(2):
            potential_derivatives(pot, z, 0.5, 0)
    (line,) = [record.getMessage() for record in caplog.records]
    assert ("'triton'" in line) == (DEVICE.type == "cuda"), line


@pytest.mark.parametrize("form", FORMS)
def test_the_same_call_gives_the_same_bits(form: str):
    inputs = build(Case(70, 5, 17, 33, 3, "mixed", time="repeated"), torch.float32)
    first = triton_values(inputs, form)
    for _ in range(1000 if DEVICE.type == "cuda" else 3):
        for name, value in triton_values(inputs, form).items():
            assert value is None or torch.equal(value, first[name]), name  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_reaches_no_other_row(form: str, poison: float):
    case = Case(70, 5, 17, 33, 2, "mixed", time="scalar", tracked="z")
    inputs = build(case, torch.float32)
    clean = triton_values(inputs, form)
    z = inputs.z.detach().clone()
    z[67] = poison
    poisoned = triton_values(replace(inputs, z=z.requires_grad_(), sources={"z": z}), form)
    others = torch.arange(70) != 67
    for name, value in poisoned.items():
        assert value is not None and torch.equal(value[others], clean[name][others]), name  # type: ignore[index]
    assert poison == float("inf") or not poisoned["u"][67].isfinite()  # type: ignore[index]


@pytest.mark.parametrize("form", FORMS)
def test_saturated_rows_are_finite_zeros(form: str):
    inputs = build(Case(3, 4, 8, 8, time="scalar", activation="identity", tracked="z"), torch.float32)
    with torch.no_grad():
        inputs.pot.weight1.mul_(1e4)
    values = triton_values(inputs, form)
    assert all(value is None or value.isfinite().all() for value in values.values())
    assert values["du_dz"].abs().max() < 1e-3  # type: ignore[union-attr]


def test_subsets_of_what_is_tracked_and_given(seed: int):
    for tracked, given in itertools.product(("z", "weights", "time", "t"), ("u", "du_dz", "du_dt", "lap_u")):
        inputs = build(Case(5, 3, 6, 4, 2, "mixed", tracked=tracked, cotangents=given, seed=seed % 1000), torch.float32)
        double = inputs.double()
        expected = cotangents_of(double, outputs_of(double, "analytic"))
        moved = on_device(inputs)
        for name, value in cotangents_of(moved, outputs_of(moved, "triton")).items():
            assert relative_error(value.cpu(), expected[name]) < 1e-4, (name, tracked, given)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_the_bits_of_a_row_do_not_depend_on_its_batch(form: str):
    inputs = build(Case(200, 5, 17, 65, 3, "mixed", time="scalar", tracked="z"), torch.float32)
    whole = triton_values(inputs, form)
    assert isinstance(inputs.k, Tensor)
    for rows in (torch.arange(200).flip(0), torch.arange(70, 75)):
        z = inputs.z.detach()[rows].clone().requires_grad_()
        cotangents = {name: value[rows] for name, value in inputs.cotangents.items()}
        part = replace(inputs, z=z, k=inputs.k[rows], cotangents=cotangents, sources={"z": z})
        for name, value in triton_values(part, form).items():
            assert value is not None and torch.equal(value, whole[name][rows]), name  # type: ignore[index]


@pytest.mark.skipif(DEVICE.type == "cuda", reason="an assertion of the device ends the process")
@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_index_out_of_range_that_only_the_operator_sees_is_an_error(wrong: int):
    *given, k, k_all, row, tanh, form = operands(40, "one", mixed=True, second=True, form=None, tracked=False)
    k = k.clone()
    k[5] = wrong
    with pytest.raises(RuntimeError, match="k is outside 0 <= k < 3"):
        torch.ops.ffrl_triton.potential_forward(*given, k, k_all, row, tanh, form, False, 1)
    with pytest.raises(RuntimeError, match=r"k_all = -?[13] is outside"):
        torch.ops.ffrl_triton.potential_forward(*given, None, wrong, row, tanh, form, False, 1)


def test_operands_that_do_not_fit_are_refused_by_the_operator():
    z, *others = operands(40, "rows", mixed=False, second=True, form="gram", tracked=False)
    with pytest.raises(RuntimeError, match="40 feature rows for 39 rows need feature_row"):
        torch.ops.ffrl_triton.potential_forward(z[:39], *others, True, 1)
    with pytest.raises(RuntimeError, match=r"z is .*float64"):
        torch.ops.ffrl_triton.potential_forward(z.double(), *others, True, 1)


def test_auto_on_a_gpu_does_not_take_the_interpreter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "is_interpreting", lambda: True)
    assert "triton" not in list(backends.usable_on(torch.device("cuda"), torch.float32))
    monkeypatch.setattr(backends, "is_interpreting", lambda: False)
    assert next(backends.usable_on(torch.device("cuda"), torch.float32)) == "triton"
    assert "triton" not in list(backends.usable_on(torch.device("cuda"), torch.float64))
    assert "triton" not in list(backends.usable_on(torch.device("cpu"), torch.float32))


def test_the_arithmetic_and_the_tile_of_a_call_follow_the_gpu_and_the_wish(monkeypatch: pytest.MonkeyPatch):
    from ffrl.kernels import launch, tiling

    given = operands(40, "one", mixed=False, second=True, form="gram", tracked=False)
    call = launch.describe(launch.Operands(*given[:13]), tanh_output=True, form=1, precision=1)
    for number, (name, quadratic) in enumerate((("ieee", "ieee"), ("tf32x3", "tf32x3"), ("tf32", "tf32x3"))):
        on_hopper = call._replace(capability=90, precision=launch.PRECISIONS[number])
        assert (on_hopper.precision, on_hopper.quadratic_precision) == (name, quadratic)
        assert on_hopper.tile("gram_backward") == tiling.tile_of(90, name, "narrow", "gram_backward")
        assert on_hopper.tile("weights") == tiling.tile_of(90, quadratic, "narrow", "weights")
        wide = on_hopper._replace(hidden2=33)
        assert wide.tile("gram_backward") == tiling.tile_of(90, name, "wide", "gram_backward")
