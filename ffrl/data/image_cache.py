"""Images decoded once into a file of bytes, with a checksum of every block; a build that was killed is continued."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ffrl.bars import counted
from ffrl.data.record_file import RecordFile
from ffrl.errors import DataError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 32 << 20
_VERSION = 1


class CacheContent(NamedTuple):
    """What a cache is made from."""

    title: str
    """For the progress bar."""
    identity: dict[str, Any]
    """What tells its source from another one, as JSON."""
    count: int
    shape: tuple[int, ...]  # of a record, uint8
    read: Callable[[int, int], np.ndarray]
    """Records first..last-1, (last - first, *shape) uint8; may raise DataError."""
    block: int
    """Records that are read, written and checksummed together."""
    survey: Callable[[], dict[str, Any]] = dict
    """Looks through the whole source before the first block; may raise DataError. A build is continued only where its
    result, as JSON, is that of before; a finished cache is opened without it."""


class ImageCache:
    """A file of decoded images beside its journal: the source, and the SHA-256 of every block that is on the disk.

    The images have the name ``FOLDER/NAME-KEY.images`` only once all of them are there; KEY is a hash of the source.

    Args:
        folder: made when the cache is built.
        name: of the data set.
        content: what the images are made from.
    """

    def __init__(self, folder: Path, name: str, content: CacheContent) -> None:
        self.content = content
        self.record_bytes = int(np.prod(content.shape))
        self._header = {
            "version": _VERSION,
            "source": content.identity,
            "count": content.count,
            "shape": list(content.shape),
            "block": content.block,
        }
        key = hashlib.sha256(json.dumps(self._header, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / f"{name}-{key}.images"
        self.partial, self.journal = self.path.with_suffix(".partial"), self.path.with_suffix(".journal")

    @property
    def num_blocks(self) -> int:
        return -(-self.content.count // self.content.block)

    @property
    def num_bytes(self) -> int:
        return self.content.count * self.record_bytes

    def open(self) -> RecordFile:
        """The images, decoded first where they are not in the cache yet.

        Raises:
            DataError: the source is damaged, the disk is full, or the cache does not fit its journal.
        """
        try:
            if not self.path.exists():
                self._build()
            sound = len(self._finished()) == self.num_blocks and self.path.stat().st_size == self.num_bytes
        except OSError as error:
            raise DataError(f"cannot use the cache {self.path}: {error.strerror or error}") from error
        if not sound:
            raise _damaged(self.path, "its size or its journal is wrong")
        return RecordFile(self.path, self.content.count, self.content.shape)

    def _build(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.journal, "a+b") as journal:
            self._lock(journal)
            if self.path.exists():
                return
            finished = self._continued(journal, self.content.survey())
            with open(self.partial, "r+b" if self.partial.exists() else "w+b") as file:
                self._write_blocks(file, journal, finished)
            os.replace(self.partial, self.path)

    def _lock(self, journal: BinaryIO) -> None:
        """Wait until no other process builds the cache; the lock ends with the file."""
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("waiting for another process that makes the cache %s", self.path)
            fcntl.flock(journal, fcntl.LOCK_EX)

    def _continued(self, journal: BinaryIO, survey: dict[str, Any]) -> set[int]:
        """The blocks that an earlier build has left and that still have their checksum; the journal keeps those."""
        finished: dict[int, str] = {}
        if self.partial.exists():
            with open(self.partial, "rb") as file:
                finished = {
                    block: digest
                    for block, digest in self._finished(survey).items()
                    if _digest(file, self._span(block)) == digest
                }
        journal.truncate(0)
        lines = [
            json.dumps(self._header | {"survey": survey}),
            *(f"{block} {digest}" for block, digest in finished.items()),
        ]
        journal.write("".join(f"{line}\n" for line in lines).encode())
        _to_disk(journal)
        missing = (self.num_blocks - len(finished)) * min(self.content.block, self.content.count) * self.record_bytes
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise DataError(
                f"the cache {self.path} needs {missing / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free there"
            )
        return set(finished)

    def _write_blocks(self, file: BinaryIO, journal: BinaryIO, finished: set[int]) -> None:
        with counted(self.content.title, self.content.count) as advance:
            for block in range(self.num_blocks):
                first, last = self._records(block)
                if block not in finished:
                    records = self.content.read(first, last)
                    assert records.dtype == np.uint8 and records.shape == (last - first, *self.content.shape)
                    data = np.ascontiguousarray(records).reshape(-1).data
                    file.seek(first * self.record_bytes)
                    file.write(data)
                    _to_disk(file)
                    journal.write(f"{block} {hashlib.sha256(data).hexdigest()}\n".encode())
                    _to_disk(journal)
                advance(last - first)

    def _finished(self, survey: dict[str, Any] | None = None) -> dict[int, str]:
        """Block -> checksum, as far as the journal is sound and of this source; ``survey`` is compared where given."""
        header, digests = _read_journal(self.journal)
        surveyed = header.pop("survey", None)
        if json.dumps(header) != json.dumps(self._header):
            return {}
        if survey is not None and json.dumps(surveyed) != json.dumps(survey):
            return {}
        return {block: digest for block, digest in digests.items() if block < self.num_blocks}

    def _records(self, block: int) -> tuple[int, int]:
        first = block * self.content.block
        return first, min(first + self.content.block, self.content.count)

    def _span(self, block: int) -> tuple[int, int]:
        """First byte and number of bytes of a block."""
        first, last = self._records(block)
        return first * self.record_bytes, (last - first) * self.record_bytes


def verify_images(path: Path) -> int:
    """Read a finished cache once, compare the checksums with those of its journal, and return its number of bytes.

    Raises:
        DataError: the images or their journal cannot be read, are incomplete or have changed.
    """
    try:
        header, digests = _read_journal(path.with_suffix(".journal"))
        try:
            record_bytes = int(np.prod(header["shape"]))
            size, block_bytes = header["count"] * record_bytes, header["block"] * record_bytes
            starts = range(0, size, block_bytes)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, "its journal cannot be read") from error
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise _damaged(path, "it has another size than its journal says")
            for block, start in enumerate(starts):
                if _digest(file, (start, min(block_bytes, size - start))) != digests.get(block):
                    raise _damaged(path, f"block {block} has another checksum than when it was written")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return size


def block_size(count: int, record_bytes: int) -> int:
    """Records in a block of about ``BLOCK_BYTES``."""
    return max(1, min(count, BLOCK_BYTES // record_bytes))


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path}: the cache is damaged ({why}); delete it, and it is made anew")


def _read_journal(path: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """The header, and block -> checksum as far as the lines are sound; nothing of a file without a sound header."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # a torn one is left out
        header = json.loads(lines[0])
    except (FileNotFoundError, IndexError, ValueError):
        return {}, {}
    digests: dict[int, str] = {}
    for line in lines[1:]:
        block, _, digest = line.partition(" ")
        if not block.isdecimal() or len(digest) != 64:
            break
        digests[int(block)] = digest
    return (header, digests) if isinstance(header, dict) else ({}, {})


def _digest(file: BinaryIO, span: tuple[int, int]) -> str:
    file.seek(span[0])
    hashed, left = hashlib.sha256(), span[1]
    while left:
        data = file.read(min(left, 1 << 20))
        if not data:
            return "cut short"
        hashed.update(data)
        left -= len(data)
    return hashed.hexdigest()


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
