"""Builds of copies of this tree, without network, and interpreters that use what was built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILER = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)

needs_compiler = pytest.mark.skipif(
    COMPILER is None or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="needs a C++ compiler and the headers of Python",
)

# Stands for the kernels where only the packaging is tested: it compiles in a second.
STUB = """
#include <cstdint>
#include <cstring>

#include "cpu/capability.h"

extern "C" uint64_t aoti_torch_abi_version();

namespace ffrl::cpu {
const char* capability() { return aoti_torch_abi_version() > 0 ? "portable" : ""; }
bool set_capability(const char* name) {
    return std::strcmp(name, "portable") == 0 || std::strcmp(name, "auto") == 0;
}
}  // namespace ffrl::cpu
"""


def environment(**changes: object) -> dict[str, str]:
    """That of this process without what chooses a compiler or another ffrl, without CUDA, and with ``changes``."""
    chosen_here = ("CXX", "FFRL_CPP", "FFRL_CUDA", "TORCH_CUDA_ARCH_LIST", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in chosen_here}
    fixed = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "FFRL_CUDA": "0"}
    return kept | fixed | {name: str(value) for name, value in changes.items()}


def copy_tree(folder: Path, *, stub: bool = True) -> Path:
    """A copy of what a build reads, with ``STUB`` in the place of the kernels and operators without one."""
    tree = folder / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_C*_missing.txt")
    for name in ("ffrl", "kernels", "csrc", "bench", "tests", "docs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    if stub:
        for path in (tree / "csrc").rglob("*.cpp"):
            if path.name not in ("module.cpp", "schema.cpp"):
                path.unlink()
        (tree / "csrc" / "cpu" / "capability.cpp").write_text(STUB, encoding="utf-8")
    return tree


def run_pip(*arguments: object, **changes: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=280)


def build(tree: Path, hook: str, **changes: object) -> subprocess.CompletedProcess[str]:
    """What pip calls in the tree: ``hook`` is "build_wheel", "build_editable" or "build_sdist". It leaves dist/."""
    code = f"from setuptools import build_meta; build_meta.{hook}('dist')"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=tree, env=environment(**changes), capture_output=True, text=True, timeout=280)


def run_python(code: str, *, cwd: Path = ROOT, **changes: object) -> str:
    """Standard output of a fresh interpreter; its standard error is in the failure."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout
