"""The CUDA kernels on a GPU: numbers, precisions, float64, streams, graphs, and what their operators refuse."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from ffrl.models import PotentialMLP
from ffrl.ops import available_backends, flow_rollout, potential_derivatives
from tests.cases import Case, build, cotangents_of, outputs_of, random_potential
from tests.kernels.cases import FORMS, FULL_CASES, form_of
from tests.kernels.devices import on_device
from tests.tolerances import FLOAT64, relative_error

REASON = available_backends()["cuda"]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=f"no CUDA kernels here: {REASON}")]

GPU = torch.device("cuda")
ALONE = 12  # times the error of plain torch in float32, in one case ...
ALONE_FLOOR = 2e-6  # ... or of this, where plain torch was exact by luck
TF32 = 2e-2  # one product of three digits
MIXED = Case(200, 5, 17, 33, 3, "mixed", time="repeated", d2u_dt2=True)


def values_of(inputs, backend: str, form: str | None = None, device: torch.device = GPU) -> dict[str, Tensor | None]:
    """Every output, and ``v_X`` of every tracked X, on the CPU."""
    moved = on_device(inputs, device) if backend == "cuda" else inputs
    with form_of(form):
        outputs = outputs_of(moved, backend)
        values = {**outputs, **cotangents_of(moved, outputs)}
    return {name: value if value is None else value.cpu() for name, value in values.items()}


def worst(actual: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> dict[str, float]:
    assert actual.keys() == expected.keys()
    errors = {}
    for name, reference in expected.items():
        value = actual[name]
        if reference is None or value is None:
            assert value is reference, name
            continue
        assert value.shape == reference.shape, name
        errors[name] = relative_error(value, reference)
    return errors


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", FULL_CASES, ids=str)
def test_float32_errs_no_more_than_plain_torch(case: Case, form: str):
    single = build(case, torch.float32)
    expected = values_of(single.double(), "analytic")
    own = worst(values_of(single, "analytic"), expected)
    errors = worst(values_of(single, "cuda", form), expected)
    bad = {name: (error, own[name]) for name, error in errors.items() if error > ALONE * max(own[name], ALONE_FLOOR)}
    assert not bad, (str(case), form, bad)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", FULL_CASES[::4], ids=str)
def test_float64_is_float64(case: Case, form: str):
    inputs = build(case)
    errors = worst(values_of(inputs, "cuda", form), values_of(inputs, "analytic"))
    assert max(errors.values()) < FLOAT64, (str(case), form, errors)


def flow_of(pot: PotentialMLP, z0: Tensor, k: int | Tensor, steps: int, direction: int, backend: str):
    """The rollout's outputs, and ``v_X`` of z0 and the parameters X, on the CPU; in the dtype of z0."""
    device = GPU if backend == "cuda" else z0.device
    moved = copy.deepcopy(pot).to(device, z0.dtype).requires_grad_()
    start = z0.to(device).clone().requires_grad_()
    where = k.to(device) if isinstance(k, Tensor) else k
    out = flow_rollout(moved, start, where, steps, direction=direction, backend=backend)._asdict()
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(value.shape, generator=generator).to(value) for value in out.values()]
    sources = {"z0": start, **dict(moved.named_parameters())}
    gradients = torch.autograd.grad(
        list(out.values()), list(sources.values()), cotangents, allow_unused=True, materialize_grads=True
    )
    values = {**out, **{f"v_{name}": value for name, value in zip(sources, gradients, strict=True)}}
    return {name: value.detach().cpu() for name, value in values.items()}


# Batch, latent, hidden layers, potentials; steps; the widest ones have a cluster of blocks for each row where there
# are clusters, and the widest of all do not fit into shared memory.
FLOWS = [
    (Case(1, 1, 1, 1), 1, 1),
    (Case(70, 5, 17, 33, 3, "mixed"), 3, 1),
    (Case(130, 33, 9, 17, 2, "mixed", activation="identity"), 4, -1),
    (Case(17, 64, 128, 128), 8, 1),
    (Case(20, 226, 226, 226, 2, "mixed"), 2, 1),
    (Case(3, 1024, 1600, 1024), 2, 1),
]


@pytest.mark.parametrize(("case", "steps", "direction"), FLOWS, ids=str)
def test_a_rollout_in_one_launch_is_the_flow_step_by_step(case: Case, steps: int, direction: int):
    torch.manual_seed(0)
    pot = random_potential(case, torch.float64)
    z0 = torch.randn(case.rows, case.latent, dtype=torch.float64)
    k = torch.arange(case.rows) % case.potentials if case.index == "mixed" else 0
    single = z0.float()
    pot = pot.float().double()  # so that both precisions have the same numbers
    expected = flow_of(pot, single.double(), k, steps, direction, "analytic")
    errors = worst(flow_of(pot, single.double(), k, steps, direction, "cuda"), expected)
    assert max(errors.values()) < FLOAT64, errors
    own = worst(flow_of(pot, single, k, steps, direction, "analytic"), expected)
    errors = worst(flow_of(pot, single, k, steps, direction, "cuda"), expected)
    bad = {name: (error, own[name]) for name, error in errors.items() if error > ALONE * max(own[name], ALONE_FLOOR)}
    assert not bad, bad


def test_precisions_are_what_they_say():
    inputs = on_device(build(Case(70, 24, 96, 80, time="scalar"), torch.float32), GPU)
    double = inputs.double()
    expected = potential_derivatives(double.pot, double.z, double.t, double.k, backend="analytic").lap_u
    errors = {}
    for precision in ("ieee", "tf32x3", "tf32"):
        out = potential_derivatives(inputs.pot, inputs.z, inputs.t, inputs.k, backend="cuda", precision=precision)
        errors[precision] = relative_error(out.lap_u, expected)  # type: ignore[arg-type]
    assert errors["ieee"] < 1e-5 and errors["tf32x3"] < 1e-5 and 1e-6 < errors["tf32"] < TF32, errors
    for precision in ("tf32x3", "tf32"):  # float64 knows no other
        out = potential_derivatives(double.pot, double.z, double.t, double.k, backend="cuda", precision=precision)
        assert relative_error(out.lap_u, expected) < FLOAT64  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_call_gives_the_same_bits(form: str):
    inputs = build(MIXED, torch.float32)
    first = values_of(inputs, "cuda", form)
    for _ in range(100):
        for name, value in values_of(inputs, "cuda", form).items():
            assert value is None or torch.equal(value, first[name]), name  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_row_that_is_not_finite_reaches_no_other_row(form: str, poison: float):
    inputs = build(Case(70, 5, 17, 33, 2, "mixed", time="scalar", tracked="z"), torch.float32)
    clean = values_of(inputs, "cuda", form)
    z = inputs.z.detach().clone()
    z[67] = poison
    poisoned = values_of(replace(inputs, z=z.requires_grad_(), sources={"z": z}), "cuda", form)
    others = torch.arange(70) != 67
    for name, value in poisoned.items():
        assert value is not None and torch.equal(value[others], clean[name][others]), name  # type: ignore[index]


def step(inputs) -> dict[str, Tensor | None]:
    outputs = outputs_of(inputs, "cuda")
    return {**outputs, **cotangents_of(inputs, outputs)}


def test_a_cuda_graph_holds_the_operation_and_its_backward():
    inputs = on_device(build(MIXED, torch.float32), GPU)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step(inputs)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(inputs)
    with torch.no_grad():
        inputs.z.mul_(0.5)
    graph.replay()
    for name, expected in step(inputs).items():
        assert relative_error(captured[name], expected) < 1e-5, name  # type: ignore[arg-type]


def test_the_current_stream_is_what_is_launched_on():
    inputs = on_device(build(MIXED, torch.float32), GPU)
    expected = step(inputs)
    halved = on_device(build(MIXED, torch.float32), GPU)
    with torch.no_grad():
        halved.z.mul_(0.5)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(100_000_000)  # what does not wait for it sees z as it was
        halved.z.mul_(2)
    with torch.cuda.stream(stream):
        found = step(halved)
    stream.synchronize()
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-5, name  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_tensors_is_where_it_runs():
    inputs = build(MIXED, torch.float32)
    with torch.cuda.device(0):
        there = values_of(inputs, "cuda", device=torch.device("cuda:1"))
        assert torch.cuda.current_device() == 0
    for name, value in values_of(inputs, "cuda", device=torch.device("cuda:0")).items():
        assert value is None or relative_error(there[name], value) < 1e-5, name  # type: ignore[arg-type]


def operands(rows: int = 70, dtype: torch.dtype = torch.float32) -> tuple:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=GPU, dtype=dtype) / 2

    weights = draw(3, 9, 5), draw(3, 9), draw(3, 7, 9), draw(3, 7), draw(3, 7), draw(3)
    k = torch.arange(rows, device=GPU) % 3
    return (draw(rows, 5), draw(3, 9), draw(3, 9), draw(3, 9), *weights, k, 0, k, True, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operators_are_what_their_fakes_say(dtype: torch.dtype):
    given = operands(dtype=dtype)
    *outputs, kept = torch.ops.ffrl_cuda.potential_forward(*given, True, 1)
    opcheck(torch.ops.ffrl_cuda.potential_forward, (*given, True, 1))
    opcheck(torch.ops.ffrl_cuda.potential_backward, (kept, *given, *outputs, True, True, True, 1))


def test_operands_that_do_not_fit_are_refused():
    z, *others = operands()
    forward = torch.ops.ffrl_cuda.potential_forward
    for wrong, message in (
        ((z.double(), *others, True, 1), "tau has the wrong dtype"),
        ((z.half(), *others, True, 1), "z is neither float32 nor float64"),
        ((z.cpu(), *others, True, 1), "on another device than z"),
        ((z[:, :4], *others, True, 1), "weight1|z has size"),
        ((z, *others, True, 3), "precision = 3, expected 0, 1 or 2"),
        ((z, *others[:9], None, 3, *others[11:], True, 1), r"k_all = 3 is outside 0 <= k < 3"),
    ):
        with pytest.raises(RuntimeError, match=message):
            forward(*wrong)


def test_layouts_and_addresses_do_not_matter():
    given = operands()
    expected = torch.ops.ffrl_cuda.potential_forward(*given, False, 1)

    def moved(value: Tensor) -> Tensor:
        """The same numbers one element off an aligned address."""
        stored = torch.empty(value.numel() + 1, dtype=value.dtype, device=GPU)
        return stored[1:].view(value.shape).copy_(value)

    for change in (moved, lambda value: value.T.contiguous().T if value.dim() == 2 else value):
        again = tuple(change(value) if isinstance(value, Tensor) else value for value in given)
        for one, other in zip(torch.ops.ffrl_cuda.potential_forward(*again, False, 1), expected, strict=True):
            assert torch.equal(one, other)
