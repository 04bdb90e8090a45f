"""Which tiles of an entry of the table can be used: each is compiled, with every kernel of its kind.

Without a measurement they are ranked by one rule. Tiles with a pipeline of loads (two stages or more) come before those
without; among them the tile with the most columns, because a number loaded then serves the most arithmetic; then the
deepest step of the contraction; then the fewest registers in the kernel that needs most, the fewest stages, the most
warps. The search for the best by the rule alone tries two stages, and one where nothing fits with two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bench.compiled_kernels import (
    KERNELS,
    MOST_REGISTERS,
    Kernel,
    Resources,
    Variant,
    compile_variant,
    resources,
)
from ffrl.kernels.tiling import NARROW, Tile

COLUMNS, DEPTHS, WARPS, STAGES = (16, 32, 64, 128), (16, 32, 64), (4, 8), (1, 2, 3)
MOST_LOADED = 64 * 64  # numbers of an operand in one step; twice as many have always spilled
OVER_ROWS = ("weights", "gram_backward", "jacobian_weights")  # kinds whose contraction is over rows, which are many
# Where a tile spills more bytes than this, those of its size with fewer warps or more stages are not compiled. A little
# is spilled here and there also where registers are left.
MUCH = 64


class Entry(NamedTuple):
    """One entry of the table: where its tile stands."""

    capability: int
    precision: str
    shapes: str
    kind: str

    @property
    def kernels(self) -> list[Kernel]:
        return [kernel for kernel in KERNELS if kernel.kind == self.kind]


class Candidate(NamedTuple):
    """A tile that every kernel of the kind can be compiled with; the resources are the most that any of them takes."""

    tile: Tile
    needs: Resources


class Search(NamedTuple):
    """What became of the tiles of an entry."""

    entry: Entry
    usable: list[Candidate]  # best first, by the rule
    compiled: int
    failures: list[str]  # of tiles that the compiler refused


Compile = Callable[[Kernel, Tile, Entry], Resources]
Task = tuple[Entry, tuple[tuple[int, int], ...] | None, bool]  # of ``search``: entry, among, first


def compile_for(kernel: Kernel, tile: Tile, entry: Entry) -> Resources:
    """The most for sizes that are multiples of 16, and others; the second is not looked at where the first spills."""
    most = Resources(0, 0, 0, 0)
    for aligned in (False, True):
        variant = Variant(kernel, tile, entry.precision, aligned=aligned)
        most = Resources(*map(max, most, resources(compile_variant(variant, entry.capability))))
        if not most.fit(entry.capability):
            break
    return most


def sizes(entry: Entry) -> list[tuple[int, int]]:
    """Columns and depths worth a try, those that the rule puts first in front."""
    narrow = entry.shapes == "narrow"
    columns = [value for value in COLUMNS if not narrow or value <= NARROW]
    depths = [value for value in DEPTHS if not narrow or value <= NARROW or entry.kind in OVER_ROWS]
    pairs = itertools.product(columns, depths)
    return sorted((pair for pair in pairs if math.prod(pair) <= MOST_LOADED), reverse=True)


def rank(candidate: Candidate) -> tuple[int, ...]:
    """The rule: the candidate with the lowest rank is the best."""
    columns, depth, num_warps, num_stages = candidate.tile
    return num_stages < 2, -columns, -depth, candidate.needs.registers, num_stages, -num_warps


def search(
    entry: Entry, among: Iterable[tuple[int, int]] | None = None, *, first: bool, compile: Compile = compile_for
) -> Search:
    """Compile the tiles of so many columns and such depths (default: all of ``sizes``).

    ``first``: only until the rule has found its best.
    """
    usable: list[Candidate] = []
    failures: list[str] = []
    compiled = 0
    kernels = entry.kernels
    pairs = sizes(entry) if among is None else list(among)
    tries = itertools.product(((2,), (1,)), pairs) if first else ((STAGES, pair) for pair in pairs)
    for stages, (columns, depth) in tries:
        spilling: list[Tile] = []
        # The leanest first: the fewest registers a thread, the least shared memory.
        for num_stages, num_warps in itertools.product(stages, reversed(WARPS)):
            tile = Tile(columns, depth, num_warps, num_stages)
            if any(num_warps <= other.num_warps and num_stages >= other.num_stages for other in spilling):
                continue
            compiled += 1
            try:
                needs = needs_of(tile, entry, kernels, compile)
            except Exception as error:  # the compiler has many ways to refuse a tile; all are reported
                failures.append(f"{tuple(tile)}: {type(error).__name__}: {str(error).splitlines()[:1]}")
                break
            if needs.fit(entry.capability) and needs.registers <= MOST_REGISTERS:
                usable.append(Candidate(tile, needs))
            elif needs.stack + needs.local > MUCH:
                spilling.append(tile)
        if first and usable:
            break
    return Search(entry, sorted(usable, key=rank), compiled, failures)


def needs_of(tile: Tile, entry: Entry, kernels: list[Kernel], compile: Compile) -> Resources:
    """The most that one of the kernels takes. The first that does not fit ends it, and comes to the front of them."""
    most = Resources(0, 0, 0, 0)
    for kernel in kernels:
        needs = compile(kernel, tile, entry)
        most = Resources(*map(max, most, needs))
        if not needs.fit(entry.capability):
            kernels.remove(kernel)
            kernels.insert(0, kernel)
            break
    return most


def find(task: Task) -> Search:
    """``search`` for a pool of processes."""
    entry, among, first = task
    return search(entry, among, first=first)
