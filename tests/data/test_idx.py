"""The IDX reader: what it reads, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from ffrl.data.idx import read_idx, read_images_and_labels
from ffrl.errors import DataError
from tests.data.idx_files import idx_bytes, idx_gz

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 28, 28))
GOOD = idx_gz(PIXELS)


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


def claiming(*sizes: int) -> bytes:
    """Images whose header claims other sizes than there are data for."""
    return gzip.compress(struct.pack(">IIII", 0x803, *sizes) + PIXELS.astype(np.uint8).tobytes())


def test_images_and_labels_are_read(tmp_path: Path) -> None:
    (tmp_path / "images.gz").write_bytes(GOOD)
    (tmp_path / "labels.gz").write_bytes(idx_gz(np.array([3, 1, 4, 1, 5, 9])))
    images, labels = read_images_and_labels(tmp_path / "images.gz", tmp_path / "labels.gz")
    assert images.dtype == torch.uint8 and np.array_equal(images.numpy(), PIXELS)
    assert labels.dtype == torch.int64 and labels.tolist() == [3, 1, 4, 1, 5, 9]
    (tmp_path / "none.gz").write_bytes(idx_gz(np.zeros((0, 28, 28))))
    assert read_idx(tmp_path / "none.gz", 3).shape == (0, 28, 28)


BAD = {
    "empty": (b"", "too short"),
    "one byte": (GOOD[:1], "gzip"),
    "truncated in the gzip header": (GOOD[:5], "truncated"),
    "truncated in the first block": (GOOD[:20], "truncated"),
    "truncated in the middle": (GOOD[: len(GOOD) // 2], "truncated"),
    "truncated before the checksum": (GOOD[:-8], "truncated"),
    "truncated in the checksum": (GOOD[:-2], "truncated"),
    "not gzip": (idx_bytes(PIXELS), "not a sound gzip file"),
    "flipped byte in the data": (flipped(GOOD, len(GOOD) // 2), "not a sound gzip file"),
    "flipped byte in the checksum": (flipped(GOOD, len(GOOD) - 7), "not a sound gzip file"),
    "flipped byte in the length": (flipped(GOOD, len(GOOD) - 2), "not a sound gzip file"),
    "rubbish after the gzip stream": (GOOD + b"rubbish", "not a sound gzip file"),
    "labels in place of images": (idx_gz(np.arange(6)), "0x00000801, expected 0x00000803"),
    "floats in place of bytes": (
        gzip.compress(struct.pack(">I", 0xD03) + bytes(90)),
        "0x00000d03, expected 0x00000803",
    ),
    "little-endian": (gzip.compress(struct.pack("<IIII", 0x803, 1, 1, 1) + b"0"), "0x03080000, expected 0x00000803"),
    "no bytes inside": (gzip.compress(b""), "0 bytes, too short"),
    "magic number only": (gzip.compress(struct.pack(">I", 0x803)), "4 bytes, too short"),
    "header cut short": (gzip.compress(idx_bytes(PIXELS)[:15]), "15 bytes, too short"),
    "one image too few": (claiming(7, 28, 28), "4704 bytes of data, but the header says 5488, shape (7, 28, 28)"),
    "one image too many": (claiming(5, 28, 28), "more data than the 3920 bytes"),
    "one byte too many": (gzip.compress(idx_bytes(PIXELS) + b"0"), "more data than the 4704 bytes"),
    "absurd sizes": (claiming(2**32 - 1, 2**32 - 1, 2**32 - 1), "at most 1073741824 are read"),
    "a gigabyte claimed": (claiming(1024, 1024, 1024), "but the header says 1073741824"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    path = tmp_path / "images-under-test.gz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_idx(path, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert peak < 4_000_000  # never what a header claims
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.gz: cannot be read \(No such file"):
        read_idx(tmp_path / "nowhere.gz", 1)
    with pytest.raises(DataError, match=rf"{tmp_path}: cannot be read"):
        read_idx(tmp_path, 1)


def test_counts_that_differ_are_named(tmp_path: Path) -> None:
    (tmp_path / "images.gz").write_bytes(GOOD)
    (tmp_path / "labels.gz").write_bytes(idx_gz(np.arange(5)))
    with pytest.raises(DataError, match=r"images\.gz holds 6 images, .*labels\.gz 5 labels"):
        read_images_and_labels(tmp_path / "images.gz", tmp_path / "labels.gz")
    with pytest.raises(DataError, match=r"images\.gz: magic number 0x00000803, expected 0x00000801"):
        read_images_and_labels(tmp_path / "images.gz", tmp_path / "images.gz")
