"""The parts of bench/gpu.sh, each on the CPU at its tiny case."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import closed_form
from bench.cases import CASES
from bench.gpu import build, ceilings, check, check_case, environment, measure, stopwatch
from bench.gpu.benchmark import BOTH, FORWARD, TF32_TOLERANCE, Contender
from bench.gpu.lines import Lines, read_lines
from bench.gpu.parity import worst_error
from bench.gpu.part import Deadline
from bench.gpu.registry import BENCHMARKS
from bench.training_iteration import Iteration, build_model
from ffrl.config import SupervisionConfig
from ffrl.ops import analytic
from ffrl.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample of each call, and ``torch.compile`` that returns the function as it is: it takes half a minute."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(stopwatch, "MAX_SAMPLES_PER_TURN", 1)
    monkeypatch.setattr(stopwatch, "WARM_UP_CALLS", 1)


def run(module: Any, out: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    code = module.main(["--out", str(out / "part.jsonl"), "--device", "cpu", "--cases", "tiny", *options])
    return code, read_lines(out / "part.jsonl")


def verdicts(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {line["contender"]: line["status"] for line in lines if line["kind"] == "verdict"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_usable_contender_gets_figures(name: str, tmp_path: Path):
    code, lines = run(measure, tmp_path, "--benchmark", name)
    figures = [line for line in lines if line["kind"] == "figure"]
    assert code == 0 and verdicts(lines)["cuda"] == "unusable"
    measured = {(line["contender"], line["measurement"]) for line in figures}
    measurements = [BOTH] if name == "training" else [FORWARD, BOTH]
    assert measured >= {(who, which) for who in ("oracle", "analytic") for which in measurements}
    if name == "op":
        compiled = ("compiled gram", "compiled jacobian", "analytic, TF32", "compiled gram, TF32")
        assert {who for who, _ in measured} >= set(compiled)
    for line in figures:
        assert 0 < line["ms"]["lower"] <= line["ms"]["median"] <= line["ms"]["upper"] and line["ms"]["samples"] == 1
        assert 0 <= line["error"] < 1e-5 < line["tolerance"]


def test_the_cases_are_those_of_the_papers():
    op, rollout, trained = BENCHMARKS.values()
    assert op.chosen_cases("full") == [case.name for case in CASES]
    assert rollout.shape("flow-paper") == "128 x 8 steps x 324 x 324, K = 3"
    assert trained.shape("training-paper") == "128 x 8 steps x 324 x 324"
    assert trained.flops("training-paper", BOTH) == CASES[1].flops(backward=True)
    assert rollout.flops("flow-paper", FORWARD) is None


def test_nothing_is_reported_for_a_wrong_contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(closed_form, "output_derivatives", lambda u, _: (1 - u * u, (-2 * u * (1 - u * u)).detach()))
    code, lines = run(measure, tmp_path, "--benchmark", "op")
    assert code == 1
    refused = {name for name, status in verdicts(lines).items() if status == "refused"}
    errors = {line["contender"]: line["error"] for line in lines if line["kind"] == "figure"}
    assert refused == {"compiled gram", "compiled jacobian"} and not refused & set(errors)
    assert 1e-4 < errors["compiled gram, TF32"] < TF32_TOLERANCE


def test_a_contender_that_raises_loses_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("an illegal\nmemory access")

    monkeypatch.setattr(analytic, "laplacian_gram", broken)
    monkeypatch.setattr(analytic, "laplacian_jacobian", broken)
    code, lines = run(measure, tmp_path, "--benchmark", "rollout")
    assert code == 1 and verdicts(lines)["analytic"] == "failed"
    assert {line["contender"] for line in lines if line["kind"] == "figure"} >= {"oracle"}


def test_what_was_judged_before_is_not_timed(tmp_path: Path):
    checked = Lines(tmp_path / "check.jsonl")
    for name, status in {"oracle": "unchecked", "analytic": "refused", "compiled gram": "crashed"}.items():
        checked.write("verdict", benchmark="op", case="tiny", contender=name, status=status)
    names = [contender.name for contender in measure.admitted(BENCHMARKS["op"], "tiny", tmp_path / "check.jsonl")]
    assert "oracle" in names and "compiled jacobian" in names
    assert not {"analytic", "compiled gram"} & set(names)


def test_a_case_is_left_out_when_time_is_over(tmp_path: Path):
    code, lines = run(measure, tmp_path, "--benchmark", "op", "--seconds", "0")
    assert code == 1
    assert [(line["status"], line["why"], line["contender"]) for line in lines] == [("unchecked", "out of time", None)]


def test_tolerances():
    assert Contender("a", "triton", precision="tf32").tolerance == TF32_TOLERANCE == 2e-2
    assert Contender("a", "compiled", matmul="high").tolerance == TF32_TOLERANCE
    assert Contender("a", "triton", precision="tf32x3").tolerance == Contender("a", "oracle").tolerance == 1e-4


def test_the_worst_error_is_found():
    wanted = {"u": torch.ones(4).double(), "v_z": torch.ones(4, 2).double()}
    assert worst_error([{"u": torch.ones(4)}, {"v_z": 1.5 * torch.ones(4, 2)}], wanted) == (0.5, "v_z")
    assert worst_error([{"u": torch.full((4,), torch.nan)}], wanted) == (float("inf"), "u")
    assert worst_error([{"u": torch.ones(3)}], wanted)[0] == float("inf")


@pytest.mark.parametrize("mode", ["supervised", "weak"])
def test_an_iteration_is_that_of_the_trainer(mode: Any, tmp_path: Path):
    problem = BENCHMARKS["training"].problem("tiny", CPU)
    config = dataclasses.replace(problem.config, supervision=SupervisionConfig(mode=mode))
    problem = problem._replace(config=config)
    folder = {"out": tmp_path / "run", "data": "digits", "tensorboard": False}
    config = dataclasses.replace(config, backend="analytic", device="cpu", **folder)
    trainer = Trainer(config)
    trainer.source.data = problem.data
    iteration = Iteration(problem, build_model(config, "analytic"))
    for seed in range(3):
        torch.manual_seed(seed)
        trainer.step()
        wanted = list(trainer.ledger.last().values())
        torch.manual_seed(seed)
        iteration()
        assert iteration.values() == pytest.approx(wanted, rel=1e-5)


def test_machine_part(tmp_path: Path):
    code, lines = run(ceilings, tmp_path)
    assert code == 0 and [line["name"] for line in lines] == ["copy", "bf16", "tf32", "fp32"]
    assert all(line["value"] > 0 for line in lines)
    assert lines[3]["value"] == pytest.approx(2 * lines[3]["size"] ** 3 / lines[3]["ms"]["median"] / 1e6)
    assert torch.get_float32_matmul_precision() == "highest"


def test_build_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The record says why there are no kernels, also where the build is demanded and breaks off."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
    record = tmp_path / "ffrl" / "_C_cuda_missing.txt"
    options = ["--objects", str(tmp_path / "objects"), "--into", str(record.parent)]
    code, (line,) = run(build, tmp_path, *options, "--device", "cpu")
    assert code == 0 and line["missing"] == record.read_text().strip() and line["architectures"] is None
    assert line["missing"].startswith("the CUDA extension was not built when ffrl was installed: ")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with pytest.raises(SystemExit, match="FFRL_CUDA=1, but "):
        run(build, tmp_path, *options, "--device", "cuda")
    assert record.read_text().strip() == build.UNFINISHED
    assert build.os.environ["TORCH_CUDA_ARCH_LIST"] == build.own_architecture() == "9.0a"
    for capability, name in {(8, 6): "8.6", (10, 0): "10.0"}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert build.own_architecture() == name


def test_environment_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    smi = "NVIDIA H100, 570.1, 81559 MiB, 345 MHz, 1980 MHz, 2619 MHz, 2619 MHz, 70.1 W, 700.0 W, 700.0 W, 30, P0"
    monkeypatch.setattr(environment, "output_of", lambda *command: smi if command[0] == "nvidia-smi" else None)
    facts, missing = environment.facts_and_missing("cpu")
    assert facts["torch"] == torch.__version__ and facts["smi"]["driver"] == "570.1"
    assert facts["smi"]["graphics_clock_max"] == "1980 MHz" and facts["smi"]["power_max"] == "700.0 W"
    assert not any(essential for _, essential in missing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code = environment.main(["--out", str(tmp_path / "part.jsonl")])
    what = [line["what"] for line in read_lines(tmp_path / "part.jsonl") if line["kind"] == "missing"]
    assert code == 3 and any("a CUDA GPU that PyTorch can use" in line for line in what)
    assert environment.is_older("2.10.1+cu128", (2, 11)) and not environment.is_older("2.11.0a0", (2, 11))


def test_one_case_is_judged(capsys: pytest.CaptureFixture[str]):
    options = ["--benchmark", "op", "--case", "tiny", "--device", "cpu", "--contenders", "analytic", "cuda"]
    assert check_case.main(options) == 0
    shown = [line.split('"')[3] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["start", "verdict"] * 2


CHILD = """
import os, sys, time, json
for name in sys.argv[1:]:
    print(json.dumps({"kind": "start", "contender": name}), flush=True)
    if name == "ends": print("boom", file=sys.stderr); os._exit(7)
    if name == "hangs": time.sleep(60)
    print("a compiler's message")
    print(json.dumps({"kind": "verdict", "contender": name, "status": "ok", "why": None, "error": 1e-7}), flush=True)
"""


def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, seconds: float) -> dict[str, tuple[str, Any]]:
    monkeypatch.setattr(check, "command_of", lambda _, left, __: [sys.executable, "-S", "-c", program, *left])
    monkeypatch.setattr(check, "PATIENCE_S", 1.0)
    lines = Lines(tmp_path / "check.jsonl")
    job = check.Job("op", "tiny", ["right", "ends", "hangs", "right again"])
    check.run_job(job, "cpu", Deadline(seconds), 1, lines.write)
    return {line["contender"]: (line["status"], line["why"]) for line in read_lines(tmp_path / "check.jsonl")}


def test_what_ends_or_hangs_a_process_loses_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert judged(tmp_path, monkeypatch, CHILD, 60.0) == {
        "right": ("ok", None),
        "ends": ("crashed", "the process ended with 7: boom"),
        "hangs": ("crashed", "no answer for 1 s"),
        "right again": ("ok", None),
    }


def test_what_is_not_judged_in_time_is_unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = judged(tmp_path, monkeypatch, CHILD.replace('"ends"', '"none"').replace("60", "30"), 0.6)
    assert found["hangs"] == found["right again"] == ("unchecked", "out of time")


def test_a_process_that_cannot_begin_is_not_started_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = judged(tmp_path, monkeypatch, "raise SystemExit('no memory')", 60.0)
    assert set(found.values()) == {("crashed", "the process ended with 1: no memory")} and len(found) == 4
