"""What the command lines of the parts have in common."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bench.gpu.lines import Lines


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(description or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="file that result lines are added to")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try this without a GPU")
    parser.add_argument("--cases", default="full", choices=("full", "tiny"), help="tiny: to try this in seconds")
    parser.add_argument("--seconds", type=float, default=300.0, help="after which no new work is begun")
    return parser


class Deadline:
    """A point in time by the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.at - time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.left <= 0


def begin(arguments: argparse.Namespace) -> tuple[Lines, Deadline]:
    return Lines(arguments.out), Deadline(arguments.seconds)
