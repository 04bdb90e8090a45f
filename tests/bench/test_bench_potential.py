"""The benchmark reports what it should, and refuses to report a wrong result."""

from __future__ import annotations

import pytest
import torch

from bench import bench_potential
from bench.cases import CASES, Case
from bench.timing import interleaved
from ffrl.ops import analytic

SMALL = Case("small", 9, 3, 5)


def test_one_row_for_each_backend():
    rows = bench_potential.measure(SMALL, ["oracle", "analytic"], rounds=2)
    assert [row.split("|")[3].strip() for row in rows] == ["oracle", "analytic"]
    assert rows[0].split("|")[5].strip() == "1.0"


def test_a_wrong_gradient_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    right = analytic.laplacian_jacobian_vjp
    monkeypatch.setattr(analytic, "laplacian_jacobian_vjp", lambda *arguments: 1.01 * right(*arguments))
    with pytest.raises(bench_potential.ParityError, match="analytic: a result"):
        bench_potential.measure(Case("wide", 9, 2, 33), ["oracle", "analytic"], rounds=1)


def test_flops_follow_the_cheaper_form():
    assert Case("gram", 1, 4, 4).flops == 3 * 4**3 + 12 * 4 * 8
    assert Case("jacobian", 2, 1, 8).flops == 2 * (6 * 8**2 + 12 * 8 * 9)


def test_every_contender_is_called_once_a_round():
    calls: list[str] = []
    timings = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert all(timing.lower <= timing.median <= timing.upper for timing in timings.values())


def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]):
    threads = torch.get_num_threads()
    bench_potential.main(["--rounds", "1", "--cases", CASES[1].name])
    assert torch.get_num_threads() == threads
    lines = capsys.readouterr().out.splitlines()
    assert sum(CASES[1].name in line for line in lines) == 2
