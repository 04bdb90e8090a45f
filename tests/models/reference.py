"""Slow and obvious versions of what the models compute, and small models to compare them with."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ffrl.config import ModelConfig, PDEName
from ffrl.models import PotentialMLP, SequenceVAE
from ffrl.ops.oracle import Field
from ffrl.records import FlowTrajectory, SequenceBatch

TINY = ModelConfig(
    image_size=8,
    latent_dim=3,
    conv_widths=(8, 8),
    encoder_widths=(24, 20),
    decoder_widths=(24,),
    potential_widths=(7, 6),
    output_activation="tanh",
)


def potential(latent_dim: int = 3, num_potentials: int = 3, activation: str = "tanh") -> PotentialMLP:
    """A float64 potential whose weights are twice as wide as the default draw, so that no derivative is negligible."""
    pot = PotentialMLP(latent_dim, (6, 5), num_potentials, activation).double()
    with torch.no_grad():
        for parameter in pot.parameters():
            parameter.mul_(2)
    return pot


class FieldPotential(nn.Module):
    """A field behind the interface of a module, so that a model can hold it in place of its potential."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, z: Tensor, time: Tensor, k: int | Tensor) -> Tensor:
        return self.field(z, time, k)


def tiny_model(
    num_potentials: int = 3, dtype: torch.dtype = torch.float64, pde: PDEName = "hj_force", **changes: object
) -> SequenceVAE:
    """A SequenceVAE of 8x8 images; ``changes`` are fields of its ModelConfig."""
    model = SequenceVAE(dataclasses.replace(TINY, **changes), num_potentials, pde=pde).to(dtype)  # type: ignore[arg-type]
    with torch.no_grad():
        for module in (model.potential, model.force) if model.pde.needs_force else (model.potential,):
            for parameter in module.parameters():
                parameter.mul_(2)
    return model


def random_batch(
    batch: int, num_steps: int, num_potentials: int = 3, dtype: torch.dtype = torch.float64
) -> SequenceBatch:
    """Uniform noise in [0, 1] of TINY's image size; every k occurs where the batch is large enough."""
    x = torch.rand(batch, num_steps + 1, TINY.image_channels, TINY.image_size, TINY.image_size, dtype=dtype)
    return SequenceBatch(x, torch.arange(batch - 1, -1, -1) % num_potentials)


def naive_trajectory(pot: Field, z0: Tensor, k: Tensor, num_steps: int, direction: int = 1) -> FlowTrajectory:
    """z_t = z_{t-1} ± ∇u(z_{t-1}, t) and all derivatives at (z_{t-1}, t), row by row and step by step by autograd."""
    states, values, velocities, rates, accelerations, laplacians = [], [], [], [], [], []
    for row, k_row in zip(z0.split(1), k.tolist(), strict=True):
        z_t, path = row, [row]
        for step in range(num_steps):
            z_here = z_t if z_t.requires_grad else z_t.detach().requires_grad_()
            time = torch.full((1,), step + 1.0, dtype=z0.dtype, requires_grad=True)
            u = pot(z_here, time, k_row)
            du_dz, du_dt = torch.autograd.grad(u.sum(), (z_here, time), create_graph=True, materialize_grads=True)
            second = torch.zeros_like(u)
            if du_dt.requires_grad:
                (second,) = torch.autograd.grad(du_dt.sum(), time, create_graph=True, materialize_grads=True)
            trace = torch.zeros_like(u)
            for i in range(z0.shape[1]):
                (hessian_row,) = torch.autograd.grad(du_dz[0, i], z_here, create_graph=True, materialize_grads=True)
                trace = trace + hessian_row[0, i]
            values.append(u)
            velocities.append(du_dz)
            rates.append(du_dt)
            accelerations.append(second)
            laplacians.append(trace)
            z_t = z_here + direction * du_dz
            path.append(z_t)
        states.append(torch.cat(path))
    steps = (z0.shape[0], num_steps)
    return FlowTrajectory(
        z=torch.stack(states),
        du_dz=torch.cat(velocities).view(*steps, z0.shape[1]),
        du_dt=torch.cat(rates).view(steps),
        d2u_dt2=torch.cat(accelerations).view(steps),
        lap_u=torch.cat(laplacians).view(steps),
        u=torch.cat(values).view(steps),
    )
