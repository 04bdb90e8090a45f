"""Iterations of training with each backend of the op."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from bench.cases import Case, Flops
from bench.gpu.benchmark import BOTH, TINY, Benchmark, Contender, Prepared, Results, backend_contenders
from bench.gpu.precision import float32_convolutions
from bench.training_iteration import Iteration, Problem, build_model, make_problem
from ffrl.config import TrainConfig
from ffrl.losses import sequence_losses
from ffrl.models import SequenceVAE
from ffrl.ops.backends import resolve_backend
from ffrl.presets import preset_config
from ffrl.records import SequenceBatch

PRESET_OF = {"training-paper": "paper", "training-small": "small", TINY: "tiny"}


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
        return make_problem(preset_config(PRESET_OF[case]), device)

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
