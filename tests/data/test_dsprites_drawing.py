"""The drawn sprites are those of dSprites: coordinates that are known, symmetries, and the genuine images."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ffrl.data.dsprites_drawing import FACTOR_SIZES, draw

SQUARE, ELLIPSE, HEART = 0, 1, 2
FILES = ("dsprites_downsampled.npz", "dsprites_subset.npz")


def pixels(*factors: int) -> Tensor:
    """One sprite, (64, 64) bool."""
    return draw(torch.tensor([factors]))[0, 0] == 255


def extent(image: Tensor) -> tuple[int, int, int, int]:
    """First and last row, first and last column."""
    rows, columns = (image.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


def test_the_grid_is_the_published_one() -> None:
    assert list(FACTOR_SIZES.items()) == [("shape", 3), ("scale", 6), ("orientation", 40), ("posX", 32), ("posY", 32)]
    assert math.prod(FACTOR_SIZES.values()) == 737280


def test_squares_at_known_coordinates() -> None:
    # Centre 16 + 32 * 16/31 = 32.516, half a side 4.8: centres of pixels from 27.716 to 37.316.
    image = pixels(SQUARE, 0, 0, 16, 16)
    assert extent(image) == (28, 36, 28, 36) and image.sum() == 81
    # 16 - 9.6 = 6.4 and 16 + 9.6 = 25.6 from the left; 48 - 9.6 = 38.4 and 57.6 from the top.
    image = pixels(SQUARE, 5, 0, 0, 31)
    assert extent(image) == (38, 57, 6, 25) and image.sum() == 400


def test_ellipse_and_heart_at_known_coordinates() -> None:
    # Half axes 12.768 and 7.218 about 32.516.
    assert extent(pixels(ELLIPSE, 5, 0, 16, 16)) == (25, 39, 20, 44)
    heart = [
        "..###...####..",
        "######.######.",
        "######.######.",
        "#############.",
        "#############.",
        "#############.",
        ".###########..",
        "..#########...",
        "...#######....",
        "....#####.....",
        ".....###......",
        "......#.......",
        "......#.......",
    ]
    image = pixels(HEART, 2, 0, 16, 16)
    assert ["".join(".#"[int(value)] for value in row[26:40]) for row in image[26:39]] == heart
    assert image.sum() == sum(line.count("#") for line in heart)


@pytest.mark.parametrize(("shape", "area"), [(SQUARE, 19.2**2), (ELLIPSE, math.pi * 9.6**2), (HEART, 224.499)])
def test_areas_grow_with_the_square_of_the_scale(shape: int, area: float) -> None:
    for scale in range(6):
        factors = torch.tensor([[shape, scale, turn, 7, 20] for turn in range(40)])
        counts = (draw(factors) == 255).sum((1, 2, 3)).double()
        wanted = area * (0.5 + 0.1 * scale) ** 2
        assert counts.mean() == pytest.approx(wanted, rel=0.02)
        assert (counts / wanted - 1).abs().max() < 0.14


def test_positions_move_right_and_down() -> None:
    def centre(shape: int, x: int, y: int) -> Tensor:
        return pixels(shape, 4, 11, x, y).nonzero().double().mean(0)

    for shape in (SQUARE, ELLIPSE, HEART):
        start = centre(shape, 2, 5)
        assert (centre(shape, 30, 5) - start).tolist() == pytest.approx([0, 28 * 32 / 31], abs=0.3)
        assert (centre(shape, 2, 25) - start).tolist() == pytest.approx([20 * 32 / 31, 0], abs=0.3)


def test_orientation_is_counter_clockwise_and_comes_round() -> None:
    factors = torch.tensor([[shape, scale, 0, 3, 9] for shape in range(3) for scale in range(6)])
    around = factors.clone()
    around[:, 2] = 39
    assert torch.equal(draw(factors), draw(around))
    # The heart's tip points down; after a quarter of a turn, nearly, to the right.
    upright, turned = pixels(HEART, 5, 0, 16, 16), pixels(HEART, 5, 10, 16, 16)
    top, bottom = upright[:32].sum(), upright[33:].sum()
    left, right = turned[:, :32].sum(), turned[:, 33:].sum()
    assert top > 1.5 * bottom and left > 1.5 * right


def genuine_files() -> list[Path]:
    """The subsets of the genuine images in the folder that FFRL_DATA names."""
    folder = Path(os.environ.get("FFRL_DATA") or "") / "dsprites"
    missing = [name for name in FILES if not os.environ.get("FFRL_DATA") or not (folder / name).is_file()]
    if missing:
        pytest.skip(f"FFRL_DATA names no folder that holds dsprites/{missing[0]}")
    return [folder / name for name in FILES]


def compare(path: Path, step: int) -> tuple[int, int, int]:
    """Over every step-th image: how many there are, how many differ, and the most pixels in which one does."""
    with np.load(path, allow_pickle=False) as file:
        images = torch.from_numpy(file["imgs"][::step])
        index = torch.from_numpy(file["original_dataset_indices"][::step])
    columns = []
    for size in reversed(FACTOR_SIZES.values()):
        columns.append(index % size)
        index = index // size
    drawn = draw(torch.stack(columns[::-1], 1))[:, 0]
    different = (drawn != images * 255).flatten(1).sum(1)
    return len(images), int((different > 0).sum()), int(different.max())


def test_a_sample_equals_the_genuine_images() -> None:
    counts, different, most = zip(*(compare(path, 31) for path in genuine_files()), strict=True)
    assert sum(counts) == 2133 and sum(different) <= 3 and max(most) <= 1


@pytest.mark.slow
def test_all_genuine_images_are_drawn() -> None:
    full, random = genuine_files()
    counts, different, most = zip(compare(full, 1), compare(random, 1), strict=True)
    assert counts == (46080, 20000) and max(most) == 1
    # 1,246 images are in both files, so that 66,080 are 64,834: at least 64,800 of these are equal.
    assert sum(different) <= 34
