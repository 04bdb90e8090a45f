"""Scalar fields with exact derivatives, behind the interface of a potential: ``pot(z, time, k) -> (N,)``.

Shapes: N rows, D latent, K fields. Each field is called with z (N, D), time (N,) or () and k int or (N,); ``exact``
gives every output of the op in closed form and ``hessian`` the whole matrix (N, D, D). All differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.records import PotentialDerivatives

Index = int | Tensor


def outer(a: Tensor, b: Tensor) -> Tensor:
    """(N, D, D) from two (N, D)."""
    return a[:, :, None] * b[:, None, :]


def column(time: Tensor | float, z: Tensor) -> Tensor:
    """Time as (N, 1), so that it broadcasts over the latent axis."""
    return torch.as_tensor(time, dtype=z.dtype, device=z.device).expand(z.shape[0])[:, None]


def select(stacked: Tensor, k: Index, z: Tensor) -> Tensor:
    """Rows (N, ...) of a stack (K, ...)."""
    return stacked[k].expand(z.shape[0], *stacked.shape[1:])


@dataclass(frozen=True)
class QuadraticField:
    """u = ½ zᵀ A_k(t) z with A(t) = A0 + A1 t + A2 t², each (K, D, D) symmetric."""

    a0: Tensor
    a1: Tensor
    a2: Tensor

    def form(self, z: Tensor, time: Tensor | float, k: Index, order: int) -> Tensor:
        """The order-th time derivative of A, (N, D, D)."""
        t = column(time, z)[:, :, None]
        a0, a1, a2 = (select(a, k, z) for a in (self.a0, self.a1, self.a2))
        return (a0 + a1 * t + a2 * t * t, a1 + 2 * a2 * t, 2 * a2)[order]

    def __call__(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        return 0.5 * torch.einsum("nd,nde,ne->n", z, self.form(z, time, k, 0), z)

    def exact(self, z: Tensor, time: Tensor, k: Index) -> PotentialDerivatives:
        rate, second = (0.5 * torch.einsum("nd,nde,ne->n", z, self.form(z, time, k, order), z) for order in (1, 2))
        form = self.form(z, time, k, 0)
        velocity = torch.einsum("nde,ne->nd", form, z)
        return PotentialDerivatives(self(z, time, k), velocity, rate, second, form.diagonal(dim1=1, dim2=2).sum(1))

    def hessian(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        return self.form(z, time, k, 0)


@dataclass(frozen=True)
class GaussianField:
    """u = exp(-|z - c_k t|² / (2 s²)), a bump that travels with velocity c, (K, D)."""

    c: Tensor
    s: float

    def __call__(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        w = z - select(self.c, k, z) * column(time, z)
        return torch.exp(-(w * w).sum(1) / (2 * self.s**2))

    def exact(self, z: Tensor, time: Tensor, k: Index) -> PotentialDerivatives:
        b = self.s**-2
        c = select(self.c, k, z)
        w = z - c * column(time, z)
        u = self(z, time, k)
        drift = b * (w * c).sum(1)
        return PotentialDerivatives(
            u,
            -b * w * u[:, None],
            drift * u,
            (drift**2 - b * (c * c).sum(1)) * u,
            (b**2 * (w * w).sum(1) - b * z.shape[1]) * u,
        )

    def hessian(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        b = self.s**-2
        w = z - select(self.c, k, z) * column(time, z)
        identity = torch.eye(z.shape[1], dtype=z.dtype)
        return (b**2 * outer(w, w) - b * identity) * self(z, time, k)[:, None, None]


@dataclass(frozen=True)
class PlaneWave:
    """u = sin(κ_k·z - ω t + phase), κ (K, D)."""

    kappa: Tensor
    omega: float
    phase: float

    def angle(self, z: Tensor, time: Tensor | float, k: Index) -> Tensor:
        return (select(self.kappa, k, z) * z).sum(1) - self.omega * column(time, z)[:, 0] + self.phase

    def __call__(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        return torch.sin(self.angle(z, time, k))

    def exact(self, z: Tensor, time: Tensor, k: Index) -> PotentialDerivatives:
        kappa = select(self.kappa, k, z)
        sine, cosine = torch.sin(self.angle(z, time, k)), torch.cos(self.angle(z, time, k))
        return PotentialDerivatives(
            sine,
            cosine[:, None] * kappa,
            -self.omega * cosine,
            -(self.omega**2) * sine,
            -(kappa * kappa).sum(1) * sine,
        )

    def hessian(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        kappa = select(self.kappa, k, z)
        return -outer(kappa, kappa) * torch.sin(self.angle(z, time, k))[:, None, None]


@dataclass(frozen=True)
class HamiltonJacobiField:
    """u = |z|² / (2 (t + a)): solves ∂u/∂t + ½ |∇u|² = 0 exactly; the same for every k."""

    a: float

    def __call__(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        return (z * z).sum(1) / (2 * (column(time, z)[:, 0] + self.a))

    def exact(self, z: Tensor, time: Tensor, k: Index) -> PotentialDerivatives:
        s = column(time, z)[:, 0] + self.a
        square = (z * z).sum(1)
        return PotentialDerivatives(
            square / (2 * s), z / s[:, None], -square / (2 * s**2), square / s**3, z.shape[1] / s
        )

    def hessian(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        s = column(time, z)[:, 0] + self.a
        return torch.eye(z.shape[1], dtype=z.dtype) / s[:, None, None]


@dataclass(frozen=True)
class HeatKernelField:
    """u = (4π s)^(-D/2) exp(-|z|²/(4 s)) with s = t + a: solves ∂u/∂t = Δu exactly; the same for every k."""

    a: float

    def __call__(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        s = column(time, z)[:, 0] + self.a
        return torch.exp(-(z * z).sum(1) / (4 * s)) * (4 * math.pi * s) ** (-0.5 * z.shape[1])


@dataclass(frozen=True)
class PorousMediumField:
    """u = 1 - w, where w solves ∂w/∂t = ½ Δ(w²): so u solves ∂u/∂t = Δu - ∇·(u ∇u) exactly; the same for every k.

    ``power`` 0: w = -|z|² / (2 (D+2) (t+a)). ``power`` 1: Barenblatt's solution where it is positive,
    w = s^(-D/(D+2)) (height - |z|² s^(-2/(D+2)) / (4 (D+2))) with s = (t+a)/2.
    """

    a: float
    power: int
    height: float = 0.0

    def __call__(self, z: Tensor, time: Tensor, k: Index) -> Tensor:
        d, square = z.shape[1], (z * z).sum(1)
        s = column(time, z)[:, 0] + self.a
        if self.power == 0:
            return 1 + square / (2 * (d + 2) * s)
        s = s / 2
        return 1 - s ** (-d / (d + 2)) * (self.height - square * s ** (-2 / (d + 2)) / (4 * (d + 2)))


ExactField = QuadraticField | GaussianField | PlaneWave | HamiltonJacobiField


def exact_fields(latent_dim: int, num_fields: int, dtype: torch.dtype = torch.float64) -> Iterator[ExactField]:
    """One of each kind, with random coefficients of order one."""

    def symmetric() -> Tensor:
        a = torch.randn(num_fields, latent_dim, latent_dim, dtype=dtype)
        return (a + a.transpose(1, 2)) / math.sqrt(8 * latent_dim)

    def vectors() -> Tensor:
        return torch.randn(num_fields, latent_dim, dtype=dtype) / math.sqrt(latent_dim)

    yield QuadraticField(symmetric(), symmetric(), symmetric())
    yield GaussianField(vectors(), s=1.3 * math.sqrt(latent_dim))
    yield PlaneWave(2 * vectors(), omega=1.7, phase=0.4)
    yield HamiltonJacobiField(a=0.6)
