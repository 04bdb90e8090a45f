"""PoFlow integrated into the training of a VAE: potentials that solve the wave equation and match the codes."""

from __future__ import annotations

from torch import Tensor

from ffrl.baseline_config import BaselineConfig
from ffrl.config import LossConfig, ModelConfig, Precision
from ffrl.densities import gaussian_sample, kl_standard_normal
from ffrl.models.baselines.baseline import Baseline
from ffrl.models.flow import LatentFlow
from ffrl.models.pde import Wave
from ffrl.models.potential import PotentialMLP
from ffrl.ops import potential_derivatives
from ffrl.records import SequenceBatch


class PoFlow(Baseline):
    """Every frame is encoded, z_t ~ q(z | x_t), and a potential of each k is to move z_t to z_{t+1}.

        loss = Σ_t [-log p(x_t | z_t) + KL(q(z_t | x_t) || N(0, I))]
             + w_match Σ_{t=1..T} [|z_t - ẑ_t|² + |(z_t - z_{t-1}) - ∇u^k(z_{t-1}, t)|²]
             + w_hj [1/T Σ_{t=1..T} (∂²u/∂t² - c_k² Δu)²(z_{t-1}, t) + |∇u^k(z_0, 0)|²]

    with ẑ_0 = z_0 and ẑ_t = ẑ_{t-1} + ∇u^k(ẑ_{t-1}, t). Readings: time is the index of the state stepped to, as
    everywhere in this project; u is asked for the equation where the codes of the frames are; images are decoded from
    the codes of the frames and never from ẑ, so that it is the matching alone that ties the flow to them. The paper's
    classifier of k and its Jacobian term belong to a generator that is given, and are left out.
    """

    def __init__(
        self, config: ModelConfig, num_transformations: int, num_steps: int, loss: LossConfig, settings: BaselineConfig
    ) -> None:
        super().__init__(config, num_transformations, num_steps, loss, settings)
        sizes = (config.latent_dim, config.potential_widths, num_transformations)
        self.flow = LatentFlow(PotentialMLP(*sizes, config.output_activation, config.time_dim))
        self.pde = Wave(num_transformations)

    def use_backend(self, backend: str, precision: Precision) -> None:
        self.flow.backend, self.flow.precision = backend, precision

    def logged(self) -> dict[str, list[float]]:
        return {"speed": self.pde.speed.detach().tolist()}

    def carry(self, z0: Tensor, k: int | Tensor, num_steps: int) -> Tensor:
        """ẑ_0..ẑ_T, (B, T+1, D)."""
        return self.flow.roll(z0, k, num_steps).z

    def residual_along(self, z: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
        """∇u (B, T, D) and the residual of the wave equation (B, T) at (z_{t-1}, t) of states z (B, T+1, D)."""
        along = self.flow.derivatives_along(z, k, laplacian=True, d2u_dt2=True)
        return along.du_dz, self.pde.residual(along, None, k)

    def initial_velocity(self, z0: Tensor, k: int | Tensor) -> Tensor:
        """∇u^k(z_0, 0), (B, D)."""
        flow = self.flow
        return potential_derivatives(
            flow.potential, z0, 0.0, k, laplacian=None, backend=flow.backend, precision=flow.precision
        ).du_dz

    def flow_errors(self, z: Tensor, k: Tensor) -> dict[str, Tensor]:
        """Mean squared residual of the wave equation over the steps, and |∇u(z_0, 0)|²."""
        return {
            "hj_residual": self.residual_along(z, k)[1].square().mean(1),
            "initial_condition": self.initial_velocity(z[:, 0], k).square().sum(-1),
        }

    def terms(self, batch: SequenceBatch, noise: Tensor) -> dict[str, Tensor]:
        mu, log_var = self.posteriors(batch)
        z = gaussian_sample(mu, log_var, noise)  # (B, T+1, D)
        velocity, residual = self.residual_along(z, batch.k)
        rolled = self.carry(z[:, 0], batch.k, self.num_steps)
        step = (z[:, 1:] - z[:, :-1] - velocity).square().sum((1, 2))
        matching = (z - rolled).square().sum((1, 2)) + step
        wave = residual.square().mean(1) + self.initial_velocity(z[:, 0], batch.k).square().sum(1)
        return {
            **self.elbo_terms(batch.x, z, kl_standard_normal(mu, log_var)),
            "matching": self.settings.match_weight * matching.mean(),
            "wave": self.loss.hj_weight * wave.mean(),
        }
