"""Grids of factors by name, found on disk or drawn. A further one is a loader, a line here and a catalogue entry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ffrl.catalogue import DATA_SETS, GRIDS, DataSet
from ffrl.data import dsprites_drawing, rooms_drawing, shapes3d_drawing
from ffrl.data.download import DataUnavailable, cache_folder
from ffrl.data.drawn_images import DrawnImages
from ffrl.data.dsprites import load_dsprites
from ffrl.data.factors import FactorGrid, FactorImages
from ffrl.data.paths import is_file, is_folder
from ffrl.data.png_folders import check_whose, load_png_folder
from ffrl.data.shapes3d import load_shapes3d
from ffrl.errors import ArgumentError, DataError

FILES: dict[str, Callable[[Path, Path, DataSet], FactorImages]] = {
    "dsprites": lambda path, cache, data_set: load_dsprites(path, cache),
    "shapes3d": load_shapes3d,
    "falcor3d": load_png_folder,
    "isaac3d": load_png_folder,
}
DRAWINGS = {
    "dsprites-generated": (dsprites_drawing.draw, dsprites_drawing.FACTOR_SIZES),
    "shapes3d-generated": (shapes3d_drawing.draw, shapes3d_drawing.FACTOR_SIZES),
    "rooms-generated": (rooms_drawing.draw, rooms_drawing.FACTOR_SIZES),
}


def load_grid(name: str, data_dir: Path | None = None) -> FactorImages:
    """The images of a grid of factors.

    Args:
        name: of the catalogue, with factors.
        data_dir: where its files are, see ``find_grid``; drawn images need none and ignore it.

    Raises:
        ArgumentError: unknown name.
        DataUnavailable: the files are nowhere.
        DataError: they are damaged or not the published ones, or cannot be unpacked into the cache.
    """
    if name not in GRIDS:
        raise ArgumentError("data", repr(name), f"one of {GRIDS}")
    data_set = DATA_SETS[name]
    if name in DRAWINGS:
        draw, sizes = DRAWINGS[name]
        return DrawnImages(FactorGrid(data_set.factors), draw, sizes, data_set.image_shape, data_set.title)
    return FILES[name](find_grid(data_set, data_dir), cache_folder() / name, data_set)


def find_grid(data_set: DataSet, data_dir: Path | None = None) -> Path:
    """Where the published files of a set are: the path that its loader takes.

    Places, in this order: ``data_dir``, if given, and nothing else; the environment variable FFRL_DATA; the cache. In
    each, a folder with the name of the set is looked into, and then the place itself. Of several files, the first of
    ``data_set.files`` that is anywhere is taken.

    Raises:
        DataUnavailable: nothing was found; the message says where it comes from, and what needs no files.
        DataError: data_dir or FFRL_DATA is no folder; a place cannot be read, or a folder is that of another set.
    """
    places = [folder for place in search_places(data_dir) for folder in (place / data_set.name, place)]
    foreign: DataError | None = None
    for file in data_set.files:
        for folder in places:
            found = folder / file
            if is_file(found / "images" / "000000.png" if data_set.labels else found):
                try:
                    check_whose(found, data_set)
                    return found
                except DataError as error:  # the right one may be elsewhere
                    foreign = foreign or error
    if foreign:
        raise foreign
    wanted = " or ".join(file for file in data_set.files if file != ".") + (", a folder" if data_set.labels else "")
    raise DataUnavailable(
        f"{data_set.title} was not found. Looked for {wanted}, in: {'; '.join(map(str, places))}. It comes from "
        f"{data_set.origin} ({data_set.size}). Put it into a folder named {data_set.name}, and name the folder around "
        f"that by data_dir or by the environment variable FFRL_DATA. data = {data_set.stand_in!r} needs no files"
    )


def search_places(data_dir: Path | None = None) -> list[Path]:
    """``data_dir`` alone, if given; else what FFRL_DATA names, and the cache; DataError where that is no folder."""
    variable = os.environ.get("FFRL_DATA")
    named = [("data_dir", data_dir)] if data_dir is not None else [("FFRL_DATA", Path(variable))] if variable else []
    for what, place in named:
        if not is_folder(_expanded(place)):
            raise DataError(f"{what} = {place} is not a folder")
    places = [_expanded(place) for _, place in named]
    return places if data_dir is not None else [*places, cache_folder()]


def _expanded(place: Path) -> Path:
    """With the home folder for ~; unlike ``Path.expanduser``, it leaves an unknown one as it is."""
    return Path(os.path.expanduser(place))
