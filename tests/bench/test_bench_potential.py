"""The benchmark reports what it should, and refuses to report a wrong result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import bench_potential, closed_form, contenders, measure
from bench.cases import Case
from ffrl.ops import analytic, backends

ROOT = Path(__file__).resolve().parents[2]
SMALL = Case("small", 9, 3, 5)  # where the analytic backend takes the Gram form
WIDE = Case("wide", 9, 2, 33)  # where the analytic backend takes the Jacobian form


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.compile`` that returns the function as it is: the compiler takes half a minute."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """SMALL as the only case of the command."""
    monkeypatch.setattr(bench_potential, "CASES", (SMALL,))
    return SMALL


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.usefixtures("uncompiled")
def test_one_row_for_each_contender():
    figures = measure.measure(SMALL, ["oracle", "analytic", "compiled"], rounds=2, memory=False)
    rows = [cells(bench_potential.table_row(row)) for row in figures]
    assert all(len(row) == len(bench_potential.COLUMNS) for row in rows)
    assert [row[2].split(" (")[0] for row in rows] == ["oracle", "analytic", "compiled"]
    assert figures[2].forms is not None and set(figures[2].forms.values()) <= set(closed_form.FORMS)
    assert rows[0][6] == rows[2][7] == "1" and [row[3] for row in rows] == ["2"] * 3
    for row in figures:
        assert row.forward is not None and row.both is not None and row.forward.median < row.both.median


def test_shares_are_of_the_operations_flops():
    timing = measure.Timing(2.0, 1.0, 3.0, rounds=5, calls_per_sample=1)
    row = measure.Figures(Case("c", 10**6, 4, 4), "cpp", None, None, timing, timing, 7.0, 3.5, 500.0, 12.34)
    assert row.share_of_sgemm(backward=True, whole=False) == pytest.approx(3 * 64e6 / 2e-3 / 500e9)
    assert row.share_of_sgemm(backward=False, whole=True) == pytest.approx((64 + 4 * 4 * 8) * 1e6 / 2e-3 / 500e9)
    assert cells(bench_potential.table_row(row))[4:8] == ["2 (1 to 3)", "2 (1 to 3)", "7", "3.5"]
    assert cells(bench_potential.table_row(row))[8:] == ["6.4 % / 19.2 %", "19.2 % / 57.6 %", "500", "12.3"]


def test_flops_follow_the_cheaper_form():
    assert Case("gram", 1, 4, 4).flops(backward=True) == (3 * 4**3, 3 * 4**3 + 12 * 4 * 8)
    assert Case("jacobian", 2, 1, 8).flops(backward=True) == (2 * 6 * 8**2, 2 * (6 * 8**2 + 12 * 8 * 9))
    assert Case("gram", 1, 4, 4).flops(backward=False) == (4**3, 4**3 + 4 * 4 * 8)
    assert Case("jacobian", 2, 1, 8).flops(backward=False) == (2 * 2 * 8**2, 2 * (2 * 8**2 + 4 * 8 * 9))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", ["analytic", "compiled"])
def test_a_wrong_gradient_is_not_timed(name: str, monkeypatch: pytest.MonkeyPatch):
    if name == "analytic":
        right = analytic.laplacian_jacobian_vjp
        monkeypatch.setattr(analytic, "laplacian_jacobian_vjp", lambda *given: 1.01 * right(*given))
    else:  # the value is right, its gradient is not
        monkeypatch.setattr(
            closed_form, "output_derivatives", lambda u, _: (1 - u * u, (-2 * u * (1 - u * u)).detach())
        )
    with pytest.raises(contenders.ParityError, match=f"{name}: v_.* is off by"):
        measure.measure(WIDE, ["oracle", name], rounds=1, memory=False)


def test_a_wrong_forward_alone_is_not_timed():
    pot, z = contenders.problem(SMALL)
    right = contenders.derivatives_of("analytic", pot)

    def wrong(rows: torch.Tensor) -> contenders.PotentialDerivatives:
        out = right(rows)
        return out if torch.is_grad_enabled() else out._replace(du_dt=1.01 * out.du_dt)

    with pytest.raises(contenders.ParityError, match="other: du_dt"):
        contenders.check_parity("other", wrong, pot, z)


def test_a_wrong_last_row_of_a_large_batch_is_seen():
    pot, z = contenders.problem(Case("large", 1000, 2, 4))
    right = contenders.derivatives_of("analytic", pot)
    contenders.check_parity("analytic", right, pot, z)
    last = torch.zeros(1000).index_fill(0, torch.tensor([999]), 0.1)
    with pytest.raises(contenders.ParityError, match="other: u "):
        contenders.check_parity("other", lambda rows: right(rows)._replace(u=right(rows).u + last), pot, z)


def test_nothing_is_printed_for_a_case_with_a_wrong_contender(
    one_case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    right = analytic.laplacian_gram
    monkeypatch.setattr(analytic, "laplacian_gram", lambda *given: [1.01 * value for value in right(*given)])
    arguments = [
        "--rounds",
        "1",
        "--no-memory",
        "--contenders",
        "oracle",
        "analytic",
        "--json",
        str(tmp_path / "b.json"),
    ]
    with pytest.raises(contenders.ParityError):
        bench_potential.main(arguments)
    assert not any(line.startswith(f"| {one_case.name}") for line in capsys.readouterr().out.splitlines())
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_the_row_says_why(monkeypatch: pytest.MonkeyPatch):
    def compile_nothing(_function: object, **_: object) -> Callable[..., object]:
        def fail(*_: object) -> object:
            raise RuntimeError("\nNo working C++ compiler found: a|b\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    (row,) = measure.measure(SMALL, ["compiled"], rounds=1, memory=False)
    line = cells(bench_potential.table_row(row))
    assert len(line) == len(bench_potential.COLUMNS)
    assert line[2:5] == ["compiled", "-", "no figure: RuntimeError: No working C++ compiler found: a/b"]


def test_a_backend_that_is_named_and_missing_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "available_backends", lambda: {"oracle": None, "cpp": "broken"})
    (row,) = measure.measure(SMALL, ["cpp"], rounds=1, memory=False)
    assert row.reason is not None and "backend 'cpp' cannot be used here: broken" in row.reason


def test_command_prints_a_table_and_writes_the_numbers(
    one_case: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(measure, "peak_memory", lambda case, name, form: (None, f"{name}: no counters"))
    path = tmp_path / "new" / "bench.json"
    threads = torch.get_num_threads()
    bench_potential.main(["--rounds", "2", "--contenders", "analytic", "oracle", "analytic", "--json", str(path)])
    assert torch.get_num_threads() == threads
    lines = capsys.readouterr().out.splitlines()
    rows = [cells(line) for line in lines if line.startswith(f"| {one_case.name} ")]
    assert [row[2] for row in rows] == ["analytic", "oracle"] and rows[0][-1] == "analytic: no counters"
    assert f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})" in lines[0]
    content = json.loads(path.read_text())
    assert content["command"].endswith(f"--json {path}") and content["machine"]["threads"] == threads
    assert [row["contender"] for row in content["figures"]] == ["analytic", "oracle"]
    figures = content["figures"][0]
    wanted = figures["oracle_ratio"] * figures["both"]["median"]
    assert content["figures"][1]["both"]["median"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--cases", "none"], ["--json", "/proc/none/b.json"]], ids=str
)
def test_bad_options_are_refused_before_anything_is_measured(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        bench_potential.main(arguments)
    assert stop.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_the_smallest_pytest_benchmark_passes():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "bench", "--benchmark-disable"]
    command += ["-k", "small64-n128 and analytic"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout + result.stderr
