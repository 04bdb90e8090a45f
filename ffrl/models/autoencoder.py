"""Encoder and decoder, and what trainer and evaluator ask of any method that is made of them."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from ffrl.config import ModelConfig
from ffrl.errors import ArgumentError
from ffrl.models.decoder import Decoder
from ffrl.models.encoder import Encoder


class Autoencoder(nn.Module):
    """q(z | x) = N(mu(x), diag exp log_var(x)) of one image and the mean of p(x | z).

    A method adds its loss, and ``carry`` where it has a latent operator of its own.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vae_dtype: torch.dtype | None = None  # of the products outside the potentials; None: that of the weights
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def networks(self) -> list[nn.Module]:
        """What computes in ``vae_dtype`` and may be compiled."""
        return [self.encoder, self.decoder.body]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The region in which encoder, decoder and q(k | x) compute in ``vae_dtype``."""
        if self.vae_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.encoder.mu.weight.device.type, dtype=self.vae_dtype)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (M, D) of q(z | x) of images x (M, C, I, I), in the dtype of x."""
        return self.posterior(self.encoder, x)

    def posterior(self, encoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """``encode`` by an encoder of the method."""
        with self.autocast():
            mu, log_var = encoder(x)
        return mu.to(x.dtype), log_var.to(x.dtype)

    def code(self, x: Tensor) -> Tensor:
        """The noise-free code (M, D) of images x (M, C, I, I) that ``carry`` starts from: the posterior mean."""
        return self.encode(x)[0]

    def decode_sequence(self, z: Tensor) -> Tensor:
        """Logits of all frames (B, T+1, C, I, I) from z (B, T+1, D), in one decoder call and in the dtype of z."""
        with self.autocast():
            logits = self.decoder.logits(z.flatten(0, 1))
        return logits.to(z.dtype).unflatten(0, z.shape[:2])

    def carry(self, z0: Tensor, k: int | Tensor, num_steps: int) -> Tensor:
        """The method's way to move codes z0 (B, D) along transformation k (int or (B,)): z_0..z_T, (B, T+1, D)."""
        raise NotImplementedError

    def flow_errors(self, z: Tensor, k: Tensor) -> dict[str, Tensor]:
        """Per-sample values (B,) that only methods with a flow have, of states z (B, T+1, D) that ``carry`` made."""
        return {}

    def noise_shape(self, num_steps: int) -> tuple[int, ...]:
        """Shape of the standard normal noise that the loss of one sequence of T+1 frames takes."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adam's parameter groups; in a group with "fixed_rate" that is the rate of every iteration."""
        return [{"params": list(self.parameters())}]

    def logged(self) -> dict[str, list[float]]:
        """Values of K parameters each that metrics.jsonl shows beside the terms of the loss."""
        return {}

    def project_(self) -> None:
        """Put constrained parameters back into their range; call after every optimizer step."""

    def check_sequences(self, x: Tensor) -> None:
        """Raise ArgumentError unless x are sequences (B, T+1, C, I, I) with T >= 1 like the model's images."""
        size = (self.config.image_channels, self.config.image_size, self.config.image_size)
        if x.dim() != 5 or x.shape[1] < 2 or tuple(x.shape[2:]) != size:
            raise ArgumentError("x.shape", tuple(x.shape), f"(B, T+1, {', '.join(map(str, size))}) with T >= 1")
        weight = self.encoder.mu.weight
        if x.dtype != weight.dtype:
            raise ArgumentError("x.dtype", x.dtype, f"the dtype of the model, {weight.dtype}")
        if x.device != weight.device:
            raise ArgumentError("x.device", x.device, f"the device of the model, {weight.device}")
