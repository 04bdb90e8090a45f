"""Command lines that must be refused, what lies in the folder they work on, and what the message must name."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ffrl.checkpoint import FOLDER, STATE_FILE, WEIGHTS_FILE, latest_checkpoint
from ffrl.data.mnist import SHA256
from ffrl.run_folder import CONFIG_FILE

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"


def fill_in(text: str, folder: Path) -> str:
    return text.replace("FOLDER", str(folder))


# What a test finds in its folder: functions of the folder and of a finished run to copy.


def nothing(folder: Path, run: Path) -> None:
    pass


def a_file(folder: Path, run: Path) -> None:
    (folder / "run").write_text("precious")


def another_file(folder: Path, run: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("precious")


def a_broken_link(folder: Path, run: Path) -> None:
    (folder / "run").symlink_to(folder / "absent")


def a_run(folder: Path, run: Path) -> Path:
    return shutil.copytree(run, folder / "run")


def a_run_with(change: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    return lambda folder, run: change(a_run(folder, run))


def configured(content: bytes | None) -> Callable[[Path, Path], None]:
    """A run with another config.json, or without one."""

    def change(run: Path) -> None:
        (run / CONFIG_FILE).unlink()
        if content is not None:
            (run / CONFIG_FILE).write_bytes(content)

    return a_run_with(change)


def edited(old: str, new: str) -> Callable[[Path, Path], None]:
    """A run whose config.json was edited by hand."""

    def change(run: Path) -> None:
        text = (run / CONFIG_FILE).read_text()
        assert text.count(old) == 1, (old, text)
        (run / CONFIG_FILE).write_text(text.replace(old, new))

    return a_run_with(change)


def truncated(name: str) -> Callable[[Path, Path], None]:
    return a_run_with(lambda run: os.truncate(latest_checkpoint(run) / name, 100))


def mnist_files(*contents: bytes) -> Callable[[Path, Path], None]:
    """A data folder with these as the first of MNIST's files."""

    def make(folder: Path, run: Path) -> None:
        (folder / "data" / "mnist").mkdir(parents=True)
        for name, content in zip(SHA256, contents, strict=False):
            (folder / "data" / "mnist" / name).write_bytes(content)

    return make


class Case(NamedTuple):
    """Flags after those of ``short_run``; FOLDER stands for the test's folder."""

    flags: str
    parts: tuple[str, ...]
    prepare: Callable[[Path, Path], object] = nothing


IMAGES = gzip.compress(bytes.fromhex("00000803 00000002 0000001c 0000001c") + bytes(2 * 28 * 28))
LABELS = gzip.compress(bytes.fromhex("00000801 00000002") + bytes(2))

TRAIN_CASES = {
    "no iterations": Case("--iterations 0", ("iterations = 0", "an integer >= 1")),
    "negative iterations": Case("--iterations -5", ("iterations = -5",)),
    "iterations no number": Case("--iterations many", ("iterations", "many")),
    "empty batches": Case("--batch-size 0", ("batch_size = 0",)),
    "negative seed": Case("--seed -1", ("seed = -1",)),
    "seed too large": Case("--seed 18446744073709551616", ("seed = 18446744073709551616",)),
    "no checkpoints": Case("--checkpoint-every 0", ("checkpoint_every = 0",)),
    "no checkpoint kept": Case("--keep-checkpoints 0", ("keep_checkpoints = 0",)),
    "no lines": Case("--log-every 0", ("log_every = 0",)),
    "no threads": Case("--threads 0", ("threads = 0",)),
    "too many threads": Case("--threads 1099511627776", ("threads = 1099511627776",)),
    "unknown preset": Case("--preset large", ("preset", "large", "tiny", "small", "paper")),
    "unknown data": Case("--data cifar", ("data", "cifar", "mnist", "digits")),
    "unknown backend": Case("--backend fastest", ("backend = 'fastest'", "'analytic'")),
    "backend not here": Case("--backend cuda", ("backend 'cuda' cannot be used here", "usable:")),
    "unknown device": Case("--device tpu", ("device = 'tpu'", "'cuda:N'")),
    "device not here": Case("--device cuda:9", ("device = 'cuda:9'", "CUDA device", "'cpu'")),
    "device not understood": Case("--device cuda:x", ("device = 'cuda:x'",)),
    "unknown flag": Case("--epochs 3", ("--epochs",)),
    "unknown likelihood": Case("--loss.likelihood cauchy", ("likelihood", "cauchy", "laplace")),
    "no noise": Case("--loss.noise-scale 0", ("loss.noise_scale = 0.0", "> 0")),
    "weight not finite": Case("--loss.hj-weight nan", ("loss.hj_weight = nan",)),
    "no transformation": Case("--sequence.transformations", ("sequence.transformations",)),
    "repeated transformation": Case(
        "--sequence.transformations hue scale hue",
        ("sequence.transformations = ('hue', 'scale', 'hue')", "without repeats"),
    ),
    "unknown transformation": Case("--sequence.transformations shear", ("transformations", "shear")),
    "no steps": Case("--sequence.num-steps 0", ("sequence.num_steps = 0",)),
    "magnified to nothing": Case("--sequence.max-scale 0", ("sequence.max_scale = 0.0",)),
    "odd time embedding": Case("--model.time-dim 7", ("model.time_dim = 7", "even")),
    "image size of no data": Case("--model.image-size 32", ("model.image_size = 32", "28")),
    "grey images": Case("--model.image-channels 1 --sequence.transformations scale", ("model.image_channels = 1", "3")),
    "three widths for two": Case("--model.potential-widths 8 8 8", ("Unrecognized options: 8",)),
    "unknown prior": Case("--model.prior gaussian", ("prior", "gaussian", "vamp")),
    "no components": Case("--model.prior mixture --model.prior-components 0", ("model.prior_components = 0",)),
    "no pseudo-inputs": Case("--model.prior vamp --model.pseudo-inputs 0", ("model.pseudo_inputs = 0",)),
    "unknown equation": Case("--loss.pde burgers", ("pde", "burgers", "fokker_planck")),
    "no probes": Case("--loss.log-det hutchinson --loss.num-probes 0", ("loss.num_probes = 0",)),
    "no learning": Case("--optimizer.learning-rate 0", ("optimizer.learning_rate = 0.0",)),
    "out is a file": Case("", ("FOLDER/run", "out"), a_file),
    "out is not empty": Case("", ("out = FOLDER/run", "not an empty folder"), another_file),
    "out is a broken link": Case("", ("out", "FOLDER/run"), a_broken_link),
    "out holds a run": Case("", ("out = FOLDER/run already holds a run", "--resume"), a_run),
    "out below a file": Case("--out FOLDER/run/deeper", ("out = FOLDER/run/deeper", "Not a directory"), a_file),
    "out in /proc": Case("--out /proc/ffrl/run", ("out = /proc/ffrl/run",)),
    "name of out too long": Case(f"--out FOLDER/{'x' * 300}", (f"{'x' * 300}", "File name too long")),
    "resume of nothing": Case("--resume", ("FOLDER/run", "holds no run to resume")),
    "resume of a file": Case("--resume", ("FOLDER/run", "holds no run to resume"), a_file),
    "resume of another folder": Case("--resume", ("FOLDER/run", f"holds {CONFIG_FILE}"), another_file),
    "resume without configuration": Case("--resume", ("FOLDER/run", f"holds {CONFIG_FILE}"), configured(None)),
    "configuration empty": Case("--resume", ("FOLDER/run", CONFIG_FILE), configured(b"")),
    "configuration no text": Case("--resume", ("FOLDER/run", CONFIG_FILE), configured(b"\xff\xfe\x00")),
    "configuration no object": Case("--resume", ("FOLDER/run", CONFIG_FILE), configured(b"[1, 2]")),
    "configuration of another version": Case(
        "--resume", ("FOLDER/run", "batch_size = missing"), edited('"batch_size"', '"batch_sizes"')
    ),
    "configuration with a bad value": Case(
        "--resume", ("FOLDER/run", "iterations = -14"), edited('"iterations": 14', '"iterations": -14')
    ),
    "configuration with a bad type": Case(
        "--resume", ("FOLDER/run", CONFIG_FILE), edited('"data_dir": null', '"data_dir": 3')
    ),
    "configuration with a null": Case(
        "--resume", ("FOLDER/run", CONFIG_FILE), edited('"model": {', '"model": null, "was": {')
    ),
    "another seed": Case("--resume --seed 5", ("FOLDER/run", "seed: saved 0, now 5"), a_run),
    "another preset": Case("--resume --preset paper", ("preset: saved 'tiny', now 'paper'",), a_run),
    "another model": Case("--resume --model.latent-dim 5", ("model.latent_dim: saved 4, now 5",), a_run),
    "another prior": Case("--resume --model.prior vamp", ("model.prior: saved 'diffusion', now 'vamp'",), a_run),
    "another equation": Case("--resume --loss.pde heat", ("loss.pde: saved 'hj_force', now 'heat'",), a_run),
    "fewer iterations": Case("--resume --iterations 3", ("iterations = 3", "the 14 already done"), a_run),
    "weights truncated": Case(
        "--resume --iterations 20", (f"00000014/{WEIGHTS_FILE} has 100 bytes", "truncated"), truncated(WEIGHTS_FILE)
    ),
    "training state truncated": Case(
        "--resume --iterations 20", (f"00000014/{STATE_FILE} has 100 bytes", "truncated"), truncated(STATE_FILE)
    ),
    "data folder missing": Case("--data mnist --data-dir FOLDER/data", ("data_dir = FOLDER/data", "does not exist")),
    "data folder a file": Case(
        "--data mnist --data-dir FOLDER/run --out FOLDER/new", ("data_dir = FOLDER/run is not a folder",), a_file
    ),
    "data missing": Case(
        "--data mnist --data-dir FOLDER/data", ("data_dir = FOLDER/data lacks", TRAIN_IMAGES), mnist_files()
    ),
    "data missing for auto": Case(
        "--data auto --data-dir FOLDER/data", ("data_dir = FOLDER/data lacks", TRAIN_IMAGES), mnist_files()
    ),
    "data incomplete": Case(
        "--data mnist --data-dir FOLDER/data", ("train-labels-idx1-ubyte.gz is missing",), mnist_files(IMAGES)
    ),
    "data with a wrong checksum": Case(
        "--data mnist --data-dir FOLDER/data",
        (f"FOLDER/data/mnist/{TRAIN_IMAGES}: wrong SHA-256 checksum", SHA256[TRAIN_IMAGES]),
        mnist_files(IMAGES, LABELS),
    ),
}


EVALUATE_CASES = {
    "no run given": Case("", ("python -m ffrl.evaluate", "PATH")),
    "run missing": Case("FOLDER/absent", ("FOLDER/absent", "a run folder")),
    "run a file": Case("FOLDER/run", ("FOLDER/run", "a run folder"), a_file),
    "run another folder": Case("FOLDER/run", ("FOLDER/run", CONFIG_FILE), another_file),
    "run without checkpoints": Case(
        "FOLDER/run", (f"FOLDER/run/{FOLDER}", "no checkpoint"), a_run_with(lambda run: shutil.rmtree(run / FOLDER))
    ),
    "weights truncated": Case("FOLDER/run", (WEIGHTS_FILE, "truncated"), truncated(WEIGHTS_FILE)),
    "model edited": Case(
        "FOLDER/run",
        ("of another configuration", "(16, 4) saved, (16, 5) wanted"),
        edited('"latent_dim": 4', '"latent_dim": 5'),
    ),
    "no images": Case("FOLDER/run --num-images 0", ("num_images = 0",), a_run),
    "no samples": Case("FOLDER/run --importance-samples 0", ("importance_samples = 0",), a_run),
    "unknown log-determinant": Case("FOLDER/run --log-det none", ("log-det", "none"), a_run),
    "estimated log-determinant": Case("FOLDER/run --log-det hutchinson", ("log-det", "hutchinson"), a_run),
    "unknown device": Case("FOLDER/run --device tpu", ("device = 'tpu'",), a_run),
    "unknown backend": Case("FOLDER/run --backend fastest", ("backend = 'fastest'",), a_run),
    "unknown flag": Case("FOLDER/run --images 3", ("--images",), a_run),
}
