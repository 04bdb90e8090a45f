"""While a CUDA graph is captured the host must not wait for a value. No GPU is needed: a patch says that one is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.ops import mlp_field, potential_derivatives
from tests.cases import Case, build, cotangents_of, outputs_of
from tests.cpp_cases import needs_cpp
from tests.tolerances import ROUNDING, assert_matches
from tests.waiting import WAITING

CASES = (
    Case(40, 3, 9, 7, 3, "mixed", time="repeated"),
    Case(40, 3, 9, 7, 3, "mixed", time="rows", tracked="weights"),
    Case(40, 3, 9, 7, 3, "mixed", time="scalar"),
    Case(40, 3, 9, 7, 3, "same", time="expanded", tracked="parameters"),
    Case(40, 3, 9, 7, 2, "int", time="repeated", tracked="parameters"),
)


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def waits(*_: Any, **__: Any) -> None:
        raise AssertionError("the host waits for the device")

    monkeypatch.setattr(mlp_field, "is_capturing", lambda device: True)
    for owner, name in WAITING:
        monkeypatch.setattr(owner, name, waits)
    return monkeypatch


def values_of(case: Case, backend: str) -> dict[str, Tensor | None]:
    inputs = build(case, torch.float64)
    outputs = outputs_of(inputs, backend)
    return {**outputs, **cotangents_of(inputs, outputs)}


@needs_cpp
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_waits_and_the_results_are_the_same(case: Case, capturing: pytest.MonkeyPatch):
    inputs = build(case, torch.float64)
    outputs = outputs_of(inputs, "cpp")
    values = {**outputs, **cotangents_of(inputs, outputs)}
    capturing.undo()
    assert_matches(values, values_of(case, "cpp"), ROUNDING, str(case))


def test_plain_torch_does_not_wait_for_the_times_of_one_potential(capturing: pytest.MonkeyPatch):
    case = Case(40, 3, 9, 7, 2, "int", time="repeated", tracked="parameters")
    values = values_of(case, "analytic")
    capturing.undo()
    assert_matches(values, values_of(case, "analytic"), ROUNDING)


@needs_cpp
def test_an_index_out_of_range_is_left_to_the_backend(monkeypatch: pytest.MonkeyPatch):
    inputs = build(Case(5, 3, 9, 7, 3, "mixed"), torch.float64)
    k = torch.tensor([0, 1, 2, 3, 0])
    with pytest.raises(ArgumentError, match="0 <= k < 3"):
        potential_derivatives(inputs.pot, inputs.z, 1.0, k, backend="cpp")
    monkeypatch.setattr(mlp_field, "is_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="k"):
        potential_derivatives(inputs.pot, inputs.z, 1.0, k, backend="cpp")


def test_the_stream_is_asked_only_for_a_gpu(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: asked.append(True) or True)
    assert not mlp_field.is_capturing(torch.device("cpu")) and not asked
    assert mlp_field.is_capturing(torch.device("cuda")) and asked
