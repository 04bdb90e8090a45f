"""A table as bars: one group for each column that all rows have, one bar for each row, deviations over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ffrl.figures.canvas import FAINT, Canvas
from ffrl.figures.curves import COLOURS

LEFT, TOP, PANEL, HEIGHT, GAP = 60, 84, 190, 190, 66
MOST_COLUMNS = 6


def table_plot(title: str, remark: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of the first columns that every row has; a dashed line is the value of a row in the paper."""
    names = [name for name in rows[0]["columns"] if all(name in row["columns"] for row in rows)][:MOST_COLUMNS]
    width = LEFT + len(names) * (PANEL + GAP)
    canvas = Canvas(max(width, 640), TOP + HEIGHT + 40 + 16 * len(rows))
    canvas.text(16, 26, title, 11, weight="bold")
    dashed = " Dashed: the paper." if any(row["paper"] for row in rows) else ""
    canvas.text(16, 43, remark + dashed, 7, color=FAINT)
    for i, name in enumerate(names):
        axes = canvas.axes(LEFT + i * (PANEL + GAP), TOP, PANEL, HEIGHT)
        for j, row in enumerate(rows):
            column, colour = row["columns"][name], COLOURS[j % len(COLOURS)]
            axes.bar(j, column["mean"], yerr=column["standard_deviation"], color=colour, width=0.8, capsize=3)
            axes.plot([j] * len(column["values"]), column["values"], ".", color="black", markersize=3)
            if name in row["paper"]:
                axes.hlines(row["paper"][name], j - 0.45, j + 0.45, colors="black", linestyles="dashed", linewidth=1)
        axes.set_title(name, fontsize=8)
        axes.set_xticks([])
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for j, row in enumerate(rows):
        y = TOP + HEIGHT + 26 + 16 * j
        canvas.text(LEFT, y, "■", 9, color=COLOURS[j % len(COLOURS)])
        canvas.text(LEFT + 16, y, row["label"], 8)
    return canvas.png()
