"""Results on disk as they come: one JSON object a line, flushed, so that a part that is killed loses nothing."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: None stands for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


class Lines:
    """A file of lines, added to; threads may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, kind: str, **values: Any) -> None:
        text = json.dumps(plain({"kind": kind, **values}), ensure_ascii=False, allow_nan=False)
        with self._lock:
            self._file.write(text + "\n")
            self._file.flush()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file; none where it is missing. What does not parse, a last line that was cut, is left out."""
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def message(error: BaseException) -> str:
    """The kind of an error and the first line of its message that says something, fit for a cell of a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}".replace("|", "/")[:300]
