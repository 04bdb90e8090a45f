"""The named tuples that cross layers. Shapes: B batch, T steps, D latent, N rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # annotations only: the command line answers --help without loading torch
    from torch import Tensor


class PotentialDerivatives(NamedTuple):
    """What the potential op returns for N rows; what was not asked for is None and not computed."""

    u: Tensor  # (N,)   potential
    du_dz: Tensor  # (N, D) velocity of the flow
    du_dt: Tensor  # (N,)
    d2u_dt2: Tensor | None  # (N,)
    lap_u: Tensor | None  # (N,)   Laplacian in z: trace of the Hessian

    def detach(self) -> PotentialDerivatives:
        """The same values without a graph."""
        return self._replace(**{name: value.detach() for name, value in self._asdict().items() if value is not None})


class TimeFeatures(NamedTuple):
    """Time feature of the potential MLP and its time derivatives, rows (N, H1) or one shared row (1, H1)."""

    tau: Tensor
    dtau_dt: Tensor
    d2tau_dt2: Tensor | None


class TimeWeights(NamedTuple):
    """Weights of the time features of K potentials, τ = B GELU(A e(t) + α) + β."""

    weight1: Tensor  # (K, H1, E) A
    bias1: Tensor  # (K, H1) α
    weight2: Tensor  # (K, H1, H1) B
    bias2: Tensor  # (K, H1) β


class PotentialWeights(NamedTuple):
    """Weights of one potential MLP, equations (1) to (3) of docs/derivation.md."""

    weight1: Tensor  # (H1, D)
    bias1: Tensor  # (H1,)
    weight2: Tensor  # (H2, H1)
    bias2: Tensor  # (H2,)
    weight3: Tensor  # (H2,)
    bias3: Tensor  # ()


class SequenceBatch(NamedTuple):
    """A batch of image sequences, each showing one transformation."""

    x: Tensor  # (B, T+1, C, I, I) float32 in [0, 1]; of chosen frames (B, 1+M, C, I, I): x_0, then these
    k: Tensor  # (B,) int64, index of the transformation


class ChosenFrames(NamedTuple):
    """Which frames of a batch of sequences there are beside x_0."""

    times: Tensor  # (B, M) int64 in 0..T, of each row ascending and different
    num_steps: int  # T


class FlowRollout(NamedTuple):
    """A latent code carried along T steps of its flow, and what the steps are."""

    z: Tensor  # (B, T+1, D) z_0 .. z_T
    du_dz: Tensor  # (B, T, D)   velocity at (z_{t-1}, t), t = 1..T
    du_dt: Tensor  # (B, T)      at the same


class FlowTrajectory(NamedTuple):
    """A rollout with all derivatives of its steps; what was not asked for is None."""

    z: Tensor  # (B, T+1, D) z_0 .. z_T
    du_dz: Tensor  # (B, T, D)   velocity at (z_{t-1}, t), t = 1..T
    du_dt: Tensor  # (B, T)
    d2u_dt2: Tensor | None  # (B, T)
    lap_u: Tensor | None  # (B, T)
    u: Tensor | None = None  # (B, T)      comes with either of the two above
