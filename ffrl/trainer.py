"""The one training loop."""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ffrl import __version__
from ffrl.checkpoint import (
    STATE_FILE,
    Checkpoint,
    checkpoint_folders,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from ffrl.config import OptimizerConfig, TrainConfig, differences
from ffrl.data import TransformedImages, load_images, resolve_name, without_classes
from ffrl.errors import ArgumentError, CheckpointError, TrainingDiverged
from ffrl.losses import sequence_losses
from ffrl.models import SequenceVAE
from ffrl.ops.backends import check_backend, resolve_backend
from ffrl.progress import TrainingProgress, require_tensorboard
from ffrl.run_folder import (
    SUMMARY_FILE,
    MetricsLog,
    check_new_run,
    create_run,
    exclusive,
    load_config,
    update_config,
    write_json,
)
from ffrl.supervision import supervise

logger = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first GPU or else the CPU. Raises ArgumentError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ArgumentError("device", repr(name), "'auto', 'cpu', 'cuda' or 'cuda:N'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ArgumentError("device", repr(name), f"one of the {count} CUDA devices that torch sees here")
    return device


def learning_rate(config: OptimizerConfig, iteration: int, iterations: int) -> float:
    """Rate of the given iteration (1-based)."""
    rate = config.learning_rate * min(1.0, iteration / max(1, config.warmup))
    if config.schedule == "constant" or iteration <= config.warmup:
        return rate
    progress = (iteration - config.warmup) / max(1, iterations - config.warmup)
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_model(config: TrainConfig) -> SequenceVAE:
    """The model of a configuration, on the CPU, from torch's random number generator."""
    return SequenceVAE(
        config.model,
        len(config.sequence.transformations),
        config.backend,
        config.precision,
        config.loss.pde,
        recognized_frames=None if config.supervision.mode == "supervised" else config.sequence.num_steps + 1,
    )


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one acts as it always does.

    One that is ignored stays so: a shell has background commands ignore SIGINT. Threads other than the main one cannot
    handle signals.
    """
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handlers: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM) if main}
    handlers = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def remember(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, handlers[number])

    for number in handlers:
        signal.signal(number, remember)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Trainer:
    """Trains a SequenceVAE in a run folder.

    A run is a function of its configuration: batches depend on (seed, iteration), the posterior's noise on torch's
    generator, whose state is in every checkpoint. On the CPU a resumed run is bit-identical to an uninterrupted one.
    """

    def __init__(self, config: TrainConfig) -> None:
        """Check everything that can be checked, then make or open the run folder; nothing is written on an error."""
        check_backend(config.backend)
        device = resolve_device(config.device)
        if config.tensorboard:
            require_tensorboard()
        saved = load_config(config.out) if config.resume else None
        if saved is None:
            check_new_run(config.out)
        name = saved.data if saved and config.data == "auto" else resolve_name(config.data, config.data_dir)
        config = dataclasses.replace(config, data=name, device=str(device))
        if saved and (changed := differences(saved, config)):
            listed = "; ".join(f"{name}: saved {old!r}, now {new!r}" for name, (old, new) in changed.items())
            raise CheckpointError(f"{config.out} is of another configuration: {listed}")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.device = config, device
        self.images = without_classes(load_images(config.data, "train", config.data_dir), config.held_out_classes)
        self.data = TransformedImages(self.images.images, config.sequence, device)
        torch.manual_seed(config.seed)
        self.model = build_model(config).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.optimizer.learning_rate, fused=True)
        self.iteration, self.seconds = 0, 0.0
        self.pending: dict[str, float] = {}
        self.pending_count = 0
        if saved and checkpoint_folders(config.out):
            self.restore(latest_checkpoint(config.out))
        elif saved:
            logger.warning("%s holds no checkpoint: starting at iteration 0", config.out)
        else:
            create_run(config)
        self.saved_iteration = self.iteration if checkpoint_folders(config.out) else -1

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        checkpoint = load_checkpoint(folder, self.device)
        if checkpoint.iteration > self.config.iterations:
            raise ArgumentError(
                "iterations", self.config.iterations, f"at least the {checkpoint.iteration} already done"
            )
        load_weights(self.model, checkpoint, folder)
        state = checkpoint.state
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
            self.iteration, self.seconds = checkpoint.iteration, state["seconds"]
            self.pending, self.pending_count = state["pending"], state["pending_count"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder / STATE_FILE} is of another configuration or version: {error!r}") from error

    def save(self) -> None:
        """Write a checkpoint of this iteration, unless there is one."""
        if self.saved_iteration == self.iteration:
            return
        cuda_rng = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        state = {
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda_rng,
            "seconds": self.seconds,
            "pending": self.pending,
            "pending_count": self.pending_count,
        }
        checkpoint = Checkpoint(self.iteration, self.model.state_dict(), state)
        save_checkpoint(self.config.out, checkpoint, self.config.keep_checkpoints)
        self.saved_iteration = self.iteration

    def step(self) -> dict[str, float]:
        """One iteration; returns the weighted loss terms. Raises TrainingDiverged before a bad step is taken."""
        config, number = self.config, self.iteration + 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, number, config.iterations)
        batch = self.data.training_batch(config.seed, number, config.batch_size, config.mixed_batches)
        choice, index_terms = supervise(self.model, batch, config, number)
        losses = sequence_losses(self.model, batch, config.loss, None, choice)
        terms = {**losses.terms(config.loss), **index_terms}
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        names = [*terms, "loss", "gradient_norm"]
        values = torch.stack([*(term.detach() for term in terms.values()), loss.detach(), norm]).tolist()
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                kept = str(latest_checkpoint(config.out)) if checkpoint_folders(config.out) else "none"
                raise TrainingDiverged(name, value, number, kept)
        self.optimizer.step()
        self.model.project_()
        self.iteration = number
        return dict(zip(names, values, strict=True))

    def run(self) -> bool:
        """Train to the configured number of iterations; returns whether they are done (False after a signal)."""
        config = self.config
        if self.iteration == config.iterations and self.saved_iteration == self.iteration:
            logger.info("%s is finished: %d iterations", config.out, self.iteration)
            if not (config.out / SUMMARY_FILE).exists():  # a kill came between the last checkpoint and it
                self.write_summary()
            return True
        with stop_on_signals() as signals, exclusive(config.out):
            if config.resume:
                update_config(config)
            self.save()
            self.train(signals)
            self.write_summary()
        return self.iteration == config.iterations

    def train(self, signals: list[int]) -> None:
        """Train until the last iteration or a signal, and save."""
        config = self.config
        metrics = MetricsLog(config.out, self.iteration, config.log_every)
        try:
            with TrainingProgress(config, self.iteration) as progress:
                while self.iteration < config.iterations and not signals:
                    start = time.perf_counter()
                    terms = self.step()
                    self.seconds += time.perf_counter() - start
                    self.accumulate(terms, metrics, progress)
                    if self.iteration % config.checkpoint_every == 0:
                        metrics.sync()
                        self.save()
                metrics.sync()
                self.save()
                if signals:
                    name = signal.Signals(signals[0]).name
                    logger.warning("%s: saved at iteration %d; continue with --resume", name, self.iteration)
        finally:
            metrics.close()

    def accumulate(self, terms: dict[str, float], metrics: MetricsLog, progress: TrainingProgress) -> None:
        """Add the terms of one iteration to the running means, and write them out at the end of each interval."""
        self.pending = {name: self.pending.get(name, 0.0) + value for name, value in terms.items()}
        self.pending_count += 1
        progress.advance(self.iteration, terms)
        if self.iteration % self.config.log_every and self.iteration != self.config.iterations:
            return
        record: dict[str, Any] = {"iteration": self.iteration}
        record |= {name: value / self.pending_count for name, value in self.pending.items()}
        record["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        record["diffusivity"] = self.model.prior.diffusivity.detach().tolist()
        metrics.append(record)
        progress.report(record)
        if self.iteration % self.config.log_every == 0:  # a longer run completes the interval of a last line
            self.pending, self.pending_count = {}, 0

    def write_summary(self) -> None:
        """Write what is not a function of the configuration: time, versions, machine."""
        summary = {
            "iteration": self.iteration,
            "seconds": round(self.seconds, 2),
            "iterations_per_second": round(self.iteration / self.seconds, 3) if self.seconds else None,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "data": self.config.data,
            "data_source": self.images.source,
            "backend": resolve_backend(self.config.backend, self.device, fused=True),
            "precision": self.config.precision,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "versions": {"ffrl": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        write_json(self.config.out / SUMMARY_FILE, summary)


def load_model(run: Path, *, device: str = "auto", backend: str | None = None) -> tuple[SequenceVAE, TrainConfig, int]:
    """Model in evaluation mode, configuration and iteration of the newest checkpoint of a run folder."""
    config = load_config(run)
    backend = config.backend if backend is None else backend
    check_backend(backend)
    config = dataclasses.replace(config, out=run, backend=backend)
    target = resolve_device(device)
    folder = latest_checkpoint(run)
    checkpoint = load_checkpoint(folder)
    model = build_model(config)
    load_weights(model, checkpoint, folder)
    return model.to(target).eval(), config, checkpoint.iteration
