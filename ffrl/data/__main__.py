"""List the data sets: what is found where, what is missing; or verify the cache: python -m ffrl.data [--verify]."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ffrl.data.download import cache_folder
from ffrl.data.image_cache import verify_images
from ffrl.data.inventory import describe, inventory
from ffrl.errors import DataError, FfrlError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m ffrl.data", description=__doc__, allow_abbrev=False)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--data-dir", type=Path, help="where to look first; default the variable FFRL_DATA")
    choice.add_argument(
        "--verify", action="store_true", help="read the images unpacked into the cache; compare their checksums"
    )
    command = parser.parse_args(argv)
    try:
        if command.verify:
            return verify(cache_folder())
        holdings = inventory(command.data_dir)
    except FfrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(map(describe, holdings)))
    return 0


def verify(folder: Path) -> int:
    """Print a line for each finished cache under a folder; 1 if one is damaged."""
    try:
        paths = sorted(Path(place) / name for place, _, names in os.walk(folder, onerror=_refuse) for name in names)
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror or error})") from error
    paths = [path for path in paths if path.suffix == ".images"]
    damaged = 0
    for path in paths:
        try:
            print(f"sound: {path}, {verify_images(path):,} bytes", flush=True)
        except DataError as error:
            print(f"damaged: {error}", flush=True)
            damaged += 1
    if not paths:
        print(f"{folder} holds no unpacked images")
    return 1 if damaged else 0


def _refuse(error: OSError) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
