"""Two processes train what one trains on their joint batch, stop together, and resume bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
import signal
from pathlib import Path
from typing import Any, get_args

import pytest

from ffrl.checkpoint import FOLDER, checkpoint_folders, save_checkpoint
from ffrl.config import LogDet, LossConfig, OptimizerConfig, PDEName, PriorName, SupervisionConfig, TrainConfig
from ffrl.presets import preset_config
from ffrl.run_folder import CONFIG_FILE, METRICS_FILE, exclusive, read_metrics
from ffrl.supervision import BALANCE_WEIGHT
from ffrl.trainer import Trainer
from tests.training.rank_jobs import NUM_RANKS, Ended, Job, run_jobs
from tests.training.runs import MODEL, command_line, listing, newest, run_differences, short_run

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


# What changes in the tiny preset -> compared with one process.
COMPARED: dict[str, dict[str, Any]] = {
    "mixed": {},
    "unmixed": {"mixed_batches": False},
    "weak": {"supervision": SupervisionConfig("weak")},
    "semi": {"supervision": SupervisionConfig("semi", labelled_fraction=0.5)},
}


def compared_run(out: Path, name: str, processes: int) -> TrainConfig:
    config = dataclasses.replace(
        preset_config("tiny"),
        out=out,
        data="digits",
        device="cpu",
        iterations=50,
        batch_size=12 // processes,
        optimizer=OptimizerConfig(learning_rate=1e-4),
        tensorboard=False,
    )
    return dataclasses.replace(config, **COMPARED[name])


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
    jobs["held out"] = Job(short_run(out("held out"), iterations=3, held_out_classes=(0, 3)))
    jobs["whole"] = Job(short_run(out("whole")))
    for number in range(NUM_RANKS):
        stop = {"numbers": [signal.SIGTERM], "iteration": SIGNAL_ITERATION}
        config = short_run(out(f"stopped {number}"))
        jobs[f"stop {number}"] = Job(config, hooks={"signals_in_step": (number, stop)})
        jobs[f"resume {number}"] = Job(dataclasses.replace(config, resume=True))
    spoilt = {"nan_in_step": (1, {"iteration": BAD_ITERATION})}
    jobs["diverge"] = Job(short_run(out("diverged")), hooks=spoilt)
    jobs["recover"] = Job(short_run(out("diverged"), resume=True))
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


@pytest.mark.parametrize("name", [*map(variant_name, VARIANTS), "held out"])
def test_every_variant_trains_and_all_processes_hold_the_same(name: str, results: Results) -> None:
    first, second = results.succeeded(name)
    assert first.weights == second.weights != ""
    for ended in (first, second):
        assert "unused" not in ended.error.lower() and "warning" not in ended.error.lower(), ended.error
    assert newest(results.out(name)).iteration == 3
    assert all(math.isfinite(value) for line in read_metrics(results.out(name)) for value in numbers(line))


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


# Run that cannot be resumed -> words of the error.
REFUSED = {
    "alone": ("is of 1 processes", "now there are 2"),
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
