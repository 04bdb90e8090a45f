"""Several models on one test image: a row of frames for each, under the true ones, transformations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ffrl.figures.canvas import FAINT, Canvas, scale_for
from ffrl.metrics import frame_errors

SCALE, SEPARATOR = 2, 2
LEFT, MARGIN, PANEL_GAP, ROW_GAP, TOP, UNDER = 84, 12, 18, 4, 76, 12


class Strip(NamedTuple):
    """What a model makes of the image."""

    label: str
    decoded: Tensor  # (K, S+1, C, I, I)


def strips(title: str, note: str, truth: Tensor, models: Sequence[Strip], names: Sequence[str]) -> bytes:
    """A PNG; under each strip its error on this image, Σ over t >= 1.

    Args:
        title: first line.
        note: second line.
        truth: (K, S+1, C, I, I) in [0, 1].
        models: from top to bottom, below the truth.
        names: of the K transformations.
    """
    kinds, count, _, _, size = truth.shape
    scale = scale_for(size, SCALE)
    cell = scale * size
    panel = count * (cell + SEPARATOR) - SEPARATOR
    row = cell + UNDER + ROW_GAP
    canvas = Canvas(LEFT + kinds * (panel + PANEL_GAP) - PANEL_GAP + MARGIN, TOP + (1 + len(models)) * row + MARGIN)
    canvas.text(MARGIN, 24, title, 11, weight="bold")
    canvas.text(MARGIN, 42, note, 8, color=FAINT)
    for k, name in enumerate(names):
        left = LEFT + k * (panel + PANEL_GAP)
        canvas.text(left, TOP - 8, name, 10, weight="bold")
        for i, strip in enumerate((Strip("truth", truth), *models)):
            y = TOP + i * row
            for t in range(count):
                canvas.image(left + t * (cell + SEPARATOR), y, strip.decoded[k, t], scale)
            if i:
                error = frame_errors(truth[k : k + 1], strip.decoded[k : k + 1])[0, 1:].sum().item()
                canvas.text(left + panel, y + cell + 9, f"error {error:.0f}", 7, ha="right", color=FAINT)
    for i, label in enumerate(("truth", *(strip.label for strip in models))):
        canvas.text(LEFT - 8, TOP + i * row + cell / 2, label, 8.5, ha="right", va="center")
    return canvas.png()
