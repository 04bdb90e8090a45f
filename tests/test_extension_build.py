"""The C++ extension in wheels and editable installations, what FFRL_CPP decides, what is said where it is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from ffrl.ops import extension
from tests.builds import ROOT, build, copy_tree, needs_compiler, run_pip, run_python

NAMES = {"record": "ffrl/_C_missing.txt", "extension": "ffrl/_C.abi3.so"}
needs_binutils = pytest.mark.skipif(
    shutil.which("nm") is None or shutil.which("readelf") is None, reason="needs nm and readelf (binutils)"
)

SAY = """
    import torch
    from ffrl.errors import BackendError
    from ffrl.models import PotentialMLP
    from ffrl.ops import available_backends, potential_derivatives
    from ffrl.ops.extension import cpu_capability, load_extension

    print(load_extension())
    print(available_backends()["cpp"])
    pot, z = PotentialMLP(2, 4), torch.ones(3, 2)
    for call in (cpu_capability, lambda: potential_derivatives(pot, z, 0.5, 0, backend="cpp")):
        try:
            print(call())
        except BackendError as error:
            print(error)
"""


def wheel_of(tree: Path) -> Path:
    (path,) = (tree / "dist").glob("*.whl")
    return path


def record_in(wheel: Path) -> str:
    """The one line that a wheel without the extension holds."""
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        (line,) = archive.read(NAMES["record"]).decode().splitlines()
    assert line.startswith("the C++ extension was not built when ffrl was installed: ")
    assert "run `pip install --no-build-isolation .`" in line
    return line


def install(wheel: Path, folder: Path) -> Path:
    result = run_pip("install", "--no-deps", "--target", folder, wheel)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def stub_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree whose kernels are a stub; for one build after the other."""
    return copy_tree(tmp_path_factory.mktemp("stub"))


def test_without_the_extension_the_installed_package_says_why(tmp_path: Path):
    tree = copy_tree(tmp_path)
    # What an editable installation left in the tree is not part of a wheel.
    (tree / NAMES["extension"]).write_bytes(b"of an earlier build")
    (tree / NAMES["record"]).write_text("of an earlier build")
    result = build(tree, "build_wheel", FFRL_CPP=0)
    assert result.returncode == 0, result.stdout + result.stderr
    assert wheel_of(tree).name.endswith("-py3-none-any.whl")
    line = record_in(wheel_of(tree))
    assert "left out by FFRL_CPP=0" in line and "unset FFRL_CPP" in line
    said = run_python(SAY, cwd=tmp_path, PYTHONPATH=install(wheel_of(tree), tmp_path / "site")).splitlines()
    assert said[:2] == [line, line]
    assert said[2] == f"the C++ kernels cannot be used here: {line}"
    assert said[3].startswith(f"backend 'cpp' cannot be used here: {line}; usable: oracle")


@needs_compiler
def test_a_wheel_with_the_extension_serves_every_python_and_loads(stub_tree: Path, tmp_path: Path):
    result = build(stub_tree, "build_wheel")
    assert result.returncode == 0, result.stdout + result.stderr
    wheel = wheel_of(stub_tree)
    assert re.search(r"-cp311-abi3-linux_\w+[.]whl$", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        compiled = [name for name in archive.namelist() if name.startswith("ffrl/_C")]
    assert sorted(compiled) == [NAMES["extension"], "ffrl/_C_cuda_missing.txt"]
    said = run_python(
        """
        from ffrl import errors
        from ffrl.ops.extension import cpu_capability, load_extension, set_cpu_capability

        print(load_extension(), cpu_capability(), set_cpu_capability("portable"))
        for name in ("avx512", "portable\\0", "", None):
            try:
                set_cpu_capability(name)
            except errors.ArgumentError as error:
                print(error)
        """,
        cwd=tmp_path,
        PYTHONPATH=install(wheel, tmp_path / "site"),
    )
    allowed = "expected one of 'auto', 'avx512', 'avx2', 'portable', and one that this processor has"
    refused = [f"name = {name!r} is not allowed; {allowed}" for name in ("avx512", "portable\0", "", None)]
    assert said.splitlines() == ["None portable None", *refused]


@needs_compiler
def test_an_editable_installation_never_keeps_a_stale_extension(stub_tree: Path):
    extension_file, record = (stub_tree / NAMES[name] for name in ("extension", "record"))

    def build_editable(**changes: object) -> list[bool]:
        result = build(stub_tree, "build_editable", **changes)
        assert result.returncode == 0, result.stdout + result.stderr
        return [extension_file.exists(), record.exists()]

    extension_file.write_bytes(b"of an earlier build")
    assert build_editable(CXX="/bin/false") == [False, True]
    line = record.read_text()
    assert "it did not compile (compiler /bin/false, torch " in line and "FFRL_CPP=1" in line
    assert "run `pip install --no-build-isolation -e .`" in line
    assert build_editable(FFRL_CPP=1) == [True, False]
    assert build_editable(CXX="/no/compiler") == [False, True]


# What breaks a build: the environment, the reason that is given, what to do about it.
BROKEN = {
    "compiler": ({"CXX": "/no/c++"}, "the C++ compiler that CXX names was not found (CXX=/no/c++)", "correct CXX"),
    "torch": (
        {"PYTHONPATH": "{folder}"},
        "torch could not be imported by the build (ImportError: not here)",
        "install torch",
    ),
    "source": ({}, "did not compile (compiler ", "set FFRL_CPP=1 to see the messages of the compiler"),
}


@needs_compiler
@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_be_built_is_left_out_and_is_an_error_where_it_is_demanded(broken: str, stub_tree, tmp_path: Path):
    changes, why, mend = BROKEN[broken]
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    changes = {name: value.format(folder=tmp_path) for name, value in changes.items()}
    shutil.rmtree(stub_tree / "dist", ignore_errors=True)
    (stub_tree / "csrc" / "cpu" / "broken.cpp").write_text("#error broken" if broken == "source" else "")

    demanded = build(stub_tree, "build_wheel", **changes, FFRL_CPP=1)
    assert demanded.returncode != 0 and not list((stub_tree / "dist").glob("*.whl"))
    last_line = demanded.stderr.splitlines()[-1]
    assert last_line.startswith("FFRL_CPP=1, but the C++ extension") and why in last_line

    result = build(stub_tree, "build_wheel", **changes, FFRL_CPP="auto")
    assert result.returncode == 0, result.stdout + result.stderr
    line = record_in(wheel_of(stub_tree))
    assert why in line and mend in line
    (stub_tree / "csrc" / "cpu" / "broken.cpp").unlink()


@pytest.mark.parametrize("given", ["on", "", "2"])
def test_another_value_of_the_variable_is_an_error(given: str, stub_tree: Path):
    result = build(stub_tree, "build_sdist", FFRL_CPP=given)
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1] == f"FFRL_CPP = {given!r} is not allowed; expected auto, 0 or 1"


def test_the_sources_of_the_extension_are_in_the_source_distribution(stub_tree: Path):
    result = build(stub_tree, "build_sdist")
    assert result.returncode == 0, result.stdout + result.stderr
    (archive,) = (stub_tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = [PurePosixPath(*PurePosixPath(name).parts[1:]) for name in file.getnames()]
    packed = {name.relative_to("csrc") for name in names if name.is_relative_to("csrc") and name.suffix}
    sources = {path.relative_to(stub_tree / "csrc") for path in (stub_tree / "csrc").rglob("*.*")}
    assert packed == {PurePosixPath(path) for path in sources if path.suffix != ".pyc"}
    assert len(packed) > 2


def test_the_versions_that_the_build_names_are_those_of_the_project():
    setup = (ROOT / "csrc" / "cuda_toolkit.py").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python_api, python_tag = re.findall(r'^PYTHON_API, PYTHON_TAG = "0x03(..)0000", "cp3(\d+)"', setup, re.M)[0]
    assert project["requires-python"] == f">=3.{int(python_api, 16)}" == f">=3.{python_tag}"
    major, minor = re.findall(r'^TORCH_API = "0x(..)(..)000000000000"', setup, re.M)[0]
    assert f"{int(major, 16)}.{int(minor, 16)}" == extension.OLDEST_TORCH
    oldest = re.findall(r"^OLDEST_TORCH = \((\d+), (\d+)\)", setup, re.M)[0]
    assert f"torch>={'.'.join(oldest)}" in project["dependencies"]
    kernels = " ".join((ROOT / "docs" / "kernels.md").read_text(encoding="utf-8").split())
    assert f"one binary for Python 3.{python_tag} and later and torch {'.'.join(oldest)} and later" in kernels


@pytest.mark.skipif(os.environ.get("FFRL_CPP") != "1", reason="asks for the extension only where FFRL_CPP=1 demands it")
def test_the_extension_that_was_demanded_is_loaded():
    assert extension.load_extension() is None


def symbols(path: Path, *options: str) -> set[str]:
    command = ["nm", "-D", *options, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return {line.split()[-1].split("@")[0] for line in out.splitlines()}


def check_binary(path: Path) -> None:
    """The binary leans on the stable interfaces of torch and Python alone."""
    undefined = symbols(path, "--undefined-only")
    assert not {name for name in undefined if re.search(r"(?<!\d)(2at|3c10|5torch|8pybind11)\d", name)}
    of_torch = {name for name in undefined if "torch" in name}
    assert of_torch and all(name.startswith(("aoti_torch_", "torch_")) for name in of_torch)
    assert symbols(path, "--defined-only", "--extern-only") >= {"PyInit__C"}
    dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True, timeout=60).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+?)\]", dynamic)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if re.match(r"libpython|libtorch_python|libc10|libtorch\.so", name)]


@needs_binutils
@pytest.mark.skipif(extension.load_extension() is not None, reason=f"no extension here: {extension.load_extension()}")
def test_the_extension_in_this_installation_uses_the_stable_interfaces_alone():
    (path,) = (ROOT / "ffrl").glob("_C.*.so")
    check_binary(path)


@needs_binutils
@needs_compiler
@pytest.mark.slow
def test_the_wheel_of_this_tree_holds_the_kernels(tmp_path: Path):
    tree = copy_tree(tmp_path, stub=False)
    result = build(tree, "build_wheel", FFRL_CPP=1)
    assert result.returncode == 0, result.stdout + result.stderr
    with zipfile.ZipFile(wheel_of(tree)) as archive:
        check_binary(Path(archive.extract(NAMES["extension"], tmp_path)))
    said = run_python(
        """
        from ffrl.ops import available_backends
        from ffrl.ops.extension import cpu_capability

        print(available_backends()["cpp"], cpu_capability())
        """,
        cwd=tmp_path,
        PYTHONPATH=install(wheel_of(tree), tmp_path / "site"),
    )
    assert said.split()[0] == "None" and said.split()[1] in extension.CPU_CAPABILITIES
