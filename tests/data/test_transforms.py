"""Transforms against scipy, colorsys and exact properties."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from ffrl.data.transforms import hue_of_red, rotate_hue, sampling_grid, scale_rotate, scale_rotate_frames
from ffrl.errors import ArgumentError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def random_images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def blob(size: int, row: float, column: float, width: float) -> torch.Tensor:
    """A smooth spot, (1, I, I) float64."""
    i = torch.arange(size, dtype=torch.float64)
    return torch.exp(-((i[:, None] - row) ** 2 + (i[None, :] - column) ** 2) / (2 * width**2))[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [7, 28, 33, 64])
def test_scale_rotate_agrees_with_scipy(size: int, dtype: torch.dtype) -> None:
    random = np.random.default_rng(size)
    images = random_images(12, size, size, dtype=dtype)
    scale = torch.tensor(random.uniform(0.5, 2.5, 12))
    angle = torch.tensor(random.uniform(-400, 400, 12))
    found = scale_rotate(images, scale, angle)
    centre = np.full(2, (size - 1) / 2)
    for image, s, degrees, result in zip(images, scale.tolist(), angle.tolist(), found, strict=True):
        c, d = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        matrix = np.array([[c, d], [-d, c]]) / s  # (row, column) of the output -> of the input
        expected = ndimage.affine_transform(
            image.double().numpy(), matrix, centre - matrix @ centre, order=1, mode="grid-constant", cval=0.0
        )
        assert np.abs(result.numpy() - expected).max() < TOLERANCE[dtype]


@pytest.mark.parametrize("size", [1, 2, 5, 27, 28, 32, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scale_one_and_right_angles_move_pixels_and_change_none(size: int, dtype: torch.dtype) -> None:
    images = random_images(9, size, size, dtype=dtype)
    turns = [0, 1, 2, 3, -1, 4, 5, -6, 400]
    found = scale_rotate(images, torch.ones(9), torch.tensor([90.0 * turn for turn in turns]))
    for image, result, turn in zip(images, found, turns, strict=True):
        assert torch.equal(result, torch.rot90(image, turn))  # rot90 is counter-clockwise


def test_rotation_is_counter_clockwise_on_the_screen() -> None:
    right = blob(29, 14, 24, 1.5)  # ten pixels to the right of the centre
    turned = scale_rotate(right, torch.ones(1), torch.tensor([30.0]))
    row, column = divmod(int(turned.argmax()), 29)
    assert (row, column) == (14 - 5, 14 + 9)  # 10 sin 30 upward, 10 cos 30 to the right


def test_scale_magnifies_about_the_centre() -> None:
    spot = blob(41, 20, 23, 1.5)
    larger = scale_rotate(spot, torch.tensor([2.0]), torch.zeros(1))
    assert divmod(int(larger.argmax()), 41) == (20, 26)
    assert abs(float(larger.sum() / spot.sum()) - 4) < 1e-3


@pytest.mark.parametrize("degrees", [0.0, 17.0, 44.9, 45.0, 45.1, 80.0, 135.0, -100.0])
def test_a_further_right_angle_is_exact(degrees: float) -> None:
    image = random_images(1, 28, 28, dtype=torch.float64)
    scale, angle = torch.tensor([1.3]), torch.tensor([degrees], dtype=torch.float64)
    quarter_more = scale_rotate(image, scale, angle + 90)
    assert (quarter_more - torch.rot90(scale_rotate(image, scale, angle), 1, (1, 2))).abs().max() < 1e-12


def test_transforms_compose_on_smooth_images() -> None:
    spot = blob(61, 27, 36, 5.0)

    def act(image: torch.Tensor, scale: float, degrees: float) -> torch.Tensor:
        return scale_rotate(image, torch.tensor([scale]), torch.tensor([degrees]))

    assert (act(act(spot, 1, 30), 1, 50) - act(spot, 1, 80)).abs().max() < 0.02
    assert (act(act(spot, 1.2, 0), 1.25, 0) - act(spot, 1.5, 0)).abs().max() < 0.02
    assert (act(act(spot, 1.3, 0), 1, 40) - act(act(spot, 1, 40), 1.3, 0)).abs().max() < 0.02
    assert (act(act(spot, 1, 35), 1, -35) - spot).abs().max() < 0.03
    assert (act(spot, 1, 80) - spot).abs().max() > 0.5  # or the bounds above would mean nothing


def test_channels_move_together_and_rows_apart() -> None:
    images = random_images(4, 3, 28, 28)
    scale, angle = torch.tensor([1.0, 1.8, 0.7, 1.2]), torch.tensor([10.0, 0.0, 77.0, -30.0])
    found = scale_rotate(images, scale, angle)
    assert found.shape == images.shape
    for row in range(4):
        for channel in range(3):
            alone = scale_rotate(images[row, channel][None], scale[row : row + 1], angle[row : row + 1])
            assert (found[row, channel] - alone[0]).abs().max() < 1e-6


def test_frames_are_scale_rotate_of_every_image() -> None:
    images = random_images(5, 28, 28)
    scale, angle = torch.linspace(1, 1.8, 8), torch.linspace(0, 80, 8)
    found = scale_rotate_frames(images, sampling_grid(scale, angle, 28, torch.float32))
    assert found.shape == (5, 8, 28, 28)
    for row in range(5):
        expected = scale_rotate(images[row].expand(8, 28, 28), scale, angle)
        assert (found[row] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rotate_hue_agrees_with_colorsys(dtype: torch.dtype) -> None:
    random = np.random.default_rng(3)
    colours = random.uniform(0, 1, (400, 3))
    corners = np.array(np.meshgrid([0, 0.5, 1], [0, 0.5, 1], [0, 0.5, 1])).reshape(3, -1).T  # greys, ties and primaries
    colours = np.concatenate([colours, corners])
    pixels = torch.tensor(colours, dtype=dtype)[:, :, None, None]
    for degrees in (0.0, 1.0, 20.0, 60.0, 119.0, 160.0, 180.0, 250.0, 340.0, 359.0, -45.0, 725.0):
        found = rotate_hue(pixels, torch.full((len(colours),), degrees))[:, :, 0, 0]
        expected = []
        for red, green, blue in pixels[:, :, 0, 0].double().tolist():
            hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
            expected.append(colorsys.hsv_to_rgb((hue + degrees / 360) % 1.0, saturation, value))
        assert (found.double() - torch.tensor(expected, dtype=torch.float64)).abs().max() < 0.2 * TOLERANCE[dtype]


def test_rotate_hue_properties() -> None:
    images = random_images(6, 3, 9, 9)

    def turn(image: torch.Tensor, degrees: float) -> torch.Tensor:
        return rotate_hue(image, torch.full((6,), degrees))

    assert torch.equal(turn(images, 0.0), images)
    assert torch.equal(turn(images, -720.0), images)
    assert (turn(images, 120.0) - images.roll(1, dims=1)).abs().max() < 1e-6  # red -> green -> blue -> red
    assert (turn(turn(images, 70.0), 95.0) - turn(images, 165.0)).abs().max() < 2e-6
    turned = turn(images, 50.0)
    assert (turned.amax(1) - images.amax(1)).abs().max() < 1e-6
    assert (turned.amin(1) - images.amin(1)).abs().max() < 1e-6
    assert (turned - images).abs().max() > 0.3
    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(turn(grey, 50.0), grey)
    assert float(turned.min()) >= 0 and float(turned.max()) <= 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 2e-15)], ids=str)
def test_digit_in_the_red_channel_is_the_general_rotation(dtype: torch.dtype, tolerance: float) -> None:
    grey = random_images(37, 8, 8, dtype=dtype)
    degrees = torch.arange(37) * 10.0
    general = rotate_hue(torch.stack((grey, torch.zeros_like(grey), torch.zeros_like(grey)), 1), degrees)
    fast = grey[:, None] * hue_of_red(degrees).to(dtype)[:, :, None, None]
    assert (general - fast).abs().max() < tolerance


def test_hue_of_red_at_the_corners() -> None:
    corners = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]]
    assert hue_of_red(torch.arange(7) * 60.0).tolist() == corners


ONE, TWO = torch.ones(1), torch.ones(2)
SQUARE, COLOUR = torch.zeros(1, 4, 4), torch.zeros(1, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scale_rotate(torch.zeros(4, 4), ONE, ONE), "images = (4, 4)"),
        (lambda: scale_rotate(torch.zeros(1, 4, 5), ONE, ONE), "images = (1, 4, 5)"),
        (lambda: scale_rotate(SQUARE.byte(), ONE, ONE), "images.dtype = torch.uint8"),
        (lambda: scale_rotate(SQUARE, TWO, TWO), "scale = (2,)"),
        (lambda: scale_rotate(SQUARE, ONE, TWO), "angle_degrees = (2,)"),
        (lambda: scale_rotate(SQUARE, 0 * ONE, ONE), "scale = [0.0]"),
        (lambda: scale_rotate(SQUARE, ONE, ONE * math.nan), "angle_degrees = [nan]"),
        (lambda: rotate_hue(SQUARE, ONE), "images = (1, 4, 4)"),
        (lambda: rotate_hue(COLOUR.half(), ONE), "images.dtype = torch.float16"),
        (lambda: rotate_hue(COLOUR, TWO), "degrees = (2,)"),
        (lambda: hue_of_red(torch.tensor(3.0)), "degrees = ()"),
        (lambda: hue_of_red(ONE / 0), "degrees = [inf]"),
    ],
)
def test_bad_arguments_are_named(call, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call()
    assert words in str(caught.value)
