"""The rollout in one launch against the same flow step by step in plain torch, and what its operators promise."""

from __future__ import annotations

import copy
import itertools
import math
from statistics import fmean
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from ffrl.errors import ArgumentError, BackendError, DerivativeOrderError
from ffrl.models import LatentFlow, PotentialMLP
from ffrl.ops import flow_rollout
from tests.cases import Case, random_potential
from tests.kernels.devices import DEVICE, needs_triton
from tests.tolerances import FLOAT32_COTANGENT_RATIO, FLOAT32_FLOOR, FLOAT32_OUTPUT_RATIO, relative_error

pytestmark = needs_triton

ALONE, ALONE_FLOOR = 12, 2e-6  # as in test_triton_parity.py
FLOAT32_ROUNDING = 1e-5  # the same kernels, other launches


class FlowCase(NamedTuple):
    batch: int
    latent: int
    hidden1: int
    hidden2: int
    potentials: int = 1
    steps: int = 3
    mixed: bool = False
    activation: str = "tanh"
    direction: int = 1


CASES = (
    FlowCase(1, 1, 1, 1, steps=1),
    FlowCase(1, 3, 17, 33, 3, 2, mixed=True),
    FlowCase(17, 16, 17, 16, 2, 3, mixed=True, activation="identity", direction=-1),
    FlowCase(33, 65, 33, 1, 3, 2),
    FlowCase(64, 17, 65, 64, 1, 2, activation="identity"),
    FlowCase(65, 5, 64, 65, 5, 2, mixed=True),
    FlowCase(130, 33, 9, 17, 2, 4, mixed=True, direction=-1),
    FlowCase(70, 2, 6, 4, 7, 9, mixed=True),
    FlowCase(3, 226, 226, 226, 2, 2, mixed=True),
    FlowCase(2, 324, 324, 324, 1, 1),
    FlowCase(0, 3, 5, 4, 2, 2, mixed=True),
    FlowCase(0, 3, 5, 4, 2, 2),
)


def potential(case: FlowCase, dtype: torch.dtype = torch.float32) -> PotentialMLP:
    sizes = case.batch, case.latent, case.hidden1, case.hidden2, case.potentials
    return random_potential(Case(*sizes, activation=case.activation), dtype)


SMALL = FlowCase(20, 3, 9, 7, 3, 3, mixed=True)


class Problem(NamedTuple):
    pot: PotentialMLP
    z0: Tensor
    k: int | Tensor
    cotangents: dict[str, Tensor]


def problem(case: FlowCase, seed: int = 0) -> Problem:
    """In float32 on the CPU. Some potential of a mixed batch has one row, another as a rule none."""
    torch.manual_seed(seed)
    pot = potential(case)
    k: int | Tensor = case.potentials - 1
    if case.mixed:
        k = torch.randint(max(case.potentials - 1, 1), (case.batch,))
        k[: case.batch // 3] = case.potentials - 1
    shapes = {
        "z": (case.batch, case.steps + 1, case.latent),
        "du_dz": (case.batch, case.steps, case.latent),
        "du_dt": (case.batch, case.steps),
    }
    cotangents = {name: torch.randn(shape) for name, shape in shapes.items()}
    return Problem(pot, torch.randn(case.batch, case.latent), k, cotangents)


def values_of(
    given: Problem, case: FlowCase, backend: str, dtype: torch.dtype = torch.float32, *,
    tracked: str = "all", with_respect: tuple[str, ...] = ("z", "du_dz", "du_dt"),
) -> dict[str, Tensor]:  # fmt: skip
    """Outputs X, and ``v_X`` of what is tracked for the named cotangents, on the CPU."""
    device = DEVICE if backend == "triton" else torch.device("cpu")
    pot = copy.deepcopy(given.pot).to(device, dtype)
    z0 = given.z0.to(device, dtype).clone()
    k = given.k.to(device) if isinstance(given.k, Tensor) else given.k
    sources = {"z0": z0, **dict(pot.named_parameters())}
    chosen = {"all": list(sources), "z0": ["z0"], "weights": [name for name in sources if name != "z0"]}[tracked]
    for name, source in sources.items():
        source.requires_grad_(name in chosen)
    out = flow_rollout(pot, z0, k, case.steps, direction=case.direction, backend=backend)._asdict()
    gradients = torch.autograd.grad(
        [out[name] for name in with_respect],
        [sources[name] for name in chosen],
        [given.cotangents[name].to(device, dtype) for name in with_respect],
        allow_unused=True,
        materialize_grads=True,
    )
    found = {**out, **{f"v_{name}": value for name, value in zip(chosen, gradients, strict=True)}}
    return {name: value.detach().cpu() for name, value in found.items()}


def test_rollout_matches_plain_torch_in_float64():
    """By the rule of test_triton_parity.py: each case in a wide bound, their geometric mean in the narrow one."""
    ratios: dict[str, list[float]] = {}
    for case in CASES:
        given = problem(case)
        expected = values_of(given, case, "analytic", torch.float64)
        plain, actual = values_of(given, case, "analytic"), values_of(given, case, "triton")
        for name, reference in expected.items():
            assert actual[name].shape == reference.shape and actual[name].dtype == torch.float32, (case, name)
            error, own = relative_error(actual[name], reference), relative_error(plain[name], reference)
            assert error <= ALONE * max(own, ALONE_FLOOR), f"{case}, {name}: {error:.1e} against {own:.1e}"
            kind = "cotangents" if name.startswith("v_") else "outputs"
            ratios.setdefault(kind, []).append(math.log(max(error, FLOAT32_FLOOR) / max(own, FLOAT32_FLOOR)))
    assert math.exp(fmean(ratios["outputs"])) <= FLOAT32_OUTPUT_RATIO
    assert math.exp(fmean(ratios["cotangents"])) <= FLOAT32_COTANGENT_RATIO


@pytest.mark.parametrize("tracked", ["z0", "weights"])
@pytest.mark.parametrize("with_respect", [("z",), ("du_dz",), ("du_dt",), ("z", "du_dt")], ids="+".join)
def test_gradients_of_a_part(tracked: str, with_respect: tuple[str, ...]):
    given = problem(SMALL)
    expected = values_of(given, SMALL, "analytic", torch.float64, tracked=tracked, with_respect=with_respect)
    actual = values_of(given, SMALL, "triton", tracked=tracked, with_respect=with_respect)
    assert max(value.norm() for name, value in expected.items() if name.startswith("v_")) > 0.1
    for name, reference in expected.items():
        assert relative_error(actual[name], reference) < 1e-5, name


def test_a_trajectory_with_laplacians_and_its_gradients():
    """LatentFlow: the rollout in one launch, the Laplacians of all its steps in one call, and back through both."""
    torch.manual_seed(1)
    pot = potential(SMALL, torch.float64)
    z0, k = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 3
    results = []
    for backend, dtype, device in (("analytic", torch.float64, "cpu"), ("triton", torch.float32, DEVICE)):
        flow = LatentFlow(copy.deepcopy(pot).to(device, dtype), backend)
        start = z0.to(device, dtype).clone().requires_grad_()
        out = flow(start, k.to(device), 3, d2u_dt2=True)
        torch.manual_seed(2)
        total = sum((value * torch.randn(value.shape, dtype=torch.float64).to(value)).sum() for value in out)
        gradients = torch.autograd.grad(total, [start, *flow.parameters()])  # type: ignore[arg-type]
        results.append([*out, *gradients])
    for expected, actual in zip(*results, strict=True):
        assert actual.dtype == torch.float32 and relative_error(actual.cpu(), expected) < 1e-5


def test_operands_and_cotangents_of_any_layout():
    """Strided states and indices, cotangents of a sum, which are expanded, and rows from an odd place in memory."""
    case = FlowCase(20, 3, 9, 7, 3, 2, mixed=True)
    results = []
    for backend, dtype, device in (("analytic", torch.float64, torch.device("cpu")), ("triton", torch.float32, DEVICE)):
        torch.manual_seed(3)
        pot = potential(case, torch.float64).to(device, dtype)
        start = torch.randn(3, 21, dtype=torch.float64).to(device, dtype).requires_grad_()
        z0, k = start.T[1:], (torch.arange(40, device=device) % 3)[::2]
        out = flow_rollout(pot, z0, k, 2, backend=backend)
        total = out.z.sum() + out.du_dt.sum() + out.du_dz.permute(2, 0, 1).square().sum()
        results.append([*out, *torch.autograd.grad(total, [start, *pot.parameters()], allow_unused=True)])
    for expected, actual in zip(*results, strict=True):
        assert (expected is None) == (actual is None)
        assert actual is None or relative_error(actual.cpu(), expected) < 1e-5


def test_the_bits_of_a_row_do_not_depend_on_where_it_stands_in_memory():
    case = FlowCase(20, 5, 17, 9, 1, 2)
    given = problem(case)
    shifted = torch.empty(20 * 5 + 1)[1:].view(20, 5).copy_(given.z0)
    assert shifted.data_ptr() % 16 and given.z0.data_ptr() % 16 == 0
    pot = given.pot.to(DEVICE)
    moved = shifted if DEVICE.type == "cpu" else torch.empty(101, device=DEVICE)[1:].view(20, 5).copy_(shifted)
    one, other = (flow_rollout(pot, z0, 0, 2, backend="triton").z for z0 in (given.z0.to(DEVICE), moved))
    assert torch.equal(one, other)


def test_the_sequence_is_one_launch_each_way(monkeypatch: pytest.MonkeyPatch):
    from ffrl.kernels import flow_rollout as host

    launches: list[str] = []

    class Counted:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(host, name)

        def __getitem__(self, grid: Any) -> Any:
            launches.append(self.name)
            return self.kernel[grid]

    for name in ("rollout_forward", "rollout_backward"):
        monkeypatch.setattr(host, name, Counted(name))
    case = FlowCase(20, 3, 9, 7, 3, 5, mixed=True)
    values_of(problem(case), case, "triton")
    assert launches == ["rollout_forward", "rollout_backward"]


def test_the_bits_of_a_row_do_not_depend_on_its_batch():
    case = FlowCase(200, 5, 17, 65, 3, 3, mixed=True)
    given = problem(case)
    assert isinstance(given.k, Tensor)
    whole = values_of(given, case, "triton", tracked="z0")
    for rows in (torch.arange(200).flip(0), torch.arange(70, 75)):
        part = Problem(given.pot, given.z0[rows], given.k[rows], {n: v[rows] for n, v in given.cotangents.items()})
        for name, value in values_of(part, case, "triton", tracked="z0").items():
            assert torch.equal(value, whole[name][rows]), name


def test_the_same_call_gives_the_same_bits():
    case = FlowCase(70, 5, 17, 33, 3, 3, mixed=True)
    given = problem(case)
    first = values_of(given, case, "triton")
    for _ in range(1000 if DEVICE.type == "cuda" else 2):
        for name, value in values_of(given, case, "triton").items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_reaches_no_other_row(poison: float):
    case = FlowCase(70, 5, 17, 33, 2, 3, mixed=True)
    given = problem(case)
    clean = values_of(given, case, "triton", tracked="z0")
    z0 = given.z0.clone()
    z0[67] = poison
    others = torch.arange(70) != 67
    for name, value in values_of(given._replace(z0=z0), case, "triton", tracked="z0").items():
        assert torch.equal(value[others], clean[name][others]), name
        assert not value[67].isfinite().all(), name


def test_without_a_graph_the_states_are_the_same():
    case = FlowCase(70, 5, 17, 33, 3, 4, mixed=True)
    given = problem(case)
    tracked = values_of(given, case, "triton")
    pot = given.pot.to(DEVICE).requires_grad_(False)
    k = given.k.to(DEVICE) if isinstance(given.k, Tensor) else given.k
    for name, value in flow_rollout(pot, given.z0.to(DEVICE), k, 4, backend="triton")._asdict().items():
        assert not value.requires_grad and torch.equal(value.cpu(), tracked[name]), name


def operands(mixed: bool, batch: int = 20, steps: int = 3) -> tuple[Any, ...]:
    case = FlowCase(batch, 3, 9, 7, 3, steps, mixed=mixed)
    pot, z0, k, _ = problem(case)
    count = steps * (3 if mixed else 1)
    features = (torch.randn(count, 9), torch.randn(count, 9))
    index = (k, 0) if isinstance(k, Tensor) else (None, k)
    given = (z0, *features, *pot.weights(None), *index, steps, 1, True)
    return tuple(value.detach().to(DEVICE) if isinstance(value, Tensor) else value for value in given)


@pytest.mark.parametrize(("mixed", "batch"), [(True, 20), (False, 20), (True, 0)])
def test_opcheck(mixed: bool, batch: int):
    given = operands(mixed, batch)
    opcheck(torch.ops.ffrl_triton.rollout_forward, (*given, True, 1))
    z, du_dz, du_dt, kept = torch.ops.ffrl_triton.rollout_forward(*given, True, 1)
    cotangents = torch.randn_like(z), torch.randn_like(du_dz), torch.randn_like(du_dt)
    for needs, v in itertools.product(
        ((True, True, True), (True, False, False)), (cotangents, (None, *cotangents[1:]))
    ):
        opcheck(torch.ops.ffrl_triton.rollout_backward, (kept, z, *given[1:], *v, *needs, 1))
    if batch:
        tracked = [
            value.requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
            for value in given
        ]
        opcheck(torch.ops.ffrl_triton.rollout_forward, (*tracked, False, 1))


@pytest.mark.parametrize("mixed", [True, False])
def test_torch_compile_and_vmap_give_the_numbers_of_eager_mode(mixed: bool):
    torch._dynamo.reset()
    pot = potential(SMALL).to(DEVICE)
    k: int | Tensor = torch.arange(20, device=DEVICE) % 3 if mixed else 2

    def loss(z0: Tensor) -> Tensor:
        out = flow_rollout(pot, z0, k, 3, backend="triton")
        return out.z.square().sum() + out.du_dz.sin().sum() + out.du_dt.square().sum()

    z0 = torch.randn(20, 3, device=DEVICE, requires_grad=True)
    results = []
    for function in (loss, torch.compile(loss, fullgraph=True)):
        results.append(torch.autograd.grad(function(z0), [z0, *pot.parameters()], allow_unused=True))
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        assert one is None or relative_error(one, other) < FLOAT32_ROUNDING
    torch._dynamo.reset()
    problems = torch.randn(3, 20, 3, device=DEVICE)
    for start, gradient in zip(problems, torch.func.vmap(torch.func.grad(loss))(problems), strict=True):
        start = start.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(start), start)
        assert expected.norm() > 1e-2 and relative_error(gradient, expected) < FLOAT32_ROUNDING


def test_derivatives_that_are_not_there_are_errors():
    pot = potential(SMALL).to(DEVICE)
    z0 = torch.randn(4, 3, device=DEVICE, requires_grad=True)

    def value(start: Tensor) -> Tensor:
        return flow_rollout(pot, start, 0, 2, backend="triton").z.square().sum()

    (gradient,) = torch.autograd.grad(value(z0), z0, create_graph=True)
    with pytest.raises(DerivativeOrderError, match="oracle"):
        torch.autograd.grad(gradient.sum(), z0)
    with pytest.raises(DerivativeOrderError, match="oracle"):
        torch.func.jvp(value, (z0.detach(),), (torch.ones_like(z0),))


def test_what_does_not_fit_is_refused():
    pot = potential(SMALL, torch.float64).to(DEVICE)
    z0 = torch.zeros(2, 3, dtype=torch.float64, device=DEVICE)
    with pytest.raises(BackendError, match=r"'triton'.*torch\.float32, not torch\.float64"):
        flow_rollout(pot, z0, 0, 2, backend="triton")
    with pytest.raises(ArgumentError, match=r"precision = 'bf16' is not allowed"):
        flow_rollout(pot, z0, 0, 2, precision="bf16")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"k = 3 is not allowed; expected 0 <= k < 3"):
        flow_rollout(pot.float(), z0.float(), torch.tensor([0, 3], device=DEVICE), 2, backend="triton")
    given = list(operands(mixed=True))
    with pytest.raises(RuntimeError, match="tau has 9 rows, expected 12: 4 of each potential"):
        torch.ops.ffrl_triton.rollout_forward(*given[:11], 4, 1, True, True, 1)
    with pytest.raises(RuntimeError, match="num_steps = 0 and direction = 1"):
        torch.ops.ffrl_triton.rollout_forward(*given[:11], 0, 1, True, True, 1)
    z, _, _, kept = torch.ops.ffrl_triton.rollout_forward(*given, True, 1)
    with pytest.raises(RuntimeError, match="kept is"):
        torch.ops.ffrl_triton.rollout_backward(kept[1:], z, *given[1:], z, None, None, True, True, True, 1)
