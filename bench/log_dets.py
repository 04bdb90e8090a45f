"""The three log-determinants of a trained flow beside each other: python -m bench.log_dets RUN.

Along the flow from the posterior mean of test images, per step and per transformation: the exact log|det(I + ∇²u)|,
the paper's log|1 + Δu|, and the latter with Hutchinson's estimate of Δu.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ffrl.command_line import run_command
from ffrl.data import SequenceData
from ffrl.models import SequenceVAE
from ffrl.models.flow import log_det_trace
from ffrl.tables import markdown_rows
from ffrl.trained_run import load_trained_run

FLOOR = 1e-3


@torch.no_grad()
def log_dets(
    model: SequenceVAE, data: SequenceData, k: int, *, num_images: int = 500, num_probes: int = 16
) -> dict[str, Tensor]:
    """Of every step of ``num_images`` flows along potential k, (B, T) each.

    Returns:
        "exact", "trace" and "hutchinson" log-determinants, and "lap_u".
    """
    indices = torch.arange(min(num_images, len(data)), device=data.device)
    x = data.sequence(indices, k).x
    z0 = model.encoder(x[:, 0])[0]
    trajectory = model.flow(z0, k, data.num_steps)
    estimate = model.flow(z0, k, data.num_steps, num_probes=num_probes)
    assert trajectory.lap_u is not None and estimate.lap_u is not None
    return {
        "exact": model.flow.log_det_exact(trajectory.z, k),
        "trace": log_det_trace(trajectory.lap_u, FLOOR),
        "hutchinson": log_det_trace(estimate.lap_u, FLOOR),
        "lap_u": trajectory.lap_u,
    }


def summary(found: dict[str, Tensor]) -> dict[str, float]:
    """Means over images and steps: the three, and the absolute differences of the last two from what they stand for."""
    return {
        "Δu": found["lap_u"].mean().item(),
        "exact": found["exact"].mean().item(),
        "trace": found["trace"].mean().item(),
        "|trace - exact|": (found["trace"] - found["exact"]).abs().mean().item(),
        "hutchinson": found["hutchinson"].mean().item(),
        "|hutchinson - trace|": (found["hutchinson"] - found["trace"]).abs().mean().item(),
    }


def markdown(rows: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = [[name, *(f"{value:.3f}" for value in row.values())] for name, row in rows.items()]
    return markdown_rows(["transformation", *columns], lines)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    description = (__doc__ or "").splitlines()[0].partition(":")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.log_dets", description=f"{description}.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder written by python -m ffrl.train")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    torch.manual_seed(0)
    trained = load_trained_run(arguments.run, device="cpu")
    model, names = trained.flow_model(), trained.config.sequence.transformations
    rows = {name: summary(log_dets(model, trained.data, k)) for k, name in enumerate(names)}
    print("Nats per step, means over 500 test images and the steps; Hutchinson's estimate from 16 probes.\n")
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
