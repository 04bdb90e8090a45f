"""Training curves from metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ffrl.errors import ArgumentError
from ffrl.figures.canvas import FAINT, INK, Canvas

# Colours that stay apart for colour-blind eyes and in print (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a", "#f0e442")
PANEL_WIDTH, PANEL_HEIGHT = 236, 150
LEFT, TOP, GAP_X, GAP_Y, MARGIN = 66, 96, 72, 84, 16
# The first records fall by more than all the others together; an axis through them would show a step and a flat line.
SETTLED_FROM = 0.05
LOGARITHMIC_FROM = 100.0
PLAIN = FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "−"))


def training_curves(records: Sequence[Mapping[str, Any]], transformations: Sequence[str]) -> bytes:
    """A PNG of every quantity in metrics.jsonl against the iteration.

    The axes span the records after the first 5 % of the iterations; where earlier ones lie outside, the panel says
    so. A positive quantity that then still spans more than a factor ``LOGARITHMIC_FROM`` has a logarithmic axis.
    """
    if not records:
        raise ArgumentError("records", "[]", "at least one record of metrics.jsonl")
    iterations = np.array([record["iteration"] for record in records])
    diffusivity = np.array([record["diffusivity"] for record in records])  # (records, K)

    def column(name: str) -> np.ndarray:
        return np.array([record[name] for record in records], dtype=float)

    canvas = Canvas(LEFT + 3 * PANEL_WIDTH + 2 * GAP_X + MARGIN, TOP + 2 * PANEL_HEIGHT + GAP_Y + 52)
    canvas.text(MARGIN, 26, "Training curves", 11, weight="bold")
    interval = f"mean over {iterations[1] - iterations[0]} iterations each" if len(records) > 1 else "one record"
    canvas.text(MARGIN, 43, f"{iterations[-1]} iterations, {interval}; terms as weighted in the loss", 8, color=FAINT)
    panels: list[tuple[str, str, list[tuple[str, np.ndarray]]]] = [
        (
            "Loss and reconstruction",
            "nats per sequence",
            [("loss", column("loss")), (r"$-\Sigma_t \log p(x_t | z_t)$", column("reconstruction"))],
        ),
        (
            "KL terms",
            "nats per sequence",
            [("$KL_0$", column("kl_0")), (r"$\Sigma_{t \geq 1} KL_t$", column("kl_t"))],
        ),
        ("Residual of the equation", "mean squared residual and initial velocity", [("hj", column("hj"))]),
        ("Gradient norm", "of all parameters", [("gradient_norm", column("gradient_norm"))]),
        (
            "Diffusivity of the prior",
            "$D_k$ of each transformation",
            [(name, diffusivity[:, k]) for k, name in enumerate(transformations)],
        ),
        ("Learning rate", "Adam", [("learning_rate", column("learning_rate"))]),
    ]
    settled = iterations >= SETTLED_FROM * iterations[-1]
    for number, (title, unit, lines) in enumerate(panels):
        row, place = divmod(number, 3)
        x, y = LEFT + place * (PANEL_WIDTH + GAP_X), TOP + row * (PANEL_HEIGHT + GAP_Y)
        axes = canvas.axes(x, y, PANEL_WIDTH, PANEL_HEIGHT)
        for i, (label, values) in enumerate(lines):
            marker = "o" if len(records) < 3 else None
            axes.plot(
                iterations,
                values,
                color=COLOURS[i % len(COLOURS)],
                linewidth=1.3,
                label=label,
                marker=marker,
                clip_on=marker is None,
            )
        cut = set_range(axes, np.concatenate([values[settled] for _, values in lines]), lines)
        axes.set_xlim(0, iterations[-1])
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(PLAIN)
        axes.tick_params(which="both", labelsize=7, colors=INK)
        axes.grid(True, color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel("iteration", fontsize=7)
        canvas.text(x, y - 24, title, 9, weight="bold")
        canvas.text(x, y - 10, unit + ("; earliest values beyond the axis" if cut else ""), 7, color=FAINT)
        if len(lines) > 1:
            axes.legend(fontsize=7, frameon=False)
    return canvas.png()


def set_range(axes: Any, settled: np.ndarray, lines: Sequence[tuple[str, np.ndarray]]) -> bool:
    """Fit the value axis to the settled values, from zero where they are positive; whether anything lies outside."""
    low, high = float(settled.min()), float(settled.max())
    if low > high / LOGARITHMIC_FROM and low > 0:
        low, high = 0.0, 1.08 * high
        axes.yaxis.set_major_formatter(PLAIN)
    elif low > 0:
        low, high = low / 1.3, high * 1.3
        axes.set_yscale("log")
    else:
        margin = 0.06 * (high - low)
        low, high = (0.0 if low == 0 else low - margin), high + margin
        axes.yaxis.set_major_formatter(PLAIN)
    if low == high:
        low, high = low - 1, high + 1
    axes.set_ylim(low, high)
    return any(bool((values < low).any() or (values > high).any()) for _, values in lines)
