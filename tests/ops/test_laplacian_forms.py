"""The Gram and the Jacobian form of the Laplacian, whole and in tiles, against the oracle and each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.ops import analytic, laplacian_forms
from ffrl.ops.analytic import potential_derivatives_analytic
from ffrl.ops.laplacian_forms import LaplacianForm, tile_extents
from tests.cases import Case, Inputs, build, cotangents_of, outputs_of
from tests.tolerances import FLOAT64, ROUNDING, assert_matches

FORMS: tuple[LaplacianForm, ...] = ("gram", "jacobian")
TILES = (1, 7, 64, 1000)

SHAPES = (
    Case(1, 1, 2, 3, tracked="all", seed=1),
    Case(2, 8, 3, 1, activation="identity", seed=2),
    Case(7, 3, 17, 8, time="scalar", seed=3),
    Case(7, 17, 8, 32, cotangents="lap_u", seed=4),
    Case(33, 2, 3, 8, activation="identity", d2u_dt2=False, seed=5),
    Case(33, 8, 17, 32, time="rows", tracked="parameters", seed=6),
    Case(33, 32, 17, 3, cotangents="du_dt+lap_u", tracked="z+t", seed=7),
    Case(0, 3, 8, 2, seed=8),
)


def direct(inputs: Inputs, form: LaplacianForm) -> dict[str, Tensor | None]:
    """The closed form of one potential in the given form, without the public function."""
    pot, k = inputs.pot, inputs.k
    assert isinstance(k, int)
    time = torch.as_tensor(inputs.t, dtype=inputs.z.dtype)
    return potential_derivatives_analytic(
        inputs.z,
        pot.time_features(time, k, order=2 if inputs.case.d2u_dt2 else 1),
        pot.weights(k),
        tanh_output=pot.output_activation == "tanh",
        form=form,
    )._asdict()


@pytest.mark.parametrize("tile", [*TILES, None])
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_both_forms_match_the_oracle_and_each_other_in_tiles_of_any_size(
    case: Case, tile: int | None, monkeypatch: pytest.MonkeyPatch
):
    if tile is not None:
        monkeypatch.setattr(laplacian_forms, "TILE_ELEMENTS", tile)
    inputs = build(case)
    expected = outputs_of(inputs, "oracle")
    v_expected = cotangents_of(inputs, expected)
    results = {}
    for form in FORMS:
        outputs = direct(inputs, form)
        cotangents = cotangents_of(inputs, outputs)
        assert_matches(outputs, expected, FLOAT64, f"{form} form, outputs")
        assert_matches(cotangents, v_expected, FLOAT64, f"{form} form, cotangents")
        results[form] = {**outputs, **cotangents}
    assert_matches(results["gram"], results["jacobian"], ROUNDING, "gram against jacobian")


def test_a_laplacian_that_was_not_asked_for_ignores_the_form():
    inputs = build(SHAPES[2])
    time = torch.as_tensor(inputs.t)
    out = potential_derivatives_analytic(
        inputs.z,
        inputs.pot.time_features(time, 0, order=1),
        inputs.pot.weights(0),
        tanh_output=True,
        laplacian=False,
        form="gram",
    )
    assert out.lap_u is None and out.d2u_dt2 is None


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("rows", "units", "width"), [(33, 32, 17), (1, 1, 1), (7, 3, 65), (0, 8, 8), (1024, 324, 324)])
def test_tiles_keep_to_the_budget_and_are_never_empty(
    rows: int, units: int, width: int, tile: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(laplacian_forms, "TILE_ELEMENTS", tile)
    tiles = tile_extents(rows, units, width)
    assert tiles.rows >= 1 and 1 <= tiles.units <= units
    assert tiles.rows * tiles.units * width <= max(tile, width)


def test_the_tile_sizes_of_these_tests_reach_every_way_of_cutting(monkeypatch: pytest.MonkeyPatch):
    """Whole, rows only, units only, both: of the (rows, units) plane of the forward."""
    seen = set()
    for case in SHAPES:
        for tile in TILES:
            monkeypatch.setattr(laplacian_forms, "TILE_ELEMENTS", tile)
            tiles = tile_extents(case.rows, case.hidden2, case.hidden1)
            seen.add((tiles.rows < case.rows, tiles.units < case.hidden2))
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_the_backward_of_a_form_adds_to_the_buffers_that_it_is_given():
    d1, weight1, weight2, v_ell_c = (
        torch.randn(shape, dtype=torch.float64) for shape in ((5, 4), (4, 2), (3, 4), (5, 3))
    )
    gram = weight1 @ weight1.T
    start = [torch.randn(shape, dtype=torch.float64) for shape in ((4, 4), (3, 4), (4, 2), (3, 4))]
    filled, zero = [value.clone() for value in start], [torch.zeros_like(value) for value in start]
    for buffers in (filled, zero):
        analytic.laplacian_gram_vjp(v_ell_c, d1, weight2, gram, buffers[0], buffers[1])
        analytic.laplacian_jacobian_vjp(v_ell_c, d1, weight1, weight2, buffers[2], buffers[3])
    for before, after, added in zip(start, filled, zero, strict=True):
        assert added.abs().min() > 0
        assert_matches({"added": after - before}, {"added": added}, ROUNDING)
