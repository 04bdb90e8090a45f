"""Part "tests": the tests of tests/kernels on the GPU, a line for each as it ends: python -m bench.gpu.kernel_tests.

Without the settings of pyproject.toml, which name plugins of pytest that may be missing. Compiling is most of the time,
so the tests first run dealt out to several processes, whose results do not count, to fill Triton's cache.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.lines import Lines
from bench.gpu.part import Deadline, begin, parser_of

NEEDED = ("pytest", "numpy", "torch")
MOST_PROCESSES = 8
# The part of the time that the first run may take.
FIRST_RUN_SHARE = 0.6
NOTHING_COLLECTED = 5  # by pytest


class TestLines:
    """A plugin of pytest: keeps every n-th test, and writes what became of each."""

    __test__ = False

    def __init__(self, lines: Lines | None, deal: tuple[int, int]) -> None:
        self.lines, self.deal = lines, deal
        self.counts: dict[str, int] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        first, step = self.deal
        items[:] = items[first::step]

    def pytest_collection_finish(self, session: Any) -> None:
        if self.lines is not None:
            self.lines.write("collected", number=len(session.items))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test ends with its call, or before it: skipped, or failed in its set-up; a failed tear-down counts, too."""
        if report.when != "call" and report.passed:
            return
        outcome = str(report.outcome)
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        if self.lines is not None:
            why = None if report.passed else last_line(report)
            self.lines.write("test", test=report.nodeid, outcome=outcome, when=report.when, why=why)


def last_line(report: Any) -> str:
    """Of a skip the reason, of a failure the error."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])[:300]
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr) if crash is None else str(crash.message)
    return (text.strip().splitlines() or ["no message"])[0][:300]


def run_pytest(folder: Path, plugin: TestLines) -> int:
    import pytest

    options = ["-c", os.devnull, "--rootdir", str(folder.parents[1]), "-p", "no:cacheprovider", "-q", "-ra"]
    options += ["-m", "not slow and not nightly", "-W", "ignore::pytest.PytestUnknownMarkWarning", "--tb=short"]
    return int(pytest.main([*options, str(folder)], plugins=[plugin]))


def fill_caches(arguments: list[str], deadline: Deadline) -> None:
    """Run the tests dealt out to several processes; what is not done in time is left."""
    number = min(MOST_PROCESSES, (os.cpu_count() or 1) // 2)
    if number < 2:
        return
    command = [sys.executable, "-m", "bench.gpu.kernel_tests", *arguments, "--deal"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([*command, f"{first}/{number}"], **quiet) for first in range(number)]
    for process in processes:
        try:
            process.wait(max(0.0, deadline.left))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    parser = parser_of("bench.gpu.kernel_tests", __doc__)
    parser.add_argument("--folder", type=Path, default=Path("tests/kernels"), help="the tests")
    parser.add_argument(
        "--deal", default=None, metavar="I/N", help="run every N-th test from the I-th on, write nothing"
    )
    arguments = parser.parse_args(given)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"the tests need {' and '.join(missing)}, which Python does not find here", file=sys.stderr)
        return 1
    folder = arguments.folder.absolute()
    if not folder.is_dir():
        print(f"there are no tests at {arguments.folder}", file=sys.stderr)
        return 1
    if arguments.deal is not None:
        first, step = map(int, arguments.deal.split("/"))
        return run_pytest(folder, TestLines(None, (first, step)))
    lines, _ = begin(arguments)
    if arguments.device == "cuda":
        fill_caches(given, Deadline(FIRST_RUN_SHARE * arguments.seconds))
    plugin = TestLines(lines, (0, 1))
    code = run_pytest(folder, plugin)
    if code == 0 and arguments.device == "cuda" and not plugin.counts.get("passed"):
        print(f"no test ran on the GPU: {plugin.counts}", file=sys.stderr)
        return NOTHING_COLLECTED
    if code:
        print(f"pytest ended with {code}: {plugin.counts}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
