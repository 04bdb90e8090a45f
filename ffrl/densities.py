"""Densities that more than one method is made of, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ffrl.config import LossConfig


def reconstruction_nll(logits: Tensor, x: Tensor, config: LossConfig) -> Tensor:
    """-log p(x | z), (B, T+1), summed over channels and pixels, of frames with these logits of their mean.

    Bernoulli is the cross-entropy with grey values as probabilities, a likelihood proper for binary images only.
    """
    scale = config.noise_scale
    if config.likelihood == "bernoulli":
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return nll.flatten(2).sum(-1)
    error = torch.sigmoid(logits) - x
    pixels = error.shape[2:].numel()
    if config.likelihood == "laplace":
        return error.abs().flatten(2).sum(-1) / scale + pixels * math.log(2 * scale)
    squared = error.square().flatten(2).sum(-1)
    return squared / (2 * scale**2) + 0.5 * pixels * math.log(2 * math.pi * scale**2)


def gaussian_log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; mu, diag exp log_var), summed over the last dimension."""
    return -0.5 * ((z - mu).square() * torch.exp(-log_var) + log_var + math.log(2 * math.pi)).sum(-1)


def gaussian_sample(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """mu + exp(log_var / 2) noise, a draw from N(mu, diag exp log_var) where the noise is standard normal."""
    return mu + torch.exp(0.5 * log_var) * noise


def kl_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, diag exp log_var) || N(0, I)), summed over the last dimension."""
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(-1)
