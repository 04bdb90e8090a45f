"""The drawn shapes: areas that are known, symmetries, and parts that are the same bytes everywhere."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from ffrl.data import load_images
from ffrl.data.shapes import COUNTS, draw_shape, load_shapes
from ffrl.errors import ArgumentError


@pytest.mark.parametrize("angle", [0.0, 23.0, 45.0, 90.0])
@pytest.mark.parametrize(
    ("name", "area"),
    # The heart's area in its own units is 3.661972...; a unit is radius/1.2.
    [("square", 2.0), ("ellipse", 0.6 * math.pi), ("heart", 3.661972 / 1.44)],
)
def test_area_does_not_depend_on_the_orientation(name: str, area: float, angle: float) -> None:
    image = draw_shape(name, 8.0, angle, (0.7, -1.3))
    # Samples are 1/8 apart: a straight side along them is off by up to 1/16 of a pixel over its length.
    assert image.astype(float).sum() / 255 == pytest.approx(area * 64, abs=48 / 16)


def test_symmetries_and_directions() -> None:
    heart = draw_shape("heart", 8.0)
    assert np.array_equal(heart, heart[:, ::-1])
    rows = (heart > 0).sum(1)
    assert rows[:14].sum() > 1.2 * rows[14:].sum()  # the tip points down
    assert np.array_equal(draw_shape("heart", 8.0, 90.0), np.rot90(heart))  # counter-clockwise
    ellipse = draw_shape("ellipse", 8.0)
    assert (ellipse > 0).any(0).sum() == 16 and (ellipse > 0).any(1).sum() == 10
    moved = draw_shape("ellipse", 8.0, centre=(2.0, 3.0))
    assert np.array_equal(moved[3:, 2:], ellipse[:-3, :-2])  # right and down


def test_edges_are_shares_of_a_pixel() -> None:
    corner, edge = round(255 / 16), round(255 / 4)
    assert draw_shape("square", 1.25 * 2**0.5, size=4).tolist() == [
        [corner, edge, edge, corner],
        [edge, 255, 255, edge],
        [edge, 255, 255, edge],
        [corner, edge, edge, corner],
    ]


def test_parts_are_fixed() -> None:
    images, labels, source = load_shapes("test")
    assert images.shape == (600, 28, 28) and images.dtype == torch.uint8
    assert torch.bincount(labels).tolist() == [200, 200, 200] and labels.dtype == torch.int64
    assert "28x28" in source and COUNTS == {"train": 3000, "test": 600}
    digest = hashlib.sha256(images[:30].numpy().tobytes()).hexdigest()
    assert digest[:16] == "cd34a572f206a887"  # numbers reported on these images rely on it
    assert len({image.numpy().tobytes() for image in images}) == 600
    assert images[:, [0, -1]].amax() == 0 and images[:, :, [0, -1]].amax() == 0  # inside the frame
    loaded = load_images("shapes", "test")
    assert loaded.name == "shapes" and torch.equal(loaded.images, images)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="split = 'all'"):
        load_shapes("all")
    with pytest.raises(ArgumentError, match="name = 'star'"):
        draw_shape("star", 5.0)
