"""PoFlow's loss against a row-by-row version, its wave residual on plane waves, and the parameters of each term."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ffrl.config import LossConfig
from ffrl.ops import potential_derivatives
from tests.models.baselines.models import STEPS, baseline, batch_and_noise, moved_by, of
from tests.models.reference import FieldPotential, naive_trajectory

DIRECTIONS = torch.tensor([[0.6, 0.0, 0.8], [1.0, 2.0, -2.0], [0.0, 0.3, 0.4]], dtype=torch.float64)


def plane_wave(z: Tensor, time: Tensor, k: int | Tensor) -> Tensor:
    """sin(w_k·z - c_k |w_k| t) with c_k = k + ½: solves ∂²u/∂t² = c_k² Δu."""
    w = DIRECTIONS[k].expand_as(z)
    speed = torch.as_tensor(k, dtype=z.dtype) + 0.5
    return torch.sin((w * z).sum(1) - speed * w.norm(dim=1) * time)


def test_the_residual_vanishes_on_plane_waves_of_the_right_speed_alone():
    model = baseline("poflow")
    model.flow.potential = FieldPotential(plane_wave)
    z, k = torch.randn(5, STEPS + 1, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    with torch.no_grad():
        model.pde.speed.copy_(torch.tensor([0.5, 1.5, 2.5]))
    velocity, residual = model.residual_along(z, k)
    assert residual.shape == (5, STEPS) and residual.abs().max() < 1e-12
    t = torch.arange(1.0, STEPS + 1, dtype=torch.float64)
    w, speed = DIRECTIONS[k], k.double() + 0.5
    phase = (z[:, :-1] * w[:, None]).sum(-1) - (speed * w.norm(dim=1))[:, None] * t
    torch.testing.assert_close(velocity, w[:, None] * phase.cos()[..., None])
    with torch.no_grad():
        model.pde.speed[1] = 1.0
    wrong = model.residual_along(z, k)[1].abs().amax(1)
    assert (wrong > 1e-3).tolist() == [False, True, False, True, False]


def test_loss_by_hand():
    model = baseline("poflow", loss=LossConfig(hj_weight=0.25), match_weight=3.0)
    with torch.no_grad():
        model.pde.speed.copy_(torch.tensor([0.5, 1.5, 2.5]))
    batch, noise = batch_and_noise(model)
    terms = model.terms(batch, noise)
    assert list(terms) == ["reconstruction", "kl", "matching", "wave"]
    u, matching, wave = model.flow.potential, 0.0, 0.0
    for b, k in enumerate(batch.k.tolist()):
        mu, log_var = model.encoder(batch.x[b])
        z = (mu + torch.exp(0.5 * log_var) * noise[b]).detach()
        rolled = naive_trajectory(u, z[:1], batch.k[b : b + 1], STEPS).z[0]
        matching += (z - rolled).square().sum().item()
        residuals = []
        for t in range(1, STEPS + 1):
            out = potential_derivatives(u, z[t - 1 : t], float(t), k, laplacian="exact", d2u_dt2=True, backend="oracle")
            matching += (z[t] - z[t - 1] - out.du_dz[0]).square().sum().item()
            residuals.append(out.d2u_dt2.item() - (k + 0.5) ** 2 * out.lap_u.item())
        wave += sum(r * r for r in residuals) / STEPS
        wave += potential_derivatives(u, z[:1], 0.0, k, laplacian=None, backend="oracle").du_dz.square().sum().item()
    assert terms["matching"].item() == pytest.approx(3.0 * matching / 4, rel=1e-9)
    assert terms["wave"].item() == pytest.approx(0.25 * wave / 4, rel=1e-9)
    assert terms["kl"].item() > 0 and terms["reconstruction"].item() > 192 * (STEPS + 1) * 0.5 * math.log(2 * math.pi)


def test_each_term_moves_the_parameters_it_should():
    model = baseline("poflow")
    terms = model.terms(*batch_and_noise(model))
    potential = of(model, "flow.potential")  # of output tanh, whose slope depends on the last bias
    assert moved_by(model, "reconstruction", terms) == of(model, "encoder", "decoder")
    assert moved_by(model, "kl", terms) == of(model, "encoder")
    assert moved_by(model, "matching", terms) == of(model, "encoder") | potential
    assert moved_by(model, "wave", terms) == of(model, "encoder") | potential | {"pde.speed"}


def test_speeds_start_at_1_and_are_logged_and_codes_are_carried_by_the_flow():
    model = baseline("poflow")
    assert model.logged() == {"speed": [1.0, 1.0, 1.0]}
    z0, k = torch.randn(4, 3, dtype=torch.float64), torch.tensor([2, 1, 0, 1])
    expected = naive_trajectory(model.flow.potential, z0, k, STEPS).z
    torch.testing.assert_close(model.carry(z0, k, STEPS), expected)
    found = model.flow_errors(expected.detach(), k)
    assert set(found) == {"hj_residual", "initial_condition"} and all(v.shape == (4,) for v in found.values())
