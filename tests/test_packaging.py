"""The wheel, what it needs at import, the version, and the commands that a stranger types."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

import ffrl
from tests.builds import ROOT, copy_tree, run_pip, run_python

TARGETS = {"help", "setup", "demo", "test", "slow", "lint", "format", "bench", "clean"}

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of this tree without the C++ extension, built without network and build isolation."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = copy_tree(folder)
    result = run_pip("wheel", "--no-build-isolation", "--no-deps", "-w", folder / "out", tree, FFRL_CPP=0)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = (folder / "out").glob("*.whl")
    return path


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_wheel_holds_every_module_and_nothing_else(wheel):
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ffrl").rglob("*.py")} | {"ffrl/py.typed"}
    sources |= {f"ffrl/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "kernels").rglob("*.py")}
    sources |= {"ffrl/_C_missing.txt", "ffrl/_C_cuda_missing.txt"}  # without extensions: test_extension_build.py
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    information = {name for name in names if name.split("/")[0] == f"ffrl-{ffrl.__version__}.dist-info"}
    assert names - information == sources
    assert any(name.endswith("/licenses/LICENSE") for name in information)


def test_wheel_metadata_names_the_extras_and_few_dependencies(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"ffrl-{ffrl.__version__}.dist-info/METADATA").decode()
    extras = set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.M))
    assert extras == {"train", "data", "figures", "triton", "test", "dev", "all"}
    required = re.findall(r"^Requires-Dist: ([\w.-]+)[^;\n]*$", metadata, re.M)
    assert set(required) == {"torch", "numpy"}
    assert "License-Expression: Apache-2.0" in metadata


def test_configuration_is_imported_without_torch_and_numpy():
    code = """
        import sys
        import ffrl, ffrl.errors, ffrl.config, ffrl.records
        print(sorted({"torch", "numpy"} & set(sys.modules)))
    """
    assert run_python(code).strip() == "[]"


def test_op_computes_without_the_optional_distributions():
    out = run_python(
        """
        import sys

        OPTIONAL = set("triton tyro rich tensorboard safetensors pooch sklearn scipy matplotlib PIL".split())

        class Without:
            # A finder that does not find what is optional, as on a machine where it is not installed.
            def __init__(self, finder):
                self.finder = finder

            def find_spec(self, name, path=None, target=None):
                return None if name.split(".")[0] in OPTIONAL else self.finder.find_spec(name, path, target)

            def __getattr__(self, name):
                return getattr(self.finder, name)

        sys.meta_path[:] = map(Without, sys.meta_path)
        import ffrl
        import torch
        from ffrl.models import PotentialMLP
        from ffrl.ops import available_backends, potential_derivatives

        torch.manual_seed(0)
        pot = PotentialMLP(latent_dim=5, hidden_dims=8, num_potentials=3).double()
        z = torch.randn(4, 5, dtype=torch.float64)  # (N, D)
        k = torch.tensor([0, 2, 1, 2])  # (N,)
        lap_u = potential_derivatives(pot, z, 0.5, k, backend="auto").lap_u
        exact = potential_derivatives(pot, z, 0.5, k, backend="oracle").lap_u
        print(float((lap_u - exact).abs().max()), float(exact.abs().min()))
        print(sorted(OPTIONAL & set(sys.modules)))
        print(available_backends()["triton"] is None)
        """
    )
    numbers, imported, triton_usable = out.splitlines()
    difference, smallest = map(float, numbers.split())
    assert difference < 1e-13
    assert smallest > 1e-4
    assert imported == "[]"
    assert triton_usable == "False"


def test_versions_agree():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, re.M)
    assert headings[0] == "Unreleased"
    citation = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert [project()["version"], headings[1], *citation] == [ffrl.__version__] * 3


def test_every_command_of_the_readme_is_a_make_target():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^\s*(?:\$ )?make ([a-z]+)", readme, re.M))
    assert {"demo", "test"} <= commands <= TARGETS


def test_ci_runs_lint_and_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    lines = script.read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("make ")]
    assert commands == ["make lint", "make test"]
    assert "set -euo pipefail" in lines
    assert "export FFRL_CPP=1" in lines
    assert os.access(script, os.X_OK)


def run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Make as from a terminal, also where the tests themselves were started by make."""
    of_make = ("MAKE", "MFLAGS", "FFRL_CPP")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(of_make)}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)


@needs_make
def test_make_lists_its_targets():
    result = run_make()
    assert result.returncode == 0, result.stderr
    listed = dict(re.findall(r"^  ([a-z]+) +(\S.+)$", result.stdout, re.M))
    assert set(listed) == TARGETS
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(phony.split()) == TARGETS


@needs_make
def test_make_refuses_an_old_python_and_leaves_nothing(tmp_path):
    old_python = tmp_path / "python"
    old_python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1"\nexit 1\n')
    old_python.chmod(0o755)
    result = run_make("setup", f"PYTHON={old_python}", f"VENV={tmp_path}/venv")
    assert result.returncode != 0
    assert "ffrl needs Python 3.11 or later" in result.stderr
    assert "Python 3.8.1" in result.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_make_installs_again_when_the_extension_is_not_what_is_asked_for(tmp_path):
    for stamp in (".created", ".torch", ".installed"):
        (tmp_path / stamp).touch()

    def installs(*arguments: str) -> bool:
        result = run_make("--dry-run", "test", f"VENV={tmp_path}", *arguments)
        assert result.returncode == 0, result.stderr
        return "pip install" in result.stdout

    assert not installs()
    assert installs("--what-if=csrc/bindings/module.cpp")
    built = any((ROOT / "ffrl").glob("_C.*.so"))
    assert installs(f"FFRL_CPP={int(not built)}") and not installs(f"FFRL_CPP={int(built)}")
    assert "FFRL_CPP = on is not allowed; expected auto, 0 or 1" in run_make("help", "FFRL_CPP=on").stderr
