"""A table as bars: one group for each column that all rows have, one bar for each row, deviations over the seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ffrl.figures.canvas import FAINT, Canvas
from ffrl.figures.curves import COLOURS

LEFT, PANEL, HEIGHT, GAP, LINE, RIGHT = 60, 190, 190, 56, 13, 200
MOST_COLUMNS = 6
CHARACTERS_PER_UNIT = 0.2  # of the remark's font, and a little less


def table_plot(title: str, remark: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of the first columns that every row has, at most ``MOST_COLUMNS``.

    A short dashed line is the value of a row in the paper. Where there are columns "NAME: copy", only the columns NAME
    are drawn, and in each of their panels the other one as a dotted line.
    """
    shared = [name for name in rows[0]["columns"] if all(name in row["columns"] for row in rows)]
    copied = [name for name in shared if f"{name}: copy" in shared]
    names = (copied or shared)[:MOST_COLUMNS]
    width = LEFT + len(names) * (PANEL + GAP) + RIGHT
    dashed = " Dashed: the paper." if any(row["paper"] for row in rows) else ""
    dotted = " Dotted: copying x_0." if copied else ""
    lines = textwrap.wrap(remark + dashed + dotted, int(width * CHARACTERS_PER_UNIT))
    top = 58 + LINE * len(lines)
    canvas = Canvas(width, top + max(HEIGHT, 18 * len(rows)) + 20)
    canvas.text(16, 26, title, 11, weight="bold")
    for i, line in enumerate(lines):
        canvas.text(16, 43 + LINE * i, line, 7, color=FAINT)
    for i, name in enumerate(names):
        axes = canvas.axes(LEFT + i * (PANEL + GAP), top, PANEL, HEIGHT)
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
    for j, row in enumerate(rows):
        x, y = LEFT + len(names) * (PANEL + GAP) - GAP // 2, top + 12 + 18 * j
        canvas.text(x, y, "■", 9, color=COLOURS[j % len(COLOURS)])
        canvas.text(x + 16, y, row["label"], 8)
    return canvas.png()
