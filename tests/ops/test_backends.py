"""Which backend runs: names, reasons, errors, and the one line that "auto" logs."""

from __future__ import annotations

import logging

import pytest
import torch

from ffrl.errors import ArgumentError, BackendError
from ffrl.models import PotentialMLP
from ffrl.ops import available_backends, backends, log_abs_det, potential_derivatives, potential_hessian
from tests.cases import Case, build, cotangents_of, outputs_of
from tests.potentials import HamiltonJacobiField
from tests.tolerances import FLOAT64, assert_matches

Z = torch.zeros(4, 3, dtype=torch.float64)


def small() -> PotentialMLP:
    return PotentialMLP(3, (8, 5), 2).double()


def test_available_backends_names_every_backend_and_says_why_not():
    reasons = available_backends()
    assert set(reasons) == {"oracle", "analytic", "cpp", "triton", "cuda"}
    assert reasons["oracle"] is None and reasons["analytic"] is None
    assert all(reason is None or len(reason) > 10 for reason in reasons.values())
    assert set(backends.PREFERENCE) == set(reasons)


def test_available_backends_hands_out_a_copy():
    available_backends().clear()
    assert available_backends()["oracle"] is None


@pytest.mark.parametrize("name", [name for name, reason in available_backends().items() if reason is not None])
def test_a_named_backend_that_is_not_usable_is_an_error_with_the_reason(name: str):
    with pytest.raises(BackendError) as failure:
        potential_derivatives(small(), Z, 0.5, 0, backend=name)
    message = str(failure.value)
    assert repr(name) in message and str(available_backends()[name]) in message and "analytic" in message


def test_a_backend_that_becomes_unusable_is_refused_and_auto_takes_the_next(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "available_backends", lambda: {"oracle": None, "analytic": "made so by this test"})
    with pytest.raises(BackendError, match="made so by this test"):
        potential_derivatives(small(), Z, 0.5, 0, backend="analytic")
    monkeypatch.setattr(backends, "PREFERENCE", ("analytic", "oracle"))
    assert backends.resolve_backend("auto", Z.device, fused=True) == "oracle"


@pytest.mark.parametrize("name", ["numpy", "", "Oracle", None, 3, ["oracle"]])
def test_an_unknown_backend_is_an_error_that_names_the_known_ones(name: object):
    with pytest.raises(ArgumentError) as failure:
        potential_derivatives(small(), Z, 0.5, 0, backend=name)  # type: ignore[arg-type]
    message = str(failure.value)
    assert message.startswith("backend = ") and repr(name) in message
    assert all(repr(known) in message for known in ("auto", *available_backends()))


@pytest.mark.parametrize("name", [name for name in backends.PREFERENCE if name != "oracle"])
def test_a_field_that_is_no_mlp_goes_through_the_oracle_only(name: str):
    with pytest.raises(BackendError, match=repr(name)):
        potential_derivatives(HamiltonJacobiField(0.5), Z, 0.5, 0, backend=name)


def test_auto_logs_its_choice_once_per_backend_and_device(caplog: pytest.LogCaptureFixture):
    backends.log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="ffrl"):
        for _ in range(3):
            potential_derivatives(small(), Z, 0.5, 0)
        chosen = next(name for name in backends.PREFERENCE if available_backends()[name] is None)
        assert [record.getMessage() for record in caplog.records] == [f"potential op: backend {chosen!r} chosen on cpu"]
        potential_derivatives(small(), Z, 0.5, 0, backend="oracle")
        assert len(caplog.records) == 1, "a named backend is not logged"
        potential_derivatives(HamiltonJacobiField(0.5), Z, 0.5, 0)
        potential_derivatives(HamiltonJacobiField(0.5), Z, 0.5, 0)
    assert [record.getMessage() for record in caplog.records][1:] == ["potential op: backend 'oracle' chosen on cpu"]
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_auto_gives_the_numbers_of_the_oracle():
    inputs = build(Case(7, 8, 17, 3, 3, "mixed"))
    expected, actual = outputs_of(inputs, "oracle"), outputs_of(inputs, "auto")
    assert_matches(actual, expected, FLOAT64)
    assert_matches(cotangents_of(inputs, actual), cotangents_of(inputs, expected), FLOAT64)


@pytest.mark.parametrize("backend", [name for name, reason in available_backends().items() if reason is None])
@pytest.mark.parametrize("index", ["int", "mixed"])
@pytest.mark.parametrize("time", ["float", "rows"])
def test_no_rows_is_no_error_forward_or_backward(backend: str, index: str, time: str):
    inputs = build(Case(0, 3, 8, 5, 3, index, time=time))
    outputs = outputs_of(inputs, backend)
    shapes = [tuple(value.shape) for value in outputs.values() if value is not None]
    assert shapes == [(0,), (0, 3), (0,), (0,), (0,)]
    total = sum(value.sum() for value in outputs.values() if value is not None)
    assert isinstance(total, torch.Tensor)
    total.backward()
    for name, source in inputs.sources.items():
        if source.grad is not None:
            assert torch.equal(source.grad, torch.zeros_like(source)), name
    assert inputs.z.grad is not None and inputs.z.grad.shape == (0, 3)


def test_no_rows_have_hessians_and_determinants():
    z, k = Z[:0], torch.zeros(0, dtype=torch.int64)
    for index in (1, k):
        assert potential_hessian(small(), z, 0.5, index).shape == (0, 3, 3)
        assert log_abs_det(small(), z, 0.5, index).shape == (0,)


class Tripled(PotentialMLP):
    """Another field than its base class."""

    def forward(self, z, t, k):
        return 3 * super().forward(z, t, k)


class Renamed(PotentialMLP):
    """The same field under another name."""


def test_a_subclass_with_another_forward_is_not_taken_for_its_base():
    z = torch.randn(3, 2, dtype=torch.float64)
    tripled = Tripled(2, 4).double()
    with pytest.raises(BackendError, match="analytic"):
        potential_derivatives(tripled, z, 1.0, 0, backend="analytic")
    out = potential_derivatives(tripled, z, 1.0, 0)
    assert torch.allclose(out.u, tripled(z, 1.0, 0), rtol=1e-14, atol=0)
    assert potential_derivatives(Renamed(2, 4).double(), z, 1.0, 0, backend="analytic").u.shape == (3,)
