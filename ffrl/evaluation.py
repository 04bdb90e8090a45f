"""Evaluation of a trained model on a whole test set: one pass per transformation, means of per-sample values."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ffrl.config import EvaluationConfig
from ffrl.data import SequenceData
from ffrl.losses import log_p_sequence, log_q_sequence
from ffrl.metrics import (
    copy_baseline,
    equivariance_error,
    frame_errors,
    importance_weighted_bound,
    latent_equivariance_error,
    log_prob_ceiling,
    unit_gaussian_log_prob,
    zero_baseline,
)
from ffrl.models import SequenceVAE
from ffrl.models.flow import log_det_trace
from ffrl.supervision import recognized


@torch.no_grad()
def sequence_errors(model: SequenceVAE, x: Tensor, k: Tensor) -> dict[str, Tensor]:
    """Per-sample errors of sequences x (B, T+1, C, I, I) of transformation k (B,), from the posterior mean of x_0."""
    batch, frames = x.shape[:2]
    encoded = model.encoder(x.flatten(0, 1))[0].unflatten(0, (batch, frames))  # (B, T+1, D)
    trajectory = model.trajectory(encoded[:, 0], k, frames - 1)
    z = trajectory.z
    decoded = torch.sigmoid(model.decode_sequence(z))
    autoencoded = torch.sigmoid(model.decode_sequence(encoded))
    if model.transformation is None:
        along_recognized = {}
    else:
        found = model.flow.roll(encoded[:, 0], recognized(model, x), frames - 1).z
        prediction = torch.sigmoid(model.decode_sequence(found))
        along_recognized = {"recognized_equivariance_error": equivariance_error(x, prediction)}
    return {
        **along_recognized,
        "equivariance_error": equivariance_error(x, decoded),
        "copy": copy_baseline(x),
        "zero": zero_baseline(x),
        "autoencoding": equivariance_error(x, autoencoded),
        "reconstruction_0": frame_errors(x, decoded)[:, 0],
        "latent_equivariance_error": latent_equivariance_error(z, encoded),
        "error_per_step": frame_errors(x, decoded)[:, 1:],  # (B, T)
        "copy_per_step": frame_errors(x, x[:, :1].expand_as(x))[:, 1:],
        "hj_residual": model.pde_residual(trajectory, k).square().mean(1),
        "initial_condition": model.initial_velocity(z[:, 0], k).square().sum(-1),
    }


@torch.no_grad()
def sequence_likelihoods(
    model: SequenceVAE, x: Tensor, k: Tensor, config: EvaluationConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Per-sample likelihoods in nats per image, means over the T+1 frames, with posterior samples of z_0.

    The ELBO and the importance-weighted bound are bounds only if the flow is one-to-one; ``folding_steps`` is the share
    of the steps from the posterior mean at which it cannot be (see ``LatentFlow.smallest_stretch``).
    """
    num_steps = x.shape[1] - 1
    mu, log_var = model.encoder(x[:, 0])
    log_likelihoods, log_weights = [], []
    # One draw per image, so that an image's noise does not depend on the batch it is in.
    shape = (config.importance_samples, mu.shape[1])
    draws = [torch.randn(shape, generator=generator, dtype=mu.dtype) for _ in range(mu.shape[0])]
    for noise in torch.stack(draws, dim=1).to(mu.device):  # (B, D)
        z0 = mu + torch.exp(0.5 * log_var) * noise
        if config.log_det == "exact":
            z = model.flow.roll(z0, k, num_steps).z
            log_det = model.flow.log_det_exact(z, k)
        else:
            trajectory = model.flow(z0, k, num_steps)
            assert trajectory.lap_u is not None
            z, log_det = trajectory.z, log_det_trace(trajectory.lap_u, config.log_det_floor)
        log_q = log_q_sequence(z0, mu, log_var, log_det)
        log_likelihood = unit_gaussian_log_prob(x, torch.sigmoid(model.decode_sequence(z)))
        log_likelihoods.append(log_likelihood)
        log_weights.append(log_likelihood + log_p_sequence(model, z, k) - log_q)
    weights = torch.stack(log_weights)  # (n, B, T+1)
    mean_path = model.flow.roll(mu, k, num_steps).z
    return {
        "folding_steps": (model.flow.smallest_stretch(mean_path, k) <= 0).to(mu.dtype).mean(1),
        "log_likelihood": torch.stack(log_likelihoods).mean(0).mean(1),
        "elbo": weights.mean(0).mean(1),
        "importance_weighted_bound": importance_weighted_bound(weights).mean(1),
    }


def evaluate_model(model: SequenceVAE, data: SequenceData, config: EvaluationConfig) -> dict[str, Any]:
    """Evaluate every transformation on its own: mean and standard error over images, never a running mean over k.

    Returns:
        {"transformations": {name: {metric: value, metric + "_standard_error": value}}, "log_prob_ceiling": ..., ...}.
        "is_bound" says of each transformation whether its ELBO and importance-weighted bound may be called bounds:
        the log-determinant is exact and no step that was looked at folds.
    """
    model.eval()
    device = next(model.parameters()).device
    num_images = min(len(data), config.num_images or len(data))
    likelihood_images = min(num_images, config.likelihood_images)
    results: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(data.config.transformations):
        values: dict[str, list[Tensor]] = defaultdict(list)
        generator = torch.Generator().manual_seed(config.seed)
        for first in range(0, num_images, config.batch_size):
            indices = torch.arange(first, min(first + config.batch_size, num_images), device=device)
            batch = data.sequence(indices, number)
            for metric, value in sequence_errors(model, batch.x, batch.k).items():
                values[metric].append(value)
            inside = max(0, min(likelihood_images - first, len(indices)))
            if inside:
                likelihoods = sequence_likelihoods(model, batch.x[:inside], batch.k[:inside], config, generator)
                for metric, value in likelihoods.items():
                    values[metric].append(value)
        results[name] = summarize(values)
        results[name]["is_bound"] = config.log_det == "exact" and results[name]["folding_steps"] == 0
    return {
        "transformations": results,
        "log_prob_ceiling": log_prob_ceiling(model.config.image_channels, model.config.image_size),
        "num_images": num_images,
        "likelihood_images": likelihood_images,
        "importance_samples": config.importance_samples,
        "log_det": config.log_det,
        "num_steps": data.config.num_steps,
        "diffusivity": model.prior.diffusivity.detach().tolist(),
    }


def mean_values(values: dict[str, list[Tensor]]) -> dict[str, Any]:
    """Mean and standard error of per-sample values; a value per step becomes a list."""
    summary: dict[str, Any] = {}
    for metric, parts in values.items():
        rows = torch.cat(parts).double()
        summary[metric] = rows.mean(0).tolist()
        if rows.dim() == 1:
            summary[f"{metric}_standard_error"] = (rows.std(unbiased=rows.shape[0] > 1) / rows.shape[0] ** 0.5).item()
    return summary


def summarize(values: dict[str, list[Tensor]]) -> dict[str, Any]:
    """``mean_values``, and the ratio of the equivariance error to the copy baseline."""
    summary = mean_values(values)
    copy = summary["copy"]  # zero where the transformation does nothing
    summary["equivariance_over_copy"] = summary["equivariance_error"] / copy if copy else None
    return summary
