"""The list of cases is what it claims to be."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tests.cases import CASES, COLUMNS, FULL_CASES, LAYOUTS, NUM_CASES, OUTPUTS, build, cotangents_of, outputs_of
from tests.tolerances import SCALE_FLOOR


def test_there_are_at_least_200_different_cases_with_different_ids():
    assert len(CASES) == NUM_CASES >= 200
    assert len({str(case) for case in CASES}) == len(set(CASES)) == NUM_CASES


def test_at_least_200_dealt_cases_have_rows_and_track_something():
    assert sum(case.rows > 0 and bool(build(case).sources) for case in CASES) >= 200


def test_the_full_cases_keep_the_dealt_shapes():
    assert len({str(case) for case in FULL_CASES}) == NUM_CASES
    for column in COLUMNS.keys() - {"time", "d2u_dt2", "laplacian", "cotangents", "tracked"}:
        assert [getattr(case, column) for case in FULL_CASES] == [getattr(case, column) for case in CASES]


def test_at_least_200_full_cases_have_rows_and_compare_every_output_and_every_cotangent():
    times: Counter[int] = Counter()
    relative = 0
    for case in (case for case in FULL_CASES if case.rows):
        inputs = build(case)
        parameters = dict(inputs.pot.named_parameters())
        assert set(inputs.cotangents) == set(OUTPUTS)
        assert inputs.sources.keys() == {"z", "t", *parameters}
        tracked = (inputs.z, inputs.t, *parameters.values())
        assert all(isinstance(value, torch.Tensor) and value.requires_grad for value in tracked)
        times[inputs.sources["t"].dim()] += 1
        outputs = outputs_of(inputs, "analytic")
        assert all(value is not None and value.requires_grad for value in outputs.values())
        compared = {**outputs, **cotangents_of(inputs, outputs)}
        # Below the floor the comparison is absolute; few cases may have a result so small.
        relative += all(value is not None and value.norm() > SCALE_FLOOR for value in compared.values())
    assert times.total() >= 200 and min(times[0], times[1]) >= 50, times
    assert relative >= 200


@pytest.mark.parametrize("column", COLUMNS)
def test_every_value_occurs_in_at_least_half_of_its_share(column: str):
    counts = Counter(getattr(case, column) for case in CASES)
    assert set(counts) == set(COLUMNS[column])
    assert min(counts.values()) >= NUM_CASES / len(COLUMNS[column]) / 2, counts


def test_the_three_widths_of_a_case_differ():
    assert all(len({case.latent, case.hidden1, case.hidden2}) == 3 for case in CASES)


def test_mixed_indices_really_mix():
    mixed = [build(case).k for case in CASES if case.index == "mixed" and case.rows > 1]
    assert len(mixed) > 40
    assert all(isinstance(k, torch.Tensor) and len(k.unique()) > 1 for k in mixed)


def test_optional_outputs_occur_in_all_four_combinations_with_both_activations():
    seen = Counter((case.d2u_dt2, case.laplacian, case.activation) for case in CASES)
    assert len(seen) == 8 and min(seen.values()) >= 5, seen


def test_every_layout_is_what_its_name_says():
    strides = {
        layout: build(next(c for c in CASES if c.layout == layout and c.rows > 2 and c.latent > 2)).z
        for layout in LAYOUTS
    }
    assert strides["contiguous"].is_contiguous()
    assert strides["transposed"].stride(0) == 1
    assert strides["strided"].stride(1) == 2
    assert strides["offset"].storage_offset() == 3
    assert strides["expanded"].stride(0) == 0


def test_building_a_case_twice_gives_the_same_numbers_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first, second = build(CASES[4]), build(CASES[4])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.z, second.z)
    for a, b in zip(first.pot.parameters(), second.pot.parameters(), strict=True):
        assert torch.equal(a, b)


def test_uninitialised_memory_is_nan_here():
    z = torch.zeros(3, dtype=torch.float64)
    for fresh in (torch.empty(100), z.new_empty(100), torch.empty_like(z), torch.empty_strided((3, 2), (1, 3))):
        assert fresh.isnan().all()
