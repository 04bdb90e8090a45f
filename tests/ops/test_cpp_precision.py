"""float32: the compiled op errs at most a small factor more than plain torch does with the same formulas.

One rounding error is a random number: where a result is one number, or hangs on one rounded activation, either side can
be lucky by more than the factor. So the factor is asked of the typical error: the geometric mean of the ratio over many
cases that share a size, a layout, an activation and so on, and over many draws of one shape.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import pytest
import torch

from ffrl.ops import analytic
from tests.cases import Case, build
from tests.cpp_cases import CAPABILITIES, CPP_COLUMNS, CPP_FULL_CASES, FORMS, Setting, needs_cpp, values_of, values_with
from tests.tolerances import FLOAT32_COTANGENT_RATIO, FLOAT32_FLOOR, FLOAT32_OUTPUT_RATIO, relative_error

pytestmark = needs_cpp

NUM_CASES, DRAWS = 450, 16
CASES = tuple(case for case in CPP_FULL_CASES if case.rows)[:NUM_CASES]
COLUMNS = ("rows", "latent", "hidden1", "hidden2", "potentials", "index", "activation", "time", "layout", "time_dim")
SHAPES = (
    Case(33, 3, 64, 80, time="scalar"),
    Case(64, 64, 64, 64, 3, "mixed"),
    Case(64, 16, 129, 31, activation="identity"),
    Case(128, 32, 17, 130, time="repeated"),
    Case(32, 130, 100, 65, 2, "same", time="repeated"),
    Case(40, 8, 8, 324, activation="identity", time="scalar"),
    Case(1024, 8, 16, 16, 2, "mixed", time="repeated"),
    Case(4096, 4, 8, 8, time="repeated"),
    Case(4096, 4, 8, 8, 2, "mixed", time="rows"),
    pytest.param(Case(64, 324, 324, 324), marks=pytest.mark.slow, id="paper"),
)


class Error(NamedTuple):
    """Relative errors of one result of one case in float32, against float64."""

    case: Case
    setting: Setting
    name: str
    compiled: float
    plain: float

    @property
    def log_ratio(self) -> float:
        return math.log(max(self.compiled, FLOAT32_FLOOR) / max(self.plain, FLOAT32_FLOOR))


def errors_of(case: Case, settings: Iterable[Setting], monkeypatch: pytest.MonkeyPatch) -> Iterator[Error]:
    """Errors of every output and every cotangent, in each setting, beside those of plain torch in the same form."""
    single = build(case, torch.float32)
    reference = values_of(single.double(), "analytic")
    plain: dict[str | None, dict[str, float]] = {}
    for form in FORMS:
        with monkeypatch.context() as patch:
            patch.setattr(analytic, "laplacian_form", lambda *_, form=form, **__: form)
            values = values_of(single, "analytic")
            plain[form] = {name: relative_error(values[name], expected) for name, expected in reference.items()}
    for setting in settings:
        values = values_with(setting, single)
        for name, expected in reference.items():
            assert values[name].dtype == torch.float32
            error = relative_error(values[name], expected)
            yield Error(case, setting, name, error, plain[setting.form][name])


def assert_typical_errors_are_bounded(groups: dict[tuple[object, ...], list[Error]]) -> None:
    """The geometric mean of compiled against plain error of each group; the last member of its key is the result."""
    worse = []
    for (*group, name), errors in groups.items():
        ratio = math.exp(fmean(error.log_ratio for error in errors))
        allowed = FLOAT32_COTANGENT_RATIO if str(name).startswith("v_") else FLOAT32_OUTPUT_RATIO
        if ratio > allowed:
            typical = math.exp(fmean(math.log(max(error.compiled, 1e-30)) for error in errors))
            worse.append(f"{name} {group}: x{ratio:.2f} of plain torch (at most x{allowed}), typically {typical:.1e}")
    assert not worse, "\n".join(worse)


@pytest.fixture(scope="module")
def errors() -> list[Error]:
    """Of every case on one instruction set in turn, in both forms."""
    found: list[Error] = []
    with pytest.MonkeyPatch.context() as patch:
        for i, case in enumerate(CASES):
            capability = CAPABILITIES[i % len(CAPABILITIES)]
            found += errors_of(case, [Setting(capability, form, 1) for form in FORMS], patch)
    return found


def test_at_least_300_cases_are_measured_and_every_group_has_many(errors: list[Error]):
    assert len({error.case for error in errors}) == NUM_CASES >= 300
    assert all(math.isfinite(error.compiled) for error in errors)
    for column in COLUMNS:
        for value in CPP_COLUMNS[column]:
            members = [case for case in CASES if getattr(case, column) == value]
            assert len(members) >= 12 or value in (0, "float"), (column, value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("column", COLUMNS)
def test_float32_errors_of_cases_that_share_a_value_are_typically_those_of_plain_torch(
    errors: list[Error], column: str, form: str
):
    groups: dict[tuple[object, ...], list[Error]] = defaultdict(list)
    for error in errors:
        if error.setting.form == form:
            groups[column, getattr(error.case, column), error.name].append(error)
    assert_typical_errors_are_bounded(groups)


@pytest.mark.parametrize("form", FORMS)
def test_float32_errors_on_every_instruction_set_are_typically_those_of_plain_torch(errors: list[Error], form: str):
    groups: dict[tuple[object, ...], list[Error]] = defaultdict(list)
    for error in errors:
        if error.setting.form == form:
            groups[error.setting.capability, error.name].append(error)
    assert_typical_errors_are_bounded(groups)


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_float32_errors_of_one_shape_are_typically_those_of_plain_torch(case: Case, monkeypatch: pytest.MonkeyPatch):
    settings = [Setting(capability, form, 1) for capability in CAPABILITIES for form in FORMS]
    groups: dict[tuple[object, ...], list[Error]] = defaultdict(list)
    for seed in range(DRAWS):
        for error in errors_of(replace(case, seed=seed), settings, monkeypatch):
            groups[error.setting.capability, error.setting.form, error.name].append(error)
    assert_typical_errors_are_bounded(groups)
