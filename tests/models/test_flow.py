"""The latent flow: its recursion, the bookkeeping of mixed k, and the derivatives along it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError, BackendError
from ffrl.models import LatentFlow, flow_rollout
from ffrl.models import flow as flow_module
from ffrl.models.flow import step_rows
from ffrl.ops import potential_derivatives
from tests.models.reference import naive_trajectory, potential
from tests.potentials import GaussianField, PlaneWave, QuadraticField
from tests.tolerances import ROUNDING, assert_matches, relative_error

BACKENDS = ("oracle", "analytic")
MIXED = (2, 0, 2, 2, 0, 1, 2)  # uneven, unsorted
MISSING = (2, 0, 2, 2, 0, 0, 2)  # k = 1 does not occur


def rows_of(*k: int, latent_dim: int = 3) -> tuple[Tensor, Tensor]:
    """z0 (N, D) and k (N,)."""
    return torch.randn(len(k), latent_dim, dtype=torch.float64), torch.tensor(k, dtype=torch.int64)


def quadratic(latent_dim: int = 3, num_fields: int = 3, eps: float = 0.3) -> QuadraticField:
    a = eps * torch.randn(num_fields, latent_dim, latent_dim, dtype=torch.float64)
    return QuadraticField(0.5 * (a + a.mT), torch.zeros_like(a), torch.zeros_like(a))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("k", [MIXED, MISSING, (1, 1, 1), (0,)])
@pytest.mark.parametrize("direction", [1, -1])
def test_rollout_follows_its_recursion(backend: str, activation: str, k: tuple[int, ...], direction: int):
    pot = potential(activation=activation)
    z0, index = rows_of(*k)
    expected = naive_trajectory(pot, z0, index, 4, direction)
    out = flow_rollout(pot, z0, index, 4, direction=direction, backend=backend)
    assert out.z.shape == (len(k), 5, 3) and out.du_dz.shape == (len(k), 4, 3) and out.du_dt.shape == (len(k), 4)
    assert (out.z[:, 1:] - out.z[:, :-1]).norm(dim=-1).max() > 1e-4  # the flow does move
    assert out.du_dt.abs().max() > 1e-3
    for name, value in out._asdict().items():
        assert relative_error(value, getattr(expected, name)) < ROUNDING, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_time_is_the_index_of_the_state_stepped_to(backend: str):
    pot = potential()
    z0, k = rows_of(*MIXED)
    z = flow_rollout(pot, z0, k, 3, backend=backend).z
    for t in (1, 2, 3):
        source = z[:, t - 1].clone().requires_grad_()
        (velocity,) = torch.autograd.grad(pot(source, float(t), k).sum(), source)
        (earlier,) = torch.autograd.grad(pot(source, t - 1.0, k).sum(), source)
        assert (velocity - earlier).norm() > 1e-2  # the potential does depend on time
        assert relative_error(z[:, t], z[:, t - 1] + velocity) < ROUNDING


def test_time_index_in_closed_form():
    c = torch.randn(3, dtype=torch.float64)
    z0, k = rows_of(0, 1)
    z = flow_rollout(lambda z, time, k: time * (z * c).sum(1), z0, k, 5).z
    t = torch.arange(6, dtype=torch.float64)
    assert relative_error(z, z0[:, None] + c * (t * (t + 1) / 2)[:, None]) < ROUNDING  # Σ_{s=1..t} s


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_k_equals_each_k_on_its_own(backend: str):
    pot = potential()
    z0, k = rows_of(*MIXED)
    flow = LatentFlow(pot, backend)
    mixed, z_mixed = flow(z0, k, 4, d2u_dt2=True), flow_rollout(pot, z0, k, 4, backend=backend).z
    for one in range(3):
        mine = k == one
        alone = flow(z0[mine], one, 4, d2u_dt2=True)
        assert_matches(
            {name: value[mine] for name, value in mixed._asdict().items()}, alone._asdict(), ROUNDING, f"k = {one}"
        )
        assert relative_error(z_mixed[mine], flow_rollout(pot, z0[mine], one, 4, backend=backend).z) < ROUNDING


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_the_rows_does_not_matter(backend: str):
    pot = potential()
    z0, k = rows_of(*MIXED)
    order = torch.randperm(len(MIXED))
    one = LatentFlow(pot, backend)(z0, k, 3)
    other = LatentFlow(pot, backend)(z0[order], k[order], 3)
    expected = {name: None if value is None else value[order] for name, value in one._asdict().items()}
    assert_matches(other._asdict(), expected, ROUNDING)


def test_quadratic_field_goes_through_the_oracle():
    field = quadratic()
    z0, k = rows_of(*MIXED)
    step = torch.eye(3, dtype=torch.float64) + field.a0[k]  # (N, D, D)
    for backend in ("auto", "oracle"):
        z = flow_rollout(field, z0, k, 5, backend=backend).z
        back = flow_rollout(field, z0, k, 5, direction=-1, backend=backend).z
        for t in range(6):
            forward = torch.linalg.matrix_power(step, t) @ z0[:, :, None]
            reverse = torch.linalg.matrix_power(2 * torch.eye(3, dtype=torch.float64) - step, t) @ z0[:, :, None]
            assert relative_error(z[:, t], forward[..., 0]) < ROUNDING
            assert relative_error(back[:, t], reverse[..., 0]) < ROUNDING


def test_a_named_backend_is_refused_where_it_cannot_run():
    z0, k = rows_of(0, 1)
    with pytest.raises(BackendError, match="analytic"):
        flow_rollout(quadratic(), z0, k, 2, backend="analytic")
    with pytest.raises(ArgumentError, match="nonsense"):
        flow_rollout(quadratic(), z0, k, 2, backend="nonsense")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_trajectory_holds_the_derivatives_at_the_state_that_a_step_leaves(backend: str, activation: str):
    pot = potential(activation=activation)
    z0, k = rows_of(*MIXED)
    trajectory = LatentFlow(pot, backend)(z0, k, 4, d2u_dt2=True)
    assert_matches(trajectory._asdict(), naive_trajectory(pot, z0, k, 4)._asdict(), ROUNDING, backend)
    assert relative_error(trajectory.z[:, 1:] - trajectory.z[:, :-1], trajectory.du_dz) < ROUNDING


@pytest.mark.parametrize("name", ["gaussian", "plane_wave"])
def test_trajectory_of_fields_with_exact_derivatives(name: str):
    field = GaussianField(torch.randn(3, 4, dtype=torch.float64), 2.0)
    if name == "plane_wave":
        field = PlaneWave(torch.randn(3, 4, dtype=torch.float64), 1.7, 0.4)
    z0, k = rows_of(*MIXED, latent_dim=4)
    trajectory = LatentFlow(field)(z0, k, 3, d2u_dt2=True)  # type: ignore[arg-type]
    for t in (1, 2, 3):
        exact = field.exact(trajectory.z[:, t - 1], torch.full((len(MIXED),), float(t), dtype=torch.float64), k)
        found = {key: value[:, t - 1] for key, value in trajectory._asdict().items() if key != "z"}
        assert_matches(found, exact._asdict(), 1e-12, f"t = {t}")


def test_what_was_not_asked_for_is_none():
    z0, k = rows_of(*MIXED)
    pot = potential()
    trajectory = LatentFlow(pot)(z0, k, 2, laplacian=False)
    assert trajectory.lap_u is None
    assert trajectory.d2u_dt2 is None
    assert trajectory.u is None
    assert relative_error(trajectory.du_dt, naive_trajectory(pot, z0, k, 2).du_dt) < ROUNDING


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [MIXED, (1, 1)])
def test_all_laplacians_are_taken_in_one_call(monkeypatch: pytest.MonkeyPatch, backend: str, k: tuple[int, ...]):
    calls = []

    def counted(pot, z, *args, **options):
        calls.append((options["laplacian"], z.shape[0]))
        return original(pot, z, *args, **options)

    original = flow_module.potential_derivatives
    monkeypatch.setattr(flow_module, "potential_derivatives", counted)
    z0, index = rows_of(*k)
    LatentFlow(potential(), backend)(z0, index, 5)
    assert [rows for laplacian, rows in calls if laplacian == "exact"] == [5 * len(k)]
    assert len(calls) == 1


def test_step_rows_pair_each_state_with_the_time_of_its_step():
    z = torch.arange(2 * 4, dtype=torch.float64).view(2, 4, 1)  # B = 2, T = 3
    rows, time, k = step_rows(z, torch.tensor([5, 7]))
    assert rows.flatten().tolist() == [0, 1, 2, 4, 5, 6]
    assert time.tolist() == [1, 2, 3, 1, 2, 3]
    assert isinstance(k, Tensor) and k.tolist() == [5, 5, 5, 7, 7, 7]
    assert step_rows(z, 2)[2] == 2


def test_exact_log_determinant_of_every_step():
    pot = potential()
    z0, k = rows_of(*MIXED)
    flow = LatentFlow(pot)
    z = flow_rollout(pot, z0, k, 4).z
    log_det = flow.log_det_exact(z, k)
    identity = torch.eye(3, dtype=torch.float64)
    for b, k_row in enumerate(MIXED):
        for t in range(1, 5):
            time = torch.tensor([t], dtype=torch.float64)
            hessian = torch.autograd.functional.hessian(
                lambda row, time=time, k_row=k_row: pot(row[None], time, k_row)[0], z[b, t - 1]
            )
            expected = math.log(abs(torch.linalg.det(identity + hessian).item()))
            assert log_det[b, t - 1].item() == pytest.approx(expected, abs=1e-12)
    assert log_det.std() > 0.01


def test_smallest_stretch_of_a_quadratic_flow_is_that_of_its_matrix():
    field = quadratic(eps=0.8)
    z0, k = rows_of(*MIXED)
    stretch = LatentFlow(field).smallest_stretch(flow_rollout(field, z0, k, 4).z, k)  # type: ignore[arg-type]
    expected = 1 + torch.linalg.eigvalsh(field.a0).amin(1)  # (K,)
    assert expected.std() > 1e-2
    assert relative_error(stretch, expected[k][:, None].expand(-1, 4)) < ROUNDING


def test_smallest_stretch_of_every_step():
    """No direction is stretched by less than it, by central differences of the step itself."""
    pot = potential()
    z0, k = rows_of(*MIXED)
    z = flow_rollout(pot, z0, k, 3).z
    stretch = LatentFlow(pot).smallest_stretch(z, k)
    h = 1e-5
    for t in (1, 2, 3):
        columns = []
        for step in h * torch.eye(3, dtype=torch.float64):
            there, back = (potential_derivatives(pot, z[:, t - 1] + s, float(t), k).du_dz for s in (step, -step))
            columns.append((there - back) / (2 * h))
        jacobian = torch.eye(3, dtype=torch.float64) + torch.stack(columns, dim=2)  # (N, D, D)
        assert (stretch[:, t - 1] - torch.linalg.eigvals(jacobian).real.amin(1)).abs().max() < 1e-7


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend: str):
    pot = potential()
    z0, k = rows_of()
    flow = LatentFlow(pot, backend)
    assert flow_rollout(pot, z0, k, 4, backend=backend).z.shape == (0, 5, 3)
    assert flow_rollout(pot, z0, 1, 4, backend=backend).z.shape == (0, 5, 3)
    trajectory = flow(z0, k, 4, d2u_dt2=True)
    shapes = {name: tuple(value.shape) for name, value in trajectory._asdict().items()}
    assert shapes == {"z": (0, 5, 3), "du_dz": (0, 4, 3)} | dict.fromkeys(("du_dt", "d2u_dt2", "lap_u", "u"), (0, 4))
    assert flow.log_det_exact(trajectory.z, k).shape == flow.smallest_stretch(trajectory.z, k).shape == (0, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_one_step_in_float32(backend: str):
    pot = potential().float()
    z0, k = rows_of(2)
    trajectory = LatentFlow(pot, backend)(z0.float(), k, 1)
    expected = naive_trajectory(pot.double(), z0.float().double(), k, 1)
    assert trajectory.z.dtype == trajectory.lap_u.dtype == torch.float32  # type: ignore[union-attr]
    assert trajectory.z.shape == (1, 2, 3)
    assert relative_error(trajectory.z, expected.z) < 1e-6


@pytest.mark.parametrize("num_steps", [0, -1, 2.0, True, None, "3"])
def test_number_of_steps_out_of_range(num_steps: object):
    z0, k = rows_of(0)
    with pytest.raises(ArgumentError, match="num_steps"):
        flow_rollout(potential(), z0, k, num_steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", [0, 2, -0.5, None, 1.0, True])
def test_direction_out_of_range(direction: object):
    z0, k = rows_of(0)
    with pytest.raises(ArgumentError, match="direction"):
        flow_rollout(potential(), z0, k, 1, direction=direction)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "k", [torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0]), torch.tensor([0.0, 1.0]), 3, -1]
)
def test_index_out_of_range(k: int | Tensor):
    z0, _ = rows_of(0, 1)
    with pytest.raises(ArgumentError, match=r"^k"):
        flow_rollout(potential(), z0, k, 2)


def test_both_calls_of_a_flow_take_its_backend_and_precision(monkeypatch: pytest.MonkeyPatch):
    taken = []

    def noted(name: str, original):
        def call(*args, **options):
            taken.append((name, options["backend"], options["precision"]))
            return original(*args, **options)

        return call

    for name in ("flow_rollout", "potential_derivatives"):
        monkeypatch.setattr(flow_module, name, noted(name, getattr(flow_module, name)))
    z0, k = rows_of(0, 1)
    LatentFlow(potential(), "analytic", "ieee")(z0, k, 2)
    assert taken == [("flow_rollout", "analytic", "ieee"), ("potential_derivatives", "analytic", "ieee")]
