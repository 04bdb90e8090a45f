"""Squares, ellipses and hearts in the manner of dSprites, drawn by formula: no download, the same bytes everywhere."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ffrl.data.draws import stream_key, uniform_integers
from ffrl.errors import ArgumentError

CLASSES = ("square", "ellipse", "heart")
SIZE = 28
COUNTS = {"train": 3000, "test": 600}
_STREAMS = {"train": 0, "test": 1}
_SEED = 0
_SUBPIXELS = 8  # a side: 64 samples a pixel
_RADII = (5.0, 9.0)  # pixels
_SHIFT = 2.0  # pixels either way, in x and in y


def load_shapes(split: str) -> tuple[Tensor, Tensor, str]:
    """Draw a part of the shapes: image i is of class i mod 3, with a size, orientation and place of its own.

    A pixel is the share of its 8x8 samples that lie in the shape, times 255. Radii are 5 to 9 pixels, orientations 0 to
    360 degrees, centres within 2 pixels of the image's, each uniform (dSprites, Matthey et al. 2017, has the same
    shapes and factors on a grid of 64x64).

    Args:
        split: "train" (3,000 images) or "test" (600).

    Returns:
        images (N, 28, 28) uint8, labels (N,) int64 counting ``CLASSES``, and where they came from.

    Raises:
        ArgumentError: unknown split.
    """
    if split not in COUNTS:
        raise ArgumentError("split", repr(split), f"one of {tuple(COUNTS)}")
    count = COUNTS[split]
    draws = uniform_integers(stream_key(_SEED, _STREAMS[split]), 0, 4 * count, 1 << 32)
    unit = (np.array(draws, dtype=np.float64) / 2**32).reshape(count, 4)
    images = np.empty((count, SIZE, SIZE), dtype=np.uint8)
    for i, (size, turn, right, down) in enumerate(unit):
        radius = _RADII[0] + (_RADII[1] - _RADII[0]) * size
        centre = (_SHIFT * (2 * right - 1), _SHIFT * (2 * down - 1))
        images[i] = draw_shape(CLASSES[i % 3], radius, 360 * turn, centre)
    labels = torch.arange(count) % len(CLASSES)
    return torch.from_numpy(images), labels, "squares, ellipses and hearts drawn by formula, 28x28"


def draw_shape(
    name: str, radius: float, angle_degrees: float = 0.0, centre: tuple[float, float] = (0.0, 0.0), size: int = SIZE
) -> np.ndarray:
    """One shape in white on black, (I, I) uint8.

    Args:
        name: "square" (half a side is radius/√2), "ellipse" (half axes radius and 0.6 radius) or "heart"
            ((x² + y² - 1)³ <= x² y³ in units of radius/1.2, tip down).
        radius: pixels.
        angle_degrees: counter-clockwise as seen on the screen.
        centre: pixels right and down from the centre of the image.
        size: I.

    Raises:
        ArgumentError: unknown name.

    >>> draw_shape("square", 2**0.5, size=4).tolist()
    [[0, 0, 0, 0], [0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]
    """
    if name not in CLASSES:
        raise ArgumentError("name", repr(name), f"one of {CLASSES}")
    samples = (np.arange(size * _SUBPIXELS) + 0.5) / _SUBPIXELS - size / 2  # pixels from the centre
    right, up = samples[None, :] - centre[0], centre[1] - samples[:, None]
    cos, sin = np.cos(np.deg2rad(angle_degrees)), np.sin(np.deg2rad(angle_degrees))
    x, y = (cos * right + sin * up) / radius, (cos * up - sin * right) / radius
    if name == "square":
        inside = np.maximum(np.abs(x), np.abs(y)) <= 0.5**0.5
    elif name == "ellipse":
        inside = x**2 + (y / 0.6) ** 2 <= 1
    else:
        x, y = 1.2 * x, 1.2 * y
        inside = (x**2 + y**2 - 1) ** 3 <= x**2 * y**3
    counts = inside.reshape(size, _SUBPIXELS, size, _SUBPIXELS).sum((1, 3), dtype=np.int64)
    return ((counts * 510 + _SUBPIXELS**2) // (2 * _SUBPIXELS**2)).astype(np.uint8)  # rounded, halves up
