"""Grids of frames: ground truth over decoded flow, time from left to right, the L1 error under every decoded frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.command_line import percentage
from ffrl.config import SequenceConfig
from ffrl.data import FactorSteps
from ffrl.data.sequences import transformation_parameter
from ffrl.figures.canvas import FAINT, Canvas, scale_for
from ffrl.metrics import frame_errors

SCALE = 3
SEPARATOR = 2
LEFT, RIGHT, MARGIN = 62, 84, 16
TEXT_WIDTH = 900
LINE = 15
ERROR_LINE = 13
BLOCK_GAP = 10
SWITCH_GAP = 14
WORDS_IN_A_LINE = 2


class Frames(NamedTuple):
    """Frames of one or several digits along a path."""

    truth: Tensor  # (B, S+1, C, I, I)
    decoded: Tensor  # (B, S+1, C, I, I)

    @property
    def errors(self) -> Tensor:
        """|truth - decoded|_1 of every frame, (B, S+1)."""
        return frame_errors(self.truth, self.decoded)

    @property
    def equivariance_error(self) -> float:
        """E, the mean over the digits of the sum over the frames after the first."""
        return self.errors[:, 1:].sum(1).mean().item()

    @property
    def copy(self) -> float:
        """What showing the first true frame throughout would get."""
        still = self.truth[:, :1].expand_as(self.truth)
        return frame_errors(self.truth, still)[:, 1:].sum(1).mean().item()

    @property
    def zero(self) -> float:
        """What black frames throughout would get."""
        return frame_errors(self.truth, torch.zeros_like(self.truth))[:, 1:].sum(1).mean().item()

    def digit(self, number: int) -> Frames:
        return Frames(self.truth[number : number + 1], self.decoded[number : number + 1])


class Block(NamedTuple):
    """Two rows of a grid: one digit along one path."""

    frames: Frames  # B = 1
    label: str
    captions: Sequence[str]  # (S+1,) above the columns, of one or more lines
    switch_after: int | None = None
    """Leave a gap after this column."""


def grid(title: str, notes: Sequence[str], blocks: Sequence[Block], footer: Sequence[str]) -> bytes:
    """A PNG of blocks one below the other.

    Args:
        title: first line.
        notes: lines below it: how to read the picture.
        blocks: all with S+1 frames of one size.
        footer: lines at the bottom.
    """
    columns, size = blocks[0].frames.truth.shape[1], blocks[0].frames.truth.shape[-1]
    scale = scale_for(size, SCALE)
    cell = scale * size
    gap = SWITCH_GAP if any(block.switch_after is not None for block in blocks) else 0
    rows = 2 * cell + SEPARATOR + ERROR_LINE
    tops, y = [], MARGIN + 10 + LINE * len(notes) + 14
    for block in blocks:
        tops.append(y + LINE + caption_height(block))
        y = tops[-1] + rows + BLOCK_GAP
    right = LEFT + columns * (cell + SEPARATOR) + gap + 8
    # A few large frames are narrower than the lines of text.
    width = right + RIGHT if size <= 32 else max(right + RIGHT, TEXT_WIDTH)
    canvas = Canvas(width, y + LINE * len(footer) + MARGIN)
    canvas.text(MARGIN, MARGIN + 10, title, 11, weight="bold")
    for i, note in enumerate(notes, start=1):
        canvas.text(MARGIN, MARGIN + 10 + LINE * i, note, 8, color=FAINT)
    for y, block in zip(tops, blocks, strict=True):
        canvas.text(MARGIN, y - 4 - caption_height(block), block.label, 9, weight="bold")
        for i, text in enumerate(block.captions):
            shift = gap if block.switch_after is not None and i > block.switch_after else 0
            x = LEFT + i * (cell + SEPARATOR) + shift
            canvas.text(x + cell / 2, y - 3, text, 7, ha="center", va="bottom", color=FAINT)
            canvas.image(x, y, block.frames.truth[0, i], scale)
            canvas.image(x, y + cell + SEPARATOR, block.frames.decoded[0, i], scale)
            error = f"{block.frames.errors[0, i]:.0f}"
            canvas.text(x + cell / 2, y + rows - 3, error, 7, ha="center", color=FAINT)
        canvas.text(LEFT - 8, y + cell / 2, "truth", 9, ha="right", va="center")
        canvas.text(LEFT - 8, y + 1.5 * cell + SEPARATOR, "flow", 9, ha="right", va="center")
        canvas.text(LEFT - 8, y + rows - 3, "error", 7, ha="right", color=FAINT)
        score, copy = block.frames.equivariance_error, block.frames.copy
        canvas.text(right, y + 1.5 * cell - 14, f"E {score:.0f}", 9, va="center", weight="bold")
        canvas.text(right, y + 1.5 * cell + 3, f"{percentage(score, copy)} of", 8, va="center", color=FAINT)
        canvas.text(right, y + 1.5 * cell + 17, f"copying {copy:.0f}", 8, va="center", color=FAINT)
        canvas.text(right, y + 1.5 * cell + 31, f"black {block.frames.zero:.0f}", 8, va="center", color=FAINT)
    for i, line in enumerate(footer):
        canvas.text(MARGIN, tops[-1] + rows + BLOCK_GAP + 10 + LINE * i, line, 8)
    return canvas.png()


def caption_height(block: Block) -> int:
    return ERROR_LINE * max(text.count("\n") + 1 for text in block.captions)


def captions(config: SequenceConfig | FactorSteps, progress: Tensor) -> list[str]:
    """What the truth shows in each frame, for progress (S+1, K); transformations that never act are left out."""
    acting = [k for k in range(progress.shape[1]) if bool(progress[:, k].any())]
    found = []
    count = 1 if isinstance(config, FactorSteps) else WORDS_IN_A_LINE  # names of factors are long
    for row in progress:
        words = [describe(config, config.transformations[k], int(row[k])) for k in acting]
        lines = [" ".join(words[i : i + count]) for i in range(0, len(words), count)]
        found.append("\n".join(lines))
    return found


def describe(config: SequenceConfig | FactorSteps, name: str, progress: int) -> str:
    """The state of one transformation in a few characters: ×1.4, ÷1.4, ↺40° (counter-clockwise), ↻40°, hue 80°; of
    a grid of factors their steps, posX 3."""
    if isinstance(config, FactorSteps):
        return f"{name} {progress}".replace("-", "−") if progress < 0 else f"{name} {progress}"
    value = transformation_parameter(config, name, progress)
    if name == "scale":
        return f"÷{1 / value:.2g}" if progress < 0 else f"×{value:.2g}"
    if name == "rotation":
        return f"{'↻' if value < 0 else '↺'}{abs(value):.0f}°"
    return f"{name} {value:.0f}°".replace("-", "−")
