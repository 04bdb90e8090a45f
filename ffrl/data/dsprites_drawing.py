"""The images of dSprites drawn from their factors: the published grid, 737,280 images, without the file.

A pixel is inside the sprite where its centre is inside a polygon, by the even-odd rule in integers of 1/256 pixel. The
outlines and the rule were measured on genuine images (Matthey, Higgins, Hassabis and Lerchner 2017, drawn by LOVE), of
which they give all but one in some seven thousand exactly, and those but for one pixel.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from ffrl.data.drawing import check_factors, draw_groups

SIZE = 64
FACTOR_SIZES = {"shape": 3, "scale": 6, "orientation": 40, "posX": 32, "posY": 32}
SHAPES = ("square", "ellipse", "heart")

_PARTS = 256  # of a pixel
_ROWS = 29  # no sprite has more: the ellipse, 25.6 pixels long, is the longest
_PIECE = 7  # images at a time


def draw(factors: Tensor) -> Tensor:
    """Draw sprites: square, ellipse or heart, in white on black, without antialiasing.

    Scale s is 0.5 to 1 in 6 steps; orientation t is 0 to 2 pi in 40, of which the last is the first again; the centre
    is at 16 + 32 i/31 pixels from the left (posX) and from the top (posY), i = 0..31. A square's side is 19.2 s pixels.

    Args:
        factors: (N, 5) int64, columns and ranges of ``FACTOR_SIZES``.

    Returns:
        (N, 1, 64, 64) uint8, 255 inside and 0 outside (the published files have 1 and 0), on the device of ``factors``.

    Raises:
        ArgumentError: a dtype, shape or value of ``factors`` is outside what is stated above.

    >>> draw(torch.tensor([[0, 0, 0, 16, 16]])).eq(255).sum().item()
    81
    """
    check_factors(factors, FACTOR_SIZES)
    return draw_groups(_draw_one_shape, factors, factors[:, 0], [_PIECE] * len(SHAPES), (1, SIZE, SIZE))


def _draw_one_shape(shape: int, factors: Tensor) -> Tensor:
    """Sprites of one shape, (N, 5) -> (N, 1, 64, 64)."""
    x, y = _vertices(shape, factors)  # (N, E)
    next_x, next_y = x.roll(-1, 1), y.roll(-1, 1)
    down = y < next_y
    top, bottom = torch.where(down, y, next_y), torch.where(down, next_y, y)  # (N, E): an edge from its upper end
    top_x = torch.where(down, x, next_x)
    run, rise = torch.where(down, next_x - x, x - next_x), bottom - top

    first = torch.div(top.amin(1) - _PARTS // 2, _PARTS, rounding_mode="floor")  # (N,), the first row at or above all
    row = first[:, None] + torch.arange(_ROWS, device=x.device)  # (N, R)
    centre = (_PARTS * row + _PARTS // 2)[:, :, None]  # (N, R, 1)
    crosses = (top[:, None] < centre) & (centre <= bottom[:, None])  # (N, R, E)
    # The first column c whose centre has top_x + (centre - top) run / rise <= 256 c + 128.
    over = (top_x[:, None] - _PARTS // 2) * rise[:, None] + (centre - top[:, None]) * run[:, None]
    column = -torch.div(-over, (_PARTS * rise.clamp(min=1))[:, None], rounding_mode="floor")
    column = torch.where(crosses, column.clamp(0, SIZE), SIZE)  # (N, R, E); column 64 is beyond the image

    count, edges = x.shape
    row = torch.where((row >= 0) & (row < SIZE), row, SIZE)  # row 64 likewise
    line = torch.arange(count, device=x.device)[:, None] * (SIZE + 1) + row  # (N, R)
    place = line[:, :, None] * (SIZE + 1) + column
    flips = torch.zeros(count * (SIZE + 1) * (SIZE + 1), dtype=torch.uint8, device=x.device)
    flips.scatter_add_(0, place.reshape(-1), flips.new_ones(1).expand(count * _ROWS * edges))
    crossed = flips.view(count, SIZE + 1, SIZE + 1)[:, :SIZE, :SIZE].cumsum(2, dtype=torch.uint8)
    return ((crossed & 1) * 255)[:, None]


def _vertices(shape: int, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of the outline in 1/256 pixel from the left and from the top, (N, E) int64 each."""
    outline, scales, turns, places = (torch.from_numpy(table).to(factors.device) for table in _tables(shape))
    scale, turn = scales[factors[:, 1], None], turns[factors[:, 2]]  # (N, 1), (N, 2)
    cos, sin = turn[:, :1], turn[:, 1:]
    u, v = outline  # (E,)
    x = places[factors[:, 3], None] + scale * (u * cos + v * sin)
    y = places[factors[:, 4], None] + scale * (v * cos - u * sin)
    return (x * _PARTS + 0.5).floor().long(), (y * _PARTS + 0.5).floor().long()


@functools.cache
def _tables(shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Float64: outline (2, E) at scale 1, scales (6,), cosine and sine of the orientations (40, 2), centres (32,)."""
    if SHAPES[shape] == "square":
        outline = 9.6 * np.array([[-1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])
    elif SHAPES[shape] == "ellipse":
        p = 2 * np.pi * np.arange(100) / 100
        outline = np.stack([9.6 * 1.33 * np.cos(p), 9.6 / 1.33 * np.sin(p)])
    else:
        p = 2 * np.pi * np.arange(150) / 150
        height = (13 * np.cos(p) - 5 * np.cos(2 * p) - 2 * np.cos(3 * p) - np.cos(4 * p)) / 14.5 + 0.15
        outline = np.stack([9.6 * np.sin(p) ** 3, -9.6 * height])
    angle = np.linspace(0, 2 * np.pi, FACTOR_SIZES["orientation"])
    scales = np.linspace(0.5, 1, FACTOR_SIZES["scale"])
    places = 16 + 32 * np.linspace(0, 1, FACTOR_SIZES["posX"])
    return outline, scales, np.stack([np.cos(angle), np.sin(angle)], 1), places
