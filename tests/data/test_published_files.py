"""The loaders on miniature files of the published layout, whole, truncated, corrupt and with members missing."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ffrl.catalogue import DATA_SETS, DataSet
from ffrl.data import dsprites
from ffrl.data.download import DataUnavailable
from ffrl.data.dsprites import _Reader, load_dsprites
from ffrl.data.factors import FactorGrid
from ffrl.data.file_images import FileImages, PackedImages
from ffrl.data.grids import find_grid, load_grid
from ffrl.data.png_folders import _check_labels, _decode, load_png_folder
from ffrl.data.record_file import RecordFile
from ffrl.data.shapes3d import _block, load_shapes3d
from ffrl.errors import ArgumentError, DataError
from tests.data.grid_files import labels_of, smaller, write_dsprites, write_png_folder, write_shapes3d

SHAPES3D = smaller("shapes3d", 2, 2, 3, 2, 2, 2)  # 96 images
FALCOR3D = smaller("falcor3d", 2, 1, 2, 1, 2, 1, 2)  # 16
ISAAC3D = smaller("isaac3d", 1, 2, 1, 1, 2, 1, 2, 1, 2)  # 16
ROOT = Path(__file__).resolve().parents[2]

# Whole, in chunks as h5py chooses them, in chunks of whole images, and chunked across images as the original may be.
LAYOUTS = {
    "plain": {},
    "h5py's choice": {"chunks": True, "compression": "gzip"},
    "images": {"chunks": (7, 64, 64, 3), "compression": "gzip", "shuffle": True},
    "across images": {"chunks": (50, 4, 8, 1), "compression": "gzip"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes3d_in_every_layout(tmp_path: Path, layout: str) -> None:
    pytest.importorskip("h5py")
    pixels = write_shapes3d(tmp_path / "3dshapes.h5", SHAPES3D, **LAYOUTS[layout])
    loaded = load_shapes3d(tmp_path / "3dshapes.h5", tmp_path / "cache", SHAPES3D)
    assert (loaded.grid.sizes, loaded.image_shape, loaded.generated) == ((2, 2, 3, 2, 2, 2), (3, 64, 64), False)
    indices = torch.tensor([95, 0, 17, 17])
    images = loaded.images(indices)
    assert images.dtype == torch.uint8 and images.is_contiguous()
    assert np.array_equal(images.numpy(), pixels[indices].transpose(0, 3, 1, 2))
    assert (tmp_path / "cache").exists() == (layout != "plain")
    assert "3dshapes.h5" in loaded.source and "96 images" in loaded.source


def h5_without(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        import h5py

        with h5py.File(path, "a") as file:
            del file[name]

    return change


def h5_replaced(name: str, value: np.ndarray) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        import h5py

        with h5py.File(path, "a") as file:
            del file[name]
            file[name] = value

    return change


def h5_moved_labels(path: Path) -> None:
    import h5py

    with h5py.File(path, "a") as file:
        labels = file["labels"][()]
        labels[[3, 40]] = labels[[40, 3]]
        file["labels"][...] = labels


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xa5" * 5000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "there is no such file"),
        (lambda path: path.write_bytes(b""), "truncated or corrupt"),
        (lambda path: path.write_bytes(b"not HDF5 at all" * 100), "truncated or corrupt"),
        (cut, "truncated or corrupt"),
        (overwritten, "corrupt"),
        (h5_without("images"), r"has no data set 'images'; it has \['labels'\]"),
        (h5_without("labels"), r"3dshapes\.h5 has no data set 'labels'; it has \['images'\]$"),
        (h5_replaced("images", np.zeros((96, 64, 64), dtype=np.uint8)), r"images is uint8 \(96, 64, 64\), expected"),
        (h5_replaced("images", np.zeros((96, 64, 64, 3))), "images is float64"),
        (h5_replaced("labels", np.zeros((95, 6))), r"labels is float64 \(95, 6\), expected float64 \(96, 6\)"),
        (h5_replaced("labels", np.zeros((96, 6))), "the labels of floor_hue are not"),
        (h5_moved_labels, "are not those of the rows' numbers"),
    ],
)
def test_bad_shapes3d(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    pytest.importorskip("h5py")
    path = tmp_path / "3dshapes.h5"
    write_shapes3d(path, SHAPES3D, **LAYOUTS["images"])
    change(path)
    with pytest.raises(DataError, match=message) as caught:
        load_shapes3d(path, tmp_path / "cache", SHAPES3D)
    assert str(path) in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.images"))


def test_memory_of_an_unpacked_block() -> None:
    """What is read at a time, of images of 12,288 bytes: whole chunks up to 32 MiB, else parts of one up to 96 MiB."""
    for chunk in (1, 7, 1000, 2730, 2731, 7500, 15000, 480000):
        block = _block(480000, chunk, 12288)
        assert block * 12288 <= 97 << 20
        assert block % chunk == 0 or -(-chunk // block) == -(-chunk * 12288 // (96 << 20))


def test_memory_of_480000_images(tmp_path: Path) -> None:
    """The published size, in a file with holes: loader, split and batches, in a process of their own."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "3dshapes.h5"
    with h5py.File(path, "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((480000, 64, 64, 3))
        h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, space, layout)
        file["labels"] = labels_of(DATA_SETS["shapes3d"])
    if path.stat().st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no files with holes")
    code = (
        "import sys\nfrom pathlib import Path\nimport h5py, torch\nfrom ffrl.config import SplitConfig\n"
        "from ffrl.catalogue import DATA_SETS\nfrom ffrl.data import FactorSequences\n"
        "from ffrl.data.shapes3d import load_shapes3d\nfrom ffrl.data.splits import FactorSplit\n"
        "def peak():\n    text = Path('/proc/self/status').read_text()\n"
        "    return int(text.partition('VmHWM:')[2].split()[0]) >> 10\nbefore = peak()\n"
        "images = load_shapes3d(Path(sys.argv[1]), Path(sys.argv[1]).parent)\n"
        "names = DATA_SETS['shapes3d'].transformations\n"
        "data = FactorSequences(images, FactorSplit(images.grid, names, 7, SplitConfig()), 'train')\n"
        "for i in range(20):\n    data.training_batch(0, i, 64, True)\nprint(peak() - before)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 5 < int(result.stdout) < 300  # MiB


@pytest.mark.parametrize("data_set", [FALCOR3D, ISAAC3D], ids=lambda data_set: data_set.name)
def test_png_folders(tmp_path: Path, data_set: DataSet) -> None:
    pytest.importorskip("PIL")
    folder = tmp_path / data_set.files[0]
    pixels = write_png_folder(folder, data_set)
    loaded = load_png_folder(folder, tmp_path / "cache", data_set)
    assert loaded.image_shape == (3, 128, 128) and len(loaded.grid) == 16
    assert np.array_equal(loaded.images(torch.arange(16)).numpy(), pixels.transpose(0, 3, 1, 2))


def test_png_folder_without_labels_and_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    pixels = write_png_folder(tmp_path / "set", FALCOR3D)
    (tmp_path / "set" / "train-rec.labels").unlink()
    load_png_folder(tmp_path / "set", tmp_path / "cache", FALCOR3D)
    (tmp_path / "set").rename(tmp_path / "moved")  # the cache goes by the content
    monkeypatch.setattr("ffrl.data.png_folders._decode", lambda *_: pytest.fail("decoded twice"))
    loaded = load_png_folder(tmp_path / "moved", tmp_path / "cache", FALCOR3D)
    assert np.array_equal(loaded.images(torch.tensor([3]))[0].numpy(), pixels[3].transpose(2, 0, 1))


def png_of(mode: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from PIL import Image

        Image.new(mode, (size, size)).save(folder / "images" / "000005.png")

    return change


def labels_replaced(value: np.ndarray) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with open(folder / "train-rec.labels", "wb") as file:
            np.save(file, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "images" / "000005.png").unlink(), r"000005\.png.* missing|no such file"),
        (lambda folder: (folder / "images" / "000015.png").unlink(), r"images/000000\.png to images/000015\.png"),
        (lambda folder: cut(folder / "images" / "000005.png"), r"000005\.png: truncated or corrupt"),
        (lambda folder: overwritten(folder / "images" / "000005.png"), r"000005\.png: truncated or corrupt"),
        (lambda folder: (folder / "images" / "000005.png").write_bytes(b""), r"000005\.png: truncated or corrupt"),
        (png_of("RGB", 64), r"000005\.png: RGB of \(64, 64\) pixels, expected RGB of \(128, 128\)"),
        (png_of("L", 128), r"000005\.png: L of \(128, 128\)"),
        (lambda folder: cut(folder / "train-rec.labels"), r"train-rec\.labels: truncated or corrupt"),
        (lambda folder: (folder / "train-rec.labels").write_bytes(b"text"), r"train-rec\.labels: truncated or corrupt"),
        (labels_replaced(np.zeros((16, 9))), r"float64 \(16, 9\), expected floating-point numbers \(16, 7\)"),
        (
            labels_replaced(labels_of(FALCOR3D)[::-1].copy()),
            "row 0 has another lighting_intensity than image 000000.png",
        ),
        (labels_replaced(np.array([{}], dtype=object)), "truncated or corrupt"),
        (lambda folder: (folder / "images" / "000016.png").touch(), r"000016\.png is not of this set; Falcor3D has"),
        (lambda folder: (folder / "labels.npy").touch(), r"labels\.npy is of Isaac3D, not of Falcor3D"),
    ],
)
def test_bad_png_folders(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    pytest.importorskip("PIL")
    write_png_folder(tmp_path / "set", FALCOR3D)
    change(tmp_path / "set")
    with pytest.raises(DataError, match=message):
        load_png_folder(tmp_path / "set", tmp_path / "cache", FALCOR3D)
    assert not list((tmp_path / "cache").glob("*.images"))


@pytest.mark.parametrize("colour", [True, False])
def test_dsprites_of_any_grid(tmp_path: Path, colour: bool) -> None:
    pixels = write_dsprites(tmp_path / "d.npz", (3, 2, 4, 2, 3), colour)
    loaded = load_dsprites(tmp_path / "d.npz", tmp_path / "cache")
    assert loaded.grid.names == ("shape", "scale", "orientation", "posX", "posY")
    assert loaded.grid.sizes == (3, 2, 4, 2, 3) and not loaded.grid.factors[2].closed
    indices = torch.tensor([143, 0, 77, 77])
    assert np.array_equal(loaded.images(indices).numpy(), 255 * pixels[indices][:, None])
    assert not (tmp_path / "cache").exists()


def test_dsprites_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = write_dsprites(tmp_path / "d.npz", (3, 2, 4, 2, 3))
    monkeypatch.setattr("ffrl.data.dsprites._IN_MEMORY", 1000)
    monkeypatch.setattr("ffrl.data.dsprites._BLOCK", 50)
    for _ in range(2):
        loaded = load_dsprites(tmp_path / "d.npz", tmp_path / "cache")
        assert np.array_equal(loaded.images(torch.arange(144)).numpy(), 255 * pixels[:, None])
    (images,) = (tmp_path / "cache").glob("*.images")
    assert images.stat().st_size == 144 * 512


def test_nothing_of_a_damaged_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive tells of a wrong pixel only at its end; the good file has the same name, size and checksum."""
    path = tmp_path / "d.npz"
    pixels = write_dsprites(path, (3, 2, 4, 2, 3))
    with np.load(path, allow_pickle=True) as file:
        np.savez(path, **{name: file[name] for name in file.files})
    whole = path.read_bytes()
    place = whole.index(pixels[0].tobytes())
    path.write_bytes(whole[:place] + bytes([1 - pixels[0, 0, 0]]) + whole[place + 1 :])
    monkeypatch.setattr("ffrl.data.dsprites._IN_MEMORY", 1000)
    monkeypatch.setattr("ffrl.data.dsprites._BLOCK", 50)
    with pytest.raises(DataError, match="CRC"):
        load_dsprites(path, tmp_path / "cache")
    path.write_bytes(whole)
    loaded = load_dsprites(path, tmp_path / "cache")
    assert np.array_equal(loaded.images(torch.arange(144)).numpy(), 255 * pixels[:, None])


def test_a_small_file_is_checked_to_its_end(tmp_path: Path) -> None:
    """A wrong pixel, which only the checksum tells of, and more bytes than the header counts."""
    path = tmp_path / "d.npz"
    pixels = write_dsprites(path, SIZES)
    with np.load(path, allow_pickle=True) as file:
        members = {name: file[name] for name in file.files}
    np.savez(path, **members)
    whole = path.read_bytes()
    place = whole.index(pixels.tobytes()) + pixels.size - 1
    path.write_bytes(whole[:place] + bytes([1 - whole[place]]) + whole[place + 1 :])
    with pytest.raises(DataError, match="CRC"):
        load_dsprites(path, tmp_path / "cache")
    longer = np.concatenate([pixels, pixels[:1]])
    np.savez(path, **members | {"imgs": longer})
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["imgs.npy"] = contents["imgs.npy"].replace(b"(37, 64, 64)", b"(36, 64, 64)")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=r"imgs\.npy has more bytes than its header says"):
        load_dsprites(path, tmp_path / "cache")


def test_skipped_images_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that goes on at image 3,900 of 4,000 (16 MB) holds no more than the images it reads, and a piece."""
    path = tmp_path / "d.npz"
    pixels = np.zeros((4000, 64, 64), dtype=np.uint8)
    pixels[3905] = 1
    np.savez_compressed(path, imgs=pixels)
    monkeypatch.setattr("ffrl.data.dsprites._PIECE", 1 << 16)
    reader = _Reader(path, 4000)
    tracemalloc.start()
    try:
        found = reader.read(3900, 3910)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, np.packbits(pixels[3900:3910], axis=2))
    assert peak < 1 << 20
    assert dsprites._BLOCK * 64 * 64 <= 16 << 20  # what is read together


def test_another_file_of_the_same_name_has_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffrl.data.dsprites._IN_MEMORY", 1000)
    path = tmp_path / "d.npz"
    for high in (2, 1):
        pixels = np.random.default_rng(high).integers(0, high, (144, 64, 64), dtype=np.uint8)
        write_dsprites(path, (3, 2, 4, 2, 3), imgs=pixels)
        loaded = load_dsprites(path, tmp_path / "cache")
        assert np.array_equal(loaded.images(torch.arange(144)).numpy(), 255 * pixels[:, None])
    assert len(list((tmp_path / "cache").glob("*.images"))) == 2


def test_another_folder_or_file_of_3d_scenes_has_a_cache_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    h5py = pytest.importorskip("h5py")
    from PIL import Image

    write_png_folder(tmp_path / "set", FALCOR3D)
    load_png_folder(tmp_path / "set", tmp_path / "cache", FALCOR3D)
    black = np.zeros((128, 128, 3), dtype=np.uint8)
    for file in (tmp_path / "set" / "images").iterdir():
        Image.fromarray(black).save(file)
    assert not load_png_folder(tmp_path / "set", tmp_path / "cache", FALCOR3D).images(torch.arange(16)).any()
    path = tmp_path / "3dshapes.h5"
    write_shapes3d(path, SHAPES3D, **LAYOUTS["images"])
    load_shapes3d(path, tmp_path / "cache", SHAPES3D)
    with h5py.File(path, "a") as file:
        file["images"][...] = np.full((96, 64, 64, 3), 7, dtype=np.uint8)
    assert load_shapes3d(path, tmp_path / "cache", SHAPES3D).images(torch.arange(96)).eq(7).all()


def test_a_replaced_image_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 16 files are looked at; of the others, the folder's time tells, and all times where a build goes on."""
    pytest.importorskip("PIL")
    from PIL import Image

    monkeypatch.setattr("ffrl.data.png_folders._SAMPLES", 2)
    monkeypatch.setattr("ffrl.data.png_folders.block_size", lambda count, size: 4)
    folder = tmp_path / "set"
    pixels = write_png_folder(folder, FALCOR3D)
    file, last = folder / "images" / "000005.png", folder / "images" / "000015.png"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    for _ in range(2):  # first at once, then after the replacement in place, which only the survey tells of
        with pytest.raises(DataError, match=r"000015\.png: truncated or corrupt"):
            load_png_folder(folder, tmp_path / "cache", FALCOR3D)
        (journal,) = (tmp_path / "cache").glob("*.journal")
        assert len(journal.read_text().splitlines()) == 1 + 3  # blocks
        Image.fromarray(255 - pixels[5]).save(file)
    last.write_bytes(whole)
    images = load_png_folder(folder, tmp_path / "cache", FALCOR3D).images(torch.tensor([5, 15]))
    expected = np.stack([255 - pixels[5], pixels[15]]).transpose(0, 3, 1, 2)
    assert np.array_equal(images.numpy(), expected)
    Image.fromarray(pixels[5]).save(tmp_path / "new.png")
    os.replace(tmp_path / "new.png", file)
    again = load_png_folder(folder, tmp_path / "cache", FALCOR3D).images(torch.tensor([5]))
    assert np.array_equal(again[0].numpy(), pixels[5].transpose(2, 0, 1))


SIZES = (3, 1, 2, 2, 3)
WHOLE = np.stack(np.unravel_index(np.arange(36), SIZES), axis=1)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"imgs": None}, "has no member imgs"),
        ({"latents_classes": None}, "has no member latents_classes"),
        ({"imgs": np.full((36, 64, 64), 2, dtype=np.uint8)}, "pixels other than 0 and 1"),
        ({"imgs": np.zeros((36, 64, 32), dtype=np.uint8)}, r"uint8 \(36, 64, 32\), expected uint8 \(N, 64, 64\)"),
        ({"imgs": np.zeros((36, 64, 64))}, "float64"),
        ({"imgs": np.zeros((35, 64, 64), dtype=np.uint8)}, "holds 35 images, but factors of 36"),
        ({"latents_classes": WHOLE[::-1]}, "not a complete grid"),
        ({"latents_classes": WHOLE[[*range(35), 34]]}, "not a complete grid"),
        ({"latents_classes": WHOLE - 1}, "not a complete grid"),
        ({"latents_classes": WHOLE[:, :4]}, r"expected integers \(N, 5\)"),
        ({"latents_classes": WHOLE.astype(float)}, "float64"),
        ({"latents_classes": np.concatenate([WHOLE[:, :1], WHOLE], axis=1)}, "more than one colour"),
        ({"latents_classes": np.array([{}] * 36, dtype=object)}, "truncated or corrupt"),
    ],
)
def test_bad_members_of_dsprites(tmp_path: Path, members: dict[str, np.ndarray | None], message: str) -> None:
    write_dsprites(tmp_path / "d.npz", SIZES, colour=False, **members)
    with pytest.raises(DataError, match=message):
        load_dsprites(tmp_path / "d.npz", tmp_path / "cache")


def checksum_changed(path: Path) -> None:
    """Another byte in the compressed images than was written."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("imgs.npy")
    with open(path, "r+b") as file:
        file.seek(info.header_offset + info.compress_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x55]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "no such file"),
        (cut, "truncated or corrupt"),
        (checksum_changed, "corrupt|pixels other than|truncated"),
        (lambda path: path.write_bytes(b""), "truncated or corrupt"),
    ],
)
def test_damaged_dsprites(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    write_dsprites(tmp_path / "d.npz", SIZES)
    change(tmp_path / "d.npz")
    with pytest.raises(DataError, match=message):
        load_dsprites(tmp_path / "d.npz", tmp_path / "cache")


def one_line(call: Callable[[], object], path: Path) -> None:
    """Whatever a damaged file is read as, if it is not read it is an error of one line that names it."""
    try:
        call()
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.filterwarnings("ignore")
def test_any_damage_to_a_header_is_told_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    random = np.random.default_rng(3)
    write_png_folder(tmp_path / "set", FALCOR3D)
    labels, image = tmp_path / "set" / "train-rec.labels", tmp_path / "set" / "images" / "000003.png"
    grid = FactorGrid(FALCOR3D.factors)
    archive = tmp_path / "d.npz"
    write_dsprites(archive, (3, 1, 1, 1, 1))
    with np.load(archive, allow_pickle=True) as file:
        members = {name: file[name] for name in ("imgs", "latents_classes")}
    np.savez(archive, **members)
    content = archive.read_bytes()
    cases: list[tuple[Path, list[int], Callable[[], object]]] = [
        (labels, list(range(128)), lambda: _check_labels(labels, grid)),
        (image, list(range(60)), lambda: _decode(image, (128, 128))),
        (archive, list(range(len(content) - 200, len(content))), lambda: load_dsprites(archive, tmp_path)),
        *(
            (archive, list(range(place, place + 128)), lambda: load_dsprites(archive, tmp_path))
            for place in (content.index(b"\x93NUMPY"), content.rindex(b"\x93NUMPY"))
        ),
    ]
    for path, places, call in cases:
        whole = path.read_bytes()
        for place in places:
            for value in (0, 255, *b'(0"', int(random.integers(256))):
                path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
                one_line(call, path)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"(16, 7)", b"(16, (("),  # TokenError
        (b"(16, 7)", b"(00016)"),  # SyntaxError
        (b"{'descr'", b"{[     ]"),  # TypeError, or a SyntaxError
        (b"'fortran_order'", b"   b'ran_order'"),  # keys that cannot be sorted
    ],
)
def test_labels_whose_header_python_cannot_parse(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "labels"
    with open(path, "wb") as file:
        np.save(file, labels_of(FALCOR3D))
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    with pytest.raises(DataError, match=r"labels: truncated or corrupt \(.*\)$"):
        _check_labels(path, FactorGrid(FALCOR3D.factors))


def test_damage_that_other_readers_tell_in_their_own_way(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    write_png_folder(tmp_path / "set", FALCOR3D)
    image = tmp_path / "set" / "images" / "000003.png"
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    content = image.read_bytes()
    image.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])
    with pytest.raises(DataError, match=r"000003\.png: truncated or corrupt \(Image size \(3600000000 pixels\)"):
        _decode(image, (128, 128))
    path = tmp_path / "d.npz"
    write_dsprites(path, SIZES)
    whole = path.read_bytes()
    entries = [i for i in range(len(whole)) if whole[i : i + 4] == b"PK\1\2"]
    for place, value, message in ((8, 1, "encrypted"), (10, 14, "compressed in another way")):
        content = bytearray(whole)
        for one in entries:
            content[one + place] = value
        path.write_bytes(bytes(content))
        with pytest.raises(DataError, match=message):
            load_dsprites(path, tmp_path / "cache")


def test_3d_shapes_whose_names_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "3dshapes.h5"
    write_shapes3d(path, SHAPES3D)
    content = path.read_bytes()
    assert b"images" in content
    path.write_bytes(content.replace(b"images", b"\xffmages"))
    with pytest.raises(DataError, match=r"3dshapes\.h5"):
        load_shapes3d(path, tmp_path / "cache", SHAPES3D)
    monkeypatch.setattr(h5py.File, "__iter__", lambda self: iter(["labels", None]))
    with pytest.raises(DataError, match=r"3dshapes\.h5: truncated or corrupt \('<' not supported"):
        load_shapes3d(path, tmp_path / "cache", SHAPES3D)


def test_the_genuine_subsets(mnist_dir: Path, tmp_path: Path) -> None:
    folder = mnist_dir / "dsprites"
    if not folder.is_dir():
        pytest.skip("FFRL_DATA holds no dsprites/")
    loaded = load_grid("dsprites", mnist_dir)
    assert loaded.grid.sizes == (3, 6, 10, 16, 16) and not loaded.generated
    with np.load(folder / "dsprites_downsampled.npz") as file:
        pixels = file["imgs"]
    indices = torch.randint(46080, (500,))
    assert np.array_equal(loaded.images(indices).numpy()[:, 0], 255 * pixels[indices])
    with pytest.raises(DataError, match=r"dsprites_subset\.npz is not a complete grid: 20000 images"):
        load_dsprites(folder / "dsprites_subset.npz", tmp_path)


def test_where_files_are_looked_for(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_set = DATA_SETS["dsprites"]
    full, coarse = data_set.files
    for name in ("shapes3d", "falcor3d", "isaac3d", "dsprites"):
        with pytest.raises(DataUnavailable, match=f"github.com.*{name}.*-generated' needs no files"):
            find_grid(DATA_SETS[name])
    for nowhere in (tmp_path / "nowhere", Path("~nobody-of-this-name/data")):
        with pytest.raises(DataError, match="is not a folder"):
            find_grid(data_set, nowhere)
    with pytest.raises(DataError, match=r"cannot be looked at \(File name too long\)"):
        find_grid(data_set, tmp_path / ("long" * 100))
    with pytest.raises(DataError, match=r"cannot be looked at \(embedded null byte\)"):
        find_grid(data_set, tmp_path / "a\0b")
    cached, named, given = cache.parent / "dsprites", tmp_path / "named", tmp_path / "given"
    for folder in (cached, named, given):
        folder.mkdir(parents=True)
    (cached / coarse).touch()
    assert find_grid(data_set) == cached / coarse
    monkeypatch.setenv("FFRL_DATA", str(named))
    (named / coarse).touch()
    assert find_grid(data_set) == named / coarse
    (cached / full).touch()
    assert find_grid(data_set) == cached / full
    with pytest.raises(DataUnavailable):
        find_grid(data_set, given)
    (given / "dsprites").mkdir()
    (given / "dsprites" / coarse).touch()
    assert find_grid(data_set, given) == given / "dsprites" / coarse == find_grid(data_set, given / "dsprites")
    (given / "falcor3d" / "images").mkdir(parents=True)
    with pytest.raises(DataUnavailable):  # an empty folder
        find_grid(DATA_SETS["falcor3d"], given)
    (given / "falcor3d" / "images" / "000000.png").touch()
    assert find_grid(DATA_SETS["falcor3d"], given) == given / "falcor3d"
    (given / "Falcor3D_down128" / "images").mkdir(parents=True)
    (given / "Falcor3D_down128" / "images" / "000000.png").touch()
    assert find_grid(DATA_SETS["falcor3d"], given) == given / "Falcor3D_down128"
    (given / "Falcor3D_down128" / "labels.npy").touch()
    assert find_grid(DATA_SETS["falcor3d"], given) == given / "falcor3d"
    (given / "falcor3d" / "images" / "000000.png").unlink()
    with pytest.raises(DataError, match=r"labels\.npy is of Isaac3D, not of Falcor3D"):
        find_grid(DATA_SETS["falcor3d"], given)
    with pytest.raises(ArgumentError, match="data = 'mnist'"):
        load_grid("mnist")


def test_images_that_do_not_fit_their_grid(tmp_path: Path) -> None:
    grid = FactorGrid(FALCOR3D.factors)
    (tmp_path / "file").write_bytes(bytes(16 * 12))
    with pytest.raises(ArgumentError, match="count = 15"):
        FileImages(grid, RecordFile(tmp_path / "file", 15, (3, 2, 2)), "")
    with pytest.raises(ArgumentError, match="shape"):
        FileImages(grid, RecordFile(tmp_path / "file", 16, (12,)), "")
    with pytest.raises(ArgumentError, match="packed = 3"):
        PackedImages(grid, torch.zeros(3, 8, 1, dtype=torch.uint8), "")
