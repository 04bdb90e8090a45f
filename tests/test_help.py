"""--help of the commands that look at a run answers at once: nothing heavy is loaded for it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("traverse", "--num-digits"),
        ("vp", "--train-fraction"),
        ("generalisation", "--other-data"),
        ("tables", "--seeds"),
    ],
)
def test_help_answers_within_three_seconds_without_torch(command: str, flag: str):
    code = (
        f"import sys\nfrom ffrl.{command} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as error:\n"
        "    print(error.code, sorted({'torch', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert time.perf_counter() - start < 3
    assert result.stdout.splitlines()[-1] == "0 []", result.stderr
    assert flag in result.stdout
