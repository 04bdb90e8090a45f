"""Each factor of the drawn 3D shapes changes what it should: hues their surface, the scale the object's size."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ffrl.data.shapes3d_drawing import COLUMNS, DEGREES, FACTOR_SIZES, ROWS, SCALES, SHAPES, draw

FLOOR, WALL, OBJECT = 0, 1, 2
AHEAD = 7  # the orientation of 0 degrees


def seen(surface: int, scale: int, shape: int, orientation: int) -> Tensor:
    """Where the picture changes with the hue of the floor, the walls or the object, (64, 64) bool."""
    factors = torch.tensor([[1, 4, 7, scale, shape, orientation]]).repeat(10, 1)
    factors[:, surface] = torch.arange(10)
    images = draw(factors)
    return (images != images[:1]).any(0).any(0)


def test_the_factors_are_the_published_ones() -> None:
    names = ["floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"]
    assert list(FACTOR_SIZES) == names and [*FACTOR_SIZES.values()] == [10, 10, 10, 8, 4, 15]
    assert math.prod(FACTOR_SIZES.values()) == 480000
    assert SCALES[0] == 0.75 and SCALES[-1] == 1.25 and len(SHAPES) == 4
    assert DEGREES[0] == -30 and DEGREES[AHEAD] == 0 and DEGREES[-1] == 30


@pytest.mark.parametrize("shape", range(4), ids=SHAPES)
def test_hues_change_their_own_surface(shape: int) -> None:
    for scale, orientation in ((0, 0), (3, AHEAD), (7, 14)):
        floor, wall, solid = (seen(surface, scale, shape, orientation) for surface in (FLOOR, WALL, OBJECT))
        assert (floor | wall | solid).all()
        assert wall[:8].all() and not (floor | solid)[:8].any()
        assert floor[58:].all() and not wall[58:].any() and not solid[58:].any()
        both = floor & wall
        assert 0 < both.sum() < 150  # the edge where they meet, a pixel or two wide
        edge = solid & (floor | wall)
        assert 10 < edge.sum() < 0.35 * solid.sum() + 40
        assert solid[30:36, 31:33].all() and not (floor | wall)[32:36, 31:33].any()


def test_hues_go_round_the_circle() -> None:
    for surface, (row, column) in ((FLOOR, (62, 10)), (WALL, (3, 32)), (OBJECT, (36, 32))):
        factors = torch.tensor([[1, 4, 7, 4, 0, AHEAD]]).repeat(10, 1)
        factors[:, surface] = torch.arange(10)
        red, green, blue = draw(factors)[:, :, row, column].double().unbind(1)
        highest = torch.stack((red, green, blue), 1).argmax(1)
        # Hue i/10: red to 1/6, green to 1/2, blue to 5/6, and red again.
        highest = [*highest[:5].tolist(), *highest[6:].tolist()]  # hue 1/2 has as much green as blue
        assert highest == [0, 0, 1, 1, 1, 2, 2, 2, 0]
        assert red[0] > 2 * green[0] and green[0] == pytest.approx(float(blue[0]), abs=1)
        # Saturation 0.82: the least of the three is 0.18 of the most, where there is no gloss.
        if surface != OBJECT:
            assert green[0] / red[0] == pytest.approx(0.18, abs=0.01)


@pytest.mark.parametrize("shape", range(4), ids=SHAPES)
def test_the_object_grows_with_the_scale_from_the_floor_up(shape: int) -> None:
    for orientation in (0, AHEAD, 12):
        masks = [seen(OBJECT, scale, shape, orientation) for scale in range(8)]
        areas = [int(mask.sum()) for mask in masks]
        assert all(1.03 < larger / smaller < 1.4 for smaller, larger in itertools.pairwise(areas)), areas
        # Nearly as the square: a larger object is also nearer to the camera.
        assert (SCALES[7] / SCALES[0]) ** 2 * 0.8 < areas[7] / areas[0] < (SCALES[7] / SCALES[0]) ** 2 * 1.5
        tops = [int(mask.any(1).nonzero()[0]) for mask in masks]
        assert tops == sorted(tops, reverse=True) and tops[0] - tops[7] >= 6
        for mask in masks:
            columns = mask.nonzero()[:, 1].double()
            assert columns.mean() == pytest.approx(31.5, abs=1.5)  # on the axis of the camera's orbit
            # Nothing of it can be beyond the part of the picture in which it is looked for.
            rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
            assert ROWS[0] < rows[0] and rows[-1] < ROWS[1] - 1
            assert COLUMNS[0] < columns[0] and columns[-1] < COLUMNS[1] - 1


def test_orientation_turns_the_cube_and_the_room_and_not_the_round_shapes() -> None:
    for shape, name in enumerate(SHAPES):
        outlines = torch.stack([seen(OBJECT, 5, shape, orientation) for orientation in range(15)])
        differing = (outlines != outlines[AHEAD]).sum((1, 2))
        if name == "cube":
            assert differing[0] > 60 and differing[14] > 60
            assert (outlines[AHEAD] != outlines[AHEAD].flip(1)).sum() <= 8
        else:
            assert differing.max() <= 6
        floors = torch.stack([seen(FLOOR, 0, shape, orientation) for orientation in range(15)])
        # The corner at the back is on the right of a camera on the left, which is one with a negative angle.
        higher = floors[:, :30, 40:].sum((1, 2)) - floors[:, :30, :24].sum((1, 2))
        assert higher[0] > 20 and higher[14] < -20 and higher[AHEAD] == 0


@pytest.mark.parametrize("shape", range(4), ids=SHAPES)
def test_the_object_throws_a_soft_shadow_to_the_right(shape: int) -> None:
    image = draw(torch.tensor([[0, 4, 6, 5, shape, AHEAD]]))[0, 0].double()  # red: of a red floor and a blue object
    floor = seen(FLOOR, 5, shape, AHEAD) & ~seen(OBJECT, 5, shape, AHEAD) & ~seen(WALL, 5, shape, AHEAD)
    mirrored = floor & floor.flip(1)
    right = mirrored.clone()
    right[:, :32] = False
    darker = (image.flip(1) - image)[right]
    assert darker.max() > 70 and darker.min() > -25
    assert 15 < (darker > 40).sum() < 250
    assert ((darker > 12) & (darker < 50)).sum() > 10  # the half-shadow at its edge


def test_pictures_are_those_that_figures_were_reported_on() -> None:
    """Their mean and spread, which a change of the scene would change."""
    number = torch.arange(240)[:, None]
    factors = (number * torch.tensor([7, 3, 1, 5, 1, 11]) + number // 15) % torch.tensor([*FACTOR_SIZES.values()])
    images = draw(factors).double()
    assert images.mean() == pytest.approx(116.11, abs=0.02) and images.std() == pytest.approx(73.94, abs=0.02)
