"""Signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one acts as it always does.

    One that is ignored stays so: a shell has background commands ignore SIGINT. Threads other than the main one cannot
    handle signals.
    """
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handlers: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM) if main}
    handlers = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def remember(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, handlers[number])

    for number in handlers:
        signal.signal(number, remember)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
