"""The equations that a potential is asked to solve, one residual each, behind one interface."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ffrl.config import PDEName
from ffrl.models.choice import Choice
from ffrl.records import FlowTrajectory


def hj_residual(du_dz: Tensor, du_dt: Tensor, force: Tensor | float) -> Tensor:
    """∂u/∂t + ½|∇u|² - f, one value per sample and step (FFRL eq. 6): du_dz (..., D), du_dt and force (...)."""
    return du_dt + 0.5 * du_dz.square().sum(-1) - force


class PDE(nn.Module):
    """A residual (B, T) that vanishes on solutions, and what it needs beside ∇u and ∂u/∂t.

    What no equation and no log-determinant needs is not computed; without ``needs_force`` a model has no force network.
    """

    needs_force: ClassVar[bool] = False
    needs_laplacian: ClassVar[bool] = False
    needs_d2u_dt2: ClassVar[bool] = False

    def residual(self, trajectory: FlowTrajectory, force: Tensor | None, k: int | Tensor | Choice) -> Tensor:
        """The residual at (z_{t-1}, t), (B, T), of potential k, int, (B,) or a choice; force (B, T) where it is needed.

        Where the trajectory's Laplacian is Hutchinson's estimate, the residuals that are linear in it (all that have
        it) are unbiased, and their squares exceed the true ones by the variance on average.
        """
        raise NotImplementedError


class ForcedHamiltonJacobi(PDE):
    """∂u/∂t + ½|∇u|² = f with f = -MLP(z, t)² <= 0: the generalised Hamilton-Jacobi equation (FFRL eq. 6)."""

    needs_force = True

    def residual(self, trajectory: FlowTrajectory, force: Tensor | None, k: int | Tensor | Choice) -> Tensor:
        return hj_residual(trajectory.du_dz, trajectory.du_dt, computed(force))


class HamiltonJacobi(PDE):
    """∂u/∂t + ½|∇u|² = 0: the Hamilton-Jacobi equation of a free particle."""

    def residual(self, trajectory: FlowTrajectory, force: Tensor | None, k: int | Tensor | Choice) -> Tensor:
        return hj_residual(trajectory.du_dz, trajectory.du_dt, 0.0)


class FokkerPlanck(PDE):
    """∂u/∂t = Δu - ∇·(u ∇u), that is ∂u/∂t + |∇u|² + u Δu - Δu = 0: Fokker-Planck with the drift ∇u and D = 1.

    The paper names "Fokker-Planck" without an equation that could be ascertained; this is the project's reading: u is
    both the density and the potential of its own drift. Equivalently ∂w/∂t = ½ Δ(w²) for w = 1 - u, the porous-medium
    equation, which is parabolic where u < 1 (everywhere with output tanh) and backward where u > 1.
    """

    needs_laplacian = True  # and u, which comes with it

    def residual(self, trajectory: FlowTrajectory, force: Tensor | None, k: int | Tensor | Choice) -> Tensor:
        u, lap_u = computed(trajectory.u), computed(trajectory.lap_u)
        return trajectory.du_dt + trajectory.du_dz.square().sum(-1) + (u - 1) * lap_u


class Heat(PDE):
    """∂u/∂t = Δu: the heat equation, its diffusivity 1."""

    needs_laplacian = True

    def residual(self, trajectory: FlowTrajectory, force: Tensor | None, k: int | Tensor | Choice) -> Tensor:
        return trajectory.du_dt - computed(trajectory.lap_u)


class Wave(PDE):
    """∂²u/∂t² = c_k² Δu: the wave equation, its speeds c learned, one per transformation, 1 at the start (PoFlow)."""

    needs_laplacian = needs_d2u_dt2 = True

    def __init__(self, num_potentials: int) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.ones(num_potentials))

    def residual(self, trajectory: FlowTrajectory, force: Tensor | None, k: int | Tensor | Choice) -> Tensor:
        c = k.through(lambda one: self.speed[one].expand(k.k.shape)) if isinstance(k, Choice) else self.speed[k]
        c = c.unsqueeze(-1)  # (B, 1) or (1,)
        return computed(trajectory.d2u_dt2) - c.square() * computed(trajectory.lap_u)


def computed(value: Tensor | None) -> Tensor:
    """A part of the trajectory, or the force, that the equation has asked for."""
    assert value is not None, "the equation needs what was not computed"
    return value


def build_pde(name: PDEName, num_potentials: int) -> PDE:
    """The equation of that name, for K potentials."""
    if name == "wave":
        return Wave(num_potentials)
    return {"hj_force": ForcedHamiltonJacobi, "hj": HamiltonJacobi, "fokker_planck": FokkerPlanck, "heat": Heat}[name]()
