"""What ``bench.bench_train_step`` compares: iterations of these configurations, by these contenders."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from bench.contenders import TOLERANCE, ParityError
from bench.frame_vae import FrameVAE, decoding_terms, vae_terms
from bench.gpu.precision import float32_convolutions
from bench.plain_training import plain_terms, surrogate_terms
from bench.training_iteration import Iteration, Objective, Problem, build_model, make_problem, sequence_terms
from ffrl.baseline_config import Method
from ffrl.config import ComputeConfig, SupervisionConfig, TrainConfig
from ffrl.devices import prepare_for_speed
from ffrl.presets import preset_config

FFRL, PLAIN, SURROGATE, SUPERVISED, VAE, DECODING = "ffrl", "plain", "surrogate", "supervised", "vae", "decoding"
BFLOAT16 = "bfloat16"  # ours with --compute.vae-precision bfloat16
# What FFRL is compared with in table 1. Of a VAE and a beta-VAE an iteration costs the same.
METHODS: tuple[Method, ...] = ("poflow", "tvae", "factor-vae", "slow-vae", "beta-vae")
OBJECTIVES: dict[str, Objective] = {
    FFRL: sequence_terms,
    BFLOAT16: sequence_terms,
    PLAIN: plain_terms,
    SURROGATE: surrogate_terms,
    SUPERVISED: sequence_terms,
    VAE: vae_terms,
    DECODING: decoding_terms,
    **dict.fromkeys(METHODS, sequence_terms),
}


class Parity(NamedTuple):
    """How near to ours a contender's terms must be, relatively, and which of them may differ."""

    tolerance: float = TOLERANCE
    excepted: frozenset[str] = frozenset()


# Of the contenders that compute our loss.
COMPARED = {PLAIN: Parity(), SURROGATE: Parity(excepted=frozenset({"kl_t"})), BFLOAT16: Parity(tolerance=2e-2)}
PARITY_SEQUENCES = 8


class TrainCase(NamedTuple):
    """A configuration, who is compared at it, and the kinds of devices that it is measured on by default."""

    name: str
    config: TrainConfig
    contenders: tuple[str, ...] = (FFRL, BFLOAT16, PLAIN, SURROGATE, VAE, DECODING)
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def shape(self) -> str:
        """Sequences x frames, latent size and width of the potentials."""
        sequence, model = self.config.sequence, self.config.model
        return (
            f"{self.config.batch_size} x {sequence.num_steps + 1}, {model.latent_dim} x {model.potential_widths[0]}, "
            f"{'mixed' if self.config.mixed_batches else 'one k'}"
        )


def weak(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, supervision=SupervisionConfig(mode="weak"))


def supervised(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, supervision=SupervisionConfig())


SMALL, PAPER = preset_config("small"), preset_config("paper")
TINY = TrainCase("tiny", preset_config("tiny"))  # to try the command
CASES = (
    TrainCase("small", SMALL),
    TrainCase("small-methods", SMALL, (FFRL, *METHODS)),
    TrainCase("small-weak", weak(SMALL), (FFRL, BFLOAT16, SUPERVISED, VAE, DECODING)),
    TrainCase("paper-b8", dataclasses.replace(PAPER, batch_size=8), devices=("cpu",)),
    TrainCase("paper-b8-mixed", dataclasses.replace(PAPER, batch_size=8, mixed_batches=True), devices=("cpu",)),
    TrainCase("paper", PAPER, devices=("cuda",)),
)
CASE_OF = {case.name: case for case in (*CASES, TINY)}


def iteration(name: str, problem: Problem, backend: str) -> Iteration:
    """The iteration of a contender, its model on the device of the problem with the weights that all have."""
    config = supervised(problem.config) if name == SUPERVISED else problem.config
    if name in METHODS:
        config = dataclasses.replace(config, method=name)
    model: Any = build_model(config, backend).to(problem.data.device)
    prepare_for_speed(model, compute_of(name), problem.data.device)
    if name in (VAE, DECODING):
        model = FrameVAE(model)
    return Iteration(problem._replace(config=config), model, OBJECTIVES[name])


def compute_of(name: str) -> ComputeConfig:
    """How a contender uses the machine: all as the trainer does, but for the precision of encoder and decoder."""
    return ComputeConfig(vae_precision="bfloat16" if name == BFLOAT16 else "float32")


def problem_of(case: TrainCase, device: torch.device) -> Problem:
    return make_problem(case.config, device, PARITY_SEQUENCES)


def check_parity(problem: Problem, names: list[str], backend: str) -> None:
    """Raise ParityError unless the terms of all that compute the same loss agree with ours, given the same noise."""
    compared = [name for name in names if name in COMPARED and problem.config.supervision.mode == "supervised"]
    if not compared:
        return

    def terms_of(name: str) -> dict[str, float]:
        model = build_model(problem.config, backend).to(problem.data.device)
        prepare_for_speed(model, compute_of(name), problem.data.device)
        terms = OBJECTIVES[name](model, problem.batch, problem.config, 1, problem.noise)
        return {term: float(value.detach()) for term, value in terms.items()}

    with float32_convolutions():
        ours, *others = map(terms_of, (FFRL, *compared))
    for name, terms in zip(compared, others, strict=True):
        tolerance, excepted = COMPARED[name]
        for term in ours.keys() - excepted:
            given, wanted = terms[term], ours[term]
            error = abs(given - wanted) / max(abs(wanted), 1e-6)
            if not error < tolerance:
                raise ParityError(f"{name}: {term} is {given:.6g} and not {wanted:.6g} as ours, off by {error:.1e}")
