"""Metrics of a trained model, per sample; their definitions are in docs/notation.md.

Images are in [0, 1]; an L1 distance is summed over channels and pixels; likelihoods are in nats per image under
N(x | decode(z), I), whatever likelihood the model was trained with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ffrl.errors import ArgumentError


def check_sequences(name: str, given: Tensor, like: Tensor) -> None:
    if given.shape != like.shape:
        raise ArgumentError(f"{name}.shape", tuple(given.shape), f"the shape of x, {tuple(like.shape)}")


def frame_errors(x: Tensor, prediction: Tensor) -> Tensor:
    """|x_t - prediction_t|_1 of every frame, (B, T+1), of sequences (B, T+1, C, I, I)."""
    check_sequences("prediction", prediction, x)
    return (x - prediction).abs().flatten(2).sum(-1)


def equivariance_error(x: Tensor, prediction: Tensor) -> Tensor:
    """E = Σ_{t=1..T} |x_t - prediction_t|_1, (B,); frame 0 does not count (FFRL, section 4.1)."""
    return frame_errors(x, prediction)[:, 1:].sum(1)


def copy_baseline(x: Tensor) -> Tensor:
    """The error of answering x_0 at every t, (B,)."""
    return equivariance_error(x, x[:, :1].expand_as(x))


def zero_baseline(x: Tensor) -> Tensor:
    """The error of answering a black image at every t, (B,)."""
    return equivariance_error(x, torch.zeros_like(x))


def latent_equivariance_error(z: Tensor, encoded: Tensor) -> Tensor:
    """Σ_{t=1..T} |encode(x_t) - z_t|_1, (B,), of states (B, T+1, D)."""
    check_sequences("encoded", encoded, z)
    return (encoded - z)[:, 1:].abs().sum((1, 2))


def unit_gaussian_log_prob(x: Tensor, mean: Tensor) -> Tensor:
    """log N(x | mean, I) of every frame, (B, T+1), of sequences (B, T+1, C, I, I)."""
    check_sequences("mean", mean, x)
    squared = (x - mean).square().flatten(2)
    return -0.5 * (squared.sum(-1) + squared.shape[-1] * math.log(2 * math.pi))


def log_prob_ceiling(channels: int, image_size: int) -> float:
    """-½ log(2π)·C·I·I: what N(x | decode(z), I) reaches when every pixel is right; no honest number exceeds it."""
    return -0.5 * math.log(2 * math.pi) * channels * image_size * image_size


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log (1/n Σ_s w_s) over the first axis of log w = log p(x|z) + log p(z) - log q(z), (n, ...) -> (...).

    With n = 1 it is the one-sample ELBO; it grows to log p(x) with n (Burda et al. 2016).
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(log_weights.shape[0])
