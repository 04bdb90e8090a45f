"""The objective of the sequence VAE as one would write it in plain PyTorch, with the modules and weights of the model.

One step of the flow after the other, its derivatives by nested autograd, its force, its frame: T + 1 calls of the
decoder, T of each network, and D reverse passes for the Laplacian of every step. Sequences of one k stand together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.training_iteration import Terms
from ffrl.checks import require
from ffrl.config import TrainConfig
from ffrl.losses import gaussian_log_prob, kl_standard_normal, reconstruction_nll
from ffrl.models import PotentialMLP, SequenceVAE
from ffrl.records import SequenceBatch

# ∇u (B, D) and the z (B, D) that it is differentiable in -> what stands for the Laplacian, (B,).
LaplacianOf = Callable[[Tensor, Tensor], Tensor]


def gradient(output: Tensor, *sources: Tensor) -> tuple[Tensor, ...]:
    """d(sum of output)/d(each source), differentiable again."""
    return torch.autograd.grad(output.sum(), sources, create_graph=True)


def laplacian(du_dz: Tensor, z: Tensor) -> Tensor:
    """The trace of the Hessian, (B,): a reverse pass for each latent dimension."""
    trace = torch.zeros_like(z[:, 0])
    for i in range(z.shape[1]):
        trace = trace + gradient(du_dz[:, i], z)[0][:, i]
    return trace


def hessian_sum(du_dz: Tensor, z: Tensor) -> Tensor:
    """The sum of all entries of the Hessian, (B,), which one reverse pass gives: the published code's stand-in."""
    return gradient(du_dz, z)[0].sum(1)


def by_blocks(network: PotentialMLP, z: Tensor, time: Tensor, sizes: list[int]) -> Tensor:
    """The network of its k for every block of rows, (B,): the first sizes[0] rows are of k = 0, and so on."""
    rows = zip(z.split(sizes), time.split(sizes), strict=True)
    return torch.cat([network(z_k, time_k, k) for k, (z_k, time_k) in enumerate(rows) if sizes[k]])


def check_supported(config: TrainConfig) -> None:
    """Raise ArgumentError for an objective that is not written out here."""
    loss, mode = config.loss, config.supervision.mode
    require(loss.log_det == "trace", "loss.log_det", repr(loss.log_det), "'trace'")
    require(loss.pde == "hj_force", "loss.pde", repr(loss.pde), "'hj_force'")
    require(config.model.prior == "diffusion", "model.prior", repr(config.model.prior), "'diffusion'")
    require(mode == "supervised", "supervision.mode", repr(mode), "'supervised'")


def plain_terms(
    model: SequenceVAE,
    batch: SequenceBatch,
    config: TrainConfig,
    number: int,
    noise: Tensor | None = None,
    *,
    laplacian_of: LaplacianOf = laplacian,
) -> Terms:
    """The same terms as ``sequence_losses``; needs grad mode, and rows in blocks of ascending k."""
    check_supported(config)
    x, loss = batch.x, config.loss
    num_steps = x.shape[1] - 1
    sizes = torch.bincount(batch.k, minlength=model.num_potentials).tolist()

    def reconstruction_of(z: Tensor, t: int) -> Tensor:  # (B,)
        return reconstruction_nll(model.decoder.logits(z)[:, None], x[:, t, None], loss)[:, 0]

    mu, log_var = model.encoder(x[:, 0])
    z = mu + torch.exp(0.5 * log_var) * (torch.randn_like(mu) if noise is None else noise)
    reconstruction = reconstruction_of(z, 0)
    log_q = gaussian_log_prob(z, mu, log_var)
    kl_t = hj = torch.zeros_like(log_q)
    start = torch.zeros_like(log_q)
    (initial_velocity,) = gradient(by_blocks(model.potential, z, start, sizes), z)
    for t in range(1, num_steps + 1):
        time = torch.full_like(start, t).requires_grad_()
        u = by_blocks(model.potential, z, time, sizes)
        du_dz, du_dt = gradient(u, z, time)
        lap_u = laplacian_of(du_dz, z)
        force = -by_blocks(model.force, z, time, sizes).square()
        hj = hj + (du_dt + 0.5 * du_dz.square().sum(1) - force).square() / num_steps
        log_q = log_q - torch.log((1 + lap_u).abs().clamp(min=loss.log_det_floor))
        z = z + du_dz
        kl_t = kl_t + log_q - model.prior.log_prob(z, time.detach(), batch.k)
        reconstruction = reconstruction + reconstruction_of(z, t)
    return {
        "reconstruction": reconstruction.mean(),
        "kl_0": kl_standard_normal(mu, log_var).mean(),
        "kl_t": loss.kl_weight * kl_t.mean(),
        "hj": loss.hj_weight * (hj + initial_velocity.square().sum(1)).mean(),
    }


def surrogate_terms(
    model: SequenceVAE, batch: SequenceBatch, config: TrainConfig, number: int, noise: Tensor | None = None
) -> Terms:
    """``plain_terms`` with the sum of the Hessian's entries in the place of the Laplacian: another "kl_t"."""
    return plain_terms(model, batch, config, number, noise, laplacian_of=hessian_sum)
