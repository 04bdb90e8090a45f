"""The table of tile sizes: what it must hold, and how it is looked up."""

from __future__ import annotations

import importlib.util

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

from ffrl.kernels import tiling  # noqa: E402
from ffrl.kernels.tile_table import TILES  # noqa: E402


def test_every_architecture_has_a_tile_of_every_kind():
    assert set(TILES) >= {75, 80, 86, 90, 100, 120}  # and what else was tuned
    for capability, tables in TILES.items():
        has_tf32 = capability >= tiling.OLDEST_WITH_TENSOR_CORES
        assert set(tables) == ({"tf32x3", "tf32", "ieee"} if has_tf32 else {"ieee"})
        for precision, classes in tables.items():
            assert set(classes) == set(tiling.SHAPE_CLASSES)
            for entries in classes.values():
                assert set(entries) == set(tiling.CUBIC_KINDS if precision == "tf32" else tiling.KINDS)


def test_sizes_are_those_that_the_kernels_and_the_tensor_cores_take():
    for tables in TILES.values():
        for classes in tables.values():
            for entries in classes.values():
                for columns, depth, num_warps, num_stages in entries.values():
                    assert columns in (16, 32, 64, 128) and num_warps in (2, 4, 8) and num_stages in (1, 2, 3, 4)
                    # A sum over rows steps through whole blocks of them.
                    assert depth in (16, 32, 64) and tiling.ROWS % depth == 0


@pytest.mark.parametrize(
    ("capability", "listed"),
    [(70, 75), (75, 75), (80, 80), (86, 86), (89, 86), (90, 90), (100, 100), (103, 100), (120, 120), (121, 120)],
)
def test_an_architecture_takes_the_tiles_of_the_nearest_below(capability: int, listed: int):
    assert tiling.nearest_capability(capability) == listed
    for kind in tiling.KINDS:
        expected = TILES[listed]["ieee"]["wide"][kind]
        assert tiling.tile_of(capability, "ieee", "wide", kind) == tiling.Tile(*expected)


def test_the_class_is_of_the_widest_layer():
    assert [tiling.shape_class(*sizes) for sizes in ((16, 32, 32), (32, 8, 8))] == ["narrow"] * 2
    assert [tiling.shape_class(*sizes) for sizes in ((33, 32, 32), (3, 33, 8), (3, 8, 33))] == ["wide"] * 3


def test_the_other_products_of_tf32_are_looked_up_as_near_float32():
    for kind in tiling.KINDS:
        arithmetic = "tf32" if kind in tiling.CUBIC_KINDS else "tf32x3"
        assert tiling.tile_of(90, "tf32", "narrow", kind) == TILES[90][arithmetic]["narrow"][kind]


def test_the_interpreter_has_one_tile():
    assert {tiling.tile_of(None, "ieee", shapes, kind) for shapes in tiling.SHAPE_CLASSES for kind in tiling.KINDS} == {
        tiling.INTERPRETER
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((90, "tf32", "wide", "cubic"), r"kind = 'cubic' is not allowed; expected one of \('quadratic', "),
        ((None, "ieee", "wide", "cubic"), "kind = 'cubic' is not allowed"),
        ((90, "tf32", "square", "weights"), r"shapes = 'square' is not allowed; expected one of \('narrow', 'wide'\)"),
        ((90, "bf16", "wide", "weights"), "precision = 'bf16' is not allowed; expected one of .* for sm_90"),
        ((75, "tf32", "wide", "weights"), r"precision = 'tf32' is not allowed; expected one of \('ieee',\)"),
    ],
)
def test_what_is_not_in_the_table_is_refused(arguments: tuple[int | None, str, str, str], message: str):
    with pytest.raises(ValueError, match=message):
        tiling.tile_of(*arguments)
