"""The cache of decoded images: complete or not there, continued after a kill, and checked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ffrl.data import image_cache
from ffrl.data.image_cache import CacheContent, ImageCache, verify_images
from ffrl.data.record_file import RecordFile
from ffrl.errors import ArgumentError, DataError
from tests.data.grid_files import random_pixels

PIXELS = random_pixels(25, 2, 3)


class Source:
    """Counts what is read; can fail at an image."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.read, self.fail_at = [], fail_at

    def __call__(self, first: int, last: int) -> np.ndarray:
        if self.fail_at is not None and first <= self.fail_at < last:
            raise DataError(f"image {self.fail_at} is damaged")
        self.read.append((first, last))
        return PIXELS[first:last]


def cache_of(folder: Path, source: Source, identity: str = "one") -> ImageCache:
    return ImageCache(folder, "set", CacheContent("title", {"file": identity}, 25, (2, 3), source, 10))


def test_built_once_and_read_by_number(tmp_path: Path) -> None:
    source = Source()
    records = cache_of(tmp_path / "new", source).open()
    assert source.read == [(0, 10), (10, 20), (20, 25)]
    indices = torch.tensor([24, 0, 13, 13])
    assert torch.equal(records.read(indices), torch.from_numpy(PIXELS[indices.numpy()]))
    assert records.read(torch.zeros(0, dtype=torch.int64)).shape == (0, 2, 3)
    again = Source()
    assert torch.equal(cache_of(tmp_path / "new", again).open().read(indices), records.read(indices))
    assert again.read == []
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == [".images", ".journal"]
    assert verify_images(cache_of(tmp_path / "new", again).path) == 150


def test_another_source_has_another_cache(tmp_path: Path) -> None:
    cache_of(tmp_path, Source()).open()
    other = Source()
    cache_of(tmp_path, other, "two").open()
    assert len(other.read) == 3


def test_an_error_leaves_nothing_under_the_final_name_and_a_later_build_goes_on(tmp_path: Path) -> None:
    broken = cache_of(tmp_path, Source(fail_at=21))
    with pytest.raises(DataError, match="image 21 is damaged"):
        broken.open()
    assert not broken.path.exists() and broken.partial.exists()
    mended = Source()
    records = cache_of(tmp_path, mended).open()
    assert mended.read == [(20, 25)]
    assert torch.equal(records.read(torch.arange(25)), torch.from_numpy(PIXELS))
    assert not broken.partial.exists()


@pytest.mark.parametrize("damage", ["block", "journal", "torn", "short", "other"])
def test_what_a_crash_may_have_spoilt_is_made_again(tmp_path: Path, damage: str) -> None:
    cache = cache_of(tmp_path, Source(fail_at=21))
    with pytest.raises(DataError):
        cache.open()
    if damage == "block":  # the second one
        content = bytearray(cache.partial.read_bytes())
        content[100] ^= 1
        cache.partial.write_bytes(bytes(content))
    elif damage == "short":
        os.truncate(cache.partial, 70)
    elif damage == "torn":
        cache.journal.write_bytes(cache.journal.read_bytes()[:-5])
    elif damage == "journal":
        cache.journal.unlink()
    else:
        cache.journal.write_text("{}\n")
    source = Source()
    records = cache_of(tmp_path, source).open()
    expected = [(10, 20), (20, 25)] if damage in ("block", "torn", "short") else [(0, 10), (10, 20), (20, 25)]
    assert source.read == expected
    assert torch.equal(records.read(torch.arange(25)), torch.from_numpy(PIXELS))
    verify_images(cache.path)


def test_killed_while_building(tmp_path: Path) -> None:
    """SIGKILL after the second block; the next process reads the rest alone."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tests.data.test_image_cache import Source, cache_of\n"
        "class Killed(Source):\n    def __call__(self, first, last):\n"
        "        if first == 20: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().__call__(first, last)\n"
        "cache_of(Path(sys.argv[1]), Killed()).open()\n"
    )
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    source = Source()
    assert torch.equal(cache_of(tmp_path, source).open().read(torch.arange(25)), torch.from_numpy(PIXELS))
    assert source.read == [(20, 25)]


def test_one_process_builds_and_another_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two files that are opened apart exclude each other as two processes do."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Source):
        def __call__(self, first: int, last: int) -> np.ndarray:
            begun.set()
            assert go_on.wait(60)
            return super().__call__(first, last)

    sources = [Slow(), Source()]
    found = []

    def build(source: Source) -> None:
        found.append(cache_of(tmp_path, source).open().read(torch.arange(25)))

    threads = [threading.Thread(target=build, args=(source,)) for source in sources]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    end = time.monotonic() + 20
    while time.monotonic() < end and not caplog.records and threads[1].is_alive():
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join()
    assert [len(source.read) for source in sources] == [3, 0]
    assert [record.getMessage() for record in caplog.records] == [
        f"waiting for another process that makes the cache {cache_of(tmp_path, Source()).path}"
    ]
    assert len(found) == 2 and all(torch.equal(images, torch.from_numpy(PIXELS)) for images in found)


@pytest.mark.parametrize("survey", ["same", "other"])
def test_a_build_goes_on_only_where_the_source_is_as_it_was(tmp_path: Path, survey: str) -> None:
    def surveyed(source: Source, survey: str) -> ImageCache:
        cache = cache_of(tmp_path, source)
        return ImageCache(tmp_path, "set", cache.content._replace(survey=lambda: {"files": survey}))

    with pytest.raises(DataError, match="image 21"):
        surveyed(Source(fail_at=21), "same").open()
    source = Source()
    surveyed(source, survey).open()
    assert source.read == [(20, 25)] if survey == "same" else len(source.read) == 3
    surveyed(Source(fail_at=0), "a third").open()  # finished: not looked through again


def test_damage_to_a_finished_cache_is_told(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, Source())
    records = cache.open()
    content = bytearray(cache.path.read_bytes())
    content[149] ^= 1
    cache.path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="block 2 has another checksum"):
        verify_images(cache.path)
    os.truncate(cache.path, 140)
    with pytest.raises(DataError, match="the cache is damaged"):
        cache_of(tmp_path, Source()).open()
    with pytest.raises(DataError, match="truncated; record 24 has 0 of 6 bytes"):
        records.read(torch.tensor([24]))
    cache.path.unlink()
    assert torch.equal(cache_of(tmp_path, Source()).open().read(torch.arange(25)), torch.from_numpy(PIXELS))


def test_a_full_disk_is_told_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: usage._replace(free=100))
    source = Source()
    with pytest.raises(DataError, match=r"needs 0\.0 GB more"):
        cache_of(tmp_path, source).open()
    assert source.read == []


def test_records_out_of_range_and_files_that_are_not_there(tmp_path: Path) -> None:
    records = cache_of(tmp_path, Source()).open()
    for indices in (torch.tensor([25]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([[0]]), [0]):
        with pytest.raises(ArgumentError, match="indices = "):
            records.read(indices)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="cannot be read"):
        RecordFile(tmp_path / "nowhere", 1, (1,))
    (tmp_path / "short").write_bytes(b"123")
    with pytest.raises(DataError, match="truncated; it has 3 bytes, 4 are due"):
        RecordFile(tmp_path / "short", 2, (2,))
