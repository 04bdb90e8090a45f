"""What data sets there are, and which are on this machine: nothing is downloaded, unpacked or verified for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from ffrl.catalogue import DATA_SETS, DataSet
from ffrl.data.grids import find_grid, search_places
from ffrl.data.mnist import SHA256
from ffrl.data.paths import is_file
from ffrl.errors import DataError

# Package that a set needs -> what it is called in an error.
_NEEDED = {"digits": ("sklearn", "scikit-learn"), "shapes3d": ("h5py", "h5py"), "falcor3d": ("PIL", "Pillow")}
_NEEDED["isaac3d"] = _NEEDED["falcor3d"]


class Holding(NamedTuple):
    """A data set, and whether it can be used."""

    data_set: DataSet
    usable: bool
    where: str
    """Where it is, or what is missing."""


def inventory(data_dir: Path | None = None) -> list[Holding]:
    """Every data set of the catalogue, looked for as training does.

    Raises:
        DataError: data_dir or FFRL_DATA is no folder.
    """
    places = search_places(data_dir)
    return [_holding(data_set, data_dir, places) for data_set in DATA_SETS.values()]


def describe(holding: Holding) -> str:
    """A few lines on a data set."""
    data_set, (channels, height, width) = holding.data_set, holding.data_set.image_shape
    mark = ", generated" if data_set.generated and "generated" not in data_set.title else ""
    lines = [
        f"{data_set.name}: {data_set.title}{mark}, {channels}x{height}x{width}",
        f"{'found' if holding.usable else 'missing'}: {holding.where}",
        f"from: {data_set.origin}",
        f"licence: {data_set.licence}; files: {data_set.size}",
    ]
    if data_set.factors:
        sizes = ", ".join(f"{factor.name} {factor.size}" for factor in data_set.factors)
        lines.append(f"images: {data_set.num_images:,}, all combinations of {sizes}")
    moves = ", ".join(data_set.transformations)
    lines.append(f"sequences: {data_set.num_steps} steps of {moves}")
    return "\n    ".join(lines)


def _holding(data_set: DataSet, data_dir: Path | None, places: list[Path]) -> Holding:
    package, name = _NEEDED.get(data_set.name, ("torch", "torch"))
    if importlib.util.find_spec(package) is None:
        return Holding(data_set, False, f"it needs {name}, which is not installed: pip install 'ffrl[data]'")
    if data_set.generated or data_set.name == "digits":
        return Holding(data_set, True, "needs no files")
    try:
        if data_set.name == "mnist":
            return _mnist(data_set, places, data_dir is None)
        found = find_grid(data_set, data_dir)
        coarser = found.name in data_set.files[1:] and not data_set.labels
        return Holding(data_set, True, f"{found}{f', a coarser grid than {data_set.files[0]}' if coarser else ''}")
    except DataError as error:
        return Holding(data_set, False, str(error))


def _mnist(data_set: DataSet, places: list[Path], downloads: bool) -> Holding:
    for folder in (folder for place in places for folder in (place / "mnist", place)):
        if all(is_file(folder / name) for name in SHA256):
            return Holding(data_set, True, str(folder))
    note = "; training downloads it" if downloads else ""
    return Holding(data_set, False, f"not in {', '.join(map(str, places))}{note}")
