"""The potential MLP: its value, its time feature, its parameters, its checks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.models import PotentialMLP
from tests.tolerances import FLOAT64, ROUNDING, assert_matches, relative_error


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """The frequencies are rounded to the default dtype when a potential is made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def affine(weight: list[list[float]], values: list[float], bias: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def naive_potential(pot: PotentialMLP, z: list[float], t: float, k: int) -> float:
    """One row of equations (1) to (3) in plain Python, from the parameters and the formula of the embedding."""
    p: dict[str, Any] = {name: value[k].tolist() for name, value in pot.state_dict().items()}
    half = pot.time_dim // 2
    angles = [t * math.exp(-math.log(1e4) * i / (half - 1)) for i in range(half)]
    embedding = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    a = affine(p["time_weight1"], embedding, p["time_bias1"])
    gelu = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in a]
    tau = affine(p["time_weight2"], gelu, p["time_bias2"])
    h1 = [math.tanh(x) for x in affine(p["weight1"], z, p["bias1"])]
    h2 = [math.tanh(x) for x in affine(p["weight2"], [x + y for x, y in zip(h1, tau, strict=True)], p["bias2"])]
    o = sum(w * x for w, x in zip(p["weight3"], h2, strict=True)) + p["bias3"]
    return math.tanh(o) if pot.output_activation == "tanh" else o


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize(("hidden", "time_dim"), [((5, 4), None), ((3, 8), 4), ((8, 2), 14)])
def test_value_equals_the_equations_in_plain_python(hidden: tuple[int, int], time_dim: int | None, activation: str):
    pot = PotentialMLP(3, hidden, 2, activation, time_dim)
    z, t, k = torch.randn(6, 3), 5 * torch.rand(6), torch.tensor([0, 1, 1, 0, 0, 1])
    rows = zip(z.tolist(), t.tolist(), k.tolist(), strict=True)
    expected = torch.tensor([naive_potential(pot, *row) for row in rows])
    assert_matches({"u": pot(z, t, k)}, {"u": expected}, 1e-14)


@pytest.mark.parametrize("time", ["float", "scalar", "rows"])
def test_mixed_k_equals_each_k_on_its_own(time: str):
    pot = PotentialMLP(4, (6, 5), 3).double()
    z, k = torch.randn(11, 4, dtype=torch.float64), torch.randint(0, 3, (11,))
    t: Any = {"float": 0.8, "scalar": torch.tensor(0.8), "rows": torch.rand(11, dtype=torch.float64)}[time]
    u = pot(z, t, k)
    for k_one in range(3):
        rows = k == k_one
        t_rows = t[rows] if time == "rows" else t
        assert relative_error(u[rows], pot(z[rows], t_rows, k_one)) < ROUNDING


def test_the_gradient_of_one_potential_leaves_the_others_alone():
    pot = PotentialMLP(4, (6, 5), 3)
    pot(torch.randn(5, 4), 0.3, torch.tensor([0, 2, 2, 0, 2])).sum().backward()
    for name, parameter in pot.named_parameters():
        assert parameter.grad is not None
        assert not parameter.grad[1].any(), name
        assert parameter.grad[0].any() and parameter.grad[2].any(), name


def test_no_rows_have_no_values_and_zero_gradients():
    pot = PotentialMLP(4, (6, 5), 3)
    for k in (1, torch.zeros(0, dtype=torch.int64)):
        u = pot(torch.zeros(0, 4), 0.3, k)
        assert u.shape == (0,)
        u.sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in pot.parameters())


@pytest.mark.parametrize("time_dim", [4, 6, 12])
def test_time_derivatives_are_those_of_autograd_and_of_differences(time_dim: int):
    pot = PotentialMLP(2, (7, 3), 2, time_dim=time_dim).double()
    with torch.no_grad():
        for parameter in pot.parameters():
            parameter.mul_(3.0)
    t = (4 * torch.rand(9, dtype=torch.float64)).requires_grad_()
    tau, dtau_dt, d2tau_dt2 = pot.time_features(t, 1, order=2)
    assert d2tau_dt2 is not None
    first, second = [], []
    for i in range(tau.shape[1]):
        (rate,) = torch.autograd.grad(tau[:, i].sum(), t, create_graph=True)
        first.append(rate)
        second.append(torch.autograd.grad(rate.sum(), t, retain_graph=True)[0])
    actual = {"dtau_dt": dtau_dt, "d2tau_dt2": d2tau_dt2}
    assert_matches(actual, {"dtau_dt": torch.stack(first, 1), "d2tau_dt2": torch.stack(second, 1)}, FLOAT64)

    h = 1e-4
    before, after = (pot.time_features(t.detach() + sign * h, 1, order=1).tau for sign in (-1, 1))
    differences = {"dtau_dt": (after - before) / (2 * h), "d2tau_dt2": (after - 2 * tau + before) / h**2}
    assert_matches(actual, differences, 1e-6)


@pytest.mark.parametrize("a", [-40.0, -6.0, -1.5, -math.sqrt(2), 0.0, 0.3, math.sqrt(2), 5.0, 40.0])
def test_the_derivatives_of_gelu_at_known_arguments(a: float):
    """With A e + α = a + sin(t) and B the identity, τ(t) = GELU(a + sin t), whose derivatives at t = 0 are known."""
    pot = PotentialMLP(1, (1, 1), 1, time_dim=4).double()
    with torch.no_grad():
        pot.time_weight1.zero_()[0, 0, 0] = 1.0  # the first sine has frequency one
        pot.time_bias1.fill_(a)
        pot.time_weight2.fill_(1.0)
        pot.time_bias2.fill_(0.0)
    tau, dtau_dt, d2tau_dt2 = pot.time_features(torch.tensor(0.0, dtype=torch.float64), 0, order=2)
    assert d2tau_dt2 is not None
    normal_cdf = 0.5 * math.erfc(-a / math.sqrt(2))
    normal_pdf = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    expected = (a * normal_cdf, normal_cdf + a * normal_pdf, normal_pdf * (2 - a * a))
    for value, reference in zip((tau, dtau_dt, d2tau_dt2), expected, strict=True):
        assert value.item() == pytest.approx(reference, rel=1e-12, abs=1e-15)


def test_time_features_are_rows_or_one_shared_row():
    pot = PotentialMLP(2, (7, 3), 2)
    shared = pot.time_features(torch.tensor(0.4), 0, order=1)
    assert shared.tau.shape == shared.dtau_dt.shape == (1, 7) and shared.d2tau_dt2 is None
    rows = pot.time_features(torch.full((5,), 0.4), 0, order=2)
    assert all(value is not None and value.shape == (5, 7) for value in rows)
    assert relative_error(rows.tau, shared.tau.expand(5, 7)) < 1e-6
    assert relative_error(rows.dtau_dt, shared.dtau_dt.expand(5, 7)) < 1e-6


def test_time_reaches_the_value():
    pot = PotentialMLP(2, (7, 3), 2).double()
    z = torch.randn(4, 2, dtype=torch.float64)
    assert (pot(z, 0.0, 0) - pot(z, 1.0, 0)).abs().min() > 1e-6


def test_parameters_are_stacked_and_the_frequencies_are_not_saved():
    pot = PotentialMLP(latent_dim=4, hidden_dims=(7, 5), num_potentials=3)
    shapes = {name: tuple(value.shape) for name, value in pot.state_dict().items()}
    assert shapes == {
        "weight1": (3, 7, 4),
        "bias1": (3, 7),
        "weight2": (3, 5, 7),
        "bias2": (3, 5),
        "weight3": (3, 5),
        "bias3": (3,),
        "time_weight1": (3, 7, 8),
        "time_bias1": (3, 7),
        "time_weight2": (3, 7, 7),
        "time_bias2": (3, 7),
    }
    assert shapes.keys() == dict(pot.named_parameters()).keys()
    weights = pot.weights(2)
    assert [tuple(value.shape) for value in weights] == [(7, 4), (7,), (5, 7), (5,), (5,), ()]
    assert weights.weight2.data_ptr() == pot.weight2[2].data_ptr()


def test_a_saved_state_gives_the_same_values():
    first, second = (PotentialMLP(4, (7, 5), 3) for _ in range(2))
    z = torch.randn(3, 4)
    assert not torch.equal(first(z, 0.3, 1), second(z, 0.3, 1))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(z, 0.3, 1), second(z, 0.3, 1))


@pytest.mark.parametrize(("hidden", "expected"), [(1, 4), (3, 4), (4, 4), (5, 6), (8, 8), (17, 18)])
def test_the_default_time_dim_is_the_first_width_rounded_up_to_even(hidden: int, expected: int):
    pot = PotentialMLP(3, (hidden, 2))
    assert pot.time_dim == expected and pot.frequencies.shape == (expected // 2,)
    assert PotentialMLP(3, hidden).hidden_dims == (hidden, hidden)


def exact_frequencies(time_dim: int) -> Tensor:
    half = time_dim // 2
    return torch.tensor([1e4 ** (-i / (half - 1)) for i in range(half)], dtype=torch.float64)


def test_the_frequencies_fall_from_one_to_one_in_ten_thousand():
    frequencies = PotentialMLP(3, 8, time_dim=12).frequencies
    assert frequencies[0] == 1 and frequencies[-1].item() == pytest.approx(1e-4, rel=1e-6)
    ratio = frequencies.double() / exact_frequencies(12)
    assert (ratio - 1).abs().max() <= torch.finfo(torch.float32).eps


def test_the_float64_copy_of_a_potential_is_the_same_field():
    """``double()`` keeps the float32 numbers, frequencies included, so that float64 can serve as its reference."""
    pot = PotentialMLP(3, (16, 8), 2)
    z, t = torch.randn(9, 3), 5 * torch.rand(9)
    single = pot(z, t, 1)
    frequencies = pot.frequencies.clone()
    pot.double()
    assert torch.equal(pot.frequencies, frequencies.double())
    assert relative_error(single, pot(z.double(), t.double(), 1)) < 4 * torch.finfo(torch.float32).eps


@pytest.mark.usefixtures("float64_by_default")
def test_a_potential_made_in_float64_has_frequencies_of_full_precision():
    ratio = PotentialMLP(3, 8, time_dim=12).frequencies / exact_frequencies(12)
    assert (ratio - 1).abs().max() < 1e-14


def test_the_initial_weights_are_uniform_in_the_inverse_root_of_the_inputs():
    pot = PotentialMLP(latent_dim=25, hidden_dims=(64, 100), num_potentials=4, time_dim=16)
    inputs = {"1": 25, "2": 64, "3": 100}
    bounds = {f"{kind}{i}": n**-0.5 for i, n in inputs.items() for kind in ("weight", "bias")}
    bounds |= {f"time_{kind}{i}": n**-0.5 for i, n in (("1", 16), ("2", 64)) for kind in ("weight", "bias")}
    for name, parameter in pot.named_parameters():
        assert parameter.abs().max().item() <= bounds[name], name
        if parameter.numel() > 200:
            assert parameter.abs().max().item() > 0.95 * bounds[name], name
            assert abs(parameter.mean().item()) < 0.15 * bounds[name], name
        assert not torch.equal(parameter[0], parameter[1]), name


def test_the_initial_weights_follow_the_seed():
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(PotentialMLP(3, 8, 2))
    same = [torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True)]
    other = [torch.equal(a, b) for a, b in zip(made[0].parameters(), made[2].parameters(), strict=True)]
    assert all(same) and not any(other)


BAD_SIZES = (0, -1, 2.5, True, "3", None)
BAD: tuple[tuple[dict[str, Any], str], ...] = (
    *(({"latent_dim": size}, "latent_dim") for size in BAD_SIZES),
    *(({"num_potentials": size}, "num_potentials") for size in BAD_SIZES),
    *(({"hidden_dims": (size, 8)}, "hidden_dims[0]") for size in BAD_SIZES),
    *(({"hidden_dims": (8, size)}, "hidden_dims[1]") for size in BAD_SIZES),
    ({"hidden_dims": 0}, "hidden_dims[0]"),
    ({"hidden_dims": -8}, "hidden_dims[0]"),
    *(({"hidden_dims": value}, "hidden_dims") for value in (8.0, None, "88", (8,), (8, 8, 8), ())),
    *(({"time_dim": value}, "time_dim") for value in (5, 7, 2, 0, -4, 6.0, "8", True, (8,))),
    *(({"output_activation": value}, "output_activation") for value in ("relu", "", "Tanh", None, 1)),
)


@pytest.mark.parametrize(("arguments", "name"), BAD, ids=str)
def test_bad_arguments_are_refused(arguments: dict[str, Any], name: str):
    with pytest.raises(ArgumentError) as failure:
        PotentialMLP(**{"latent_dim": 3, "hidden_dims": (8, 5), **arguments})
    ((argument, given),) = arguments.items()
    message = str(failure.value)
    assert message.startswith(f"{argument}") and "expected" in message
    if name.endswith("]") and isinstance(given, tuple):
        assert message.startswith(name)
        given = given[int(name[-2])]
    assert repr(given) in message


@pytest.mark.parametrize("time_dim", [5, 7, 9])
def test_an_odd_time_dim_says_why(time_dim: int):
    with pytest.raises(ArgumentError, match=f"time_dim = {time_dim} is not allowed; expected an even integer >= 4"):
        PotentialMLP(3, 8, time_dim=time_dim)
