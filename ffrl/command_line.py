"""What the commands share: options, error reporting, and how a share is printed. Imports neither torch nor numpy."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffrl.errors import FfrlError

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it

# Import name -> extra that brings it.
OPTIONAL_PACKAGES = {
    "tyro": "train",
    "rich": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "pooch": "data",
    "sklearn": "data",
    "h5py": "data",
    "matplotlib": "figures",
    "PIL": "figures",
}


@dataclasses.dataclass(frozen=True)
class OnRun:
    """What every command that looks at a run is told."""

    run: Path
    """Run folder written by python -m ffrl.train."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    backend: str | None = None
    """Backend of the potential op; default that of the run."""
    data_dir: Path | None = None
    """Where to look for the data first; default the variable FFRL_DATA."""

    def where(self) -> dict[str, Any]:
        """The arguments of ``load_trained_run`` beside the run."""
        return {"device": self.device, "backend": self.backend, "data_dir": self.data_dir}


def run_command(command: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """Run a command; an error of ffrl's own is printed in one line and becomes exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except FfrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        extra = OPTIONAL_PACKAGES.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        print(f"error: this command needs the package {error.name}; pip install 'ffrl[{extra}]'", file=sys.stderr)
        return USAGE_ERROR


def percentage(value: float, whole: float) -> str:
    """How much of the whole, in words that also hold for an empty one."""
    return f"{100 * value / whole:.1f} %" if whole > 0 else "-"
