"""A page measured in pixels, on which image pixels become whole squares: PNG bytes, or the RGB frames of a GIF.

Coordinates are in units from the top left corner; a unit is ``zoom`` pixels of the file. Text is set in points of
1/72 inch at 100 units an inch. Nothing global is touched: no pyplot, no style files.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ffrl.errors import ArgumentError

UNITS_PER_INCH = 100
INK = "#1a1a1a"
FAINT = "#6b6b6b"
# GIF stores hundredths of a second.
GIF_TICK_MS = 10
GREYS = 16


class Canvas:
    """A white page of width x height units."""

    def __init__(self, width: int, height: int, zoom: int = 2) -> None:
        self.width, self.height, self.zoom = width, height, zoom
        self.figure = Figure(figsize=(width / UNITS_PER_INCH, height / UNITS_PER_INCH), dpi=UNITS_PER_INCH * zoom)
        self.figure.patch.set_facecolor("white")
        self._agg = FigureCanvasAgg(self.figure)

    def image(self, x: int, y: int, pixels: Tensor, scale: int) -> None:
        """Put an image (3, I, I) in [0, 1] with its top left at (x, y); its pixels are ``scale`` x ``scale`` units."""
        rgb = to_bytes(pixels)
        side = scale * self.zoom
        large = rgb.repeat(side, axis=0).repeat(side, axis=1)
        bottom = self.height * self.zoom - y * self.zoom - large.shape[0]
        self.figure.figimage(large, xo=x * self.zoom, yo=bottom, origin="upper")

    def text(self, x: float, y: float, content: str, size: float = 8, **style: Any) -> None:
        """Write text; ``va`` and ``ha`` as in matplotlib, by default (x, y) is the left end of the baseline."""
        style = {"color": INK, "ha": "left", "va": "baseline", **style}
        self.figure.text(x / self.width, 1 - y / self.height, content, fontsize=size, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Axes whose frame has its top left at (x, y)."""
        page = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(page)

    def png(self) -> bytes:
        """The page as a PNG file; the same page gives the same bytes."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=self.figure.dpi, metadata={"Software": None})
        return buffer.getvalue()

    def rgb(self) -> np.ndarray:
        """The page as (height·zoom, width·zoom, 3) uint8."""
        self._agg.draw()
        return np.asarray(self._agg.buffer_rgba())[..., :3].copy()


def scale_for(size: int, most: int) -> int:
    """Units for each pixel of an image of I = ``size``: ``most`` up to 32 pixels, less for larger ones, at least 1."""
    return min(most, max(1, most * 32 // size))


def to_bytes(pixels: Tensor) -> np.ndarray:
    """An image (3, I, I), or grey (1, I, I), in [0, 1] as (I, I, 3) uint8."""
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3):
        raise ArgumentError("pixels.shape", tuple(pixels.shape), "(3, I, I) or (1, I, I)")
    rgb = pixels.detach().cpu().clamp(0, 1).mul(255).round().byte().expand(3, -1, -1)
    return rgb.permute(1, 2, 0).contiguous().numpy()


def gif(pages: Sequence[np.ndarray], order: Sequence[int], milliseconds: Sequence[int]) -> bytes:
    """An endlessly looping GIF that shows pages[order[i]] for milliseconds[i].

    Args:
        pages: (height, width, 3) uint8 each; every one gets its own 256 colours, undithered.
        order: numbers of pages, one for each frame.
        milliseconds: one for each frame; GIF keeps hundredths of a second.
    """
    if len(order) == 0 or len(order) != len(milliseconds):
        raise ArgumentError("milliseconds", len(milliseconds), f"one duration for each of {len(order)} frames, >= 1")
    images = [to_palette(page) for page in pages]
    frames = [images[number] for number in order]
    buffer = io.BytesIO()
    durations = [max(GIF_TICK_MS, round(time / GIF_TICK_MS) * GIF_TICK_MS) for time in milliseconds]
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=1
    )
    return buffer.getvalue()


def to_palette(page: np.ndarray) -> Image.Image:
    """A page in its best 256 colours, with a grey ramp among them: without it white and the text take on a tint."""
    cut = Image.fromarray(page).quantize(256 - GREYS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    ramp = np.linspace(0, 255, GREYS).round().astype(np.int32)[:, None].repeat(3, axis=1)
    median_cut = np.array(cut.getpalette(), dtype=np.int32).reshape(-1, 3)[: 256 - GREYS]
    palette = np.concatenate([ramp, median_cut])  # (<= 256, 3)
    codes, place = np.unique(page.astype(np.int32) @ (65536, 256, 1), return_inverse=True)
    colours = np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], axis=1)
    # Pillow's own search for the nearest entry is approximate and turns white into light grey.
    nearest = np.square(colours[:, None] - palette[None]).sum(-1).argmin(1).astype(np.uint8)
    image = Image.frombytes("P", (page.shape[1], page.shape[0]), nearest[place.reshape(-1)].tobytes())
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image
