"""The tuner of the tile sizes: its rule, what it measures, and what it does to the table."""

from __future__ import annotations

import ast
import copy
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from triton.runtime.jit import JITFunction

from bench import tile_timing, tune_tiles
from bench.cases import Case
from bench.compiled_kernels import KERNEL_OF, KERNELS, SHARED, Resources, precisions_on, variants
from bench.gpu.stopwatch import Figure
from bench.tile_candidates import Candidate, Entry, Search, rank, search, sizes
from bench.tune_tiles import Outcome, entries, outcome_of, render, rewritten, tune
from ffrl.errors import ArgumentError, BackendError, OutputError
from ffrl.kernels import launch
from ffrl.kernels.tile_table import TILES
from ffrl.kernels.tiling import CUBIC_KINDS, INTERPRETER, KINDS, Tile, tile_of

ROOT = Path(__file__).resolve().parents[2]
ENTRY = Entry(90, "tf32x3", "wide", "gram_forward")
CPU = torch.device("cpu")


def needs(registers: int = 100, *, stack: int = 0, shared: int = 1024) -> Resources:
    return Resources(registers, stack, 0, shared)


def candidate(*tile: int, registers: int = 100) -> Candidate:
    return Candidate(Tile(*tile), needs(registers))


def figure(median: float) -> Figure:
    return Figure(median, median, median, 9, 0.0)


def compiler(verdict: Callable[[Tile], Resources]) -> tuple[list[Tile], Any]:
    """A compiler for ``search``, and what it has compiled."""
    compiled: list[Tile] = []

    def compile(kernel: Any, tile: Tile, entry: Entry) -> Resources:
        compiled.append(tile)
        return verdict(tile)

    return compiled, compile


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the table in the place of the file that the tuner writes."""
    path = tmp_path / "tile_table.py"
    path.write_text(tune_tiles.PATH.read_text())
    monkeypatch.setattr(tune_tiles, "PATH", path)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_tiles, "capability_here", lambda: None)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Candidate | None]:
    """The searches find this candidate for a kind, and nothing else is compiled."""
    usable: dict[str, Candidate | None] = {}

    def searches(wanted: list[Entry], processes: int, *, first: bool) -> list[Search]:
        return [Search(entry, [c] if (c := usable.get(entry.kind)) else [], 3, []) for entry in wanted]

    monkeypatch.setattr(tune_tiles, "searches", searches)
    return usable


def tiles_in(path: Path) -> Any:
    assignment = ast.parse(path.read_text()).body[-1]
    assert isinstance(assignment, ast.AnnAssign) and assignment.value is not None
    return ast.literal_eval(assignment.value)


def test_the_rule_ranks_a_pipeline_then_columns_depth_registers_stages_and_warps():
    best_first = [
        candidate(128, 16, 8, 2, registers=250),
        candidate(64, 32, 8, 2, registers=250),
        candidate(64, 16, 4, 3, registers=90),
        candidate(64, 16, 8, 2),
        candidate(64, 16, 4, 2),
        candidate(64, 16, 8, 3),
        candidate(64, 16, 8, 2, registers=101),
        candidate(128, 32, 8, 1, registers=50),
    ]
    assert sorted(reversed(best_first), key=rank) == best_first


def test_a_narrow_call_gets_no_tile_that_it_cannot_fill():
    assert max(sizes(ENTRY)) == (128, 32) and (64, 64) in sizes(ENTRY) and (128, 64) not in sizes(ENTRY)
    assert sizes(ENTRY._replace(shapes="narrow")) == [(32, 32), (32, 16), (16, 32), (16, 16)]
    over_rows = ENTRY._replace(shapes="narrow", kind="gram_backward")
    assert sizes(over_rows)[0] == (32, 64) and all(columns <= 32 for columns, _ in sizes(over_rows))


def test_tiles_that_spill_or_want_too_much_shared_memory_are_thrown_out():
    def verdict(tile: Tile) -> Resources:
        if tile.num_stages == 3:
            return needs(shared=SHARED[90] + 1)
        return needs(stack=8 if tile.num_warps == 4 else 0)

    compiled, compile = compiler(verdict)
    result = search(ENTRY, [(64, 32)], first=False, compile=compile)
    assert [candidate.tile for candidate in result.usable] == [Tile(64, 32, 8, 2), Tile(64, 32, 8, 1)]
    assert result.compiled == len(compiled) == 6 and result.entry == ENTRY and not result.failures


def test_where_a_tile_spills_much_those_that_need_more_are_not_compiled():
    compiled, compile = compiler(lambda tile: needs(stack=65 if tile.columns == 128 else 64))
    assert not search(ENTRY, [(128, 16), (64, 16)], first=False, compile=compile).usable
    assert [tile.columns for tile in compiled] == [128] + 6 * [64]
    compiled, compile = compiler(lambda tile: needs(stack=65 * (tile.num_warps == 4 or tile.num_stages == 3)))
    usable = search(ENTRY, [(64, 16)], first=False, compile=compile).usable
    assert [candidate.tile[2:] for candidate in usable] == [(8, 2), (8, 1)]
    assert [tile[2:] for tile in compiled] == [(8, 1), (4, 1), (8, 2), (8, 3)]


def test_the_search_by_the_rule_stops_at_the_first_size_that_fits_with_a_pipeline():
    def verdict(tile: Tile) -> Resources:
        fits = tile.columns == 64 or (tile.columns == 128 and tile.num_stages == 1)
        return needs(stack=0 if fits else 8)

    compiled, compile = compiler(verdict)
    result = search(ENTRY, first=True, compile=compile)
    assert [candidate.tile for candidate in result.usable] == [Tile(64, 64, 8, 2), Tile(64, 64, 4, 2)]
    assert [tile[:2] for tile in compiled] == 2 * [(128, 32)] + 2 * [(128, 16)] + 2 * [(64, 64)]
    compiled, compile = compiler(lambda tile: needs(stack=0 if tile == (32, 16, 4, 1) else 8))
    assert search(ENTRY, first=True, compile=compile).usable[0].tile == (32, 16, 4, 1)
    assert {tile.num_stages for tile in compiled} == {1, 2} and compiled[-1] == (32, 16, 4, 1)


def test_a_tile_that_the_compiler_refuses_is_reported_and_the_search_goes_on():
    def verdict(tile: Tile) -> Resources:
        if tile.columns == 128:
            raise RuntimeError("no such layout\nand more")
        return needs()

    result = search(ENTRY, [(128, 16), (64, 16)], first=True, compile=compiler(verdict)[1])
    assert result.usable[0].tile == Tile(64, 16, 8, 2)
    assert result.failures == ["(128, 16, 8, 2): RuntimeError: ['no such layout']"]


def test_a_tile_must_do_for_every_kernel_of_its_kind_and_the_figure_is_of_the_worst():
    entry = ENTRY._replace(kind="quadratic")
    names = [kernel.name for kernel in entry.kernels]
    assert len(names) == 6

    def compile(kernel: Any, tile: Tile, _: Entry) -> Resources:
        return needs(10 * names.index(kernel.name), stack=8 * (kernel.name == "matmul" and tile.num_warps == 4))

    result = search(entry, [(64, 16)], first=False, compile=compile)
    assert {candidate.tile.num_warps for candidate in result.usable} == {8}
    assert {candidate.needs.registers for candidate in result.usable} == {50}


def test_kernels_are_registered_under_kinds_of_the_table():
    assert {kernel.kind for kernel in KERNELS} - {None} <= set(KINDS)
    for kernel in KERNELS:
        assert ("tf32" in kernel.precisions) == (kernel.kind in CUBIC_KINDS)
        options = {name for name in kernel.function.arg_names if name.isupper()} - {"H1", "H2", "D", "K"}
        assert set(kernel.smallest) <= set(kernel.largest) <= options
    assert len(KERNEL_OF) == len(KERNELS)
    before_tf32 = list(variants(75))
    assert {variant.precision for variant in before_tf32} == {"ieee", None}
    assert precisions_on(75, ("tf32",)) == () and precisions_on(80, ("tf32",)) == ("tf32",)


def test_the_fastest_is_taken_where_it_gains_enough():
    before = tile_of(*ENTRY)
    other, slow = Tile(64, 16, 8, 2), Tile(32, 16, 8, 2)
    result = Search(ENTRY, [Candidate(tile, needs()) for tile in (slow, before, other)], 3, [])
    assert outcome_of(result).after == slow  # by the rule the order is that of the search
    figures = {before: figure(1.0), other: figure(0.97), slow: figure(2.0)}
    assert outcome_of(result, figures).after == other
    assert outcome_of(result, {**figures, other: figure(0.985)}).after == before
    assert outcome_of(result, {slow: figure(2.0), other: figure(3.0)}).after == slow
    nothing = outcome_of(result, {})
    assert (nothing.after, nothing.chosen) == (before, None)


def test_the_table_is_written_as_it_stands():
    assert render(TILES) == tune_tiles.PATH.read_text()


def test_what_was_not_tuned_stays(table: Path):
    before = copy.deepcopy(TILES)
    outcomes = [
        Outcome(ENTRY, tile_of(*ENTRY), Tile(16, 16, 4, 3), candidate(16, 16, 4, 3), Search(ENTRY, [], 1, []), {}),
        outcome_of(Search(Entry(75, "ieee", "narrow", "weights"), [], 0, [])),
    ]
    table.write_text(render(rewritten(TILES, outcomes)))
    assert before == TILES  # the table in memory is another
    expected = copy.deepcopy(TILES)
    expected[90]["tf32x3"]["wide"]["gram_forward"] = (16, 16, 4, 3)
    assert tiles_in(table) == expected and list(tiles_in(table)) == sorted(TILES)


def test_a_new_architecture_begins_with_the_tiles_that_it_had():
    entry = Entry(89, "ieee", "wide", "weights")
    outcome = Outcome(entry, tile_of(*entry), Tile(16, 16, 4, 3), candidate(16, 16, 4, 3), Search(entry, [], 1, []), {})
    new = rewritten(TILES, [outcome])
    assert list(new) == sorted({*TILES, 89})
    assert new[89]["ieee"]["wide"]["weights"] == (16, 16, 4, 3)
    new[89]["ieee"]["wide"]["weights"] = TILES[86]["ieee"]["wide"]["weights"]
    assert new[89] == TILES[86]


def test_the_command_writes_what_it_found_and_prints_it(
    table: Path, no_gpu: None, found: dict[str, Candidate | None], capsys: pytest.CaptureFixture[str]
):
    found["weights"] = candidate(16, 64, 8, 3, registers=77)
    arguments = ["--capability", "90", "--compile-only", "--kinds", "weights", "--classes", "narrow"]
    assert tune([*arguments, "--dry-run"]) == 0
    assert table.read_text() == render(TILES) and "2 of 2 tiles would change" in capsys.readouterr().out
    assert tune(arguments) == 0
    expected = copy.deepcopy(TILES)
    for precision in ("tf32x3", "ieee"):
        expected[90][precision]["narrow"]["weights"] = (16, 64, 8, 3)
    assert tiles_in(table) == expected
    out = capsys.readouterr().out
    before = tuple(tile_of(90, "ieee", "narrow", "weights"))
    assert f"| 90 | ieee | narrow | weights | {before} | (16, 64, 8, 3) | 77 | 1024 | 3 | 1 |" in out
    assert not list(table.parent.glob(".*"))


def test_an_entry_for_which_nothing_can_be_used_is_kept_and_the_command_fails(
    table: Path, no_gpu: None, found: dict[str, Candidate | None], capsys: pytest.CaptureFixture[str]
):
    assert tune(["--capability", "90", "--compile-only", "--kinds", "weights"]) == 1
    assert table.read_text() == render(TILES)
    assert "kept: no tile can be used" in capsys.readouterr().out


def test_a_table_that_cannot_be_replaced_is_left_whole(
    table: Path, no_gpu: None, found: dict[str, Candidate | None], monkeypatch: pytest.MonkeyPatch
):
    found["weights"] = candidate(16, 64, 8, 3)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        tune(["--capability", "90", "--compile-only", "--kinds", "weights"])
    assert table.read_text() == render(TILES) and [path.name for path in table.parent.iterdir()] == [table.name]


def test_what_cannot_be_tuned_is_refused(table: Path, no_gpu: None, found: dict, monkeypatch: pytest.MonkeyPatch):
    for arguments, error, message in (
        (["--kinds", "cubic"], ArgumentError, "kinds = cubic is not allowed; expected one of quadratic, "),
        (
            ["--precisions", "bf16"],
            ArgumentError,
            "precisions = bf16 is not allowed; expected one of ieee, tf32x3, tf32",
        ),
        (["--classes", "square"], ArgumentError, "classes = square is not allowed; expected one of narrow, wide"),
        (["--capability", "70"], ArgumentError, "capability = 70 is not allowed; expected .* at least 75"),
        (["--capability", "75", "--precisions", "tf32"], ArgumentError, "precisions = tf32 is not allowed"),
        (["--kinds", "weights", "--precisions", "tf32"], ArgumentError, "expected those of weights on sm_90"),
        (["--processes", "0"], ArgumentError, "processes = 0 is not allowed; expected an integer >= 1"),
    ):
        with pytest.raises(error, match=message):
            tune(["--compile-only", *([] if "--capability" in arguments else ["--capability", "90"]), *arguments])
    with pytest.raises(BackendError, match="there is no GPU to time tiles on; --compile-only"):
        tune(["--capability", "90"])
    with pytest.raises(ArgumentError, match="capability = None is not allowed"):
        tune(["--compile-only"])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(BackendError, match="TRITON_INTERPRET"):
        tune(["--compile-only", "--capability", "90"])
    assert table.read_text() == render(TILES)


def test_only_the_gpu_that_is_here_is_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune_tiles, "capability_here", lambda: 86)
    assert tune_tiles.checked_capability(None, compile_only=False) == 86
    assert tune_tiles.checked_capability(100, compile_only=True) == 100
    with pytest.raises(ArgumentError, match="capability = 90 is not allowed; expected 86, that of the GPU here"):
        tune_tiles.checked_capability(90, compile_only=False)


def test_entries_are_those_that_the_table_has():
    assert len(entries(75, KINDS[:8], ("ieee", "tf32x3", "tf32"), ("narrow", "wide"))) == 16
    assert len(entries(90, KINDS[:8], ("ieee", "tf32x3", "tf32"), ("narrow", "wide"))) == 2 * (8 + 8 + 5)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is launched: the op runs on the CPU, and what its kernels would write is left as it is."""
    monkeypatch.setattr(JITFunction, "run", lambda *_, **__: None)


def test_only_the_kind_that_is_tuned_gets_the_tile(launched: None):
    tile, products = Tile(32, 16, 8, 3), [kernel for kernel in KERNELS if kernel.kind is not None]
    functions = [kernel.function for kernel in products]
    with tile_timing.recorded(functions) as launches, tile_timing.tile_of_kind("weights", tile):
        tile_timing.run_op(Case("small", 70, 5, 40), "gram", "ieee", CPU)
    sizes_of = {(one.kernel.__name__, one.options["COLUMNS"], one.options["DEPTH"]) for one in launches}
    tuned = {found for found in sizes_of if KERNEL_OF[found[0]].kind == "weights"}
    assert {found[1:] for found in tuned} == {(32, 16)} and len(tuned) == 2
    assert {found[1:] for found in sizes_of - tuned} == {INTERPRETER[:2]} and len(sizes_of - tuned) > 8


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gram_backward", ["gram_backward"]),
        ("quadratic_time", ["hidden2_forward", "hidden2_backward", "sums_backward"]),
        ("jacobian", ["jacobian_forward"] + 2 * ["jacobian_cotangent"]),
        ("weights", ["weight1_gradient", "weight2_gradient"]),
        ("rollout_forward", ["rollout_forward"]),
        ("rollout_backward", ["rollout_backward"]),
    ],
)
def test_the_launches_of_a_kind_are_recorded_with_the_tile(launched: None, kind: str, names: list[str]):
    tile, entry = Tile(32, 16, 8, 3), Entry(90, "ieee", "wide", kind)
    launches = tile_timing.launches_of(entry, tile, Case("small", 70, 5, 40), CPU)
    assert [one.kernel.__name__ for one in launches] == names
    for one in launches:
        given = {name: one.options[name] for name in ("COLUMNS", "DEPTH", "num_warps", "num_stages")}
        assert tuple(given.values()) == tile
    assert tile_timing.case_of(entry).num_rows == (128 if kind.startswith("rollout") else 1024)
    others = tile_timing.launches_of(entry._replace(kind="gram_forward"), tile, Case("small", 70, 5, 40), CPU)
    assert [one.kernel.__name__ for one in others] == ["gram_forward"]
    assert launch.Call.tile.__name__ == "tile" and not any("run" in vars(kernel.function) for kernel in KERNELS)


def test_every_usable_tile_is_timed_by_its_launches_alone(launched: None, monkeypatch: pytest.MonkeyPatch):
    replayed: list[Tile] = []

    def graph_of(launches: list[tile_timing.Launch]) -> Callable[[], object]:
        tile = Tile(*(launches[0].options[name] for name in ("COLUMNS", "DEPTH", "num_warps", "num_stages")))
        if tile.num_stages == 3:
            raise RuntimeError("out of resources")
        return lambda: replayed.append(tile)

    monkeypatch.setattr(tile_timing, "graph_of", graph_of)
    monkeypatch.setattr(tile_timing, "ROUNDS", 1)
    tiles = [Tile(32, 16, 8, 1), Tile(32, 16, 8, 2), Tile(32, 16, 8, 3)]
    figures, failures = tile_timing.time_tiles(Entry(90, "ieee", "narrow", "weights"), tiles, CPU)
    assert list(figures) == tiles[:2] and set(replayed) == set(tiles[:2])
    assert failures == ["(32, 16, 8, 3): RuntimeError: ['out of resources']"]


def test_a_kernel_that_spills_at_the_timed_shapes_has_no_figure(monkeypatch: pytest.MonkeyPatch):
    class Compiled:
        n_spills = 12

    monkeypatch.setattr(JITFunction, "run", lambda *_, **__: Compiled())
    figures, failures = tile_timing.time_tiles(Entry(90, "ieee", "narrow", "weights"), [Tile(32, 16, 8, 1)], CPU)
    assert not figures and "SpillError: ['weight1_gradient spills 12 bytes']" in failures[0]


def test_tiles_are_compiled_in_processes_and_the_table_holds_the_best(tmp_path: Path):
    """The command itself, on one entry, against the compiler asked here."""
    arguments = ["--capability", "80", "--kinds", "jacobian_weights", "--precisions", "ieee", "--classes", "narrow"]
    command = [sys.executable, "-m", "bench.tune_tiles", *arguments, "--compile-only", "--dry-run", "--processes", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    best = search(Entry(80, "ieee", "narrow", "jacobian_weights"), first=True).usable[0]
    row = next(line for line in result.stdout.splitlines() if line.startswith("| 80 "))
    tile, registers = (cell.strip() for cell in (row.split("|")[6], row.split("|")[7]))
    assert tile in ("the same", str(tuple(best.tile))) and int(registers) == best.needs.registers
    assert "compiled 1 of 1: sm_80 ieee narrow jacobian_weights" in result.stderr
