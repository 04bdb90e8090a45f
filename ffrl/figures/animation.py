"""GIF animations: ground truth above, decoded flow below, forth and back in an endless loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ffrl.figures.canvas import FAINT, Canvas, gif, scale_for
from ffrl.figures.grid import Frames

SCALE = 4
SEPARATOR = 2
LEFT, MARGIN = 52, 10
TITLE_LINE, LABEL_LINE, CAPTION_LINE = 24, 16, 15
STEP_MS, END_MS = 160, 800


class Scene(NamedTuple):
    """Several digits along one path."""

    frames: Frames
    label: str
    captions: Sequence[str]  # (S+1,)


def animation(title: str, scenes: Sequence[Scene], scenes_per_row: int) -> bytes:
    """A GIF of scenes laid out in rows; frames 0 .. S, then back to 1, resting at both ends. All have S+1 frames."""
    digits, columns, _, size, _ = scenes[0].frames.truth.shape
    scale = scale_for(size, SCALE)
    cell = scale * size
    scene_width = digits * (cell + SEPARATOR)
    rows = -(-len(scenes) // scenes_per_row)
    width = LEFT + scenes_per_row * (scene_width + MARGIN)
    scene_height = LABEL_LINE + CAPTION_LINE + 2 * cell + SEPARATOR
    height = TITLE_LINE + rows * (scene_height + MARGIN)
    pages = []
    for t in range(columns):
        canvas = Canvas(width, height, zoom=1)
        canvas.text(LEFT, TITLE_LINE - 7, title, 9, weight="bold")
        canvas.text(width - MARGIN, TITLE_LINE - 7, f"t = {t}", 9, ha="right")
        for number, scene in enumerate(scenes):
            row, column = divmod(number, scenes_per_row)
            x, y = LEFT + column * (scene_width + MARGIN), TITLE_LINE + row * (scene_height + MARGIN)
            canvas.text(x, y + LABEL_LINE - 5, scene.label, 8)
            y += LABEL_LINE + CAPTION_LINE
            canvas.text(x, y - 5, scene.captions[t], 8, color=FAINT)
            for i in range(digits):
                left = x + i * (cell + SEPARATOR)
                canvas.image(left, y, scene.frames.truth[i, t], scale)
                canvas.image(left, y + cell + SEPARATOR, scene.frames.decoded[i, t], scale)
            if column == 0:
                canvas.text(LEFT - 6, y + cell / 2, "truth", 8, ha="right", va="center")
                canvas.text(LEFT - 6, y + 1.5 * cell + SEPARATOR, "flow", 8, ha="right", va="center")
        pages.append(canvas.rgb())
    order = [*range(columns), *range(columns - 2, 0, -1)]
    milliseconds = [END_MS if t in (0, columns - 1) else STEP_MS for t in order]
    return gif(pages, order, milliseconds)
