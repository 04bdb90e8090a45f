"""K stacked scalar potentials u^k(z, t), each a three-layer MLP with a learned time feature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffrl.errors import ArgumentError
from ffrl.ops.potential_derivatives import check_rows
from ffrl.records import PotentialWeights, TimeFeatures, TimeWeights

MAX_PERIOD = 1e4


class PotentialMLP(nn.Module):
    r"""Potentials of equations (1) to (3) of docs/derivation.md (PoFlow, appendix; FFRL, section 3.2).

        a1 = W1 z + b1,  h1 = tanh a1,  a2 = W2 (h1 + τ(t)) + b2,  h2 = tanh a2,  u = ψ0(w3·h2 + b3)

    with τ(t) = B GELU(A e(t) + α) + β on a sinusoidal embedding e(t) of width E.

    Args:
        latent_dim: D.
        hidden_dims: (H1, H2); an int is both.
        num_potentials: K. All parameters are stacked along a first axis of this length.
        output_activation: ψ0, "tanh" or "identity".
        time_dim: E, even and at least 4; default H1 rounded up to even.

    Raises:
        ArgumentError: a size or name outside the above.
    """

    has_closed_form = True  # of this very forward; see ffrl.ops.mlp_field.has_closed_form

    def __init__(
        self,
        latent_dim: int,
        hidden_dims: int | tuple[int, int],
        num_potentials: int = 1,
        output_activation: str = "tanh",
        time_dim: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(hidden_dims, int) and not (isinstance(hidden_dims, tuple | list) and len(hidden_dims) == 2):
            raise ArgumentError("hidden_dims", repr(hidden_dims), "an integer or a pair (H1, H2) of integers")
        hidden1, hidden2 = (hidden_dims, hidden_dims) if isinstance(hidden_dims, int) else hidden_dims
        for name, size in (
            ("latent_dim", latent_dim),
            ("hidden_dims[0]", hidden1),
            ("hidden_dims[1]", hidden2),
            ("num_potentials", num_potentials),
        ):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ArgumentError(name, repr(size), "an integer >= 1")
        if time_dim is None:
            time_dim = max(4, hidden1 + hidden1 % 2)
        if not isinstance(time_dim, int) or time_dim < 4 or time_dim % 2:
            raise ArgumentError("time_dim", repr(time_dim), "an even integer >= 4 (half sines, half cosines)")
        if output_activation not in ("tanh", "identity"):
            raise ArgumentError("output_activation", repr(output_activation), "'tanh' or 'identity'")
        self.latent_dim, self.hidden_dims, self.time_dim = latent_dim, (hidden1, hidden2), time_dim
        self.num_potentials, self.output_activation = num_potentials, output_activation

        def stacked(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(num_potentials, *shape))

        self.weight1, self.bias1 = stacked(hidden1, latent_dim), stacked(hidden1)
        self.weight2, self.bias2 = stacked(hidden2, hidden1), stacked(hidden2)
        self.weight3, self.bias3 = stacked(hidden2), stacked()
        self.time_weight1, self.time_bias1 = stacked(hidden1, time_dim), stacked(hidden1)
        self.time_weight2, self.time_bias2 = stacked(hidden1, hidden1), stacked(hidden1)
        half = time_dim // 2
        frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float64) / (half - 1))
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies.to(torch.get_default_dtype()), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every layer as ``torch.nn.Linear`` does: uniform in ±1/sqrt(inputs)."""
        hidden1, hidden2 = self.hidden_dims
        for name, inputs in (
            ("1", self.latent_dim),
            ("2", hidden1),
            ("3", hidden2),
        ):
            nn.init.uniform_(getattr(self, f"weight{name}"), -(inputs**-0.5), inputs**-0.5)
            nn.init.uniform_(getattr(self, f"bias{name}"), -(inputs**-0.5), inputs**-0.5)
        for name, inputs in (("1", self.time_dim), ("2", hidden1)):
            nn.init.uniform_(getattr(self, f"time_weight{name}"), -(inputs**-0.5), inputs**-0.5)
            nn.init.uniform_(getattr(self, f"time_bias{name}"), -(inputs**-0.5), inputs**-0.5)

    def extra_repr(self) -> str:
        return (
            f"latent_dim={self.latent_dim}, hidden_dims={self.hidden_dims}, num_potentials={self.num_potentials}, "
            f"output_activation={self.output_activation!r}, time_dim={self.time_dim}"
        )

    def weights(self, k: int | None) -> PotentialWeights:
        """Views of the parameters of potential k, or with None those of all, (K, ...) each."""
        stacked = PotentialWeights(self.weight1, self.bias1, self.weight2, self.bias2, self.weight3, self.bias3)
        return stacked if k is None else PotentialWeights(*(weight[k] for weight in stacked))

    def time_weights(self) -> TimeWeights:
        """The parameters of the time features of all potentials."""
        return TimeWeights(self.time_weight1, self.time_bias1, self.time_weight2, self.time_bias2)

    def time_features(self, time: Tensor, k: int | None, *, order: int) -> TimeFeatures:
        """τ, dτ/dt and, for ``order`` 2, d²τ/dt² at time () or (M,) of potential k, (1 or M, H1), or with None of all,
        (K, 1 or M, H1).

        All are ordinary differentiable torch expressions. Times that repeat should be passed once and gathered.
        """
        angle = time.reshape(time.numel(), 1) * self.frequencies  # (M, E/2); a -1 is ambiguous in a vmap of no problem
        sine, cosine = angle.sin(), angle.cos()
        embedding = torch.cat([sine, cosine], dim=1)  # (M, E)
        velocity = torch.cat([cosine, -sine], dim=1) * self.frequencies.repeat(2)
        weight1, bias1, weight2, bias2 = self.time_weight1, self.time_bias1, self.time_weight2, self.time_bias2
        if k is None:
            bias1, bias2 = bias1[:, None], bias2[:, None]  # (K, 1, H1)
        else:
            weight1, bias1, weight2, bias2 = weight1[k], bias1[k], weight2[k], bias2[k]
        a = embedding @ weight1.mT + bias1  # (.., M, H1)
        a_dot = velocity @ weight1.mT
        density = torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
        slope = 0.5 * (1 + torch.erf(a / math.sqrt(2))) + a * density  # GELU'
        tau = F.gelu(a) @ weight2.mT + bias2
        dtau_dt = (slope * a_dot) @ weight2.mT
        if order < 2:
            return TimeFeatures(tau, dtau_dt, None)
        acceleration = -embedding * (self.frequencies**2).repeat(2)
        a_ddot = acceleration @ weight1.mT
        curvature = density * (2 - a * a)  # GELU''
        return TimeFeatures(tau, dtau_dt, (curvature * a_dot * a_dot + slope * a_ddot) @ weight2.mT)

    def forward(self, z: Tensor, t: float | Tensor, k: int | Tensor) -> Tensor:
        """u^k(z, t), (N,), for z (N, D), t float, () or (N,), and k int or (N,) int64; plain autograd throughout."""
        check_rows(self, z, t, k)
        time = torch.as_tensor(t, dtype=z.dtype, device=z.device)
        if isinstance(k, int):
            return self._potential(z, time, k)
        u = z.new_zeros(z.shape[0])
        for k_one in range(self.num_potentials):
            rows = (k == k_one).nonzero().squeeze(1)
            u = u.index_add(0, rows, self._potential(z[rows], time[rows] if time.dim() else time, k_one))
        return u

    def _potential(self, z: Tensor, time: Tensor, k: int) -> Tensor:
        weight1, bias1, weight2, bias2, weight3, bias3 = self.weights(k)
        angle = time.reshape(time.numel(), 1) * self.frequencies
        embedding = torch.cat([angle.sin(), angle.cos()], dim=1)
        tau = F.gelu(embedding @ self.time_weight1[k].T + self.time_bias1[k]) @ self.time_weight2[k].T
        h1 = torch.tanh(z @ weight1.T + bias1)
        h2 = torch.tanh((h1 + tau + self.time_bias2[k]) @ weight2.T + bias2)
        o = h2 @ weight3 + bias3
        return torch.tanh(o) if self.output_activation == "tanh" else o
