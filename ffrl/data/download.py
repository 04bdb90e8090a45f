"""Checked downloads into the library's cache; pooch and rich are imported only when one is needed."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ffrl.errors import DataError

_TIMEOUT = (5, 30)  # seconds to connect, seconds without a byte


class DataUnavailable(DataError):
    """A data set is neither on this machine nor could it be downloaded; the message says where it was looked for."""


def cache_folder() -> Path:
    """The platform's cache folder for ffrl, such as ~/.cache/ffrl: that of ``pooch.os_cache``. It is not made here."""
    home = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named if os.path.isabs(named) else os.path.expanduser(home)) / "ffrl"


def fetch(name: str, sha256: str, mirrors: Sequence[str], folder: Path) -> None:
    """Download a file into a folder, from the first mirror that serves it, with a progress bar on stderr.

    The bytes go to a temporary file beside the target, which takes the target's name once their SHA-256 is right: there
    is never a file of that name with anything else in it. A file that is already there is left alone.

    Args:
        name: name of the file, on the mirrors as in the folder.
        sha256: its expected SHA-256, hexadecimal.
        mirrors: URLs to put the name after, tried in order.
        folder: where it goes; made if need be.

    Raises:
        DataUnavailable: no mirror served it; the message has each URL with what went wrong.
    """
    if os.path.exists(folder / name):
        return
    pooch = _import_pooch()
    failures: list[str] = []
    for mirror in mirrors:
        try:
            with _ProgressBar(name) as bar:
                pooch.retrieve(
                    mirror + name,
                    known_hash=f"sha256:{sha256}",
                    fname=name,
                    path=folder,
                    downloader=pooch.HTTPDownloader(progressbar=bar, timeout=_TIMEOUT),
                )
            return
        except (OSError, ValueError) as error:  # no connection, no permission; a wrong hash
            # A wrong hash is told in full; urllib3 tells of a missing network in a paragraph.
            reason = str(error) if isinstance(error, ValueError) else textwrap.shorten(str(error), 120)
            failures.append(f"{mirror}{name} ({type(error).__name__}: {reason})")
    raise DataUnavailable("; ".join(failures))


def _import_pooch() -> Any:
    try:
        import pooch
        import rich.progress  # noqa: F401  needed by the progress bar
    except ImportError as error:
        raise DataUnavailable(f"no download: {error.name} is not installed (pip install {error.name})") from error
    return pooch


class _ProgressBar:
    """A rich progress bar with what pooch asks of one: total, update, reset and close."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(name, total=None)
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        """Called once the mirror has answered: only then is there anything to show."""
        self._total = value
        self._progress.update(self._task, total=value or None)
        self._progress.start()

    def update(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.refresh()

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()
