"""The Triton kernels against float64, every output and every cotangent, beside plain torch in float32.

The bound is that of docs/derivation.md, section 8: outputs err at most 2, cotangents at most 3 times as much as plain
torch with the same formulas. One rounding error is a random number and either side can be lucky, so the factor is asked
of the geometric mean over all cases, and each case alone must stay within a wider bound that no wrong formula meets.
"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean

import pytest
import torch

from tests.cases import Case, build, cotangents_of, outputs_of
from tests.kernels.cases import CASES, FORMS, FULL_CASES, triton_values
from tests.kernels.devices import needs_triton
from tests.tolerances import FLOAT32_COTANGENT_RATIO, FLOAT32_FLOOR, FLOAT32_OUTPUT_RATIO, relative_error

pytestmark = needs_triton

ALONE = 12  # times the error of plain torch, in one case ...
ALONE_FLOOR = 2e-6  # ... or of this, where plain torch was exact by luck
RATIOS: dict[tuple[str, str], list[float]] = defaultdict(list)  # of (form, result), filled case by case


def values_of(inputs, backend: str):
    outputs = outputs_of(inputs, backend)
    return {**outputs, **cotangents_of(inputs, outputs)}


def check(case: Case, form: str | None) -> None:
    single = build(case, torch.float32)
    expected, plain = values_of(single.double(), "analytic"), values_of(single, "analytic")
    actual = triton_values(single, form)
    assert actual.keys() == expected.keys()
    worse = []
    for name, reference in expected.items():
        value = actual[name]
        if reference is None:
            assert value is None, name
            continue
        assert value is not None and value.shape == reference.shape and value.dtype == torch.float32, name
        error, own = relative_error(value, reference), relative_error(plain[name], reference)
        if error > ALONE * max(own, ALONE_FLOOR):
            worse.append(f"{name}: {error:.1e} against {own:.1e} of plain torch")
        RATIOS[form or "chosen", name].append(math.log(max(error, FLOAT32_FLOOR) / max(own, FLOAT32_FLOOR)))
    assert not worse, "\n  ".join([f"{case}, {form}", *worse])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_triton_matches_in_the_form_it_chooses(case: Case):
    check(case, None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", FULL_CASES, ids=str)
def test_triton_matches_in_full(case: Case, form: str):
    if form == "jacobian" and case.latent > 100:
        pytest.skip("the interpreter takes minutes for a Jacobian of so many latent dimensions")
    check(case, form)


def test_typical_errors_are_within_the_rule():
    """Over all cases that ran before this one."""
    if sum(map(len, RATIOS.values())) < 2000:
        pytest.skip("it needs the cases of the whole file before it, in one process")
    worse = []
    for (form, name), logs in RATIOS.items():
        allowed = FLOAT32_COTANGENT_RATIO if name.startswith("v_") else FLOAT32_OUTPUT_RATIO
        if (ratio := math.exp(fmean(logs))) > allowed:
            worse.append(f"{name}, {form}: x{ratio:.2f} of plain torch, at most x{allowed}")
    assert not worse, "\n".join(worse)


def test_the_cases_are_at_least_60_shapes_with_every_edge():
    shapes = {(case.rows, case.latent, case.hidden1, case.hidden2) for case in FULL_CASES}
    assert len(shapes) >= 60 and {1, 17, 33, 65} <= {case.hidden1 for case in FULL_CASES}
    assert {226, 324} <= {case.hidden1 for case in FULL_CASES}
    assert sum(case.index == "mixed" and case.rows > 1 for case in FULL_CASES) >= 15
    assert sum(case.rows > 64 for case in FULL_CASES) >= 8
