"""Evaluation of a trained model on a whole test set: one pass per transformation, means of per-sample values."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ffrl.config import EvaluationConfig
from ffrl.data import SequenceData
from ffrl.densities import gaussian_sample
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
from ffrl.models import Autoencoder, SequenceVAE
from ffrl.models.baselines import Baseline
from ffrl.models.flow import log_det_trace
from ffrl.records import SequenceBatch
from ffrl.supervision import recognized


@torch.no_grad()
def sequence_errors(model: Autoencoder, x: Tensor, k: Tensor) -> dict[str, Tensor]:
    """Per-sample errors of sequences x (B, T+1, C, I, I) of transformation k (B,), from the code of x_0 without noise.

    "hj_residual" and "initial_condition" are there only for methods with a flow.
    """
    batch, frames = x.shape[:2]
    encoded = model.code(x.flatten(0, 1)).unflatten(0, (batch, frames))  # (B, T+1, D)
    z = model.carry(encoded[:, 0], k, frames - 1)
    decoded = torch.sigmoid(model.decode_sequence(z))
    autoencoded = torch.sigmoid(model.decode_sequence(encoded))
    along_recognized = {}
    if isinstance(model, SequenceVAE) and model.transformation is not None:
        found = model.carry(encoded[:, 0], recognized(model, x), frames - 1)
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
        **model.flow_errors(z, k),
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
    for noise in draw_noise(x, (mu.shape[1],), config, generator):  # (B, D)
        z0 = gaussian_sample(mu, log_var, noise)
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
    mean_path = model.flow.roll(mu, k, num_steps).z
    folding = (model.flow.smallest_stretch(mean_path, k) <= 0).to(mu.dtype).mean(1)
    return {"folding_steps": folding, **likelihood_means(log_likelihoods, log_weights)}


@torch.no_grad()
def frame_likelihoods(
    model: Baseline, batch: SequenceBatch, config: EvaluationConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Per-sample likelihoods in nats per image, means over the T+1 frames, each frame with a posterior of its own.

    E log p(x_t | z_t), ELBO and importance-weighted bound are then those of a VAE of single images: bounds on
    log p(x_t) in any case, from a code that has seen x_t. FFRL's ``sequence_likelihoods`` are of codes that have seen
    x_0 alone, so that the two kinds do not compare. Where frames share codes, the bounds are 1/(T+1) of those on
    log p(x_0..x_T | k), the weights being of whole sequences.
    """
    x = batch.x
    log_likelihoods, log_weights = [], []
    for noise in draw_noise(x, model.noise_shape(x.shape[1] - 1), config, generator):  # (B, T+1, ..., D)
        z, log_ratio = model.sampled(batch, noise)
        log_likelihoods.append(unit_gaussian_log_prob(x, torch.sigmoid(model.decode_sequence(z))))
        log_weights.append(log_likelihoods[-1] + log_ratio)
    found = likelihood_means(log_likelihoods, log_weights)
    if model.frames_share_codes:
        of_sequence = importance_weighted_bound(torch.stack(log_weights).sum(2))  # (B,)
        found["importance_weighted_bound"] = of_sequence / x.shape[1]
    return found


def draw_noise(x: Tensor, shape: tuple[int, ...], config: EvaluationConfig, generator: torch.Generator) -> Tensor:
    """Standard normal noise (n, B, *shape) for sequences x (B, ...), a draw of its own for each of them, so that it
    does not depend on the batch that a sequence is in."""
    sizes = (config.importance_samples, *shape)
    draws = [torch.randn(sizes, generator=generator, dtype=x.dtype) for _ in range(x.shape[0])]
    return torch.stack(draws, dim=1).to(x.device)


def likelihood_means(log_likelihoods: list[Tensor], log_weights: list[Tensor]) -> dict[str, Tensor]:
    """Means over the frames, (B,), of the values (B, T+1) of n samples."""
    weights = torch.stack(log_weights)  # (n, B, T+1)
    return {
        "log_likelihood": torch.stack(log_likelihoods).mean(0).mean(1),
        "elbo": weights.mean(0).mean(1),
        "importance_weighted_bound": importance_weighted_bound(weights).mean(1),
    }


def likelihoods_of(
    model: Autoencoder, batch: SequenceBatch, config: EvaluationConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """``sequence_likelihoods`` or ``frame_likelihoods``, as the method's posterior is of x_0 or of every frame."""
    if isinstance(model, Baseline):
        return frame_likelihoods(model, batch, config, generator)
    assert isinstance(model, SequenceVAE)
    return sequence_likelihoods(model, batch.x, batch.k, config, generator)


def evaluate_model(model: Autoencoder, data: SequenceData, config: EvaluationConfig) -> dict[str, Any]:
    """Evaluate every transformation on its own: mean and standard error over images, never a running mean over k.

    Returns:
        {"transformations": {name: {metric: value, metric + "_standard_error": value}}, "log_prob_ceiling": ..., ...}.
        "is_bound" says of each transformation whether its ELBO and importance-weighted bound may be called bounds:
        there is no flow in them, or the log-determinant is exact and no step that was looked at folds.
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
                part = SequenceBatch(batch.x[:inside], batch.k[:inside])
                for metric, value in likelihoods_of(model, part, config, generator).items():
                    values[metric].append(value)
        results[name] = summarize(values)
        folding = results[name].get("folding_steps")  # None without a flow in the likelihoods
        results[name]["is_bound"] = folding is None or (config.log_det == "exact" and folding == 0)
    return {
        "transformations": results,
        "log_prob_ceiling": log_prob_ceiling(model.config.image_channels, model.config.image_size),
        "num_images": num_images,
        "likelihood_images": likelihood_images,
        "importance_samples": config.importance_samples,
        "log_det": config.log_det,
        "num_steps": data.config.num_steps,
        **model.logged(),
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
