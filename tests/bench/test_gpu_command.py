"""The command bench/gpu.sh itself: from a clean copy of the tree, and on machines that lack what it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.lines import read_lines

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "gpu.sh"
PARTS = ("environment", "build", "machine", "check", "tests", "op", "rollout", "training")


def command(*words: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Without a GPU, also where there is one."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, **variables}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.fixture
def clean_copy(tmp_path: Path) -> Path:
    """The sources alone: no extension, no installation, and kernels/ also where this version has none."""
    copy = tmp_path / "source tree"
    for name in ("bench", "ffrl", "kernels"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_C*"))
    (copy / "kernels").mkdir(exist_ok=True)
    (copy / "kernels" / "__init__.py").touch()
    return copy


def test_the_package_is_imported_from_a_clean_copy(clean_copy: Path, tmp_path: Path):
    for name in ("_C_missing.txt", "_C_cuda_missing.txt", "_C_cuda.abi3.so"):
        (clean_copy / "ffrl" / name).write_text("as a build leaves it")
    tree = tmp_path / "tree"
    linked = command("bash", clean_copy / "bench" / "gpu" / "link_tree.sh", clean_copy, tree, cwd=tmp_path)
    assert linked.returncode == 0, linked.stderr
    program = (
        "import pathlib, bench.gpu.report, ffrl.errors, ffrl.config, ffrl.presets, importlib.util as util\n"
        "kernels = util.find_spec('ffrl.kernels')\n"
        "for path in (ffrl.__file__, ffrl.errors.__file__, kernels.origin, bench.gpu.report.__file__):\n"
        "    print(pathlib.Path(path).resolve())"
    )
    # -S: no installed ffrl, whose finder might answer instead
    found = command(sys.executable, "-S", "-c", program, cwd=tree, PYTHONPATH=str(tree))
    names = ("ffrl/__init__.py", "ffrl/errors.py", "kernels/__init__.py", "bench/gpu/report.py")
    assert found.stdout.splitlines() == [str((clean_copy / name).resolve()) for name in names], found.stderr
    assert not list((tree / "ffrl").glob("_C*"))
    assert not (clean_copy / "ffrl" / "kernels").exists()


def test_without_a_gpu_it_says_so_and_reports(tmp_path: Path):
    done = command("bash", SCRIPT, "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "missing: a CUDA GPU that PyTorch can use" in done.stderr
    assert "not run: build, machine, check, tests, op, rollout, training" in done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [part["status"] for part in found["parts"]] == ["failed", *["not run"] * 7]
    assert "torch" in found["facts"] and "missing: a CUDA GPU" in (tmp_path / "out" / "gpu.md").read_text()


def test_without_pytorch_it_says_so_and_reports(tmp_path: Path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    done = command("bash", SCRIPT, tmp_path / "out", cwd=tmp_path, PYTHON="./python", TMPDIR=str(tmp_path))
    assert done.returncode == 1 and "missing: PyTorch 2.11 or later" in done.stderr
    assert "missing: Triton 3.6 or later" in (tmp_path / "out" / "gpu.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "python"]  # nothing temporary is left


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "nothing=3"], "--limit nothing=3 is not allowed; expected PART=SECONDS"),
        (["--device", "tpu"], "--device tpu is not allowed"),
        (["--fast"], "--fast is not an option"),
        (["a", "b"], "one OUT_FOLDER is enough"),
    ],
)
def test_bad_options_are_refused(words: list[str], message: str, tmp_path: Path):
    done = command("bash", SCRIPT, *words, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
    assert not list(tmp_path.iterdir())


def test_another_python_is_asked_for(tmp_path: Path):
    done = command("bash", SCRIPT, "out", cwd=tmp_path, PYTHON="no-such-python")
    assert done.returncode == 2 and "there is no no-such-python" in done.stderr


def test_help_is_the_head_of_the_script(tmp_path: Path):
    done = command("bash", SCRIPT, "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("Tests and benchmarks on a GPU, within 8 minutes")
    assert "--limit PART=SECONDS" in done.stdout and "set -" not in done.stdout


KERNEL_TESTS = """
import pytest

def test_right(): pass
def test_wrong(): assert 1 == 2, "one is not two"
@pytest.mark.slow
def test_slow(): raise AssertionError
@pytest.mark.gpu
def test_without_device(): pytest.skip("no device")
@pytest.fixture
def broken(): raise OSError("nothing there")
def test_set_up(broken): pass
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_line_for_each_test(device: str, tmp_path: Path):
    folder = tmp_path / "tests" / "kernels"
    folder.mkdir(parents=True)
    (folder / "test_some.py").write_text(KERNEL_TESTS)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--no-such-option"\n')
    options = ["--out", tmp_path / "tests.jsonl", "--device", device, "--folder", folder]
    done = command(sys.executable, "-m", "bench.gpu.kernel_tests", *options, cwd=ROOT)
    assert done.returncode == 1 and "pytest ended with 1" in done.stderr, done.stdout + done.stderr
    collected, *lines = read_lines(tmp_path / "tests.jsonl")
    assert collected == {"kind": "collected", "number": 4}
    found = {line["test"].rpartition("::")[2]: (line["outcome"], line["why"]) for line in lines}
    assert found.pop("test_wrong")[0] == "failed"
    assert found == {
        "test_right": ("passed", None),
        "test_without_device": ("skipped", "Skipped: no device"),
        "test_set_up": ("failed", "OSError: nothing there"),
    }


def test_no_test_on_the_gpu_is_a_failure(tmp_path: Path):
    folder = tmp_path / "tests" / "kernels"
    folder.mkdir(parents=True)
    (folder / "test_some.py").write_text("import pytest\ndef test_a(): pytest.skip('no Triton')\n")
    options = ["--out", tmp_path / "tests.jsonl", "--folder", folder]
    done = command(sys.executable, "-m", "bench.gpu.kernel_tests", *options, cwd=ROOT)
    assert done.returncode == 5 and "no test ran on the GPU" in done.stderr


def test_without_pytest_the_tests_fail(tmp_path: Path):
    options = ["--out", tmp_path / "tests.jsonl"]
    done = command(sys.executable, "-S", "-m", "bench.gpu.kernel_tests", *options, cwd=ROOT)
    assert done.returncode == 1 and "the tests need pytest and numpy and torch" in done.stderr


@pytest.mark.slow
def test_the_whole_command_on_the_cpu(tmp_path: Path):
    limits = {"environment": 15, "machine": 20, "tests": 1}  # the tests are to run out of time
    options = [word for part, seconds in limits.items() for word in ("--limit", f"{part}={seconds}")]
    done = command("bash", SCRIPT, "--device", "cpu", "--cases", "tiny", *options, "out", cwd=tmp_path)
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    parts = {part["name"]: part["status"] for part in found["parts"]}
    assert tuple(parts) == PARTS and done.returncode == 1, done.stderr
    assert {name for name, status in parts.items() if status != "ok"} == {"tests"}, done.stderr
    assert parts["tests"] == "timed out"
    assert {line["benchmark"] for line in found["figures"]} == {"op", "rollout", "training"}
    assert all(line["cubic_share_of_tf32"] > 0 for line in found["figures"] if line["flops"])
