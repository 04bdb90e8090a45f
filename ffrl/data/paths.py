"""Whether files and folders are there: an error where the system does not say."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ffrl.errors import DataError


def is_file(path: Path) -> bool:
    """Whether a file is there; DataError where that cannot be found out, as without permission."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether a folder is there; DataError where that cannot be found out, as without permission."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """0 where there is nothing."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{str(path)!r} cannot be looked at ({reason})") from error
