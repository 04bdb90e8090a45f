"""Third rung: the compiled op against the rungs below it in float64, every output and every cotangent of every case.

Where nested autograd is cheap enough it is the reference itself, elsewhere ``analytic`` is, which is tested against it.
Every case runs on every instruction set with both forms of the Laplacian, on one thread and on two.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch

from ffrl.ops import batching, extension, fused
from ffrl.ops.registration import FORMS as FORM_NUMBERS
from tests.cases import Case, build, in_full, outputs_of, relaid
from tests.cpp_cases import (
    CAPABILITIES,
    CPP_CASES,
    CPP_COLUMNS,
    CPP_FULL_CASES,
    FORMS,
    SIZES,
    Setting,
    needs_cpp,
    random_cpp_cases,
    settings_of,
    values_of,
    values_with,
)
from tests.tolerances import assert_matches

# The same formulas in another order of summation, with cancellation in sums of up to 130³ terms.
PARITY = 1e-11

LARGE_CASES = (
    Case(40, 226, 33, 65, 2, "mixed", seed=1),
    Case(33, 17, 226, 31, activation="identity", time="repeated", seed=2),
    Case(33, 31, 65, 226, 3, "same", time="scalar", seed=3),
    Case(5, 226, 226, 226, seed=4),
    Case(65, 324, 15, 16, 2, "mixed", time="repeated", seed=5),
    Case(33, 3, 324, 33, activation="identity", seed=6),
    Case(33, 16, 31, 324, 5, "mixed", time="scalar", seed=7),
    Case(2, 324, 324, 324, seed=8),
    pytest.param(Case(70, 324, 324, 324, 2, "mixed", seed=9), marks=pytest.mark.slow, id="paper"),
)
MANY_ROWS = (
    Case(65_537, 3, 5, 4, 3, "mixed", time="repeated", seed=1),
    Case(65_537, 2, 17, 3, 2, "same", activation="identity", time="scalar", seed=2),
)
FORM = batching.Operands._fields.index("form")
NIGHTLY_CASES, NIGHTLY_CHUNK = 10_000, 100

pytestmark = needs_cpp


def oracle_is_cheap(case: Case) -> bool:
    return case.latent <= 17 and case.rows * case.latent <= 1000


def check(case: Case) -> None:
    inputs = build(case)
    expected = values_of(inputs, "oracle" if oracle_is_cheap(case) else "analytic")
    for setting in settings_of(case):
        actual = values_with(setting, inputs)
        assert_matches(actual, expected, PARITY, f"{case}, {setting}")
        tracked = bool(inputs.sources)
        assert all(v.requires_grad == tracked for name, v in actual.items() if v is not None and name[:2] != "v_")


@pytest.mark.parametrize("case", CPP_CASES[:500], ids=str)
def test_cpp_matches_the_rungs_below(case: Case):
    check(case)


@pytest.mark.parametrize("case", CPP_FULL_CASES, ids=str)
def test_cpp_matches_the_rungs_below_in_full(case: Case):
    check(case)


@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_cpp_matches_at_the_papers_sizes(case: Case):
    check(case)


@pytest.mark.parametrize("case", MANY_ROWS, ids=str)
def test_cpp_matches_for_many_rows(case: Case):
    check(case)


@pytest.mark.parametrize("form", FORMS)
def test_parameters_and_cotangents_of_other_layouts_give_the_same_results(form: str):
    inputs = build(Case(33, 17, 31, 15, 3, "mixed"))
    expected = values_of(inputs, "analytic")
    for parameter in inputs.pot.parameters():
        if parameter.dim() == 3:
            parameter.data = parameter.data.transpose(1, 2).contiguous().transpose(1, 2)
    inputs.cotangents["du_dz"] = relaid(inputs.cotangents["du_dz"], "transposed")
    inputs.cotangents["lap_u"] = relaid(inputs.cotangents["lap_u"], "strided")
    for capability in CAPABILITIES:
        assert_matches(values_with(Setting(capability, form, 1), inputs), expected, PARITY, capability)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_sums_is_that_of_cotangents_of_ones(form: str):
    inputs = build(Case(33, 17, 31, 15, 3, "mixed"))
    inputs.cotangents = {name: torch.ones_like(value) for name, value in inputs.cotangents.items()}
    expected = values_of(inputs, "analytic")
    for capability in CAPABILITIES:
        with Setting(capability, form, 1).active():
            total = torch.stack([v.sum() for v in outputs_of(inputs, "cpp").values() if v is not None]).sum()
            gradients = torch.autograd.grad(total, list(inputs.sources.values()))  # cotangents with stride 0
        actual = {f"v_{name}": value for name, value in zip(inputs.sources, gradients, strict=True)}
        assert_matches(actual, {name: expected[name] for name in actual}, PARITY, capability)


@pytest.mark.nightly
@pytest.mark.parametrize("chunk", range(NIGHTLY_CASES // NIGHTLY_CHUNK))
def test_cpp_matches_in_further_cases(chunk: int):
    first = chunk * NIGHTLY_CHUNK
    for case in islice(random_cpp_cases(NIGHTLY_CASES, seed=32, first_seed=1000), first, first + NIGHTLY_CHUNK):
        check(case)
        check(in_full(case))


def test_the_cases_are_at_least_1000_different_ones_of_every_size_index_and_layout():
    assert len({str(case) for case in CPP_CASES}) == len({str(case) for case in CPP_FULL_CASES}) >= 1000
    assert {1, 2, 3, 15, 16, 17, 31, 33, 63, 65, 127, 129} <= set(SIZES) and max(SIZES) == 130
    for name, values in CPP_COLUMNS.items():
        counts = Counter(getattr(case, name) for case in CPP_CASES)
        assert set(counts) == set(values)
        assert min(counts.values()) >= len(CPP_CASES) / len(values) / 3, (name, counts)
    assert sum(oracle_is_cheap(case) and case.rows > 0 for case in CPP_FULL_CASES) >= 300
    assert sum(case.rows > 32 and min(case.latent, case.hidden1, case.hidden2) > 32 for case in CPP_CASES) >= 15


def test_the_cost_model_chooses_both_forms():
    chosen = Counter(
        fused.cpu_laplacian_form(case.latent, case.hidden1, backward=True) for case in CPP_FULL_CASES if case.rows
    )
    assert set(chosen) == set(FORMS) and min(chosen.values()) >= 200, chosen


def test_the_cases_run_on_every_instruction_set_with_both_forms_and_both_numbers_of_threads():
    assert CAPABILITIES and CAPABILITIES[-1] == "portable"
    for case in CPP_FULL_CASES[:100]:
        assert {(s.capability, s.form) for s in settings_of(case)} == {
            *((capability, form) for capability in CAPABILITIES for form in FORMS),
            ("auto", None),
        }
    two_threads = Counter(s[:2] for case in CPP_FULL_CASES for s in settings_of(case) if s.threads == 2)
    assert len(two_threads) == 2 * len(CAPABILITIES) + 1 and min(two_threads.values()) >= 10, two_threads


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_setting_is_what_runs_and_ends_with_its_block(capability: str, form: str, monkeypatch: pytest.MonkeyPatch):
    before = extension.cpu_capability(), torch.get_num_threads(), fused.cpu_laplacian_form
    asked: list[tuple[str, int, int]] = []
    apply_function = fused.apply_function

    def recorded(function: type[torch.autograd.Function], *arguments: object) -> object:
        assert function is fused._Potential
        asked.append((extension.cpu_capability(), torch.get_num_threads(), arguments[FORM]))
        return apply_function(function, *arguments)

    monkeypatch.setattr(fused, "apply_function", recorded)
    with pytest.raises(ZeroDivisionError), Setting(capability, form, 2).active():
        outputs_of(build(Case(3, 3, 5, 4)), "cpp")
        raise ZeroDivisionError
    assert asked == [(capability, 2, FORM_NUMBERS[form])]
    assert (extension.cpu_capability(), torch.get_num_threads(), fused.cpu_laplacian_form) == before
