"""The equations: residuals that vanish on exact solutions and nowhere else, and nothing computed that none needs."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import ffrl.models.flow
from ffrl.config import LossConfig, PDEName
from ffrl.losses import sequence_losses
from ffrl.models import LatentFlow
from ffrl.models.pde import PDE, Wave, build_pde
from ffrl.ops.oracle import Field
from ffrl.records import FlowTrajectory
from tests.models.reference import naive_trajectory, random_batch, tiny_model
from tests.potentials import HamiltonJacobiField, HeatKernelField, PlaneWave, PorousMediumField
from tests.tolerances import ROUNDING, relative_error

PDES = get_args(PDEName)
D, K, T = 3, 2, 4
KAPPA = torch.tensor([[0.5, -1.0, 0.3], [1.2, 0.1, -0.7]], dtype=torch.float64)
OMEGA = 1.3
SPEED = OMEGA / KAPPA.norm(dim=1)
SOLUTIONS: list[tuple[str, Field]] = [
    ("hj", HamiltonJacobiField(0.3)),
    ("hj", HamiltonJacobiField(7.0)),
    ("hj_force", HamiltonJacobiField(0.6)),
    ("heat", HeatKernelField(0.4)),
    ("heat", HeatKernelField(3.0)),
    ("wave", PlaneWave(KAPPA, OMEGA, 0.4)),
    ("fokker_planck", PorousMediumField(0.5, power=0)),
    ("fokker_planck", PorousMediumField(2.0, power=1, height=3.0)),
]


def along(field: Field, rows: int = 12) -> tuple[FlowTrajectory, Tensor]:
    """A trajectory of the field with everything that an equation could need, and its k."""
    z0, k = torch.randn(rows, D, dtype=torch.float64), torch.arange(rows) % K
    return LatentFlow(field)(z0, k, T, d2u_dt2=True), k  # type: ignore[arg-type]


def equation(name: str) -> PDE:
    pde = build_pde(name, K).double()  # type: ignore[arg-type]
    if isinstance(pde, Wave):
        with torch.no_grad():
            pde.speed.copy_(SPEED)
    return pde


def scale(trajectory: FlowTrajectory) -> float:
    """Of the terms that a residual adds."""
    parts = (trajectory.du_dt, trajectory.d2u_dt2, trajectory.lap_u, trajectory.du_dz.square().sum(-1))
    return max(part.abs().max().item() for part in parts if part is not None)


@pytest.mark.parametrize(("name", "field"), SOLUTIONS)
def test_residual_of_an_exact_solution_is_zero(name: str, field: Field):
    trajectory, k = along(field)
    assert scale(trajectory) > 1e-4
    found = equation(name).residual(trajectory, torch.zeros_like(trajectory.du_dt), k)
    assert found.shape == (12, T)
    assert found.abs().max() < 1e-8 * min(1.0, scale(trajectory))
    for other in PDES:
        if {name, other} != {"hj", "hj_force"} and other != name:
            wrong = equation(other).residual(trajectory, torch.zeros_like(trajectory.du_dt), k)
            assert wrong.abs().max() > 1e-4 * scale(trajectory), other


def test_every_equation_has_an_exact_solution_here():
    assert {name for name, _ in SOLUTIONS} == set(PDES)


def test_wave_is_exact_only_at_its_speed_and_knows_the_k_of_every_row():
    trajectory, k = along(PlaneWave(KAPPA, OMEGA, 0.4))
    pde = equation("wave")
    assert isinstance(pde, Wave)
    swapped = pde.residual(trajectory, None, 1 - k)
    assert bool((swapped.abs().amax(1) > 1e-3).all())
    for one in range(K):
        mine = k == one
        part = FlowTrajectory(*(None if value is None else value[mine] for value in trajectory))  # type: ignore[arg-type]
        assert pde.residual(part, None, one).abs().max() < 1e-8
        assert relative_error(pde.residual(part, None, 1 - one), swapped[mine]) < ROUNDING
    assert Wave(3).speed.tolist() == [1.0] * 3


def test_residuals_by_hand():
    trajectory = FlowTrajectory(
        z=torch.zeros(1, 2, 2),
        du_dz=torch.tensor([[[3.0, 4.0]]]),
        du_dt=torch.tensor([[1.5]]),
        d2u_dt2=torch.tensor([[-2.0]]),
        lap_u=torch.tensor([[0.5]]),
        u=torch.tensor([[7.0]]),
    )
    force, k = torch.tensor([[-0.25]]), torch.tensor([1])
    wave = build_pde("wave", 2)
    with torch.no_grad():
        wave.speed.copy_(torch.tensor([9.0, 3.0]))  # type: ignore[union-attr]
    assert wave.residual(trajectory, None, k).item() == -2 - 9 * 0.5
    expected = {"hj_force": 1.5 + 12.5 + 0.25, "hj": 1.5 + 12.5, "fokker_planck": 1.5 + 25 + 6 * 0.5, "heat": 1.0}
    for name, value in expected.items():
        assert build_pde(name, 2).residual(trajectory, force, k).item() == value  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PDES)
def test_loss_holds_the_residual_of_its_equation_and_the_initial_condition(name: Any):
    model, (x, k) = tiny_model(pde=name), random_batch(4, 3)
    noise = torch.randn(4, D, dtype=torch.float64)
    losses = sequence_losses(model, random_batch(4, 3)._replace(x=x, k=k), LossConfig(pde=name), noise)
    mu, log_var = model.encoder(x[:, 0])
    path = naive_trajectory(model.potential, (mu + (0.5 * log_var).exp() * noise).detach(), k, 3)
    force = model.force_along(path.z, k) if name == "hj_force" else None
    assert relative_error(losses.hj_residual, model.pde.residual(path, force, k)) < 1e-10
    velocity = model.initial_velocity(path.z[:, 0], k)
    assert relative_error(losses.initial_condition, velocity.square().sum(-1)) < 1e-10
    assert losses.initial_condition.min() > 0


class Asked:
    """What the op is asked for along the trajectories of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, bool]] = []
        original = ffrl.models.flow.potential_derivatives

        def spy(*arguments: Any, **options: Any) -> Any:
            self.calls.append((options["laplacian"], options["d2u_dt2"]))
            return original(*arguments, **options)

        monkeypatch.setattr(ffrl.models.flow, "potential_derivatives", spy)


ASKED = {"hj_force": (None, False), "hj": (None, False), "fokker_planck": ("exact", False), "heat": ("exact", False)}


@pytest.mark.parametrize("log_det", ["trace", "exact", "hutchinson"])
@pytest.mark.parametrize("name", PDES)
def test_nothing_is_computed_that_is_not_used(name: Any, log_det: Any, monkeypatch: pytest.MonkeyPatch):
    model, asked = tiny_model(pde=name), Asked(monkeypatch)
    sequence_losses(model, random_batch(2, 2), LossConfig(pde=name, log_det=log_det))
    laplacian, second = ASKED.get(name, ("exact", True))
    laplacian = {"trace": "exact", "hutchinson": "hutchinson"}.get(log_det, laplacian)
    assert asked.calls == ([(laplacian, second)] if laplacian or second else [])
    outputs = model(*random_batch(2, 2))
    assert (outputs.force is None) == (name != "hj_force")


@pytest.mark.parametrize("name", PDES)
def test_parameters_of_every_equation(name: Any):
    names = {parameter for parameter, _ in tiny_model(pde=name).named_parameters()}
    assert {part for part in names if part.startswith("pde")} == ({"pde.speed"} if name == "wave" else set())
    assert any(part.startswith("force") for part in names) == (name == "hj_force")
    assert sum(part.startswith("flow.potential") for part in names) == 10
