"""The one training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
import platform
import signal
import time
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
from ffrl.checkpoint_writer import CheckpointWriter, snapshot
from ffrl.config import TrainConfig
from ffrl.data import FactorSequences, has_validation, load_sequences, resolve_name
from ffrl.data.batch_source import BatchSource, Share
from ffrl.devices import lay_out_like_parameters, prepare_for_speed, resolve_device, training_device
from ffrl.distributed import lost_ranks_reported, num_ranks, rank, requested_ranks, together
from ffrl.errors import ArgumentError, CheckpointError
from ffrl.ledger import LossLedger
from ffrl.models import Autoencoder, build_model
from ffrl.models.baselines import WithoutOperator
from ffrl.objective import TrainingObjective
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
from ffrl.saved_config import differences
from ffrl.signals import stop_on_signals
from ffrl.split_file import SPLIT_FILE, check_split, save_split
from ffrl.training_step import learning_rate, take_step

logger = logging.getLogger(__name__)

SIGNAL_GRACE_SECONDS = 5.0  # of several processes


def chosen_backend(model: Autoencoder, backend: str, device: torch.device) -> str | None:
    """The backend of the potential op that a model takes, None of one without potentials."""
    return resolve_backend(backend, device, fused=True) if hasattr(model, "flow") else None


def in_parallel(objective: TrainingObjective, device: torch.device) -> torch.nn.Module:
    """The objective, its gradients averaged over all processes where there are several."""
    if num_ranks() == 1:
        return objective
    ddp = torch.nn.parallel.DistributedDataParallel
    known = inspect.signature(ddp).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed in 2.13
    options = {
        buffers: False,
        "gradient_as_bucket_view": True,
        # Nested autograd gives the last bias of u no gradient; to look for such parameters, one waits for the device.
        "find_unused_parameters": chosen_backend(objective.model, objective.config.backend, device) == "oracle",
    }
    return ddp(objective, [device.index] if device.type == "cuda" else None, **options)  # type: ignore[arg-type]


class Trainer:
    """Trains the model of a method in a run folder.

    A run is a function of its configuration: batches depend on (seed, iteration), the posterior's noise on torch's
    generator, whose state is in every checkpoint. On the CPU a resumed run is bit-identical to an uninterrupted one.

    Several processes, started by torchrun and joined (``ffrl.distributed.joined``), train one model on joint batches
    of batch_size sequences from each; the first of them writes.
    """

    def __init__(self, config: TrainConfig) -> None:
        """Check everything that can be checked, then make or open the run folder; nothing is written on an error."""
        if requested_ranks() != num_ranks():
            raise ArgumentError("WORLD_SIZE", requested_ranks(), "1, or a Trainer within ffrl.distributed.joined")
        config = together(lambda: self.checked(config))
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.device = config, resolve_device(config.device)
        self.images, self.data = together(lambda: load_sequences(config, "train", self.device))
        torch.manual_seed(config.seed)
        self.model = build_model(config).to(self.device)
        if isinstance(self.model, WithoutOperator) and not has_validation(config):
            logger.warning(
                "validation_images = 0: method %r has no operator in the latent space and chooses on validation images "
                "which dimension to move; without them it is scored on codes that stay where they are",
                config.method,
            )
        prepare_for_speed(self.model, config.compute, self.device)
        self.optimizer = torch.optim.Adam(self.model.parameter_groups(), lr=config.optimizer.learning_rate, fused=True)
        self.source = BatchSource(self.data, config, Share(rank(), num_ranks()))
        self.objective = TrainingObjective(self.model, config)
        self.terms = in_parallel(self.objective, self.device)
        self.ledger = LossLedger(self.device)
        self.writer = CheckpointWriter() if config.compute.async_checkpoints else None
        self.iteration, self.seconds = 0, 0.0
        self.signals: list[int] = []
        self.stop_agreed = False
        together(self.open_run)
        self.saved_iteration = self.iteration if checkpoint_folders(config.out) else -1

    @staticmethod
    def checked(config: TrainConfig) -> TrainConfig:
        """The configuration with its data and device named; raises what can be wrong with it."""
        check_backend(config.backend)
        device = training_device(config.device)
        if config.tensorboard:
            require_tensorboard()
        saved = load_config(config.out) if config.resume else None
        if saved is None and rank() == 0:
            check_new_run(config.out)
        name = saved.data if saved and config.data == "auto" else resolve_name(config.data, config.data_dir)
        config = dataclasses.replace(config, data=name, device=str(device) if num_ranks() == 1 else device.type)
        if saved and (changed := differences(saved, config)):
            listed = "; ".join(f"{name}: saved {old!r}, now {new!r}" for name, (old, new) in changed.items())
            raise CheckpointError(f"{config.out} is of another configuration: {listed}")
        how = config.supervision
        if how.mode != "supervised" and how.index_loss == "prior" and not config.mixed_batches:
            logger.warning(
                "supervision.mode = %r in batches of one transformation: nothing keeps one potential from taking over "
                "all sequences; mixed batches balance them",
                how.mode,
            )
        return config

    def open_run(self) -> None:
        """Make the run folder, or continue from its newest checkpoint."""
        if not self.config.resume:
            if rank() == 0:
                create_run(self.config)
                if isinstance(self.data, FactorSequences):
                    save_split(self.config.out, self.data.split)
            return
        started = bool(checkpoint_folders(self.config.out))
        if isinstance(self.data, FactorSequences):
            if started or (self.config.out / SPLIT_FILE).exists():
                check_split(self.config.out, self.data.split)
            elif rank() == 0:  # stopped between the two files of ``create_run`` and ``save_split``
                save_split(self.config.out, self.data.split)
        if started:
            self.restore(latest_checkpoint(self.config.out))
        else:
            logger.warning("%s holds no checkpoint: starting at iteration 0", self.config.out)

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        checkpoint = load_checkpoint(folder, self.device)
        if checkpoint.iteration > self.config.iterations:
            raise ArgumentError(
                "iterations", self.config.iterations, f"at least the {checkpoint.iteration} already done"
            )
        load_weights(self.model, checkpoint, folder)
        state = checkpoint.state
        ranks = state.get("num_ranks", 1)  # version 0.1.0 knew no other number
        if ranks != num_ranks():
            start = f"start it with torchrun --nproc-per-node={ranks}" if ranks > 1 else "start it without torchrun"
            raise CheckpointError(
                f"{folder} is of {ranks} processes, whose batches were one; now there are {num_ranks()}: {start}"
            )
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
            self.iteration, self.seconds = checkpoint.iteration, state["seconds"]
            self.ledger.restore(state["pending"], state["pending_count"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder / STATE_FILE} is of another configuration or version: {error!r}") from error
        lay_out_like_parameters(self.optimizer)
        if rank() == 0 and self.iteration < self.config.iterations:
            logger.info("%s continues at iteration %d", self.config.out, self.iteration)

    def save(self) -> None:
        """Write a checkpoint of this iteration, unless there is one."""
        if self.saved_iteration == self.iteration:
            return
        if rank() == 0:
            self.write_checkpoint()
        self.saved_iteration = self.iteration

    def write_checkpoint(self) -> None:
        """Write one now, or begin to; raises what the write before has raised."""
        cuda_rng = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        state = {
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda_rng,
            "seconds": self.seconds,
            "pending": self.ledger.sums(),
            "pending_count": self.ledger.count,
            "num_ranks": num_ranks(),
        }
        checkpoint = Checkpoint(self.iteration, self.model.state_dict(), state)
        if self.writer is None:
            save_checkpoint(self.config.out, checkpoint, self.config.keep_checkpoints)
        else:
            copy = snapshot(checkpoint)
            self.writer.submit(lambda: save_checkpoint(self.config.out, copy, self.config.keep_checkpoints))

    def wait_for_writes(self) -> None:
        """Raises what the last write has raised; its iteration then does not count as saved."""
        if self.writer is None:
            return
        try:
            self.writer.wait()
        except Exception:
            self.saved_iteration = -1
            raise

    def step(self) -> None:
        """One iteration, whose values go into the ledger; a step whose loss or gradient is not finite is not taken."""
        config, number = self.config, self.iteration + 1
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("fixed_rate") or learning_rate(config.optimizer, number, config.iterations)
        batch, frames = self.source.batch(number)
        draws = self.objective.draw(number)
        with lost_ranks_reported(f"in iteration {number}"):
            terms = self.terms(batch.x, batch.k, draws, number, frames)
            take_step(self.model, self.optimizer, terms, self.ledger, number, stopping=bool(self.signals))
        self.iteration = number

    def run(self) -> bool:
        """Train to the configured number of iterations; returns whether they are done (False after a signal)."""
        config = self.config
        if self.iteration == config.iterations and self.saved_iteration == self.iteration:
            logger.info("%s is finished: %d iterations", config.out, self.iteration)
            if rank() == 0 and not (config.out / SUMMARY_FILE).exists():  # a kill came between checkpoint and it
                self.write_summary()
            return True
        self.stop_agreed = False
        grace = SIGNAL_GRACE_SECONDS if num_ranks() > 1 else 0.0
        with stop_on_signals(grace) as self.signals, contextlib.ExitStack() as stack:
            together(lambda: self.take_over(stack))
            if self.writer is not None:
                stack.callback(self.writer.close)
            stack.callback(self.source.close)
            self.source.start(self.iteration + 1)  # before there are threads that write
            together(self.save)
            self.train()
            together(lambda: self.write_summary() if rank() == 0 else None, "at the end")
        return self.iteration == config.iterations

    def take_over(self, stack: contextlib.ExitStack) -> None:
        """Keep other runs out of the folder, and have its configuration be this one."""
        if rank() == 0:
            stack.enter_context(exclusive(self.config.out))
            if self.config.resume:
                update_config(self.config)

    def train(self) -> None:
        """Train until the last iteration or a signal, and save."""
        config, first = self.config, rank() == 0
        with contextlib.ExitStack() as stack:
            metrics, progress = together(lambda: self.open_logs(stack) if first else (None, None))
            while self.iteration < config.iterations and not self.is_stopping():
                start = time.perf_counter()
                self.step()
                if not self.is_due(self.check_every, config.log_every, config.checkpoint_every):
                    self.seconds += time.perf_counter() - start
                    continue
                self.check()
                self.seconds += time.perf_counter() - start
                if progress is not None:
                    progress.advance(self.iteration, self.ledger.last())
                if self.is_due(config.log_every, config.checkpoint_every):
                    together(lambda: self.write_out(metrics, progress), f"in iteration {self.iteration}")
            self.check()  # a signal may have come between two looks
            together(lambda: self.save_last(metrics), f"after iteration {self.iteration}")
            if first and (self.signals or self.stop_agreed):
                name = signal.Signals(self.signals[0]).name if self.signals else "a signal to another process"
                logger.warning("%s: saved at iteration %d; continue with --resume", name, self.iteration)

    def open_logs(self, stack: contextlib.ExitStack) -> tuple[MetricsLog, TrainingProgress]:
        """Both closed with the stack."""
        metrics = MetricsLog(self.config.out, self.iteration, self.config.log_every)
        stack.callback(metrics.close)
        return metrics, stack.enter_context(TrainingProgress(self.config, self.iteration))

    def write_out(self, metrics: MetricsLog | None, progress: TrainingProgress | None) -> None:
        """The line and the checkpoint that are due in this iteration."""
        if self.is_due(self.config.log_every):
            self.report(metrics, progress)
        if self.iteration % self.config.checkpoint_every == 0:
            self.save_after(metrics)

    def save_last(self, metrics: MetricsLog | None) -> None:
        """Save, and return when it is on the disk."""
        self.save_after(metrics)
        self.wait_for_writes()

    @property
    def check_every(self) -> int:
        return self.config.compute.check_every or (1 if self.device.type == "cpu" else self.config.log_every)

    def is_due(self, *every: int) -> bool:
        """Whether this iteration is a multiple of one of these, or the last."""
        return self.iteration == self.config.iterations or any(self.iteration % number == 0 for number in every)

    def is_stopping(self) -> bool:
        """Whether a signal has come; of several processes, to any before the last iteration that was checked."""
        return bool(self.signals) if num_ranks() == 1 else self.stop_agreed

    def check(self) -> None:
        """Raise TrainingDiverged if there was a step that could not be taken."""
        when = f"by iteration {self.iteration}"
        with lost_ranks_reported(when):  # between GPUs, collective operations fail where one waits for the device
            self.stop_agreed = self.ledger.stop_requested()
            diverged = self.ledger.diverged
        if diverged:
            together(self.tell_of_divergence, when)

    def tell_of_divergence(self) -> None:
        """Raise TrainingDiverged with the last checkpoint, once it is written."""
        self.wait_for_writes()
        kept = str(latest_checkpoint(self.config.out)) if checkpoint_folders(self.config.out) else "none"
        self.ledger.check(kept)

    def report(self, metrics: MetricsLog | None, progress: TrainingProgress | None) -> None:
        """Write out the means of an interval at its end."""
        if metrics is not None and progress is not None:
            record: dict[str, Any] = {"iteration": self.iteration, **self.ledger.means()}
            record |= {"learning_rate": self.optimizer.param_groups[0]["lr"], **self.model.logged()}
            metrics.append(record)
            progress.report(record)
        if self.iteration % self.config.log_every == 0:  # a longer run completes the interval of a last line
            self.ledger.clear()

    def save_after(self, metrics: MetricsLog | None) -> None:
        """Save, once the lines that the checkpoint vouches for are on the disk."""
        if metrics is not None:
            metrics.sync()
        self.save()

    def write_summary(self) -> None:
        """Write what is not a function of the configuration: time, versions, machine."""
        summary = {
            "iteration": self.iteration,
            "seconds": round(self.seconds, 2),
            "iterations_per_second": round(self.iteration / self.seconds, 3) if self.seconds else None,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "data": self.config.data,
            "data_source": self.images.source,
            "backend": chosen_backend(self.model, self.config.backend, self.device),
            "precision": self.config.precision,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "processes": num_ranks(),
            "versions": {"ffrl": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        write_json(self.config.out / SUMMARY_FILE, summary)


def load_model(run: Path, *, device: str = "auto", backend: str | None = None) -> tuple[Autoencoder, TrainConfig, int]:
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
