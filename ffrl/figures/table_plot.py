"""A table as bars: one group for each column that all rows have, one bar for each row, deviations over the seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ffrl.figures.canvas import FAINT, Canvas
from ffrl.figures.curves import COLOURS

LEFT, PANEL, HEIGHT, GAP, LINE, RIGHT = 60, 190, 190, 56, 13, 230
MOST_COLUMNS, IN_A_LINE = 6, 3
TITLE = 30  # of a panel, above it
CHARACTERS_PER_UNIT = 0.2  # of the remark's font, and a little less
LABEL_CHARACTERS = 32  # in a line of the legend


def table_plot(title: str, remark: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of the first columns that every row has, at most ``MOST_COLUMNS``, ``IN_A_LINE`` beside one another.

    A short dashed line is the value of a row in the paper. Where there are columns "NAME: copy", only the columns NAME
    are drawn, and in each of their panels the other one as a dotted line.
    """
    shared = [name for name in rows[0]["columns"] if all(name in row["columns"] for row in rows)]
    copied = [name for name in shared if f"{name}: copy" in shared]
    names = (copied or shared)[:MOST_COLUMNS]
    labels = [textwrap.wrap(str(row["label"]), LABEL_CHARACTERS) for row in rows]
    across, down = min(len(names), IN_A_LINE), -(-len(names) // IN_A_LINE)
    width = LEFT + across * (PANEL + GAP) + RIGHT
    dashed = " Dashed: the paper." if any(row["paper"] for row in rows) else ""
    dotted = " Dotted: copying x_0." if copied else ""
    lines = textwrap.wrap(remark + dashed + dotted, int(width * CHARACTERS_PER_UNIT))
    top = 58 + LINE * len(lines)
    legend = sum(LINE * len(label) + 5 for label in labels)
    canvas = Canvas(width, top + max(down * (HEIGHT + TITLE) - TITLE, legend) + 20)
    canvas.text(16, 26, title, 11, weight="bold")
    for i, line in enumerate(lines):
        canvas.text(16, 43 + LINE * i, line, 7, color=FAINT)
    for i, name in enumerate(names):
        x, y = LEFT + i % IN_A_LINE * (PANEL + GAP), top + i // IN_A_LINE * (HEIGHT + TITLE)
        axes = canvas.axes(x, y, PANEL, HEIGHT)
        for j, row in enumerate(rows):
            column, colour = row["columns"][name], COLOURS[j % len(COLOURS)]
            axes.bar(j, column["mean"], yerr=column["standard_deviation"], color=colour, width=0.8, capsize=3)
            axes.plot([j] * len(column["values"]), column["values"], ".", color="black", markersize=3)
            if name in row["paper"]:
                axes.hlines(row["paper"][name], j - 0.45, j + 0.45, colors="black", linestyles="dashed", linewidth=1)
        if name in copied:
            axes.axhline(rows[0]["columns"][f"{name}: copy"]["mean"], color=FAINT, linestyle="dotted", linewidth=1)
        axes.set_title(name, fontsize=8)
        axes.set_xticks([])
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    x, y = LEFT + across * (PANEL + GAP) - GAP // 2, top + 12
    for j, label in enumerate(labels):
        canvas.text(x, y, "■", 9, color=COLOURS[j % len(COLOURS)])
        for line in label:
            canvas.text(x + 16, y, line, 8)
            y += LINE
        y += 5
    return canvas.png()
