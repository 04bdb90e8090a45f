"""Gradients through the flow against nested autograd, row by row, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.models import LatentFlow, PotentialMLP, flow_rollout
from ffrl.ops import potential_hessian
from tests.models.reference import naive_trajectory, potential
from tests.tolerances import assert_matches

BOUND = 1e-9
BACKENDS = ("oracle", "analytic")
KINDS = {"mixed": (2, 0, 2, 1, 0), "missing": (2, 0, 2), "one": (1, 1), "single": (2,)}


def cotangents(loss: Tensor, z0: Tensor, pot: PotentialMLP) -> dict[str, Tensor]:
    """``v_X`` of z0 and every parameter; zero where the loss does not depend on X."""
    sources = {"z0": z0, **dict(pot.named_parameters())}
    gradients = torch.autograd.grad(loss, list(sources.values()), retain_graph=True, materialize_grads=True)
    return {f"v_{name}": value for name, value in zip(sources, gradients, strict=True)}


def weighted(outputs: dict[str, Tensor], seed: int) -> Tensor:
    """A scalar in which every element of every output has a weight of its own, and a curvature."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for value in outputs.values():
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        total = total + (weights * (value + 0.5 * value.square())).sum()
    return total


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", [1, -1])
def test_rollout_cotangents(backend: str, activation: str, kind: str, direction: int):
    pot = potential(activation=activation)
    k = torch.tensor(KINDS[kind])
    z0 = torch.randn(len(k), 3, dtype=torch.float64, requires_grad=True)
    found = flow_rollout(pot, z0, k, 4, direction=direction, backend=backend)._asdict()
    naive = naive_trajectory(pot, z0, k, 4, direction)
    for seed, names in enumerate((["z"], ["du_dz"], ["du_dt"], list(found))):
        v_found = cotangents(weighted({name: found[name] for name in names}, seed), z0, pot)
        v_expected = cotangents(weighted({name: getattr(naive, name) for name in names}, seed), z0, pot)
        assert v_expected["v_weight1"].norm() > 1e-2
        assert_matches(v_found, v_expected, BOUND, f"{backend}, of {names}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("kind", ["mixed", "one"])
def test_trajectory_cotangents(backend: str, activation: str, kind: str):
    """Of every output at once: the states, and the derivatives along them, which depend on z0 through the states."""
    pot = potential(activation=activation)
    k = torch.tensor(KINDS[kind])
    z0 = torch.randn(len(k), 3, dtype=torch.float64, requires_grad=True)
    found = LatentFlow(pot, backend)(z0, k, 3, d2u_dt2=True)
    expected = naive_trajectory(pot, z0, k, 3)
    for seed, names in enumerate((list(found._fields), ["lap_u"], ["du_dt"], ["du_dz"], ["d2u_dt2"])):
        v_found = cotangents(weighted({name: getattr(found, name) for name in names}, seed), z0, pot)
        v_expected = cotangents(weighted({name: getattr(expected, name) for name in names}, seed), z0, pot)
        assert v_expected["v_z0"].norm() > 1e-3
        assert_matches(v_found, v_expected, BOUND, f"{backend}, of {names}")


def test_exact_log_determinant_cotangents():
    """d log|det(I + H)| = tr((I + H)⁻¹ dH)."""
    pot = potential()
    k = torch.tensor(KINDS["mixed"])
    z0 = torch.randn(len(k), 3, dtype=torch.float64, requires_grad=True)
    z = naive_trajectory(pot, z0, k, 1).z
    found = LatentFlow(pot).log_det_exact(z, k)
    hessian = potential_hessian(pot, z0, 1.0, k)  # (N, D, D)
    inverse = torch.linalg.inv(torch.eye(3, dtype=torch.float64) + hessian.detach())
    first_order = torch.einsum("nde,ned->n", inverse, hessian)
    v_found = cotangents(found.sum(), z0, pot)
    assert v_found["v_weight2"].norm() > 0.1
    assert_matches(v_found, cotangents(first_order.sum(), z0, pot), BOUND)
