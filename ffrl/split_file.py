"""split.json: which images of a grid a run is not trained on, so that no later version tests on others."""

from __future__ import annotations

import json
from pathlib import Path

from ffrl.data.splits import FactorSplit
from ffrl.errors import ArgumentError
from ffrl.run_folder import write_json

SPLIT_FILE = "split.json"


def save_split(run: Path, split: FactorSplit) -> None:
    write_json(run / SPLIT_FILE, split.as_dict())


def check_split(run: Path, split: FactorSplit) -> None:
    """Raise ArgumentError unless the split is that of the run; it differs where the data found are another grid."""
    path = run / SPLIT_FILE
    try:
        saved = json.loads(path.read_text())
        split.check_saved(saved)
    except ArgumentError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise ArgumentError("run", repr(str(run)), f"a run folder with a readable {SPLIT_FILE} ({error})") from error
