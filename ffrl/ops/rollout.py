"""The flow z_t = z_{t-1} + ∇u^k(z_{t-1}, t) over all its steps, with the velocities and ∂u/∂t on its way."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ffrl.config import Precision
from ffrl.errors import ArgumentError
from ffrl.ops.analytic import stacked_velocity
from ffrl.ops.autocast import outside_autocast, raised_precision
from ffrl.ops.backends import CUDA_REASON, TRITON_REASON, resolve_backend
from ffrl.ops.functions import apply_function
from ffrl.ops.gpu_operators import PRECISIONS
from ffrl.ops.mlp_field import MLPField, fused_time_features, has_closed_form
from ffrl.ops.oracle import Field
from ffrl.ops.potential_derivatives import FLOATS, check_precision, check_rows, evaluate
from ffrl.records import FlowRollout, PotentialWeights

# By the name of the backend.
ROLLOUTS: dict[str, type[torch.autograd.Function]] = {}

if TRITON_REASON is None:
    from ffrl.ops.triton_rollout import Rollout as TritonRollout

    ROLLOUTS["triton"] = TritonRollout
if CUDA_REASON is None:
    from ffrl.ops.cuda_operators import Rollout as CudaRollout

    ROLLOUTS["cuda"] = CudaRollout


def flow_rollout(
    pot: MLPField | Field,
    z0: Tensor,
    k: int | Tensor,
    num_steps: int,
    *,
    direction: int = 1,
    backend: str = "auto",
    precision: Precision = "tf32x3",
) -> FlowRollout:
    """States, velocities and time derivatives of the flow of FFRL, section 3: the op's cheap part, without Laplacian.

    What the Laplacian needs is no part of the sequence: with the states known, one call of ``potential_derivatives``
    takes it of all B·T rows (``LatentFlow``).

    Args:
        pot: a ``PotentialMLP``; or, with the oracle backend, any callable field ``pot(z, time, k) -> (N,)``.
        z0: (B, D), float32 or float64.
        k: int, or (B,) int64 on the device of z0.
        num_steps: T, at least 1.
        direction: +1 for z_t = z_{t-1} + ∇u(z_{t-1}, t), t = 1..T; -1 for the flow with its sign reversed, through
            the same times 1..T.
        backend: as in ``potential_derivatives``. "triton" and "cuda" take all steps in one launch, and the sequence of
            their backward in another; the others take them one by one in plain torch.
        precision: as in ``potential_derivatives``, of "triton" and "cuda"; no product here is below "tf32x3".

    Returns:
        FlowRollout(z (B, T+1, D), du_dz (B, T, D), du_dt (B, T)), with first-order gradients in z0 and the parameters.

    Under torch.autocast all stay in the dtype of the potential's parameters, as in ``potential_derivatives``.

    Raises:
        ArgumentError: wrong rank, dtype, device or range; the message names the argument.
        BackendError: the named backend cannot be used here.

    >>> import torch
    >>> from ffrl.models import PotentialMLP
    >>> out = flow_rollout(PotentialMLP(latent_dim=4, hidden_dims=8), torch.zeros(5, 4), k=0, num_steps=3)
    >>> out.z.shape, out.du_dz.shape, out.du_dt.shape
    (torch.Size([5, 4, 4]), torch.Size([5, 3, 4]), torch.Size([5, 3]))
    """
    check_num_steps(num_steps)
    if not isinstance(direction, int) or isinstance(direction, bool) or direction not in (1, -1):
        raise ArgumentError("direction", repr(direction), "1 or -1")
    check_precision(precision)
    fused = has_closed_form(pot)
    z0, _ = raised_precision(z0, 1.0)
    check_rows(pot if fused else None, z0, 1.0, k)
    name = resolve_backend(backend, z0.device, fused=fused, dtype=z0.dtype if z0.dtype in FLOATS else None)
    with outside_autocast(z0.device.type):
        if name == "oracle":
            return rollout_of_field(pot, z0, k, num_steps, direction)
        if name in ROLLOUTS:
            return rollout_fused(cast(MLPField, pot), z0, k, num_steps, direction, name, precision)
        return rollout_plain(cast(MLPField, pot), z0, k, num_steps, direction)


def check_num_steps(num_steps: int) -> None:
    if not isinstance(num_steps, int) or isinstance(num_steps, bool) or num_steps < 1:
        raise ArgumentError("num_steps", repr(num_steps), "an integer >= 1")


def rollout_of_field(pot: MLPField | Field, z0: Tensor, k: int | Tensor, num_steps: int, direction: int) -> FlowRollout:
    """By the oracle."""
    states, velocities, rates = [z0], [], []
    for t in range(1, num_steps + 1):
        time = torch.full((), float(t), dtype=z0.dtype, device=z0.device)
        out = evaluate(pot, states[-1], time, k, d2u_dt2=False, laplacian=False, name="oracle")
        states.append(states[-1] + direction * out.du_dz)
        velocities.append(out.du_dz)
        rates.append(out.du_dt)
    return FlowRollout(torch.stack(states, 1), torch.stack(velocities, 1), torch.stack(rates, 1))


def rollout_fused(
    pot: MLPField, z0: Tensor, k: int | Tensor, num_steps: int, direction: int, name: str, precision: Precision
) -> FlowRollout:
    """By the operator of the backend: all steps in one launch."""
    times = torch.arange(1, num_steps + 1, dtype=z0.dtype, device=z0.device)
    k_all, k_rows = (k, None) if isinstance(k, int) else (0, k)
    features = fused_time_features(pot, times, k if isinstance(k, int) else None, order=1)  # (K·T or T, H1)
    weights = pot.weights(None)
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (z0, features.tau, *weights))
    arguments = (
        z0, features.tau, features.dtau_dt, *weights, k_rows, k_all, num_steps, direction,
        pot.output_activation == "tanh", tracked, PRECISIONS.index(precision),
    )  # fmt: skip
    if torch.compiler.is_compiling():
        outputs = getattr(torch.ops, f"ffrl_{name}").rollout_forward(*arguments)
    else:
        outputs = apply_function(ROLLOUTS[name], *arguments)
    return FlowRollout(*outputs[:3])


def rollout_plain(pot: MLPField, z0: Tensor, k: int | Tensor, num_steps: int, direction: int) -> FlowRollout:
    """In plain torch, step by step, the potentials that occur side by side in one batched product."""
    groups = RowGroups(k, z0.shape[0], pot.num_potentials)
    times = torch.arange(1, num_steps + 1, dtype=z0.dtype, device=z0.device)
    features = [pot.time_features(times, i, order=1) for i in groups.potentials]
    tau = torch.stack([feature.tau for feature in features])  # (G, T, H1)
    stacked = zip(*(pot.weights(i) for i in groups.potentials), strict=True)
    weights = PotentialWeights(*(torch.stack(weight) for weight in stacked))  # (G, ...)
    z_t = groups.pack(z0)  # (G, M, D)
    states, velocities, slopes = [z_t], [], []
    for t in range(num_steps):
        du_dz, du_da2 = stacked_velocity(z_t, tau[:, t, None], weights, tanh_output=pot.output_activation == "tanh")
        z_t = z_t + direction * du_dz
        states.append(z_t)
        velocities.append(du_dz)
        slopes.append(du_da2)
    omega = torch.stack([feature.dtau_dt for feature in features]) @ weights.weight2.mT  # (G, T, H2)
    du_dt = (torch.stack(slopes, dim=2) * omega[:, None]).sum(3)  # (G, M, T)
    return FlowRollout(*(groups.unpack(x) for x in (torch.stack(states, 2), torch.stack(velocities, 2), du_dt)))


class RowGroups:
    """Rows of mixed k laid out as (G, M): one line per potential that occurs, padded to the longest."""

    def __init__(self, k: int | Tensor, num_rows: int, num_potentials: int) -> None:
        if isinstance(k, int):
            self.potentials, self.width, self.slot = [k], num_rows, None
            return
        counts = torch.bincount(k, minlength=num_potentials).tolist()
        self.potentials = [i for i, count in enumerate(counts) if count] or [0]
        self.width = max(counts)
        order = torch.argsort(k, stable=True)
        slots = [g * self.width + torch.arange(counts[i], device=k.device) for g, i in enumerate(self.potentials)]
        self.slot = torch.empty_like(k)
        self.slot[order] = torch.cat(slots)

    def pack(self, rows: Tensor) -> Tensor:
        """(N, D) -> (G, M, D); the padding is zero."""
        if self.slot is None:
            return rows[None]
        padded = rows.new_zeros(len(self.potentials) * self.width, rows.shape[1]).index_copy(0, self.slot, rows)
        return padded.view(len(self.potentials), self.width, rows.shape[1])

    def unpack(self, packed: Tensor) -> Tensor:
        """(G, M, ...) -> (N, ...)."""
        return packed.flatten(0, 1) if self.slot is None else packed.flatten(0, 1).index_select(0, self.slot)
