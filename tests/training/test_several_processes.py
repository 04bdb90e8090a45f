"""Two processes train what one trains on their joint batch, stop together, and resume bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch

import ffrl.train
import ffrl.trainer
from ffrl.checkpoint import FOLDER, checkpoint_folders, save_checkpoint
from ffrl.config import (
    BaselineConfig,
    ComputeConfig,
    LogDet,
    LossConfig,
    OptimizerConfig,
    PDEName,
    PriorName,
    SupervisionConfig,
    TrainConfig,
)
from ffrl.devices import training_device
from ffrl.errors import ArgumentError, CheckpointError, DistributedError
from ffrl.models.baselines import BASELINES
from ffrl.run_folder import CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, exclusive, read_metrics
from ffrl.supervision import BALANCE_WEIGHT
from ffrl.trainer import Trainer
from tests.training.fork_server import ROOT
from tests.training.rank_jobs import NUM_RANKS, Ended, Job, launcher, rank_environment, run_jobs
from tests.training.runs import MODEL, command_line, listing, newest, run_differences, short_run, tiny_run

BAD_ITERATION, SIGNAL_ITERATION = 8, 7

# Each prior, each equation and each log-determinant with and without labels.
PRIORS, PDES, LOG_DETS = get_args(PriorName), get_args(PDEName), get_args(LogDet)
VARIANTS = [
    (prior, pde, log_det, mode)
    for mode, (prior, pde, log_det) in itertools.product(
        ("supervised", "semi", "weak"),
        [(PRIORS[i % len(PRIORS)], pde, LOG_DETS[i % len(LOG_DETS)]) for i, pde in enumerate(PDES)],
    )
]


METHODS = list(BASELINES)
BACKENDS = ("analytic", "oracle")  # apart from the default


def variant_name(variant: tuple[str, str, str, str]) -> str:
    return "-".join(variant)


def variant_run(out: Path, prior: Any, pde: Any, log_det: Any, mode: Any) -> TrainConfig:
    return short_run(
        out,
        iterations=3,
        batch_size=3,
        model=dataclasses.replace(MODEL, prior=prior, prior_components=3, pseudo_inputs=4),
        loss=LossConfig(pde=pde, log_det=log_det, num_probes=2),
        supervision=SupervisionConfig(mode, labelled_fraction=0.5),
    )


def method_run(out: Path, method: Any) -> TrainConfig:
    model = dataclasses.replace(MODEL, latent_dim=9)
    settings = BaselineConfig(discriminator_width=32) if method == "factor-vae" else BaselineConfig()
    return short_run(out, iterations=3, method=method, model=model, baseline=settings)


# What changes in the tiny preset -> compared with one process.
COMPARED: dict[str, dict[str, Any]] = {
    "mixed": {},
    "unmixed": {"mixed_batches": False},
    "some frames": {"loss": LossConfig(decoded_frames=2)},
    "weak": {"supervision": SupervisionConfig("weak")},
    "semi": {"supervision": SupervisionConfig("semi", labelled_fraction=0.5)},
    "poflow compared": {"method": "poflow"},
    "tvae compared": {"method": "tvae"},
}


def compared_run(out: Path, name: str, processes: int) -> TrainConfig:
    optimizer = OptimizerConfig(learning_rate=1e-4)
    return tiny_run(out, iterations=50, batch_size=12 // processes, optimizer=optimizer, **COMPARED[name])


class Results:
    """Run folders and endings of the jobs of one start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended: dict[str, list[Ended]] = {}
        self.before: dict[str, dict[str, bytes | None]] = {}  # files of runs that nothing should change

    def out(self, name: str) -> Path:
        return self.folder / "runs" / name

    def do(self, jobs: dict[str, Job]) -> None:
        self.ended = run_jobs(self.folder / "ended", jobs)

    def succeeded(self, name: str) -> list[Ended]:
        for ended in self.ended[name]:
            assert ended.code == 0, ended.error
        return self.ended[name]


def hand_over(run: Path) -> None:
    """Have the newest checkpoint of a run say that it is of as many processes as there will be."""
    checkpoint = newest(run)
    shutil.rmtree(run / FOLDER)
    checkpoint.state["num_ranks"] = NUM_RANKS
    save_checkpoint(run, checkpoint, keep=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of every job that needs no process to be killed."""
    results = Results(tmp_path_factory.mktemp("ranks"))
    out = results.out
    jobs = {name: Job(compared_run(out(name), name, NUM_RANKS)) for name in COMPARED}
    jobs |= {variant_name(variant): Job(variant_run(out(variant_name(variant)), *variant)) for variant in VARIANTS}
    jobs |= {method: Job(method_run(out(method), method)) for method in METHODS}
    jobs |= {backend: Job(short_run(out(backend), iterations=3, backend=backend)) for backend in BACKENDS}
    jobs["held out"] = Job(short_run(out("held out"), iterations=3, held_out_classes=(0, 3), tensorboard=True))
    jobs["whole"] = Job(short_run(out("whole")))
    for number in range(NUM_RANKS):
        # Where a batch system signals every process, the launcher passes a second one on.
        stop = {"numbers": [signal.SIGTERM] * (1 + number), "iteration": SIGNAL_ITERATION}
        config = short_run(out(f"stopped {number}"))
        jobs[f"stop {number}"] = Job(config, hooks={"signals_in_step": (number, stop)})
        jobs[f"resume {number}"] = Job(dataclasses.replace(config, resume=True))
    spoilt = {"nan_in_step": (1, {"iteration": BAD_ITERATION})}
    jobs["diverge"] = Job(short_run(out("diverged")), hooks=spoilt)
    jobs["recover"] = Job(short_run(out("diverged"), resume=True))
    for name, (full, changes) in FULL.items():
        config = short_run(out(name), **changes)
        jobs[name] = Job(config, hooks={"full_disk": (0, full)})
        jobs[f"{name}, resumed"] = Job(dataclasses.replace(config, resume=True))
    for name in REFUSED:
        Trainer(short_run(out(name))).run()
        if name != "alone":
            hand_over(out(name))
        jobs[name] = Job(argv=["--out", str(out(name)), "--resume", "--iterations", "20"])
    (out("damaged") / METRICS_FILE).write_text("")
    for name, flags in BAD_FLAGS.items():
        more = [flag.format(existing=out("whole"), absent=out("absent")) for flag in flags]
        jobs[name] = Job(argv=[*command_line(short_run(out(name))), *more])
    for name in REFUSED:
        results.before[name] = listing(out(name))
    with exclusive(out("taken")):
        results.do(jobs)
    return results


@pytest.fixture(scope="module", params=COMPARED)
def compared(request: pytest.FixtureRequest, results: Results) -> tuple[Path, Path]:
    """Run folders of two processes and of one."""
    name = request.param
    results.succeeded(name)
    alone = results.out(f"{name} alone")
    if not alone.exists():
        Trainer(dataclasses.replace(compared_run(alone, name, 1), threads=1)).run()
    return results.out(name), alone


def test_two_processes_train_what_one_trains(compared: tuple[Path, Path]) -> None:
    first = newest_weights(compared[0])
    second = newest_weights(compared[1])
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert float((value - second[name]).abs().max()) < 1e-5, name


def newest_weights(run: Path) -> dict[str, Any]:
    checkpoint = newest(run)
    assert checkpoint.iteration == 50
    return checkpoint.weights


# A KL near zero is the difference of numbers near log K, of which float32 keeps seven digits.
CANCELLED = {"index": 1e-6, "balance": BALANCE_WEIGHT * 1e-6}


def test_two_processes_log_what_one_logs(compared: tuple[Path, Path]) -> None:
    lines, expected = (read_metrics(run) for run in compared)
    assert [line["iteration"] for line in lines] == [10, 20, 30, 40, 50]
    for one, other in zip(lines, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=1e-5, abs=CANCELLED.get(name, 0.0)), name


@pytest.mark.parametrize("name", [*map(variant_name, VARIANTS), *METHODS, *BACKENDS, "held out"])
def test_every_variant_trains_and_all_processes_hold_the_same(name: str, results: Results) -> None:
    first, second = results.succeeded(name)
    assert first.weights == second.weights != ""
    for ended in (first, second):
        assert "unused" not in ended.error.lower() and "warning" not in ended.error.lower(), ended.error
    assert newest(results.out(name)).iteration == 3
    assert all(math.isfinite(value) for line in read_metrics(results.out(name)) for value in numbers(line))


def test_one_process_writes_for_tensorboard(results: Results) -> None:
    results.succeeded("held out")
    assert len(list((results.out("held out") / "tensorboard").glob("events.*"))) == 1


def numbers(line: dict[str, Any]) -> list[float]:
    return [value for value in line.values() if isinstance(value, float)]


@pytest.mark.parametrize("number", range(NUM_RANKS))
def test_a_signal_to_one_process_stops_all(number: int, results: Results) -> None:
    first, second = results.succeeded(f"stop {number}")
    assert first.weights == second.weights
    told = f"saved at iteration {SIGNAL_ITERATION}; continue with --resume"
    assert first.error.count(told) == 1 and told not in second.error
    results.succeeded(f"resume {number}")
    assert run_differences(results.out(f"stopped {number}"), results.out("whole")) == []


def test_a_stopped_run_is_at_the_iteration_of_the_signal(results: Results) -> None:
    """The comparison above would also hold for a run that no signal had stopped."""
    kept = [folder.name for folder in checkpoint_folders(results.out("stopped 0"))]
    assert kept == ["00000010", "00000014"]
    stopped = results.ended["stop 0"][0].weights
    assert stopped not in ("", results.ended["whole"][0].weights)
    assert results.ended["whole"][0].weights == results.ended["resume 0"][0].weights


def test_a_loss_that_one_process_cannot_take_stops_both(results: Results) -> None:
    first, second = results.ended["diverge"]
    assert (first.code, second.code) == (2, 2)
    assert first.weights == second.weights
    line = first.error.splitlines()[-1]
    assert line.startswith(f"error: loss term 'kl_t' became nan in iteration {BAD_ITERATION};")
    assert line.endswith(str(results.out("diverged") / FOLDER / "00000005"))
    assert "Traceback" not in first.error
    assert second.error == ""
    results.succeeded("recover")  # the last good checkpoint is whole, and goes on
    assert run_differences(results.out("diverged"), results.out("whole")) == []


AT_ONCE = {"compute": ComputeConfig(async_checkpoints=False)}
SAVES = {"module": "ffrl.trainer", "name": "save_checkpoint"}
# What rank 0 cannot write -> the arguments of ``full_disk`` and changes to ``short_run``.
FULL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "first checkpoint": ({**SAVES, "call": 1}, AT_ONCE),
    "a checkpoint": ({**SAVES, "call": 2}, AT_ONCE),
    "a checkpoint meanwhile": ({**SAVES, "call": 2}, {}),
    "last checkpoint meanwhile": ({**SAVES, "call": 4}, {}),
    "metrics": ({"module": "ffrl.run_folder:MetricsLog", "name": "append", "call": 2}, {}),
    "progress": ({"module": "ffrl.trainer", "name": "TrainingProgress", "call": 1}, {}),
    "summary": ({"module": "ffrl.trainer:Trainer", "name": "write_summary", "call": 1}, {}),
}


@pytest.mark.parametrize("name", FULL)
def test_what_the_first_process_cannot_write_is_reported_once_and_ends_all(name: str, results: Results) -> None:
    first, second = results.ended[name]
    assert (first.code, second.code) == (2, 2), first.error + second.error
    assert first.error.splitlines()[-1] == "error: cannot write: the disk is full"
    assert second.error == ""
    results.succeeded(f"{name}, resumed")
    assert run_differences(results.out(name), results.out("whole")) == []


# Name -> flags after those of ``short_run``; {existing} is a finished run.
BAD_FLAGS = {
    "existing": ("--out", "{existing}"),
    "no run": ("--out", "{absent}", "--resume"),
    "no data": ("--data", "mnist", "--data-dir", "{absent}"),
    "unknown data": ("--data", "cifar"),
    "unknown class": ("--held-out-classes", "17"),
    "no iterations": ("--iterations", "0"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_a_bad_configuration_is_reported_once(name: str, results: Results) -> None:
    first, second = results.ended[name]
    assert (first.code, second.code) == (2, 2), first.error + second.error
    assert first.error != "" and "Traceback" not in first.error
    assert second.error == ""
    assert not results.out(name).exists() and not results.out("absent").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE = 'many' is not allowed"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE = '0' is not allowed"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "torchrun sets with it: ['LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT']"),
    ],
)
def test_variables_that_torchrun_has_not_set(
    settings: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArgumentError, match=re.escape(words)):
        ffrl.train.main(command_line(short_run(tmp_path / "run")))
    with pytest.raises(ArgumentError, match=re.escape(words)):
        Trainer(short_run(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun tells the second of two processes."""
    settings = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "none"}
    for name, value in {**settings, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)


def test_a_loss_of_the_other_that_shows_at_a_look_is_told(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """As between GPUs, where nothing waits for a collective operation before."""
    trainer = Trainer(short_run(tmp_path / "run"))
    trainer.iteration = 6

    def lost() -> bool:
        raise torch.distributed.DistBackendError("NCCL communicator was aborted. Check the logs, and sigh.\nmore")

    trainer.ledger.stop_requested = lost  # type: ignore[method-assign]
    request.getfixturevalue("second_of_two")
    words = r"process 1 of 2 has lost another one by iteration 6; .* \(NCCL communicator was aborted\)$"
    with pytest.raises(DistributedError, match=words):
        trainer.check()


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [
        ("cpu", 0, "cpu"),
        ("auto", 2, "cuda:1"),
        ("cuda", 2, "cuda:1"),
        ("auto", 0, "cpu"),
        ("cuda:0", 2, "'cuda' with several processes, each of which takes its own GPU"),
        ("cuda", 0, "device = 'cuda:0' is not allowed; expected 'cpu': torch sees no CUDA device here"),
        ("cuda", 1, "expected 'cpu', or at most 1 processes: a CUDA device for each"),
        ("auto", 1, "expected 'cpu', or at most 1 processes: a CUDA device for each"),
    ],
)
@pytest.mark.usefixtures("second_of_two")
def test_every_process_takes_a_gpu_of_its_own(
    device: str, count: int, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if expected.startswith(("cpu", "cuda:")):
        assert training_device(device) == torch.device(expected)
        return
    with pytest.raises(ArgumentError, match=re.escape(expected)):
        training_device(device)
    with pytest.raises(SystemExit, match="2"):  # the first process tells
        ffrl.train.main([*command_line(short_run(tmp_path / "run")), "--device", device])


def test_one_process_is_told_how_to_resume_a_run_of_several(tmp_path: Path) -> None:
    Trainer(short_run(tmp_path / "run", iterations=1)).run()
    hand_over(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"now there are 1: start it with torchrun --nproc-per-node=2$"):
        Trainer(short_run(tmp_path / "run", iterations=1, resume=True))


def test_a_trainer_of_several_can_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(short_run(tmp_path / "run"))
    monkeypatch.setattr(ffrl.trainer, "num_ranks", lambda: NUM_RANKS)
    step = trainer.step

    def stopped_step() -> None:
        if trainer.iteration == 6:
            trainer.signals.append(signal.SIGTERM)
        step()

    trainer.step = stopped_step  # type: ignore[method-assign]
    assert trainer.run() is False
    assert trainer.iteration == newest(tmp_path / "run").iteration == 7
    assert trainer.run() is True
    assert newest(tmp_path / "run").iteration == 14


# Run that cannot be resumed -> words of the error.
REFUSED = {
    "alone": ("is of 1 processes", "now there are 2: start it without torchrun"),
    "taken": ("another process is training in this folder",),
    "damaged": (f"{METRICS_FILE} is damaged",),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_cannot_be_resumed_is_reported_once(name: str, results: Results) -> None:
    first, second = results.ended[name]
    assert (first.code, second.code) == (2, 2)
    assert first.error.splitlines()[-1].startswith("error: ") and "Traceback" not in first.error
    assert all(words in first.error for words in REFUSED[name])
    assert second.error == ""
    changed = {CONFIG_FILE} if name == "damaged" else set()
    after = listing(results.out(name))
    assert {file for file in after if after[file] != results.before[name].get(file)} == changed


def started(config: TrainConfig, *more: str) -> subprocess.Popen[str]:
    command = launcher("ffrl.train", *command_line(config, *more))
    return subprocess.Popen(command, cwd=ROOT, env=rank_environment(), stderr=subprocess.PIPE, text=True)


def rank_pids(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher has started, in the order of their ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found: dict[int, int] = {}
    for pid in children:
        settings = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        ranks = [int(setting.removeprefix("RANK=")) for setting in settings if setting.startswith("RANK=")]
        found |= {rank: int(pid) for rank in ranks}
    return [found[rank] for rank in range(NUM_RANKS)]


class Interrupted(NamedTuple):
    """A long run that something was done to."""

    out: Path
    returncode: int
    error: str
    seconds: float  # from then to its end
    left: list[int]  # its processes that were still there at the end


def interrupt(out: Path, action: Callable[[subprocess.Popen[str], list[int]], None]) -> Interrupted:
    """Begin a run that would take hours, and do something to it when it has written a few lines."""
    config = short_run(out, iterations=1_000_000, checkpoint_every=5, log_every=1)
    process = started(config)
    try:
        metrics = out / METRICS_FILE
        while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 12):
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()[1]
        pids = rank_pids(process)
        start = time.perf_counter()
        action(process, pids)
        error = process.communicate(timeout=60)[1]
        seconds = time.perf_counter() - start
        left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    finally:
        process.kill()  # the launcher's children then lose their collective operations
    return Interrupted(out, process.returncode, error, seconds, left)


@pytest.fixture(scope="module")
def terminated(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """By a signal to the launcher."""
    return interrupt(tmp_path_factory.mktemp("terminated") / "run", lambda process, _: process.terminate())


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Interrupted]:
    """Each rank in a run of its own."""

    def kill(number: int) -> Interrupted:
        out = tmp_path_factory.mktemp("killed") / "run"
        return interrupt(out, lambda _, pids: os.kill(pids[number], signal.SIGKILL))

    return [kill(number) for number in range(NUM_RANKS)]


def test_a_signal_to_the_launcher_stops_all(terminated: Interrupted) -> None:
    out, error = terminated.out, terminated.error
    stopped = newest(out).iteration
    assert terminated.left == []
    assert terminated.seconds < 25, "the launcher kills after 30 seconds"
    assert error.count(f"ffrl.trainer: SIGTERM: saved at iteration {stopped}; continue with --resume") == 1
    assert "error:" not in error and "process 1 of 2" not in error
    assert [line["iteration"] for line in read_metrics(out)] == list(range(1, stopped + 1))
    assert json.loads((out / SUMMARY_FILE).read_text())["iteration"] == stopped


@pytest.mark.parametrize("number", range(NUM_RANKS))
def test_a_killed_process_ends_the_others(number: int, killed: list[Interrupted]) -> None:
    run = killed[number]
    assert run.returncode != 0
    assert run.left == []
    assert run.seconds < 20
    lines = [line for line in run.error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, run.error
    survivor = 1 - number
    told = re.match(rf"error: process {survivor} of 2 has lost another one in iteration (\d+); continue from", lines[0])
    assert told, lines[0]
    logged = read_metrics(run.out)[-1]["iteration"]
    assert int(told[1]) in range(logged, logged + 3)  # the first process may be gone before it has logged one
    own = run.error.partition("torch/distributed/elastic")[0]  # the launcher reports the failure in its own way
    assert "Traceback" not in own
    assert run.error.count("Traceback") <= 1
    kept = newest(run.out).iteration
    assert kept % 5 == 0 and logged - 10 <= kept <= logged


def test_stopped_and_killed_runs_continue_bit_for_bit(
    terminated: Interrupted, killed: list[Interrupted], tmp_path: Path
) -> None:
    """In one start: all are resumed to the same iteration, and compared with one uninterrupted run."""
    runs = [terminated.out, *(run.out for run in killed)]
    last = max(newest(run).iteration for run in runs) + 3
    jobs = {}
    for i, run in enumerate(runs):
        shutil.copytree(run, tmp_path / str(i))
        jobs[f"resume {i}"] = Job(argv=["--out", str(tmp_path / str(i)), "--resume", "--iterations", str(last)])
    whole = short_run(tmp_path / "whole", iterations=last, checkpoint_every=5, log_every=1, threads=1)
    jobs["whole"] = Job(whole)
    for ended in run_jobs(tmp_path / "ended", jobs).values():
        assert [one.code for one in ended] == [0, 0], ended
    for i in range(len(runs)):
        assert run_differences(tmp_path / str(i), whole.out) == []


def test_the_command_writes_one_run_and_tells_of_it_once(tmp_path: Path) -> None:
    config = short_run(tmp_path / "run", iterations=8)
    process = started(config)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [line["iteration"] for line in read_metrics(config.out)] == [4, 8]
    assert [folder.name for folder in checkpoint_folders(config.out)] == ["00000005", "00000008"]
    summary = json.loads((config.out / SUMMARY_FILE).read_text())
    assert (summary["processes"], summary["iteration"]) == (NUM_RANKS, 8)
    lines = error.splitlines()
    assert len([line for line in lines if line.startswith("8/8 ")]) == 1
    assert len([line for line in lines if "backend" in line]) == 1
    assert "Traceback" not in error and "UserWarning" not in error


@pytest.mark.slow  # in one start with the others above: "existing"
def test_the_command_reports_a_bad_configuration_once(tmp_path: Path) -> None:
    config = short_run(tmp_path / "run", iterations=1)
    Trainer(config).run()
    before = listing(tmp_path)
    process = started(config)
    error = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert error.count("already holds a run") == error.count("error:") == 1
    assert listing(tmp_path) == before
