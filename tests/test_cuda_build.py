"""The build of the CUDA extension: what FFRL_CUDA decides, what is compiled for which GPUs, what a failure says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

from tests.builds import COMPILER, ROOT, build, copy_tree, needs_compiler, run_python
from tests.cuda_toolkits import FAKE_TORCH, STAND_IN, cuda_headers, fake_nvcc, kernel_uses, needs_nvcc

import build_cuda  # isort: skip  # in csrc/, which the import above makes known
import cuda_toolkit  # isort: skip

NVCC = cuda_toolkit.Nvcc("nvcc", (13, 0), frozenset({"8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1"}))
CUDA_TORCH = cuda_toolkit.Torch("2.11.0+cu130", "13.0", Path("include"), Path("lib"))
VARIABLES = ("FFRL_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "CXX", "MAX_JOBS")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_toolkit.shutil, "which", lambda _: None)


def sources(folder: Path, text: str = STAND_IN) -> Path:
    """A tree whose csrc/cuda has one source."""
    shutil.copytree(ROOT / "csrc", folder / "tree" / "csrc", ignore=shutil.ignore_patterns("*.cu", "__pycache__"))
    (folder / "tree" / "csrc" / "cuda" / "stand_in.cu").write_text(text, encoding="utf-8")
    return folder / "tree"


ARCHITECTURES = {
    None: ["8.0", "9.0a", "10.0+PTX"],
    " ": ["8.0", "9.0a", "10.0+PTX"],
    "8.0": ["8.0"],
    "8.0;9.0a+PTX": ["8.0", "9.0a+PTX"],
    "8.6 8.6, 10.3f": ["8.6", "10.3f"],
    "7.5 8.0": ["8.0"],  # one variable for many extensions: those that are too old are left out
    "Ampere": ["8.0", "8.6+PTX"],
    "Hopper;12.0": ["9.0+PTX", "12.0"],
    "Blackwell": ["10.0", "10.3", "12.0", "12.1+PTX"],
}


@pytest.mark.parametrize("wish", ARCHITECTURES)
def test_architectures_that_are_compiled_for(wish: str | None):
    assert [one.name for one in cuda_toolkit.architectures(wish, NVCC)] == ARCHITECTURES[wish]


def test_an_older_nvcc_compiles_for_what_it_knows_and_for_later_ones():
    older = NVCC._replace(known=frozenset({"8.0", "9.0"}))
    assert [one.name for one in cuda_toolkit.architectures(None, older)] == ["8.0", "9.0a", "9.0+PTX"]
    with pytest.raises(cuda_toolkit.NotBuilt, match="knows none of"):
        cuda_toolkit.architectures(None, NVCC._replace(known=frozenset()))


def test_flags_of_an_architecture():
    flags = [flag for one in cuda_toolkit.architectures("9.0a 10.0+PTX", NVCC) for flag in one.flags]
    assert flags == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ("8.0 nine", "'8.0 nine' names 'nine', which is no architecture"),
        ("80", "names '80', which is no architecture"),
        ("8.0+ptx", "names '8.0+ptx', which is no architecture"),
        ("7.0 Turing", "names nothing from 8.0 on"),
        ("11.0", "names 11.0, which nvcc does not know (CUDA 13.0)"),
    ],
)
def test_architectures_that_cannot_be_compiled_for(wish: str, why: str):
    with pytest.raises(cuda_toolkit.NotBuilt) as failure:
        cuda_toolkit.architectures(wish, NVCC)
    assert why in failure.value.why and "correct it" in failure.value.mend


def test_nvcc_is_found_where_cuda_home_says_and_its_age_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, _ = fake_nvcc(tmp_path, "12.8", ("75", "80", "100"))
    monkeypatch.setenv("CUDA_HOME", str(home))
    found = cuda_toolkit.find_nvcc()
    assert found == (str(home / "bin" / "nvcc"), (12, 8), {"7.5", "8.0", "10.0"})
    fake_nvcc(tmp_path, "11.8")
    with pytest.raises(cuda_toolkit.NotBuilt, match=r"is of CUDA 11\.8, older than 12\.0"):
        cuda_toolkit.find_nvcc()
    (home / "bin" / "nvcc").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(cuda_toolkit.NotBuilt, match="--version` failed"):
        cuda_toolkit.find_nvcc()


def test_the_torch_that_is_installed_is_found():
    found = cuda_toolkit.find_torch()
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)
    assert (found.include / "torch" / "csrc" / "stable" / "tensor.h").is_file()
    assert (found.lib / "libtorch_cpu.so").is_file()


@pytest.mark.parametrize(
    ("of_torch", "why"),
    [
        ({"version": "2.13.0+cpu", "cuda": None}, "the build found torch 2.13.0+cpu, which is built without CUDA"),
        ({"cuda": "12.6"}, "nvcc is of CUDA 13.0, and torch 2.11.0+cu130 is built for CUDA 12.6"),
        ({"version": "2.9.1"}, "the build found torch 2.9.1, older than 2.11"),
        ({"cuda": "13.2"}, None),
    ],
)
def test_nvcc_and_torch_fit_or_not(of_torch: dict, why: str | None):
    if why is None:
        cuda_toolkit.check_pair(NVCC, CUDA_TORCH._replace(**of_torch))
        return
    with pytest.raises(cuda_toolkit.NotBuilt) as failure:
        cuda_toolkit.check_pair(NVCC, CUDA_TORCH._replace(**of_torch))
    assert failure.value.why == why and failure.value.mend


@pytest.mark.parametrize("given", ["", "on", "2"])
def test_another_value_of_the_variable_is_an_error(given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FFRL_CUDA", given)
    with pytest.raises(SystemExit, match=f"FFRL_CUDA = {given!r} is not allowed; expected auto, 0, 1 or compile"):
        build_cuda.mode()


def test_whether_it_is_built_does_not_depend_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, calls = fake_nvcc(tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("was asked"))
    monkeypatch.setattr(build_cuda, "find_torch", lambda: CUDA_TORCH)
    assert build_cuda.is_to_be_built("auto") and build_cuda.is_to_be_built("1")
    assert not build_cuda.is_to_be_built("0") and not build_cuda.is_to_be_built("compile")
    monkeypatch.setattr(build_cuda, "find_torch", lambda: CUDA_TORCH._replace(cuda=None))
    assert not build_cuda.is_to_be_built("auto") and build_cuda.is_to_be_built("1")
    assert not calls.exists()


def record(package: Path) -> str:
    """The one line in the place of the extension."""
    assert [path.name for path in package.iterdir()] == ["_C_cuda_missing.txt"]
    (line,) = (package / "_C_cuda_missing.txt").read_text().splitlines()
    assert line.startswith("the CUDA extension was not built when ffrl was installed: ") and "then run `pip" in line
    return line


@pytest.mark.usefixtures("no_nvcc")
def test_without_nvcc_it_is_left_out_or_an_error(tmp_path: Path):
    package = tmp_path / "ffrl"
    package.mkdir()
    (package / "_C_cuda.abi3.so").write_bytes(b"of an earlier build")
    assert build_cuda.make("auto", tmp_path / "objects", package)
    assert "nvcc was not found (looked for nvcc, /usr/local/cuda/bin/nvcc); install the CUDA" in record(package)
    assert build_cuda.make("0", tmp_path / "objects", package)
    assert "it was left out by FFRL_CUDA=0; unset FFRL_CUDA" in record(package)
    for given in ("1", "compile"):
        with pytest.raises(SystemExit, match=f"FFRL_CUDA={given}, but nvcc was not found"):
            build_cuda.make(given, tmp_path / "objects", package)


def test_a_torch_without_cuda_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, calls = fake_nvcc(tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(build_cuda, "find_torch", lambda: CUDA_TORCH._replace(version="2.13.0+cpu", cuda=None))
    assert build_cuda.make("auto", tmp_path / "objects", tmp_path / "ffrl", editable=True)
    line = record(tmp_path / "ffrl")
    assert "torch 2.13.0+cpu, which is built without CUDA; install a torch that is built for CUDA 13" in line
    assert "`pip install --no-build-isolation -e .`" in line
    with pytest.raises(SystemExit) as failure:
        build_cuda.make("1", tmp_path / "objects", tmp_path / "ffrl")
    found = f"(found: nvcc of CUDA 13.0 at {home}/bin/nvcc, torch 2.13.0+cpu)"
    assert found in str(failure.value) and "or set FFRL_CUDA=0" in str(failure.value)
    assert not calls.exists()


def test_a_source_that_does_not_compile_is_left_out_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, _ = fake_nvcc(tmp_path, status=1)
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(build_cuda, "find_torch", lambda: CUDA_TORCH)
    tree = sources(tmp_path)
    assert build_cuda.make("auto", tmp_path / "objects", tmp_path / "ffrl", tree)
    line = record(tmp_path / "ffrl")
    assert "it did not compile (nvcc of CUDA 13.0, torch 2.11.0+cu130); set FFRL_CUDA=1 to see" in line
    for given in ("1", "compile"):
        with pytest.raises(SystemExit, match=f"(?s)bin/nvcc .*FFRL_CUDA={given}, but csrc/cuda did not compile"):
            build_cuda.make(given, tmp_path / "objects", tmp_path / "ffrl", tree)


def test_what_has_not_changed_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, calls = fake_nvcc(tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(home))
    tree = sources(tmp_path)
    (tree / "csrc" / "cuda" / "other.cu").write_text("")

    def compiled() -> list[str]:
        calls.write_text("")
        assert build_cuda.make("compile", tmp_path / "objects", tmp_path / "ffrl", tree)
        words = [line.split() for line in calls.read_text().splitlines()]
        return sorted(Path(line[line.index("-c") + 1]).name for line in words)

    monkeypatch.setenv("MAX_JOBS", "6")
    assert compiled() == ["other.cu", "stand_in.cu"]
    assert calls.read_text().count("--threads=3") == 2
    assert "FFRL_CUDA=compile only compiles its kernels" in record(tmp_path / "ffrl")
    assert compiled() == []
    os.utime(tree / "csrc" / "cuda" / "other.cu")
    assert compiled() == ["other.cu"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert compiled() == ["other.cu", "stand_in.cu"]
    assert calls.read_text().count("code=sm_90 ") == 2
    (tmp_path / "objects" / "other.o").unlink()
    assert compiled() == ["other.cu"]


@needs_nvcc
def test_compiling_alone_needs_no_torch_and_keeps_what_ptxas_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build_cuda, "find_torch", lambda: pytest.fail("was asked"))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0a+PTX")
    tree = sources(tmp_path, '#include "cuda/own.h"\n')
    header = tree / "csrc" / "cuda" / "own.h"

    def uses(body: str) -> set[tuple[str, str]]:
        header.write_text(f"__global__ void touch(float* memory) {{ {body} }}\n")
        build_cuda.make("compile", tmp_path / "objects", tmp_path / "ffrl", tree)
        found = kernel_uses((tmp_path / "objects" / "ptxas.log").read_text())
        assert all(use.registers > 0 and use.spilled_bytes == 0 for use in found)
        return {(use.kernel, use.architecture) for use in found}

    of_touch = {("_Z5touchPf", "sm_80"), ("_Z5touchPf", "sm_90a")}
    assert uses("memory[threadIdx.x] += 1;") == of_touch
    made = (tmp_path / "objects" / "stand_in.o").stat().st_mtime_ns
    assert uses("memory[threadIdx.x] += 2;") == of_touch  # the object depends on the header
    assert (tmp_path / "objects" / "stand_in.o").stat().st_mtime_ns > made
    with pytest.raises(SystemExit) as failure:
        uses("no_such_name();")
    assert '"no_such_name" is undefined' in str(failure.value) and "registers" not in str(failure.value)


@needs_nvcc
@needs_compiler
def test_the_bindings_compile_against_the_headers_of_torch_and_cuda():
    found = cuda_toolkit.find_torch()
    flags = ["-std=c++17", "-fsyntax-only", "-fvisibility=hidden", "-Wall", "-Werror", "-DUSE_CUDA", "-DFFRL_WITH_CUDA"]
    flags += [f"-DTORCH_TARGET_VERSION={cuda_toolkit.TORCH_API}", f"-DPy_LIMITED_API={cuda_toolkit.PYTHON_API}"]
    flags += [f"-I{path}" for path in (ROOT / "csrc", found.include, sysconfig.get_path("include"), cuda_headers())]
    paths = sorted((ROOT / "csrc" / "bindings").glob("*cuda*.cpp"))
    assert len(paths) >= 2
    for path in paths:
        command = [str(COMPILER), *flags, "-DFFRL_ARCHITECTURES=8.0", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


@needs_nvcc
@needs_compiler
def test_the_extension_registers_its_kernels_where_libtorch_cuda_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With one function in the place of libtorch_cuda."""
    found = cuda_toolkit.find_torch()
    lib = tmp_path / "lib"
    lib.mkdir()
    (lib / "libtorch_cpu.so").symlink_to(found.lib / "libtorch_cpu.so")
    (lib / "stream.cpp").write_text('extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }')
    library = lib / "libtorch_cuda.so"
    command = [str(COMPILER), "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", str(lib / "stream.cpp")]
    subprocess.run([*command, "-o", str(library)], check=True, timeout=60)
    monkeypatch.setattr(build_cuda, "find_torch", lambda: found._replace(cuda="13.0", lib=lib))
    monkeypatch.setattr(build_cuda, "check_pair", lambda *_: None)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 10.0+PTX")
    tree = sources(tmp_path)
    assert build_cuda.make("1", tmp_path / "objects", tmp_path / "built", tree) is None
    said = run_python(
        f"""
        import ctypes, sys, torch
        ctypes.CDLL({str(library)!r})
        sys.path.insert(0, {str(tmp_path / "built")!r})
        import _C_cuda
        print(_C_cuda.architectures(), all(len(pair) == 2 for pair in _C_cuda.capabilities()))
        from ffrl.ops import cuda_operators
        for name in ("potential_forward", "potential_backward", "rollout_forward", "rollout_backward"):
            for key in ("CUDA", "CPU"):
                print(torch._C._dispatch_has_kernel_for_dispatch_key(f"ffrl_cuda::{{name}}", key))
        """
    )
    assert said.split() == ["8.0_10.0+PTX", "True", *["True", "False"] * 4]
    # A function that is declared and not defined is found by the build, not by the user.
    (tree / "csrc" / "cuda" / "stand_in.cu").write_text(STAND_IN.replace("INSTANTIATE(double)", ""))
    with pytest.raises(SystemExit, match=r"(?s)undefined symbol: \w*forward\w*.*FFRL_CUDA=1, but"):
        build_cuda.make("1", tmp_path / "objects", tmp_path / "built", tree)


@pytest.fixture(scope="module")
def stub_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("stub"))


@pytest.fixture
def fakes(tmp_path: Path) -> dict[str, object]:
    """An environment with an nvcc and a torch that only look like ones."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "torch.py").write_text(FAKE_TORCH, encoding="utf-8")
    home, _ = fake_nvcc(tmp_path)
    return {"CUDA_HOME": home, "PYTHONPATH": tmp_path / "site", "FFRL_CPP": 0}


@pytest.mark.parametrize("given", ["auto", "1"])
def test_a_wheel_with_the_cuda_extension_alone_is_of_this_platform(given: str, stub_tree: Path, fakes: dict):
    shutil.rmtree(stub_tree / "dist", ignore_errors=True)
    result = build(stub_tree, "build_wheel", FFRL_CUDA=given, **fakes)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (stub_tree / "dist").glob("*-cp311-abi3-linux_*.whl")
    with zipfile.ZipFile(wheel) as archive:
        compiled = sorted(name for name in archive.namelist() if name.startswith("ffrl/_C"))
    assert compiled == ["ffrl/_C_cuda.abi3.so", "ffrl/_C_missing.txt"]


def test_an_editable_installation_never_keeps_a_stale_extension(stub_tree: Path, fakes: dict):
    package = stub_tree / "ffrl"

    def built(**changes: object) -> list[bool]:
        result = build(stub_tree, "build_editable", **changes)
        assert result.returncode == 0, result.stdout + result.stderr
        return [(package / name).exists() for name in (build_cuda.EXTENSION, build_cuda.RECORD)]

    assert built(**fakes, FFRL_CUDA=1) == [True, False]
    assert built(FFRL_CPP=0, FFRL_CUDA=0) == [False, True]
    assert "left out by FFRL_CUDA=0" in (package / build_cuda.RECORD).read_text()


def test_what_is_demanded_and_missing_ends_the_build_with_one_line(stub_tree: Path, fakes: dict):
    result = build(stub_tree, "build_wheel", **{**fakes, "PYTHONPATH": ""}, FFRL_CUDA=1)
    last_line = (result.stderr.splitlines() or [""])[-1]
    if torch.version.cuda is None:
        assert result.returncode != 0 and last_line.startswith("FFRL_CUDA=1, but the build found torch"), result.stderr
    wrong = build(stub_tree, "build_sdist", FFRL_CUDA="yes")
    assert wrong.returncode != 0 and wrong.stderr.splitlines()[-1].startswith("FFRL_CUDA = 'yes' is not allowed")


def test_the_command_needs_no_setuptools(tmp_path: Path, fakes: dict):
    environment = {**os.environ, **{name: str(value) for name, value in fakes.items()}, "FFRL_CUDA": "1"}
    (tmp_path / "site" / "setuptools.py").write_text("raise ImportError('not here')")
    command = [sys.executable, str(ROOT / "csrc" / "build_cuda.py"), "--objects", "objects", "--into", "built"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "built").iterdir()] == ["_C_cuda.abi3.so"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment, "FFRL_CUDA": "0"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "left out by FFRL_CUDA=0" in done.stderr
    assert "left out by FFRL_CUDA=0" in record(tmp_path / "built")
