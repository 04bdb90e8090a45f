"""python -m ffrl.data: what is found where, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffrl.catalogue import DATA_SETS
from ffrl.data.__main__ import main
from ffrl.data.inventory import inventory
from tests.data.grid_files import write_dsprites


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
