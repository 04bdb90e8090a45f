"""List the data sets: what is found where, what is missing, where it comes from: python -m ffrl.data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ffrl.data.inventory import describe, inventory
from ffrl.errors import FfrlError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m ffrl.data", description=__doc__, allow_abbrev=False)
    parser.add_argument("--data-dir", type=Path, help="where to look first; default the variable FFRL_DATA")
    command = parser.parse_args(argv)
    try:
        holdings = inventory(command.data_dir)
    except FfrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(map(describe, holdings)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
