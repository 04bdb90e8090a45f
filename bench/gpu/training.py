"""One iteration of training on synthetic images, as ``ffrl.trainer`` does it, which imports more than PyTorch."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from bench.cases import Case, Flops
from bench.contenders import PARITY_ROWS
from bench.gpu.benchmark import BOTH, TINY, Benchmark, Contender, Prepared, Results, backend_contenders
from bench.gpu.precision import float32_convolutions
from ffrl.config import TrainConfig
from ffrl.data import TransformedImages
from ffrl.losses import sequence_losses
from ffrl.models import SequenceVAE
from ffrl.ops.backends import resolve_backend
from ffrl.presets import preset_config
from ffrl.records import SequenceBatch

PRESET_OF = {"training-paper": "paper", "training-small": "small", TINY: "tiny"}
NUM_IMAGES = 512


class Problem(NamedTuple):
    config: TrainConfig
    data: TransformedImages
    batch: SequenceBatch  # of PARITY_ROWS sequences, that results are compared on
    noise: Tensor  # (PARITY_ROWS, D)


def build_model(config: TrainConfig, backend: str) -> SequenceVAE:
    """Always with the same weights."""
    torch.manual_seed(config.seed)
    return SequenceVAE(config.model, len(config.sequence.transformations), backend=backend)


def losses_and_gradients(model: SequenceVAE, batch: SequenceBatch, config: TrainConfig, noise: Tensor) -> Results:
    """The terms of the loss, and the gradients in the potentials of those that have derivatives of them.

    The others go through the decoder, in which a rounding error on the other side of a ReLU's kink is larger than any
    tolerance here, whatever computes the op.
    """
    terms = sequence_losses(model, batch, config.loss, noise).terms(config.loss)
    parameters = dict(model.potential.named_parameters())
    gradients = torch.autograd.grad(
        terms["kl_t"] + terms["hj"],
        [*parameters.values()],
        allow_unused=True,  # the oracle sees that nothing depends on bias3 without an output activation
        materialize_grads=True,
    )
    return {**terms, **{f"v_{name}": v for name, v in zip(parameters, gradients, strict=True)}}


class Iteration:
    """One step of the trainer: batch, loss, gradients, their norm, the check on the host, Adam, projection."""

    def __init__(self, problem: Problem, model: SequenceVAE) -> None:
        self.problem, self.model, self.number = problem, model, 0
        rate = problem.config.optimizer.learning_rate
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)

    def __call__(self) -> list[float]:
        config = self.problem.config
        self.number += 1
        batch = self.problem.data.training_batch(config.seed, self.number, config.batch_size, config.mixed_batches)
        terms = sequence_losses(self.model, batch, config.loss).terms(config.loss)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        values = torch.stack([*(term.detach() for term in terms.values()), loss.detach(), norm]).tolist()
        self.optimizer.step()
        self.model.project_()
        return values


class TrainingBenchmark(Benchmark):
    name = "training"
    case_names = tuple(PRESET_OF)

    def shape(self, case: str) -> str:
        config = preset_config(PRESET_OF[case])
        sizes = (config.model.latent_dim, config.model.potential_widths[0])
        return f"{config.batch_size} x {config.sequence.num_steps} steps x {sizes[0]} x {sizes[1]}"

    def flops(self, case: str, measurement: str) -> Flops:
        """Of the op alone, at every step of every sequence."""
        config = preset_config(PRESET_OF[case])
        rows = config.batch_size * config.sequence.num_steps
        return Case(case, rows, config.model.latent_dim, config.model.potential_widths[0]).flops(backward=True)

    def contenders(self, case: str) -> list[Contender]:
        return backend_contenders(with_precisions=False)

    def problem(self, case: str, device: torch.device) -> Problem:
        config = preset_config(PRESET_OF[case])
        generator = torch.Generator().manual_seed(0)
        size = config.model.image_size
        images = torch.randint(0, 256, (NUM_IMAGES, size, size), dtype=torch.uint8, generator=generator)
        data = TransformedImages(images, config.sequence, device)
        noise = torch.randn(PARITY_ROWS, config.model.latent_dim, generator=generator).to(device)
        return Problem(config, data, data.training_batch(config.seed, 0, PARITY_ROWS, config.mixed_batches), noise)

    def reference(self, problem: Problem) -> Results:
        model = build_model(problem.config, "oracle").to(problem.data.device).double()
        batch = problem.batch._replace(x=problem.batch.x.double())
        return losses_and_gradients(model, batch, problem.config, problem.noise.double())

    def prepare(self, problem: Problem, contender: Contender) -> Prepared:
        device = problem.data.device
        resolve_backend(contender.backend, device, fused=True)  # says why where it cannot be used
        model = build_model(problem.config, contender.backend).to(device)
        initial = copy.deepcopy(model)

        def results() -> list[Results]:
            with float32_convolutions():
                return [losses_and_gradients(initial, problem.batch, problem.config, problem.noise)]

        return Prepared({BOTH: Iteration(problem, model)}, results)
