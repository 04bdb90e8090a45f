"""One picture that shows what the model does: every transformation side by side, truth over flow, for a few images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ffrl.figures.canvas import FAINT, Canvas, scale_for
from ffrl.figures.grid import Frames, percentage

SCALE = 2
SEPARATOR = 1
COLUMNS = 5
LEFT, MARGIN, PANEL_GAP, DIGIT_GAP = 44, 8, 10, 9
TOP = 84


class Panel(NamedTuple):
    """Several images along one transformation."""

    frames: Frames
    name: str
    captions: Sequence[str]  # (S+1,)
    score: float  # E_k, printed under the panel beside that of copying
    copy: float


def overview(title: str, note: str, panels: Sequence[Panel], source: str) -> bytes:
    """A PNG of all panels side by side, at most ``COLUMNS`` frames of each, about 900 units wide for three.

    Args:
        title: first line, what is shown.
        note: second line, how.
        panels: with the same images.
        source: what the scores were measured on.
    """
    digits, count, _, size, _ = panels[0].frames.truth.shape
    scale = scale_for(size, SCALE)
    cell = scale * size
    shown = [round(i * (count - 1) / (min(COLUMNS, count) - 1)) for i in range(min(COLUMNS, count))]
    panel_width = len(shown) * (cell + SEPARATOR) - SEPARATOR
    digit_height = 2 * cell + SEPARATOR
    width = LEFT + len(panels) * (panel_width + PANEL_GAP) - PANEL_GAP + MARGIN
    height = TOP + digits * (digit_height + DIGIT_GAP) + 30 + MARGIN
    canvas = Canvas(width, height)
    canvas.text(MARGIN, 20, title, 11, weight="bold")
    canvas.text(MARGIN, 38, note, 8.5, color=FAINT)
    for number, panel in enumerate(panels):
        left = LEFT + number * (panel_width + PANEL_GAP)
        canvas.text(left, TOP - 20, panel.name, 10, weight="bold")
        for column, t in enumerate(shown):
            x = left + column * (cell + SEPARATOR)
            canvas.text(x + cell / 2, TOP - 5, panel.captions[t], 7.5, ha="center")
            for digit in range(digits):
                y = TOP + digit * (digit_height + DIGIT_GAP)
                canvas.image(x, y, panel.frames.truth[digit, t], scale)
                canvas.image(x, y + cell + SEPARATOR, panel.frames.decoded[digit, t], scale)
        y = TOP + digits * (digit_height + DIGIT_GAP)
        canvas.text(left, y + 10, f"error {panel.score:.0f}", 9, weight="bold")
        share = f"{percentage(panel.score, panel.copy)} of copying ({panel.copy:.0f})"
        canvas.text(left + panel_width, y + 10, share, 7.5, ha="right", color=FAINT)
    for digit in range(digits):
        y = TOP + digit * (digit_height + DIGIT_GAP)
        canvas.text(LEFT - 6, y + cell / 2, "truth", 8.5, ha="right", va="center")
        canvas.text(LEFT - 6, y + 1.5 * cell + SEPARATOR, "flow", 8.5, ha="right", va="center")
    canvas.text(MARGIN, height - MARGIN, source, 7.5, color=FAINT)
    return canvas.png()
