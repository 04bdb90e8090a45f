"""FLOPs of the parts of an iteration: matrix products and convolutions alone, two a multiply-add."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.cases import Case
from ffrl.config import TrainConfig
from ffrl.models.decoder import Decoder
from ffrl.models.encoder import Encoder


class PartFlops(NamedTuple):
    forward: int
    backward: int


def counted(call: Callable[[], Tensor]) -> PartFlops:
    """By torch's counter; the call is of tensors on the device "meta", which computes nothing."""
    with FlopCounterMode(display=False) as counter:
        value = call()
        forward = counter.get_total_flops()
        value.sum().backward()
    return PartFlops(forward, counter.get_total_flops() - forward)


def network_flops(config: TrainConfig) -> dict[str, PartFlops]:
    """Encoder of the first frames, and decoder of all."""
    model, frames = config.model, config.batch_size * (config.sequence.num_steps + 1)
    with torch.device("meta"):
        encoder: nn.Module = Encoder(model)
        decoder = Decoder(model)
        x = torch.empty(config.batch_size, model.image_channels, model.image_size, model.image_size)
        z = torch.empty(frames, model.latent_dim, requires_grad=True)
    return {
        "encoder": counted(lambda: torch.cat(encoder(x), dim=1)),
        "decoder + reconstruction": counted(lambda: decoder.logits(z)),
    }


def part_flops(config: TrainConfig) -> dict[str, PartFlops]:
    """Of every part in which there are products; a potential's by bench/cases.py, without the time features.

    That is the limit for the operation: nothing of the first layers is kept from the rollout for the derivatives, and
    the Laplacian takes the cheaper exact form. u and ∇u of a row cost 4·H·(H + D) forward and twice that backward, the
    force half of it.
    """
    latent_dim, hidden = config.model.latent_dim, config.model.potential_widths[0]
    rows = config.batch_size * config.sequence.num_steps
    velocity = 4 * hidden * (hidden + latent_dim)
    case = Case("training", rows, latent_dim, hidden)
    forward, both = case.flops(backward=False).whole, case.flops(backward=True).whole
    return {
        **network_flops(config),
        "rollout": PartFlops(rows * velocity, 2 * rows * velocity),
        "derivatives": PartFlops(forward, both - forward),
        "force": PartFlops(rows * velocity // 2, rows * velocity),
        "initial velocity": PartFlops(config.batch_size * velocity, 2 * config.batch_size * velocity),
    }
