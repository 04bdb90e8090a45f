"""Images decoded once into a file of bytes, with a checksum of every block; a build that was killed is continued."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffrl.errors import ArgumentError, DataError

BLOCK_BYTES = 32 << 20
_VERSION = 1


class RecordFile:
    """N records of equal size in a file, read by number: nothing is kept in memory, and a cut file is an error.

    Args:
        path: the file.
        count: N.
        shape: of a record, uint8.
        offset: bytes before the first record.

    Raises:
        DataError: the file cannot be opened or is too short.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], offset: int = 0) -> None:
        self.path, self.count, self.shape, self.offset = path, count, shape, offset
        self.record_bytes = int(np.prod(shape))
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        size, due = os.fstat(self._descriptor).st_size, offset + count * self.record_bytes
        if size < due:
            self.close()
            raise DataError(f"{path}: truncated; it has {size:,} bytes, {due:,} are due")

    def read(self, indices: Tensor) -> Tensor:
        """Records (N,) int64 -> (N, *shape) uint8, on the CPU.

        Raises:
            ArgumentError: another shape or dtype, or a number out of range.
            DataError: the file has been cut or cannot be read.
        """
        numbers = checked_indices(indices, self.count)
        records = np.empty((len(numbers), self.record_bytes), dtype=np.uint8)
        rows = records.reshape(-1).data
        size = self.record_bytes
        try:
            for row, number in enumerate(numbers):
                place = row * size
                got = os.preadv(self._descriptor, [rows[place : place + size]], self.offset + number * size)
                if got != size:
                    raise DataError(f"{self.path}: truncated; record {number} has {got:,} of {size:,} bytes")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        return torch.from_numpy(records.reshape(len(numbers), *self.shape))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


def checked_indices(indices: object, count: int) -> list[int]:
    """The numbers in indices (N,) int64; ArgumentError for another shape or dtype, or a number not in 0..count-1."""
    if not isinstance(indices, Tensor) or indices.dim() != 1 or indices.dtype != torch.int64:
        given = f"{indices.dtype} {tuple(indices.shape)}" if isinstance(indices, Tensor) else repr(indices)
        raise ArgumentError("indices", given, "an int64 tensor of shape (N,)")
    numbers = indices.tolist()
    for number in (min(numbers), max(numbers)) if numbers else ():
        if not 0 <= number < count:
            raise ArgumentError("indices", number, f"integers in 0..{count - 1}")
    return numbers


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
        if not self.path.exists():
            self._build()
        if len(self._finished()) != self.num_blocks or self.path.stat().st_size != self.num_bytes:
            raise self._damaged("its size or its journal is wrong")
        return RecordFile(self.path, self.content.count, self.content.shape)

    def verify(self) -> None:
        """Read everything once and compare the checksums.

        Raises:
            DataError: the cache is not there, or a block has changed.
        """
        finished = self._finished()
        try:
            with open(self.path, "rb") as file:
                for block in range(self.num_blocks):
                    if _digest(file, self._span(block)) != finished.get(block):
                        raise self._damaged(f"block {block} has another checksum than when it was written")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from error

    def _build(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.journal, "a+b") as journal:
                fcntl.flock(journal, fcntl.LOCK_EX)  # another process may be building it: wait
                if self.path.exists():
                    return
                finished = self._continued(journal)
                with open(self.partial, "r+b" if self.partial.exists() else "w+b") as file:
                    self._write_blocks(file, journal, finished)
                os.replace(self.partial, self.path)
        except OSError as error:
            raise DataError(f"cannot write the cache {self.path}: {error.strerror or error}") from error

    def _continued(self, journal: BinaryIO) -> set[int]:
        """The blocks that an earlier build has left and that still have their checksum; the journal keeps those."""
        finished: dict[int, str] = {}
        if self.partial.exists():
            with open(self.partial, "rb") as file:
                finished = {
                    block: digest
                    for block, digest in self._finished().items()
                    if _digest(file, self._span(block)) == digest
                }
        journal.truncate(0)
        lines = [json.dumps(self._header), *(f"{block} {digest}" for block, digest in finished.items())]
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
        with _progress(self.content.title, self.content.count) as advance:
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

    def _finished(self) -> dict[int, str]:
        """Block -> checksum, as far as the journal is sound and of this source."""
        try:
            lines = self.journal.read_text(encoding="utf-8", errors="replace").split("\n")[
                :-1
            ]  # a torn one is left out
        except FileNotFoundError:
            return {}
        if not lines or lines[0] != json.dumps(self._header):
            return {}
        found = {}
        for line in lines[1:]:
            block, _, digest = line.partition(" ")
            if not block.isdecimal() or int(block) >= self.num_blocks or len(digest) != 64:
                break
            found[int(block)] = digest
        return found

    def _records(self, block: int) -> tuple[int, int]:
        first = block * self.content.block
        return first, min(first + self.content.block, self.content.count)

    def _span(self, block: int) -> tuple[int, int]:
        """First byte and number of bytes of a block."""
        first, last = self._records(block)
        return first * self.record_bytes, (last - first) * self.record_bytes

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.path}: the cache is damaged ({why}); delete it, and it is made anew")


def block_size(count: int, record_bytes: int) -> int:
    """Records in a block of about ``BLOCK_BYTES``."""
    return max(1, min(count, BLOCK_BYTES // record_bytes))


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


@contextlib.contextmanager
def _progress(title: str, count: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; none without rich."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=count)
        yield lambda number: bar.advance(task, number)
