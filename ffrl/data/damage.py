"""What reading a damaged file may raise, as an error of one line that names the file."""

from __future__ import annotations

import contextlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ffrl.errors import DataError

# The headers of arrays are read by Python's own parser, which raises SyntaxError, TokenError, and what a literal may;
# RuntimeError is of an archive that seems to be encrypted, KeyError of a member that is gone.
DAMAGE: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, EOFError, ValueError, TypeError),
    *(KeyError, OverflowError, MemoryError, RuntimeError),
)


@contextlib.contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Raise DataError for what comes of a file that is missing, cannot be read or is damaged."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except OSError as error:
        if error.errno is None:  # of a decoder
            raise corrupt(path, error) from error
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except DAMAGE as error:
        raise corrupt(path, error) from error


def corrupt(path: Path, error: Exception, what: str = "truncated or corrupt") -> DataError:
    """The error, in one line."""
    return DataError(f"{path}: {what} ({' '.join(str(error).split())})")
