"""The closed form as a user of plain torch would write it: the baseline that ``torch.compile`` makes a contender of.

Ordinary differentiable expressions; the backward is autograd's own, and what it keeps is cubic in the sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.models import PotentialMLP
from ffrl.ops.analytic import output_derivatives
from ffrl.ops.laplacian_forms import LaplacianForm
from ffrl.records import PotentialDerivatives, PotentialWeights

FORMS: tuple[LaplacianForm, ...] = ("gram", "jacobian")


def closed_form_derivatives(
    z: Tensor,
    tau: Tensor,
    dtau_dt: Tensor,
    weights: PotentialWeights,
    *,
    tanh_output: bool,
    form: LaplacianForm,
) -> PotentialDerivatives:
    """u, ∇u, ∂u/∂t and Δu of N rows of one potential, equations (1) to (6) and (8) to (11) of docs/derivation.md.

    Args:
        z: (N, D).
        tau, dtau_dt: time feature rows (N, H1), or (1, H1) shared by all rows.
        weights: of this potential.
        tanh_output: output activation tanh (True) or identity (False).
        form: "gram", with x_j of all rows and units, (N, H2, H1), in memory; or "jacobian", with J = W2 diag(d1) W1 of
            all rows, stored as (H2, N, D) so that it is one product of two matrices.

    Raises:
        ArgumentError: another form.
    """
    if form not in FORMS:
        raise ArgumentError("form", repr(form), f"one of {FORMS}")
    weight1, bias1, weight2, bias2, weight3, bias3 = weights
    h1 = torch.tanh(z @ weight1.T + bias1)  # (1)
    d1 = 1 - h1 * h1
    h2 = torch.tanh((h1 + tau) @ weight2.T + bias2)  # (2)
    o = h2 @ weight3 + bias3  # (3)
    u = torch.tanh(o) if tanh_output else o
    phi, psi = output_derivatives(u, tanh_output)  # (4)
    p = (1 - h2 * h2) * weight3  # (5)
    q = p @ weight2
    v = (d1 * q) @ weight1
    du_dt = phi * (p * (dtau_dt @ weight2.T)).sum(1)  # (6)
    c = -2 * h2 * p  # (7)
    m = -2 * h1 * d1 * q  # (8)
    if form == "gram":
        x = d1[:, None, :] * weight2  # (N, H2, H1)  (9)
        s_rows = (x * (x @ (weight1 @ weight1.T))).sum(-1)  # (10)
    else:
        m_rows = d1.T[:, :, None] * weight1[:, None, :]  # (H1, N, D)
        jacobian = (weight2 @ m_rows.flatten(1)).view(-1, *m_rows.shape[1:])  # (H2, N, D)
        s_rows = jacobian.square().sum(-1).T
    ell = (c * s_rows).sum(1) + m @ weight1.square().sum(1)  # (11)
    return PotentialDerivatives(u, phi[:, None] * v, du_dt, None, phi * ell + psi * (v * v).sum(1))


def closed_form_at(pot: PotentialMLP, time: float, form: LaplacianForm) -> Callable[[Tensor], PotentialDerivatives]:
    """z -> derivatives of potential 0 at one time, the time features computed in every call."""
    time_of_all = torch.tensor(time, dtype=pot.weight1.dtype)
    tanh_output = pot.output_activation == "tanh"

    def derivatives(z: Tensor) -> PotentialDerivatives:
        tau, dtau_dt, _ = pot.time_features(time_of_all, 0, order=1)
        return closed_form_derivatives(z, tau, dtau_dt, pot.weights(0), tanh_output=tanh_output, form=form)

    return derivatives
