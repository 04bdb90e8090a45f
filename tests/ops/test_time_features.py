"""The operator of the time feature against its plain-torch twin, ``PotentialMLP.time_features``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from ffrl.errors import DerivativeOrderError
from ffrl.models import PotentialMLP
from ffrl.ops.time_features import time_features_fused
from tests.cpp_cases import CAPABILITIES, Setting, needs_cpp
from tests.tolerances import FLOAT32_COTANGENT_RATIO, FLOAT32_FLOOR, ROUNDING, assert_matches, relative_error

pytestmark = needs_cpp

NAMES = ("tau", "dtau_dt", "d2tau_dt2")
# K, M (0: a 0-d time), k, order, H1, E: chunks of 64 are crossed, widths are no multiple of a vector
SHAPES = (
    (1, 0, 0, 1, 64, 64),
    (1, 1, None, 2, 1, 4),
    (3, 5, 2, 2, 7, 10),
    (3, 5, None, 1, 65, 64),
    (2, 33, 0, 2, 17, 130),
    (3, 4, None, 2, 130, 128),
    (2, 0, 1, 2, 3, 6),
    (2, 0, None, 2, 15, 30),
)


@pytest.fixture(params=CAPABILITIES)
def capability(request: pytest.FixtureRequest) -> Iterator[str]:
    with Setting(request.param, None, 1).active():
        yield request.param


def problem(shape: tuple, dtype: torch.dtype, seed: int = 0) -> tuple[PotentialMLP, Tensor, list[Tensor]]:
    potentials, times, k, order, hidden, width = shape
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pot = PotentialMLP(3, (hidden, 5), potentials, time_dim=width).to(dtype)
    with torch.no_grad():
        for name in ("time_weight1", "time_bias1", "time_weight2"):
            getattr(pot, name).mul_(3)  # so that GELU is not in its linear part
    time = 0.2 + 2 * torch.rand(times, generator=draw, dtype=torch.float64) if times else torch.tensor(0.7)
    rows = max(1, times) * (potentials if k is None else 1)
    cotangents = [torch.randn(rows, hidden, generator=draw, dtype=torch.float64).to(dtype) for _ in range(order + 1)]
    return pot, time.to(dtype).requires_grad_(), cotangents


def results(pot: PotentialMLP, time: Tensor, features: tuple, cotangents: list[Tensor]) -> dict[str, Tensor]:
    sources = {"time": time, **pot.time_weights()._asdict()}
    outputs = [value.flatten(0, -2) for value in features if value is not None]
    gradients = torch.autograd.grad(outputs, list(sources.values()), cotangents)
    found = {name: value.detach() for name, value in zip(NAMES, outputs, strict=False)}
    return found | {f"v_{name}": value for name, value in zip(sources, gradients, strict=True)}


def both(shape: tuple, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    pot, time, cotangents = problem(shape, dtype)
    k, order = shape[2], shape[3]
    fused = time_features_fused(time, pot.frequencies, pot.time_weights(), k, order=order)
    plain = pot.time_features(time, k, order=order)
    return results(pot, time, fused, cotangents), results(pot, time, plain, cotangents)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_is_that_of_plain_torch(shape: tuple, capability: str):
    fused, plain = both(shape, torch.float64)
    assert len(fused) == shape[3] + 1 + 5
    assert_matches(fused, plain, ROUNDING, capability)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_as_close_to_float64_as_plain_torch(shape: tuple, capability: str):
    pot, time, cotangents = problem(shape, torch.float32)
    k, order = shape[2], shape[3]
    fused, plain = both(shape, torch.float32)
    exact_time = time.detach().double().requires_grad_()
    exact_pot = pot.double()
    exact = results(
        exact_pot,
        exact_time,
        exact_pot.time_features(exact_time, k, order=order),
        [value.double() for value in cotangents],
    )
    for name, value in exact.items():
        allowed = FLOAT32_COTANGENT_RATIO * max(relative_error(plain[name], value), FLOAT32_FLOOR)
        assert relative_error(fused[name], value) <= allowed, name


def test_a_missing_cotangent_is_zero():
    shape = (2, 3, None, 2, 9, 8)
    pot, time, cotangents = problem(shape, torch.float64)
    weights = pot.time_weights()
    for left_out in range(3):
        fused = time_features_fused(time, pot.frequencies, weights, None, order=2)
        plain = pot.time_features(time, None, order=2)
        kept = [i for i in range(3) if i != left_out]
        given, wanted = (
            torch.autograd.grad(
                [out[i].flatten(0, -2) for i in kept],  # type: ignore[union-attr]
                [time, *weights],
                [cotangents[i] for i in kept],
                allow_unused=True,
                materialize_grads=True,
            )
            for out in (fused, plain)
        )
        names = ("time", *weights._fields)
        assert_matches(
            dict(zip(names, given, strict=True)), dict(zip(names, wanted, strict=True)), ROUNDING, str(left_out)
        )


def test_gradients_of_other_potentials_are_zero():
    pot, time, cotangents = problem((3, 4, 1, 1, 9, 8), torch.float64)
    found = results(pot, time, time_features_fused(time, pot.frequencies, pot.time_weights(), 1, order=1), cotangents)
    for name in ("v_weight1", "v_bias1", "v_weight2", "v_bias2"):
        assert found[name][1].norm() > 1e-3
        assert found[name][[0, 2]].abs().max() == 0


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("order", [1, 2])
def test_what_has_no_cotangent_reaches_no_gradient(capability: str, order: int, poison: float):
    """Of all potentials, one whose rows nobody uses, and a time that only it has; their own gradients are zero."""
    pot, time, cotangents = problem((3, 5, None, order, 9, 8), torch.float64)
    for cotangent in cotangents:  # rows k·M + m
        cotangent.view(3, 5, 9)[1] = 0
        cotangent.view(3, 5, 9)[:, 3] = 0
    names = ("time", *pot.time_weights()._fields)

    def gradients() -> dict[str, Tensor]:
        features = time_features_fused(time, pot.frequencies, pot.time_weights(), None, order=order)
        found = torch.autograd.grad([v for v in features if v is not None], [time, *pot.time_weights()], cotangents)
        return dict(zip(names, found, strict=True))

    clean = gradients()
    assert clean["time"][3] == 0 and all(not clean[name][1].any() for name in names[1:])
    with torch.no_grad():
        time[3] = poison
        for weight in pot.time_weights():
            weight[1] = poison
    for name, value in gradients().items():
        assert value.norm() > 1e-3 and torch.equal(value, clean[name]), name


def test_bits_do_not_depend_on_the_threads():
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(both((3, 5, None, 2, 65, 64), torch.float32)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])


def features_of(time: Tensor, *weights: Tensor, pot: PotentialMLP, k: int) -> tuple[Tensor, ...]:
    """By the operator itself."""
    return torch.ops.ffrl.time_features(time, pot.frequencies, *weights, k, 2)[:3]


@pytest.mark.parametrize("k", [1, -1])
def test_gradients_by_torch_func_are_those_of_autograd(k: int):
    """Without a rule of its own torch.func would take what the operator gives for constants: gradients of zero."""
    pot, time, cotangents = problem((3, 4, None if k < 0 else k, 2, 9, 8), torch.float64)
    sources = (time, *pot.time_weights())
    features = features_of(*sources, pot=pot, k=k)
    expected = torch.autograd.grad(features, sources, cotangents)

    def total(*sources: Tensor) -> Tensor:
        found = zip(features_of(*sources, pot=pot, k=k), cotangents, strict=True)
        return torch.stack([(value * cotangent).sum() for value, cotangent in found]).sum()

    actual = torch.func.grad(total, argnums=(0, 1, 2, 3, 4))(*(source.detach() for source in sources))
    names = ("time", *pot.time_weights()._fields)
    assert_matches(dict(zip(names, actual, strict=True)), dict(zip(names, expected, strict=True)), ROUNDING)


@pytest.mark.parametrize("k", [1, -1])
@pytest.mark.parametrize("batch", [3, 0])
@pytest.mark.parametrize("batched", ["time", "weights", "both"])
def test_vmap_equals_a_loop(batched: str, batch: int, k: int):
    pot, time, _ = problem((3, 4, None if k < 0 else k, 2, 9, 8), torch.float64)
    each = torch.linspace(0.5, 1.5, batch, dtype=torch.float64)
    times = time.detach() * each[:, None] if batched != "weights" else time.detach()
    in_dims: list[int | None] = [None if batched == "weights" else 0, *[None if batched == "time" else -1] * 4]
    weights = [w.detach() if batched == "time" else w.detach()[..., None] * each for w in pot.time_weights()]

    def one(*sources: Tensor) -> tuple[Tensor, ...]:
        """The features, and the gradients of their sum."""
        features = features_of(*sources, pot=pot, k=k)
        loss = lambda *s: torch.stack([v.sin().sum() for v in features_of(*s, pot=pot, k=k)]).sum()  # noqa: E731
        return *features, *torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))(*sources)

    sources = (times, *weights)
    actual = torch.func.vmap(one, in_dims=tuple(in_dims))(*sources)
    any_problem = (v if dim is None else v.sum(dim) for v, dim in zip(sources, in_dims, strict=True))
    assert [value.shape for value in actual] == [(batch, *value.shape) for value in one(*any_problem)]
    for i in range(batch):
        problem_i = (v if dim is None else v.select(dim, i) for v, dim in zip(sources, in_dims, strict=True))
        for value, expected in zip(actual, one(*problem_i), strict=True):
            assert expected.norm() > 1e-3 and torch.equal(value[i], expected)


def test_the_operator_is_traced():
    """With fake tensors, and by make_fx."""
    pot, time, _ = problem((3, 4, None, 2, 9, 8), torch.float64)
    sources = tuple(source.detach() for source in (time, *pot.time_weights()))

    def gradients(*sources: Tensor) -> tuple[Tensor, ...]:
        loss = lambda *s: torch.stack([v.sin().sum() for v in features_of(*s, pot=pot, k=-1)]).sum()  # noqa: E731
        return torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))(*sources)

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert [tuple(v.shape) for v in features_of(*map(mode.from_tensor, sources), pot=pot, k=-1)] == [(12, 9)] * 3
    traced = make_fx(gradients)(*sources)
    assert {"time_features", "time_features_backward"} <= {
        str(node.target).split(".")[1] for node in traced.graph.nodes if str(node.target).startswith("ffrl.")
    }
    others = tuple(2 * source for source in sources)
    for value, expected in zip(traced(*others), gradients(*others), strict=True):
        assert torch.equal(value, expected)


def test_other_derivatives_are_refused():
    pot, time, _ = problem((2, 3, 0, 1, 9, 8), torch.float64)

    def tau(value: Tensor) -> Tensor:
        return time_features_fused(value, pot.frequencies, pot.time_weights(), 0, order=1).tau

    (v_time,) = torch.autograd.grad(tau(time).sum(), time, create_graph=True)
    with pytest.raises(DerivativeOrderError, match="first-order gradients only"):
        v_time.sum().backward()
    with pytest.raises(DerivativeOrderError, match="forward-mode"), torch.autograd.forward_ad.dual_level():
        tau(torch.autograd.forward_ad.make_dual(time.detach(), torch.ones(3, dtype=torch.float64)))


def test_the_operator_itself_refuses_other_derivatives_too():
    pot, time, _ = problem((2, 3, 0, 1, 9, 8), torch.float64)
    weights = [weight.detach() for weight in pot.time_weights()]

    def total(value: Tensor) -> Tensor:
        return features_of(value, *weights, pot=pot, k=0)[0].sum()

    with pytest.raises(DerivativeOrderError, match="first-order gradients only"):
        torch.func.grad(lambda value: torch.func.grad(total)(value).sum())(time.detach())
    with pytest.raises(DerivativeOrderError, match="forward-mode"):
        torch.func.jvp(total, (time.detach(),), (torch.ones(3, dtype=torch.float64),))
