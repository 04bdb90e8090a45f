"""First rung: the autograd oracle against fields with exact derivatives, torch.func and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.models import PotentialMLP
from ffrl.ops import potential_derivatives
from tests.cases import CASES, build, outputs_of
from tests.potentials import HamiltonJacobiField, exact_fields
from tests.tolerances import FLOAT64, assert_matches, relative_error

FIELDS = ("quadratic", "gaussian", "plane_wave", "hamilton_jacobi")


def field_and_rows(name: str, latent_dim: int, rows: int = 6):
    """Field of that name, z (N, D), t (N,) and mixed k (N,) of three fields."""
    field = list(exact_fields(latent_dim, 3))[FIELDS.index(name)]
    z = torch.randn(rows, latent_dim, dtype=torch.float64)
    return field, z, 0.2 + torch.rand(rows, dtype=torch.float64), torch.arange(rows) % 3


@pytest.mark.parametrize("latent_dim", [1, 2, 5, 32])
@pytest.mark.parametrize("name", FIELDS)
def test_oracle_has_the_exact_derivatives_of_a_field(name: str, latent_dim: int):
    field, z, t, k = field_and_rows(name, latent_dim)
    for index in (k, 1):
        out = potential_derivatives(field, z, t, index, d2u_dt2=True, backend="oracle")
        assert_matches(out._asdict(), field.exact(z, t, index)._asdict(), FLOAT64, name)


@pytest.mark.parametrize("name", FIELDS)
def test_oracle_cotangents_are_those_of_the_exact_formulas(name: str):
    field, z, t, k = field_and_rows(name, 4)
    z.requires_grad_()
    t.requires_grad_()
    loss = {}
    for source in ("oracle", "exact"):
        if source == "oracle":
            out = potential_derivatives(field, z, t, k, d2u_dt2=True, backend="oracle")
        else:
            out = field.exact(z, t, k)
        weighted = torch.cat([(i + 1) * v.sin().flatten() for i, v in enumerate(out) if v is not None]).sum()
        v_z, v_t = torch.autograd.grad(weighted, (z, t), allow_unused=True)
        assert v_z is not None and v_t is not None
        loss[source] = {"v_z": v_z, "v_t": v_t}
    assert_matches(loss["oracle"], loss["exact"], FLOAT64, name)


@pytest.mark.parametrize("name", FIELDS)
def test_exact_derivatives_agree_with_central_differences(name: str):
    field, z, t, k = field_and_rows(name, 3)
    exact = field.exact(z, t, k)
    h = 1e-4
    d2u_dt2 = (field(z, t + h, k) - 2 * field(z, t, k) + field(z, t - h, k)) / h**2
    du_dt = (field(z, t + h, k) - field(z, t - h, k)) / (2 * h)
    steps = h * torch.eye(3, dtype=torch.float64)
    du_dz = torch.stack([(field(z + e, t, k) - field(z - e, t, k)) / (2 * h) for e in steps], 1)
    velocity = [(field.exact(z + e, t, k).du_dz - field.exact(z - e, t, k).du_dz) / (2 * h) for e in steps]
    hessian = torch.stack(velocity, 1)
    differences = {"du_dz": du_dz, "du_dt": du_dt, "d2u_dt2": d2u_dt2, "hessian": hessian}
    known = {**exact._asdict(), "hessian": field.hessian(z, t, k)}
    assert_matches(differences, {key: known[key] for key in differences}, 3e-7, name)
    trace = field.hessian(z, t, k).diagonal(dim1=1, dim2=2).sum(1)
    assert_matches({"lap_u": exact.lap_u}, {"lap_u": trace}, 1e-14, name)


def test_the_hamilton_jacobi_field_solves_its_equation():
    z = torch.randn(50, 7, dtype=torch.float64)
    t = 4 * torch.rand(50, dtype=torch.float64)
    out = potential_derivatives(HamiltonJacobiField(a=0.6), z, t, 0, laplacian=None, backend="oracle")
    residual = out.du_dt + 0.5 * (out.du_dz**2).sum(1)
    assert residual.abs().max() < 1e-13 * out.du_dt.abs().max()


@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize(("latent_dim", "hidden"), [(1, (2, 3)), (3, (8, 5)), (17, (9, 12))])
def test_oracle_agrees_with_torch_func_on_the_potential_mlp(activation: str, latent_dim: int, hidden: tuple[int, int]):
    pot = PotentialMLP(latent_dim, hidden, 2, activation).double()
    z, t = torch.randn(5, latent_dim, dtype=torch.float64), 2 * torch.rand(5, dtype=torch.float64)
    out = potential_derivatives(pot, z, t, 1, d2u_dt2=True, backend="oracle")

    def u(row: Tensor, time: Tensor) -> Tensor:
        return pot(row[None], time[None], 1)[0]

    du_dt = torch.func.grad(u, argnums=1)
    expected = {
        "u": torch.stack([u(row, time) for row, time in zip(z, t, strict=True)]),
        "du_dz": torch.func.vmap(torch.func.grad(u))(z, t),
        "du_dt": torch.func.vmap(du_dt)(z, t),
        "d2u_dt2": torch.func.vmap(torch.func.grad(du_dt, argnums=1))(z, t),
        "lap_u": torch.func.vmap(torch.func.hessian(u))(z, t).diagonal(dim1=1, dim2=2).sum(1),
    }
    assert_matches(out._asdict(), expected, FLOAT64)


def test_oracle_agrees_with_central_differences_on_the_potential_mlp():
    inputs = build(next(c for c in CASES if c.rows == 7 and c.latent == 3 and c.time == "rows"))
    pot, z, t, k = inputs.pot, inputs.z.detach(), inputs.t, inputs.k
    assert isinstance(t, Tensor)
    t = t.detach()
    out = potential_derivatives(pot, z, t, k, d2u_dt2=True, backend="oracle")
    h = 1e-4
    steps = h * torch.eye(z.shape[1], dtype=torch.float64)
    with torch.no_grad():
        u = pot(z, t, k)
        du_dz = torch.stack([(pot(z + e, t, k) - pot(z - e, t, k)) / (2 * h) for e in steps], 1)
        lap_u = sum((pot(z + e, t, k) - 2 * u + pot(z - e, t, k)) / h**2 for e in steps)
        du_dt = (pot(z, t + h, k) - pot(z, t - h, k)) / (2 * h)
        d2u_dt2 = (pot(z, t + h, k) - 2 * u + pot(z, t - h, k)) / h**2
    assert isinstance(lap_u, Tensor)
    differences = {"u": u, "du_dz": du_dz, "du_dt": du_dt, "d2u_dt2": d2u_dt2, "lap_u": lap_u}
    assert_matches(out._asdict(), differences, 5e-6)


@pytest.mark.parametrize("field", [lambda z, time, k: z[:, 0] * 0 + 2.0, lambda z, time, k: time.new_ones(z.shape[0])])
def test_a_field_that_does_not_depend_on_its_inputs_has_zero_derivatives(field):
    out = potential_derivatives(field, torch.randn(3, 2), 0.5, 0, d2u_dt2=True, backend="oracle")
    for value in out[1:]:
        assert value is not None and torch.equal(value, torch.zeros_like(value))


def test_oracle_second_derivative_through_the_result_is_right():
    field, z, t, k = field_and_rows("gaussian", 3)
    z.requires_grad_()
    lap_u = potential_derivatives(field, z, t, k, backend="oracle").lap_u
    exact = field.exact(z, t, k).lap_u
    assert lap_u is not None and exact is not None
    second = []
    for value in (lap_u, exact):
        (v_z,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        second.append(torch.autograd.grad((v_z**3).sum(), z)[0])
    assert relative_error(second[0], second[1]) < FLOAT64


def test_oracle_without_grad_mode_gives_the_same_numbers_without_a_graph():
    inputs = build(next(c for c in CASES if c.rows == 7 and c.tracked == "all" and c.laplacian and c.d2u_dt2))
    with_graph = outputs_of(inputs, "oracle")
    with torch.no_grad():
        without = outputs_of(inputs, "oracle")
    for name, value in without.items():
        assert value is not None and not value.requires_grad and value.grad_fn is None
        assert torch.equal(value, with_graph[name].detach())  # type: ignore[union-attr]
