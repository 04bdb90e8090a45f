"""torch.compile(fullgraph=True) of the C++ backend: the numbers of eager mode, no new graph for each size or time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import TorchRuntimeError, Unsupported

from ffrl.models import PotentialMLP
from ffrl.ops import potential_derivatives
from ffrl.ops.analytic import FORWARD_MODE_MESSAGE
from tests.cases import Case, random_potential
from tests.cpp_cases import needs_cpp
from tests.tolerances import ROUNDING, assert_matches

pytestmark = needs_cpp

LATENT, POTENTIALS = 3, 3
BATCHES = (40, 33, 64, 129, 200)
TIMES = ("float", "0-d", "rows", "0-d with gradient", "rows with gradient")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def potential(dtype: torch.dtype = torch.float64) -> PotentialMLP:
    return random_potential(Case(1, LATENT, 8, 5, POTENTIALS), dtype)


def loss(
    pot: PotentialMLP, z: Tensor, t: float | Tensor, k: int | Tensor, d2u_dt2: bool = True, laplacian: bool = True
) -> Tensor:
    out = potential_derivatives(pot, z, t, k, d2u_dt2, "exact" if laplacian else None, backend="cpp")
    rows = [value if value.dim() == 1 else value.sin().sum(1) for value in out if value is not None]
    return torch.stack(rows).square().sum()


def draw(n: int, time: str, index: str, dtype: torch.dtype) -> tuple[Tensor, float | Tensor, int | Tensor]:
    z = torch.randn(n, LATENT, dtype=dtype, requires_grad=True)
    t: float | Tensor = 0.3 + torch.rand((), dtype=dtype).item()
    if time != "float":
        t = torch.rand(n if time.startswith("rows") else (), dtype=dtype, requires_grad=time.endswith("gradient"))
    return z, t, POTENTIALS - 1 if index == "int" else torch.randint(0, POTENTIALS, (n,))


def gradients(value: Tensor, pot: PotentialMLP, z: Tensor, t: float | Tensor) -> dict[str, Tensor]:
    sources = {"z": z, **dict(pot.named_parameters())}
    if isinstance(t, Tensor) and t.requires_grad:
        sources["t"] = t
    return {"loss": value, **dict(zip(sources, torch.autograd.grad(value, list(sources.values())), strict=True))}


def compare(
    compiled: Callable[..., Tensor],
    pot: PotentialMLP,
    time: str,
    index: str,
    outputs: tuple[bool, bool] = (True, True),
    batches: Sequence[int] = BATCHES,
    one_graph: bool = True,
) -> None:
    """A compiled loss and its gradients against eager mode, in all batch sizes, and each time at another time."""
    for i, n in enumerate(batches):
        z, t, k = draw(n, time, index, pot.weight1.dtype)
        with torch.compiler.set_stance("fail_on_recompile" if one_graph and i else "default"):
            actual = gradients(compiled(pot, z, t, k, *outputs), pot, z, t)
        expected = gradients(loss(pot, z, t, k, *outputs), pot, z, t)
        assert_matches(actual, expected, ROUNDING if z.dtype == torch.float64 else 1e-5, f"{n} rows")


QUICK = (
    ("float", "int", (True, True)),
    ("float", "tensor", (False, False)),
    ("0-d", "tensor", (True, True)),
    ("0-d with gradient", "int", (False, False)),
    ("rows", "int", (False, True)),
    ("rows with gradient", "int", (True, False)),
    ("rows with gradient", "tensor", (True, True)),
)
THOROUGH = tuple(itertools.product(TIMES, ("int", "tensor"), itertools.product((True, False), repeat=2)))


@pytest.mark.parametrize(
    ("time", "index", "outputs"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in THOROUGH],
    ids=str,
)
def test_one_graph_for_all_sizes_gives_the_numbers_of_eager_mode(time: str, index: str, outputs: tuple[bool, bool]):
    """``outputs``: whether d2u_dt2, and the Laplacian, are asked for."""
    compare(torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager"), potential(), time, index, outputs)


def test_a_graph_for_each_size_gives_the_numbers_of_eager_mode():
    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager")
    compare(compiled, potential(), "float", "int", (False, False), one_graph=False)


@pytest.mark.parametrize(("index", "batches"), [("int", (7, 32)), ("tensor", (0,)), ("tensor", (1,))])
def test_the_sizes_that_torch_compiles_for_themselves(index: str, batches: tuple[int, ...]):
    """No row, one row, and with one potential fewer rows than fill a block of the kernels."""
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    compare(compiled, potential(), "rows", index, batches=batches)


def test_the_default_backend_compiles_the_values():
    """Without gradients, and chosen by "auto"."""
    pot = potential().requires_grad_(False)
    z = torch.randn(5, LATENT, dtype=torch.float64)

    def outputs(z: Tensor) -> dict[str, Tensor | None]:
        return potential_derivatives(pot, z, 0.7, 1)._asdict()

    assert_matches(torch.compile(outputs, fullgraph=True, backend="aot_eager")(z), outputs(z), ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("index", ["int", "tensor"])
def test_inductor_gives_the_numbers_of_eager_mode(index: str, dtype: torch.dtype):
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="inductor")
    compare(compiled, potential(dtype), "rows with gradient", index)


def test_gradients_of_each_sample_are_compiled_too():
    pot = potential().requires_grad_(False)
    weights = {name: value.detach() for name, value in pot.named_parameters()}

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pot = pot

        def forward(self, z: Tensor, t: Tensor, k: Tensor) -> Tensor:
            return loss(self.pot, z[None], t, k[None])

    module = Loss()

    def one(values: dict[str, Tensor], *row: Tensor) -> Tensor:
        return torch.func.functional_call(module, {f"pot.{name}": value for name, value in values.items()}, row)

    per_sample = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0, 0))
    z, t, k = (
        torch.randn(4, LATENT, dtype=torch.float64),
        torch.rand(4, dtype=torch.float64),
        torch.tensor([0, 2, 1, 1]),
    )
    actual = torch.compile(per_sample, fullgraph=True, backend="aot_eager")(weights, z, t, k)
    assert_matches(actual, per_sample(weights, z, t, k), ROUNDING)


def test_hutchinson_compiles_with_the_default_generator_and_refuses_another():
    pot, z = potential(), torch.randn(6, LATENT, dtype=torch.float64)

    def estimate(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        out = potential_derivatives(pot, z, 0.5, 1, laplacian="hutchinson", backend="cpp", generator=generator)
        assert out.lap_u is not None
        return out.lap_u

    compiled = torch.compile(estimate, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    expected = estimate(z)
    torch.manual_seed(3)
    assert_matches({"lap_u": compiled(z)}, {"lap_u": expected}, ROUNDING)
    with pytest.raises(Unsupported, match="Generator"):
        compiled(z, torch.Generator())


def test_an_index_out_of_range_raises():
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    pot, (z, t, _) = potential(), draw(4, "rows", "int", torch.float64)
    for bad in (POTENTIALS, -1):
        with pytest.raises(RuntimeError, match="k is outside 0 <= k < K"):
            compiled(pot, z, t, torch.tensor([0, 1, bad, 0]))


def test_forward_mode_raises_in_a_compiled_function_too():
    pot, z = potential(), torch.randn(4, LATENT, dtype=torch.float64)
    directional = torch.compile(
        lambda z: torch.func.jvp(lambda z: loss(pot, z, 0.5, 1), (z,), (torch.ones_like(z),)),
        fullgraph=True,
        backend="aot_eager",
    )
    with pytest.raises(TorchRuntimeError) as failure:
        directional(z)
    assert FORWARD_MODE_MESSAGE.replace("'", "\\'") in str(failure.value)


def test_a_second_derivative_raises_in_a_compiled_function_too():
    pot, z = potential(), torch.randn(4, LATENT, dtype=torch.float64, requires_grad=True)
    second = torch.compile(torch.func.hessian(lambda z: loss(pot, z, 0.5, 1)), fullgraph=True, backend="aot_eager")
    with pytest.raises(TorchRuntimeError):
        second(z.detach())
    (gradient,) = torch.autograd.grad(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(pot, z, 0.5, 1), z, create_graph=True
    )
    with pytest.raises(RuntimeError, match="double backward"):  # torch's own refusal
        gradient.sum().backward()
