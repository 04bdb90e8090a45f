"""Rewrite the table of tile sizes, kernels/tile_table.py: python -m bench.tune_tiles.

For each entry every tile worth a try is compiled with every kernel of its kind; those that spill, or want more shared
memory than the GPU has, are out. On a GPU the others are timed as the op launches them, interleaved, and the fastest is
taken where it is faster than the present one by 2 %. With --compile-only, for a GPU that is not here, the first by the
rule of bench/tile_candidates.py is taken. Entries that are not asked for stay as they are.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import torch

from bench.compiled_kernels import KERNELS, precisions_on
from bench.gpu.stopwatch import Figure
from bench.tile_candidates import Candidate, Entry, Search, Task, find, rank, sizes
from bench.tile_timing import case_of, time_tiles
from ffrl.command_line import run_command
from ffrl.errors import ArgumentError, BackendError
from ffrl.kernels import tile_table
from ffrl.kernels.launch import PRECISIONS
from ffrl.kernels.tiling import KINDS, SHAPE_CLASSES, Tile, nearest_capability, tile_of
from ffrl.run_folder import check_writable, write_atomic

Tiles = dict[int, dict[str, dict[str, dict[str, tuple[int, int, int, int]]]]]

PATH = Path(tile_table.__file__).resolve()
GAIN = 0.02  # by which a tile must be faster than the present one to take its place
WITH_KERNELS = tuple(kind for kind in KINDS if any(kernel.kind == kind for kernel in KERNELS))
COLUMNS = ("sm", "precision", "class", "kind", "before", "after", "registers", "shared, bytes", "compiled", "usable")
TIMED = ("before, ms", "after, ms")


class Outcome(NamedTuple):
    """What an entry gets. ``after`` is ``before`` where nothing is better, or nothing can be used."""

    entry: Entry
    before: Tile
    after: Tile
    chosen: Candidate | None  # None: no tile can be used
    search: Search
    figures: dict[Tile, Figure]


def render(tiles: Tiles) -> str:
    """The text of tile_table.py, in the form that ruff gives it."""
    source = PATH.read_text(encoding="utf-8")
    head = source[: source.index("TILES:")]
    annotation = "dict[int, dict[str, dict[str, dict[str, tuple[int, int, int, int]]]]]"
    return f"{head}TILES: {annotation} = {{\n{''.join(lines_of(tiles, 1))}}}\n"


def lines_of(table: dict, depth: int) -> Iterator[str]:
    indent = "    " * depth
    for key, value in table.items():
        name = f'"{key}"' if isinstance(key, str) else key
        if isinstance(value, dict):
            yield f"{indent}{name}: {{\n"
            yield from lines_of(value, depth + 1)
            yield f"{indent}}},\n"
        else:
            yield f"{indent}{name}: {tuple(value)},\n"


def rewritten(tiles: Tiles, outcomes: Iterable[Outcome]) -> Tiles:
    """The table with what was found; a new architecture begins as a copy of the one whose tiles it had."""
    table = copy.deepcopy(tiles)
    for outcome in outcomes:
        capability, precision, shapes, kind = outcome.entry
        if capability not in table:
            table[capability] = copy.deepcopy(tiles[nearest_capability(capability)])
        table[capability][precision][shapes][kind] = tuple(outcome.after)
    return {capability: table[capability] for capability in sorted(table)}


def entries(capability: int, kinds: Sequence[str], precisions: Sequence[str], classes: Sequence[str]) -> list[Entry]:
    """Every entry asked for that the table has. Raises ArgumentError where a name is unknown, or nothing is left."""
    if capability < min(tile_table.TILES):
        raise ArgumentError("capability", capability, f"10·major + minor of a GPU, at least {min(tile_table.TILES)}")
    for name, given, allowed in (
        ("kinds", kinds, WITH_KERNELS),
        ("precisions", precisions, PRECISIONS),
        ("classes", classes, SHAPE_CLASSES),
    ):
        for value in given:
            if value not in allowed:
                raise ArgumentError(name, value, f"one of {', '.join(allowed)}")
    found = []
    for kind, precision, shapes in itertools.product(kinds, precisions_on(capability, tuple(precisions)), classes):
        if any(kernel.kind == kind and precision in kernel.precisions for kernel in KERNELS):
            found.append(Entry(capability, precision, shapes, kind))
    if not found:
        raise ArgumentError("precisions", ", ".join(precisions), f"those of {', '.join(kinds)} on sm_{capability}")
    return found


def searches(wanted: Sequence[Entry], processes: int, *, first: bool) -> list[Search]:
    """The tiles of each entry, compiled in so many processes, with a line on stderr for each entry that is done."""
    tasks: list[Task] = []
    for entry in wanted:
        tasks += [(entry, None, True)] if first else [(entry, (pair,), False) for pair in sizes(entry)]
    found: dict[Entry, list[Search]] = {entry: [] for entry in wanted}
    # Not forked: a process that has used CUDA must not be.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(find, task) for task in tasks]
        try:
            for number, future in enumerate(as_completed(waiting), 1):
                search = future.result()
                found[search.entry].append(search)
                print(f"compiled {number} of {len(tasks)}: {name_of(search.entry)}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [merged(entry, parts) for entry, parts in found.items()]


def merged(entry: Entry, parts: Sequence[Search]) -> Search:
    usable = sorted((candidate for part in parts for candidate in part.usable), key=rank)
    failures = [failure for part in parts for failure in part.failures]
    return Search(entry, usable, sum(part.compiled for part in parts), failures)


def name_of(entry: Entry) -> str:
    return f"sm_{entry.capability} {entry.precision} {entry.shapes} {entry.kind}"


def outcome_of(search: Search, figures: dict[Tile, Figure] | None = None) -> Outcome:
    """Without figures the best by the rule; with them the fastest, or the present one where it is about as fast."""
    entry = search.entry
    before = tile_of(*entry)
    candidates = {candidate.tile: candidate for candidate in search.usable}
    if figures is not None:
        candidates = {tile: candidates[tile] for tile in sorted(figures, key=lambda tile: figures[tile].median)}
        if before in candidates:
            fastest = next(iter(candidates))
            if figures[fastest].median > (1 - GAIN) * figures[before].median:
                candidates = {before: candidates[before]}
    chosen = next(iter(candidates.values()), None)
    return Outcome(entry, before, before if chosen is None else chosen.tile, chosen, search, figures or {})


def timed(search: Search, device: torch.device) -> Outcome:
    figures, failures = time_tiles(search.entry, [candidate.tile for candidate in search.usable], device)
    print(f"timed {len(figures)} tiles: {name_of(search.entry)}", file=sys.stderr, flush=True)
    return outcome_of(search._replace(failures=[*search.failures, *failures]), figures)


def cells(outcome: Outcome) -> list[str]:
    entry, needs = outcome.entry, outcome.chosen.needs if outcome.chosen else None
    tile = str(tuple(outcome.after)) if outcome.after != outcome.before else "the same"
    row = [str(entry.capability), entry.precision, entry.shapes, entry.kind, str(tuple(outcome.before))]
    row += [tile, *map(str, (needs.registers, needs.shared))] if needs else ["kept: no tile can be used", "-", "-"]
    row += [str(outcome.search.compiled), str(len(outcome.search.usable))]
    if outcome.figures:
        for tile in (outcome.before, outcome.after):
            figure = outcome.figures.get(tile)
            row.append("-" if figure is None else f"{figure.median:.4g} ({figure.lower:.4g} to {figure.upper:.4g})")
    return row


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """A Markdown table: an entry a row, then what the compiler or the driver refused."""
    columns = [*COLUMNS, *(TIMED if any(outcome.figures for outcome in outcomes) else ())]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for outcome in outcomes:
        row = cells(outcome)
        print(f"| {' | '.join([*row, *['-'] * (len(columns) - len(row))])} |")
    for outcome in outcomes:
        for failure in outcome.search.failures:
            print(f"refused: {name_of(outcome.entry)} {failure}")


def capability_here() -> int | None:
    """Compute capability of the GPU that PyTorch takes first, 10·major + minor."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def checked_capability(given: int | None, *, compile_only: bool) -> int:
    """The architecture to tune for; raises where it cannot be timed here, and is to be."""
    here = capability_here()
    if compile_only:
        if given is None and here is None:
            raise ArgumentError("capability", None, "10·major + minor, where there is no GPU to take it from")
        return here if given is None else given  # pyright: ignore[reportReturnType]
    if here is None:
        raise BackendError("there is no GPU to time tiles on; --compile-only ranks them without one")
    if given not in (None, here):
        raise ArgumentError("capability", given, f"{here}, that of the GPU here, or another with --compile-only")
    return here


def parse(argv: Sequence[str]) -> argparse.Namespace:
    description, _, note = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.tune_tiles", description=description, epilog=note)
    parser.add_argument("--capability", type=int, help="compute capability, 10·major + minor; default the GPU's here")
    parser.add_argument("--kinds", nargs="+", default=WITH_KERNELS, metavar="KIND", help=f"of {' '.join(WITH_KERNELS)}")
    parser.add_argument(
        "--precisions", nargs="+", default=PRECISIONS, metavar="NAME", help=f"of {' '.join(PRECISIONS)}"
    )
    parser.add_argument(
        "--classes", nargs="+", default=SHAPE_CLASSES, metavar="CLASS", help=f"of {' '.join(SHAPE_CLASSES)}"
    )
    parser.add_argument("--compile-only", action="store_true", help="rank by the rule, without a GPU")
    parser.add_argument("--dry-run", action="store_true", help="print what would change, and write nothing")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="that compile at a time")
    return parser.parse_args(argv)


def tune(argv: list[str]) -> int:
    """0; 1 where an entry has no tile that can be used, and keeps its present one."""
    given = parse(argv)
    if given.processes < 1:
        raise ArgumentError("processes", given.processes, "an integer >= 1")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise BackendError("under TRITON_INTERPRET nothing can be compiled; unset it")
    capability = checked_capability(given.capability, compile_only=given.compile_only)
    wanted = entries(capability, given.kinds, given.precisions, given.classes)
    if not given.compile_only:
        for entry in wanted:
            case_of(entry)
    if not given.dry_run:
        check_writable(PATH.parent)
    found = searches(wanted, given.processes, first=given.compile_only)
    device = torch.device("cuda")
    outcomes = [outcome_of(search) if given.compile_only else timed(search, device) for search in found]
    print_outcomes(outcomes)
    changed = sum(outcome.after != outcome.before for outcome in outcomes)
    table = rewritten(tile_table.TILES, outcomes)
    if given.dry_run:
        print(f"{changed} of {len(outcomes)} tiles would change in {PATH}")
    else:
        write_atomic(PATH, render(table).encode())
        print(f"{changed} of {len(outcomes)} tiles changed in {PATH}")
    return int(any(outcome.chosen is None for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(run_command(tune))
