"""python -m ffrl.data: what is found where, what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pooch
import pytest

from ffrl.catalogue import DATA_SETS
from ffrl.data.__main__ import main
from ffrl.data.download import cache_folder
from ffrl.data.grids import load_grid
from ffrl.data.image_cache import CacheContent, ImageCache
from ffrl.data.inventory import inventory
from ffrl.errors import DataError
from tests.data.grid_files import random_pixels, write_dsprites


def test_nothing_there(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {holding.data_set.name: holding for holding in inventory()}
    assert list(found) == list(DATA_SETS)
    for name in ("mnist", "dsprites", "shapes3d", "falcor3d", "isaac3d"):
        assert not found[name].usable
    assert all(found[name].usable for name in found if DATA_SETS[name].generated)
    assert not cache.exists()  # nothing was downloaded
    assert main([]) == 0
    text = capsys.readouterr().out
    for data_set in DATA_SETS.values():
        assert f"{data_set.name}: {data_set.title}" in text and data_set.licence in text and data_set.origin in text
    assert "images: 480,000, all combinations of floor_hue 10, wall_hue 10" in text


def test_found_files(cache: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_folder / "dsprites").mkdir()
    write_dsprites(tiny_folder / "dsprites" / "dsprites_downsampled.npz", (3, 1, 1, 1, 2))
    assert main(["--data-dir", str(tiny_folder)]) == 0
    text = capsys.readouterr().out
    assert f"found: {tiny_folder / 'mnist'}\n" in text
    assert f"found: {tiny_folder / 'dsprites' / 'dsprites_downsampled.npz'}, a coarser grid than" in text
    assert main(["--data-dir", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_folders_of_images(cache: Path, tmp_path: Path) -> None:
    """An empty folder is not one, and Isaac3D is not Falcor3D, whatever the folder is called."""
    (tmp_path / "falcor3d" / "images").mkdir(parents=True)
    (tmp_path / "isaac3d" / "images").mkdir(parents=True)
    (tmp_path / "isaac3d" / "images" / "000000.png").touch()

    def found(name: str) -> tuple[bool, str]:
        holding = {holding.data_set.name: holding for holding in inventory(tmp_path)}[name]
        return holding.usable, holding.where

    assert found("isaac3d") == (True, str(tmp_path / "isaac3d"))
    assert found("falcor3d")[0] is False and "was not found" in found("falcor3d")[1]
    (tmp_path / "falcor3d" / "images" / "000000.png").touch()
    assert found("falcor3d") == (True, str(tmp_path / "falcor3d"))
    (tmp_path / "falcor3d" / "labels.npy").touch()
    assert found("falcor3d")[0] is False and "is of Isaac3D, not of Falcor3D" in found("falcor3d")[1]


def test_verified(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cache.parent / "set"
    assert main(["--verify"]) == 0
    assert capsys.readouterr().out == f"{cache.parent} holds no unpacked images\n"

    def made(name: str, count: int) -> ImageCache:
        pixels = random_pixels(count, 2, 3)
        content = CacheContent(name, {}, count, (2, 3), lambda first, last: pixels[first:last], 10)
        images = ImageCache(folder, name, content)
        images.open()
        return images

    one, two = made("one", 25), made("two", 30)
    two.path.with_suffix(".partial").touch()  # unfinished ones are none of its business
    sound = [f"sound: {one.path}, 150 bytes", f"sound: {two.path}, 180 bytes"]
    assert main(["--verify"]) == 0
    assert capsys.readouterr().out.splitlines() == sound
    whole = one.path.read_bytes()
    for content in (whole[:149] + bytes([whole[149] ^ 1]), whole[:140], whole + b"0"):
        one.path.write_bytes(content)
        assert main(["--verify"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"damaged: {one.path}: the cache is damaged (") and lines[1:] == sound[1:]
    one.path.write_bytes(whole)
    journal = one.journal.read_text()
    for text in (None, "", "[1]\n", journal.replace("25", "24"), journal.replace('"block": 10', '"block": 0')):
        one.journal.unlink() if text is None else one.journal.write_text(text)
        assert main(["--verify"]) == 1
        assert capsys.readouterr().out.startswith(f"damaged: {one.path}: the cache is damaged (it")
    one.journal.write_text(journal.rpartition("2 ")[0] + "\n")  # the last block has no checksum
    assert main(["--verify"]) == 1
    assert "block 2 has another checksum" in capsys.readouterr().out


def test_without_pooch(cache: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of the sets, and images from files, need no package for downloads; nor one for progress bars."""
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "ffrl"
    write_dsprites(tiny_folder / "dsprites_downsampled.npz", (3, 1, 1, 1, 2))
    for place, expected in ((str(cache.parents[1]), cache.parent), (" ", usual), ("", usual)):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        assert cache_folder() == expected == Path(pooch.os_cache("ffrl"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    for name in ("pooch", "rich", "rich.progress", "platformdirs"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("FFRL_DATA", str(tiny_folder))
    assert main([]) == 0
    assert len(load_grid("dsprites").grid) == 6
    monkeypatch.delenv("FFRL_DATA")
    with pytest.raises(DataError, match="dSprites was not found"):
        load_grid("dsprites")
