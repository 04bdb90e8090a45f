"""Small baselines of 8x8 images in float64, and the terms of their loss on a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ffrl.baseline_config import BaselineConfig, Method
from ffrl.config import LossConfig
from ffrl.models.baselines import BASELINES, Baseline
from ffrl.records import SequenceBatch
from tests.models.reference import TINY, random_batch

STEPS = 3


def baseline(method: Method, latent_dim: int = 3, loss: LossConfig | None = None, **settings: Any) -> Any:
    """A model of a method for K = 3 and T = 3."""
    config = dataclasses.replace(TINY, latent_dim=latent_dim)
    found = BASELINES[method](config, 3, STEPS, loss or LossConfig(), BaselineConfig(**settings))
    return found.double()


def batch_and_noise(model: Baseline, batch: int = 4) -> tuple[SequenceBatch, Tensor]:
    noise = torch.randn(batch, *model.noise_shape(STEPS), dtype=torch.float64)
    return random_batch(batch, STEPS), noise


def moved_by(model: Baseline, term: str, found: dict[str, Tensor]) -> set[str]:
    """Names of the parameters that a term's gradient reaches with anything but zeros."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(found[term], parameters, retain_graph=True, allow_unused=True)
    return {name for name, one in zip(names, gradients, strict=True) if one is not None and bool(one.any())}


def of(model: Baseline, *prefixes: str) -> set[str]:
    """Names of the parameters that begin with one of these."""
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
