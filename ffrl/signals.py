"""Signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_on_signals(grace: float = 0.0) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one acts as it always does.

    One that is ignored stays so: a shell has background commands ignore SIGINT. Threads other than the main one cannot
    handle signals.

    Args:
        grace: seconds in which the same signal again is no second one. A batch system signals every process of a job,
            and the launcher among them passes on to its own processes what it gets.
    """
    received: list[int] = []
    first_at: dict[int, float] = {}
    main = threading.current_thread() is threading.main_thread()
    handlers: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM) if main}
    handlers = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def remember(number: int, _: Any) -> None:
        second = number in first_at
        if second and time.monotonic() - first_at[number] < grace:
            return
        if second or not grace:
            signal.signal(number, handlers[number])
        if second:
            signal.raise_signal(number)
        else:
            first_at[number] = time.monotonic()
            received.append(number)

    for number in handlers:
        signal.signal(number, remember)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
