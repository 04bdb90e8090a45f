"""One step of training, from the terms of the loss to the new parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ffrl.config import OptimizerConfig
from ffrl.ledger import LossLedger
from ffrl.models import Autoencoder


def learning_rate(config: OptimizerConfig, iteration: int, iterations: int) -> float:
    """Rate of the given iteration (1-based)."""
    rate = config.learning_rate * min(1.0, iteration / max(1, config.warmup))
    if config.schedule == "constant" or iteration <= config.warmup:
        return rate
    progress = (iteration - config.warmup) / max(1, iterations - config.warmup)
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def gradient_norm(model: torch.nn.Module) -> Tensor:
    """Of all gradients as they are now, a scalar."""
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def take_step(
    model: Autoencoder,
    optimizer: torch.optim.Adam,
    terms: dict[str, Tensor],
    ledger: LossLedger,
    iteration: int,
    *,
    stopping: bool = False,
) -> None:
    """Go down the gradient of the sum of the terms, and enter them, the sum and the norm of the gradient.

    Does not wait for the device. A step for which one of these is not finite is not taken.

    Args:
        model: its parameters are those of the optimizer.
        optimizer: fused.
        terms: scalars by name.
        ledger: where the values are entered.
        iteration: 1-based.
        stopping: whether this process was asked to stop.
    """
    loss = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    values = {**terms, "loss": loss, "gradient_norm": gradient_norm(model)}
    # As GradScaler does it: the fused step leaves everything as it is where this is 1.
    optimizer.found_inf = ledger.add(iteration, values, stopping=stopping)  # type: ignore[attr-defined]
    optimizer.step()
    model.project_()
