"""A bar for work that is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def counted(title: str, count: int, *, stays: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, moved on by what is called with a number; none without rich.

    Args:
        title: of the work.
        count: of what is to be done.
        stays: whether it is left on the screen at the end; where stderr is no terminal, its last state is all of it.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=not stays) as bar:
        task = bar.add_task(title, total=count)
        yield lambda number: bar.advance(task, number)
