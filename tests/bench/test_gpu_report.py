"""What bench/gpu.sh reports of parts that went well, failed, ran out of time, or did not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import markdown, report
from bench.gpu.benchmark import BOTH, FORWARD
from bench.gpu.lines import Lines, read_lines

PARTS = ["environment", "machine", "check", "tests", "op", "rollout", "training"]
GPU = {"name": "A GPU", "compute_capability": "9.0", "memory_bytes": 80e9}


def figure(contender: str, both: float, *, tolerance: float = 1e-4, measurement: str = BOTH) -> dict[str, Any]:
    return {
        "benchmark": "op",
        "case": "paper324-n128",
        "shape": "128 x 324 x 324",
        "contender": contender,
        "backend": contender.split()[0],
        "tolerance": tolerance,
        "error": 3e-7,
        "measurement": measurement,
        "ms": {"median": both, "lower": both / 2, "upper": 2 * both, "samples": 9, "host": 0.25},
        "flops": {"cubic": 10**9, "whole": 2 * 10**9},
        "peak_mb": 12.5,
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Of a run in which "rollout" failed, "training" timed out and "tests" did not run."""
    parts = tmp_path / "parts"
    lines = {name: Lines(parts / f"{name}.jsonl") for name in PARTS}
    lines["environment"].write("facts", python="3.12", torch="2.11.0", triton="3.6.0", cuda="13.0", nvcc=None, gpu=GPU)
    lines["environment"].write("build", seconds=41.2, architectures="9.0a", missing=None)
    lines["environment"].write("missing", what="nvcc, the CUDA compiler", essential=False)
    for size, rate in ((4096, 300e3), (8192, 400e3)):
        lines["machine"].write("ceiling", name="tf32", size=size, value=rate, unit="GFLOP/s", ms={})
    lines["machine"].write("ceiling", name="copy", size=1, value=2500.0, unit="GB/s", ms={})
    for name, status in {"triton tf32": "crashed", "oracle": "ok", "analytic": "unchecked"}.items():
        why = "no answer for 90 s"
        lines["check"].write("verdict", benchmark="op", case="paper324-n128", contender=name, status=status, why=why)
    for contender, both, tolerance in (
        ("oracle", 100.0, 1e-4),
        ("analytic", 10.0, 1e-4),
        ("compiled gram", 8.0, 1e-4),
        ("compiled jacobian", 9.0, 1e-4),
        ("compiled gram, TF32", 4.0, 2e-2),
        ("triton ieee", 2.0, 1e-4),
    ):
        lines["op"].write("figure", **figure(contender, both, tolerance=tolerance))
        lines["op"].write("figure", **figure(contender, both / 4, tolerance=tolerance, measurement=FORWARD))
    statuses = dict.fromkeys(PARTS, "0 7 60") | {"rollout": "1 3 60", "training": "124 60 60"}
    for name, status in statuses.items():
        if name != "tests":
            (parts / f"{name}.status").write_text(f"{status}\n")
    (parts / "rollout.stderr").write_text("".join(f"line {number}\n\n" for number in range(40)) + "what went wrong\n")
    with (parts / "training.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "figure", **figure("oracle", 5.0)}).replace("op", "training", 1) + "\n")
        file.write('{"kind": "figure", "benchm')  # cut off
    return tmp_path


def test_a_failed_part_loses_no_other(out: Path, capsys: pytest.CaptureFixture[str]):
    assert report.main([str(out), *PARTS]) == 1
    assert capsys.readouterr().err == "not run: tests\nfailed: rollout\ntimed out: training\n"
    found = json.loads((out / "gpu.json").read_text())
    parts = {part["name"]: part for part in found["parts"]}
    assert [part["status"] for part in parts.values()] == [
        *("ok", "ok", "ok", "not run", "ok", "failed", "timed out"),
    ]
    assert parts["rollout"]["stderr"][-2:] == ["line 39", "what went wrong"]
    assert len(parts["rollout"]["stderr"]) == report.LAST_LINES
    assert len(found["figures"]) == 13 and found["figures"][-1]["benchmark"] == "training"


def test_rates_and_ratios(out: Path):
    figures = report.merged(out / "parts", PARTS)["figures"]
    both = {line["contender"]: line for line in figures if line["measurement"] == BOTH and line["benchmark"] == "op"}
    assert both["triton ieee"]["cubic_gflops"] == pytest.approx(500.0)
    assert both["triton ieee"]["cubic_share_of_tf32"] == pytest.approx(500.0 / 400e3)
    assert both["triton ieee"]["whole_share_of_tf32"] == pytest.approx(1000.0 / 400e3)
    assert both["triton ieee"]["times_oracle"] == 50 and both["triton ieee"]["times_compiled"] == 4
    assert both["compiled jacobian"]["times_compiled"] == pytest.approx(8 / 9)
    assert both["compiled gram, TF32"]["times_compiled"] == 1


def test_what_has_no_figure_says_why(out: Path):
    found = report.merged(out / "parts", PARTS)["without_figure"]
    assert [(line["contender"], line["status"]) for line in found] == [("triton tf32", "crashed")]


def test_markdown(out: Path):
    report.main([str(out), *PARTS, "--command", "bash bench/gpu.sh here"])
    text = (out / "gpu.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == list(markdown.COLUMNS) and {len(row) for row in rows} == {len(markdown.COLUMNS)}
    assert len(rows) == 2 + 7
    assert rows[7] == [
        *("paper324-n128", "128 x 324 x 324", "triton ieee", "9 / 9", "0.5 (0.25 to 1)", "2 (1 to 4)", "0.25 / 0.25"),
        *("2000 / 500", "0.5 % / 0.125 %", "50", "4", "12.5", "3e-07"),
    ]
    assert "`bash bench/gpu.sh here`" in text and "- missing: nvcc, the CUDA compiler" in text
    assert "- GPU: A GPU, compute capability 9.0, 80 GB" in text
    assert "- CUDA kernels: compiled for 9.0a in 41 s" in text
    assert "TF32 products 4e+05 GFLOP/s" in text and "copy (read + write) 2500 GB/s" in text
    assert "- training: timed out (exit status 124), 60 s of at most 60 s" in text and "      what went wrong" in text
    assert "- triton tf32: crashed, no answer for 90 s (paper324-n128)" in text
    assert "No test ran." in text


def test_tests_are_counted(tmp_path: Path):
    lines = Lines(tmp_path / "tests.jsonl")
    lines.write("collected", number=4)
    for name, outcome, why in (("a", "passed", None), ("b", "failed", "off by 1"), ("c", "passed", None)):
        lines.write("test", test=name, outcome=outcome, when="call", why=why)
    found = report.merged(tmp_path, ["tests"])
    assert found["tests"]["outcomes"] == {"passed": 2, "failed": 1}
    text = markdown.document({"command": "", **found})
    assert "Of 4 tests of the kernels: 2 passed, 1 failed.\n- b: off by 1" in text


def test_there_is_a_report_of_nothing(tmp_path: Path):
    assert report.main([str(tmp_path), *PARTS]) == 1
    assert "There is no figure." in (tmp_path / "gpu.md").read_text()
    assert json.loads((tmp_path / "gpu.json").read_text())["figures"] == []


def test_numbers_that_json_does_not_know(tmp_path: Path):
    Lines(tmp_path / "a.jsonl").write("figure", error=float("nan"), ms={"median": float("inf"), "samples": [1.5]})
    assert read_lines(tmp_path / "a.jsonl") == [
        {"kind": "figure", "error": None, "ms": {"median": None, "samples": [1.5]}}
    ]
