"""The kernels of one kind of product timed on the GPU at several tiles, as the op launches them.

The op runs once at each tile, with its launches of the kind written down: kernels, grids, operands. Those launches
alone are then a CUDA graph, whose replays are timed, so that what the host takes to launch does not count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.cases import Case
from bench.gpu.stopwatch import Figure, interleaved, stopwatch_of
from bench.tile_candidates import Entry
from bench.timing import Call
from ffrl.kernels import launch
from ffrl.kernels.flow_rollout import flow_backward, flow_forward
from ffrl.kernels.launch import FORMS, PRECISIONS
from ffrl.kernels.potential_backward import potential_backward
from ffrl.kernels.potential_forward import potential_forward
from ffrl.kernels.tiling import Tile

# What a tile is timed at: N rows of one potential of the papers' width, of a narrow one, and in few dimensions.
CASES = {
    ("wide", "gram"): Case("wide", 1024, 324, 324),
    ("narrow", "gram"): Case("narrow", 1024, 16, 32),
    ("wide", "jacobian"): Case("wide-jacobian", 1024, 3, 256),
    ("narrow", "jacobian"): Case("narrow-jacobian", 1024, 3, 32),
    # Rows of the batch; the steps are those of the papers.
    ("wide", "rollout"): Case("wide-rollout", 128, 324, 324),
    ("narrow", "rollout"): Case("narrow-rollout", 128, 16, 32),
}
STEPS = 8
ROUNDS = 9


class Launch(NamedTuple):
    """One launch of a kernel, to be done again."""

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def again(self) -> None:
        self.kernel.run(*self.arguments, **self.options)


class SpillError(RuntimeError):
    """A kernel spills at the shapes that are timed, though not where it is compiled for any shape."""


def form_of(kind: str) -> str:
    """What launches it: the op in one of its forms, or a rollout."""
    return next((form for form in ("jacobian", "rollout") if kind.startswith(form)), "gram")


def case_of(entry: Entry) -> Case:
    return CASES[entry.shapes, form_of(entry.kind)]


@contextlib.contextmanager
def recorded(kernels: Sequence[Any]) -> Iterator[list[Launch]]:
    """What is launched of these kernels, launched all the same."""
    launches: list[Launch] = []

    def recorder(kernel: Any) -> Any:
        run = kernel.run

        def record(*arguments: Any, **options: Any) -> Any:
            launches.append(Launch(kernel, arguments, options))
            compiled = run(*arguments, **options)
            if getattr(compiled, "n_spills", 0):
                raise SpillError(f"{kernel.__name__} spills {compiled.n_spills} bytes")
            return compiled

        return record

    for kernel in kernels:
        kernel.run = recorder(kernel)
    try:
        yield launches
    finally:
        for kernel in kernels:
            del kernel.run


@contextlib.contextmanager
def tile_of_kind(kind: str, tile: Tile) -> Iterator[None]:
    """The op takes ``tile`` for this kind of product, and for others those of the table."""
    of_table = launch.Call.tile
    launch.Call.tile = lambda call, other: tile if other == kind else of_table(call, other)
    try:
        yield
    finally:
        launch.Call.tile = of_table


def run_op(case: Case, form: str, precision: str, device: torch.device) -> None:
    """Forward and backward with every gradient, for a cotangent of every output that training has."""
    num_rows, latent, hidden = case.num_rows, case.latent_dim, case.hidden
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, device=device)

    z, tau, dtau_dt = normal(num_rows, latent), normal(1, hidden), normal(1, hidden)
    weights = (
        normal(1, hidden, latent, scale=latent**-0.5), normal(1, hidden),
        normal(1, hidden, hidden, scale=hidden**-0.5), normal(1, hidden), normal(1, hidden, scale=hidden**-0.5),
        normal(1),
    )  # fmt: skip
    number = PRECISIONS.index(precision)
    if form == "rollout":
        features = normal(STEPS, hidden), normal(STEPS, hidden)
        operands = (*features, *weights, None, 0, STEPS, 1, True)
        *outputs, kept = flow_forward(z, *operands, True, number)
        flow_backward(kept, outputs[0], *operands, *map(torch.ones_like, outputs), True, True, True, number)
        return
    operands = (z, tau, dtau_dt, None, *weights, None, 0, None, True, FORMS.index(form))
    *outputs, kept = potential_forward(*operands, True, number)
    v_u, v_du_dz, v_du_dt, _, v_lap_u = (normal(*value.shape) for value in outputs)
    potential_backward(kept, *operands, v_u, v_du_dz, v_du_dt, None, v_lap_u, True, True, True, number)


def launches_of(entry: Entry, tile: Tile, case: Case, device: torch.device) -> list[Launch]:
    """The op's launches of the entry's kind with this tile. Raises SpillError, and what Triton raises."""
    with recorded([kernel.function for kernel in entry.kernels]) as launches, tile_of_kind(entry.kind, tile):
        run_op(case, form_of(entry.kind), entry.precision, device)
    return launches


def graph_of(launches: list[Launch]) -> Call:
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for one in launches:
            one.again()
    return graph.replay


def time_tiles(entry: Entry, tiles: Sequence[Tile], device: torch.device) -> tuple[dict[Tile, Figure], list[str]]:
    """Milliseconds of the kind's kernels at each tile, interleaved; and why a tile has no figure."""
    case, calls, failures = case_of(entry), {}, []
    for tile in tiles:
        try:
            calls[tile] = graph_of(launches_of(entry, tile, case, device))
        except Exception as error:  # Triton and the driver have many ways to refuse a launch; all are reported
            failures.append(f"{tuple(tile)}: {type(error).__name__}: {str(error).splitlines()[:1]}")
    return interleaved(calls, stopwatch_of(device), ROUNDS) if calls else {}, failures
