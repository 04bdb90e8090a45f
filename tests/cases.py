"""The random cases of the potential op, as data, and the inputs they stand for.

``CASES`` is the same list in every run. Each column of a case is dealt from a shuffled deck of the allowed values, so
that every value occurs about equally often; a row is only adjusted where two columns contradict each other.
``FULL_CASES`` has the same shapes, with every output, a cotangent for each, and all inputs and parameters tracked.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ffrl.models import PotentialMLP
from ffrl.ops import potential_derivatives

NUM_CASES = 300
ROWS = (0, 1, 2, 7, 33)
SIZES = (1, 2, 3, 8, 17, 32, 65)
POTENTIALS = (1, 3)
INDEX = ("int", "same", "mixed")  # k an int; a tensor of one value; a tensor of several
ACTIVATIONS = ("tanh", "identity")
TIMES = ("float", "scalar", "rows", "repeated", "expanded")  # "repeated": (N,) with few distinct values
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")
TIME_DIMS = (None, 4, 10)
OUTPUTS = ("u", "du_dz", "du_dt", "d2u_dt2", "lap_u")
COTANGENTS = ("all", *OUTPUTS, "u+du_dz", "du_dt+lap_u", "du_dz+d2u_dt2")
TRACKED = ("all", "none", "z", "t", "z+t", "parameters", "weights", "biases", "weight2", "time")

COLUMNS: dict[str, tuple[Any, ...]] = {
    "rows": ROWS,
    "latent": SIZES,
    "hidden1": SIZES,
    "hidden2": SIZES,
    "potentials": POTENTIALS,
    "index": INDEX,
    "activation": ACTIVATIONS,
    "time": TIMES,
    "layout": LAYOUTS,
    "time_dim": TIME_DIMS,
    "d2u_dt2": (False, True),
    "laplacian": (True, False),
    "cotangents": COTANGENTS,
    "tracked": TRACKED,
}


@dataclass(frozen=True)
class Case:
    """One configuration of the op; ``tracked`` names what requires grad, ``cotangents`` which outputs carry one."""

    rows: int
    latent: int
    hidden1: int
    hidden2: int
    potentials: int = 1
    index: str = "int"
    activation: str = "tanh"
    time: str = "rows"
    layout: str = "contiguous"
    time_dim: int | None = None
    d2u_dt2: bool = True
    laplacian: bool = True
    cotangents: str = "all"
    tracked: str = "all"
    seed: int = 0

    def __str__(self) -> str:
        wanted = ("-tt" if self.d2u_dt2 else "") + ("-lap" if self.laplacian else "")
        return (
            f"N{self.rows}-D{self.latent}-H{self.hidden1}x{self.hidden2}-K{self.potentials}{self.index}"
            f"-{self.activation}-t_{self.time}-E{self.time_dim or 'H'}-{self.layout}{wanted}"
            f"-of_{self.tracked}-ct_{self.cotangents}-{self.seed}"
        )


def dealt(values: tuple[Any, ...], count: int, draw: random.Random) -> list[Any]:
    """``count`` values, each equally often up to one, in random order."""
    deck = [values[i % len(values)] for i in range(count)]
    draw.shuffle(deck)
    return deck


def random_cases(count: int, seed: int) -> Iterator[Case]:
    draw = random.Random(seed)
    columns = {name: dealt(values, count, draw) for name, values in COLUMNS.items()}
    for i in range(count):
        case = Case(**{name: column[i] for name, column in columns.items()}, seed=i)
        while len({case.latent, case.hidden1, case.hidden2}) < 3:
            case = replace(case, hidden1=draw.choice(SIZES), hidden2=draw.choice(SIZES))
        if "d2u_dt2" in case.cotangents:
            case = replace(case, d2u_dt2=True)
        if "lap_u" in case.cotangents:
            case = replace(case, laplacian=True)
        if case.tracked in ("t", "z+t") and case.time == "float":
            case = replace(case, time=draw.choice(TIMES[1:]))
        if case.index == "mixed" and case.rows > 1:
            case = replace(case, potentials=3)
        yield case


def in_full(case: Case) -> Case:
    """The case with nothing left out; a float time, which cannot be tracked, becomes a tensor, per row or 0-d."""
    time = ("rows", "scalar")[case.seed % 2] if case.time == "float" else case.time
    return replace(case, time=time, d2u_dt2=True, laplacian=True, cotangents="all", tracked="all")


CASES = tuple(random_cases(NUM_CASES, seed=20))
FULL_CASES = tuple(map(in_full, CASES))


def relaid(values: Tensor, layout: str) -> Tensor:
    """The values in another memory layout; "expanded" repeats row 0 with stride 0."""
    if layout == "transposed":
        return values.T.contiguous().T
    if layout == "strided":
        return torch.stack([values, values + 1], dim=-1)[..., 0]
    if layout == "offset":
        return torch.cat([values.new_ones(3), values.flatten()])[3:].view(values.shape)
    if layout == "expanded" and values.shape[0]:
        return values[:1].expand(values.shape)
    return values


@dataclass
class Inputs:
    """The tensors of a case; ``sources`` are those that require grad, by name."""

    case: Case
    pot: PotentialMLP
    z: Tensor  # (N, D)
    t: float | Tensor
    k: int | Tensor
    cotangents: dict[str, Tensor]
    sources: dict[str, Tensor]

    def double(self) -> Inputs:
        """The same numbers in float64, tracked alike."""
        pot = copy.deepcopy(self.pot).double()
        z = self.z.detach().double()
        t = self.t.detach().double() if isinstance(self.t, Tensor) else self.t
        cotangents = {name: value.double() for name, value in self.cotangents.items()}
        return replace(self, pot=pot, z=z, t=t, cotangents=cotangents, sources=track(self.case, pot, z, t))


def track(case: Case, pot: PotentialMLP, z: Tensor, t: float | Tensor) -> dict[str, Tensor]:
    """Switch requires_grad on for what the case tracks and off for the rest."""
    groups = {
        "all": ("z", "t", "weight", "bias", "time_"),
        "z+t": ("z", "t"),
        "parameters": ("weight", "bias", "time_"),
        "weights": ("weight",),
        "biases": ("bias",),
        "time": ("time_",),
    }
    wanted = groups.get(case.tracked, (case.tracked,))
    prefixes = tuple(name for name in wanted if name not in ("z", "t"))
    sources: dict[str, Tensor] = {n: value for n, value in pot.named_parameters() if n.startswith(prefixes)}
    for value in pot.parameters():
        value.requires_grad_(False)
    if "z" in wanted:
        sources["z"] = z
    if "t" in wanted and isinstance(t, Tensor):
        sources["t"] = t
    for value in sources.values():
        value.requires_grad_()
    return sources


def random_potential(case: Case, dtype: torch.dtype, gain: float = 2.0) -> PotentialMLP:
    """Weights ``gain`` times wider than the default draw, so that no derivative is negligible."""
    pot = PotentialMLP(
        case.latent, (case.hidden1, case.hidden2), case.potentials, case.activation, time_dim=case.time_dim
    )
    with torch.no_grad():
        for parameter in pot.parameters():
            parameter.mul_(gain)
    return pot.to(dtype)


def build(case: Case, dtype: torch.dtype = torch.float64) -> Inputs:
    """The inputs of a case; the global generator is seeded and left where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        pot = random_potential(case, dtype)
        n = case.rows
        z = relaid(torch.randn(n, case.latent, dtype=dtype), case.layout)
        t: float | Tensor = 0.1 + 3 * torch.rand(n, dtype=dtype)
        if case.time == "float":
            t = 1.3
        elif case.time == "scalar":
            t = torch.tensor(0.7, dtype=dtype)
        elif case.time == "repeated":
            t = 0.5 + torch.randint(0, 3, (n,)).to(dtype)
        elif case.time == "expanded":
            t = torch.tensor(1.9, dtype=dtype).expand(n)
        elif case.layout in ("strided", "offset"):
            t = relaid(t, case.layout)
        k: int | Tensor = case.potentials - 1
        if case.index == "same":
            k = torch.tensor(case.potentials - 1).expand(n)
        elif case.index == "mixed":
            k = torch.randint(0, case.potentials, (n,))
            k[: case.potentials] = torch.arange(case.potentials - 1, -1, -1)[: k.shape[0]]
            k = relaid(k, case.layout) if case.layout in ("strided", "offset") else k
        shapes = {"u": (n,), "du_dz": (n, case.latent), "du_dt": (n,), "d2u_dt2": (n,), "lap_u": (n,)}
        absent = {"d2u_dt2": not case.d2u_dt2, "lap_u": not case.laplacian}
        asked = OUTPUTS if case.cotangents == "all" else case.cotangents.split("+")
        cotangents = {name: torch.randn(shapes[name], dtype=dtype) for name in asked if not absent.get(name)}
    z = z.detach()
    t = t.detach() if isinstance(t, Tensor) else t
    return Inputs(case, pot, z, t, k, cotangents, track(case, pot, z, t))


def outputs_of(inputs: Inputs, backend: str) -> dict[str, Tensor | None]:
    """The op's outputs by name."""
    case = inputs.case
    return potential_derivatives(
        inputs.pot,
        inputs.z,
        inputs.t,
        inputs.k,
        d2u_dt2=case.d2u_dt2,
        laplacian="exact" if case.laplacian else None,
        backend=backend,
    )._asdict()


def cotangents_of(inputs: Inputs, outputs: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """``v_X`` of every tracked X, from the outputs that carry a cotangent; zero where nothing depends on X."""
    carriers = {name: outputs[name] for name in inputs.cotangents}
    live = {name: value for name, value in carriers.items() if value is not None and value.requires_grad}
    zeros: dict[str, Tensor | None] = {f"v_{name}": torch.zeros_like(v) for name, v in inputs.sources.items()}
    if not live or not zeros:
        return zeros
    gradients = torch.autograd.grad(
        list(live.values()),
        list(inputs.sources.values()),
        grad_outputs=[inputs.cotangents[name] for name in live],
        allow_unused=True,
    )
    found = {f"v_{name}": value for name, value in zip(inputs.sources, gradients, strict=True) if value is not None}
    return {**zeros, **found}
