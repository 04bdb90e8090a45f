"""Build of the CUDA kernels and of the extension ffrl._C_cuda: by setup.py, or without setuptools as a command,

    python csrc/build_cuda.py --objects FOLDER --into FOLDER

The environment variable FFRL_CUDA decides: "auto" (default) builds the extension where nvcc is found and torch is a
build for CUDA of the same major version, "1" makes it an error that this is not so, "0" leaves it out, "compile" only
compiles csrc/cuda/*.cu, for which torch is not needed. Whether a GPU is there does not matter. TORCH_CUDA_ARCH_LIST
names the architectures, CUDA_HOME the nvcc, CXX the C++ compiler, MAX_JOBS how many files are compiled at a time.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cuda_toolkit import (
    PYTHON_API,
    TORCH_API,
    Architecture,
    NotBuilt,
    Nvcc,
    Torch,
    architectures,
    check_pair,
    dotted,
    find_nvcc,
    find_torch,
)

ROOT = Path(__file__).resolve().parents[1]
MODES = ("auto", "0", "1", "compile")
EXTENSION, RECORD = "_C_cuda.abi3.so", "_C_cuda_missing.txt"  # in the package
RESOURCES = re.compile(r"ptxas info|\s+\d+ bytes stack frame")  # a line of what -Xptxas -v says
PTXAS_LOG = "ptxas.log"  # registers, shared memory and spills of every kernel, beside the objects
FLAGS = ("-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall")  # of every source
# Of csrc/cuda/*.cu besides. Fused multiply-adds are written out where they are wanted: where the compiler fuses may
# differ between two copies of one expression, and with it the bits of a row between two places in a block.
KERNEL_FLAGS = ("-O3", "-fmad=false", "-Xptxas", "-v")


class Failed(Exception):
    """A compiler's messages."""


class Build:
    """Compiles what has changed into ``objects``, and links it."""

    def __init__(self, nvcc: Nvcc, wanted: list[Architecture], objects: Path, root: Path = ROOT) -> None:
        self.nvcc, self.wanted, self.objects, self.root = nvcc, wanted, objects, root
        compiler = shlex.split(os.environ.get("CXX", ""))
        self.host = ["-ccbin", *compiler] if len(compiler) == 1 else []  # with options it is left to nvcc
        self.jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)

    def kernels(self) -> list[Path]:
        """The objects of csrc/cuda/*.cu; their messages are in PTXAS_LOG."""
        sources = sorted((self.root / "csrc" / "cuda").glob("*.cu"))
        if not sources:
            raise Failed(f"there is no {self.root / 'csrc' / 'cuda'}/*.cu")
        flags = [*KERNEL_FLAGS, *(flag for one in self.wanted for flag in one.flags)]
        compiled = self.compile(sources, flags)
        logs = (path.with_suffix(".log").read_text(encoding="utf-8", errors="replace") for path in compiled)
        (self.objects / PTXAS_LOG).write_text("".join(logs), encoding="utf-8")
        return compiled

    def extension(self, torch: Torch, path: Path) -> None:
        """The extension at ``path``. CUDA's runtime is linked into it; libtorch is the one that is loaded already."""
        sources = sorted((self.root / "csrc" / "bindings").glob("*cuda*.cpp"))
        names = "_".join(one.name for one in self.wanted)
        defines = {
            "TORCH_TARGET_VERSION": TORCH_API,
            "Py_LIMITED_API": PYTHON_API,
            "USE_CUDA": "",
            "FFRL_WITH_CUDA": "",
        }
        flags = ["-O2", *(f"-D{name}={value}" for name, value in defines.items()), f"-DFFRL_ARCHITECTURES={names}"]
        flags += [f"-I{folder}" for folder in (torch.include, sysconfig.get_path("include"))]
        compiled = [*self.compile(sources, flags), *self.kernels()]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        libraries = [f"-L{torch.lib}", "-ltorch_cpu", "-ltorch_cuda"]
        self.run([self.nvcc.path, *self.host, "-shared", "-o", str(part), *map(str, compiled), *libraries])
        # A function that no *.cu defines, or a symbol that this torch does not have, is found here.
        load = f"import torch, ctypes; ctypes.CDLL({str(part)!r})"
        self.run([sys.executable, "-c", load], {**os.environ, "LD_LIBRARY_PATH": search_path(torch.lib)})
        part.replace(path)

    def compile(self, sources: list[Path], flags: list[str]) -> list[Path]:
        self.objects.mkdir(parents=True, exist_ok=True)
        base = [self.nvcc.path, *self.host, *FLAGS, f"-I{self.root / 'csrc'}", *flags]
        compiled = [self.objects / f"{source.stem}.o" for source in sources]
        stale = [pair for pair in zip(sources, compiled, strict=True) if not is_fresh(*pair, base)]
        threads = max(1, self.jobs // max(1, len(stale)))  # of one nvcc, which compiles for each architecture
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self.compile_one, source, target, base, threads) for source, target in stale]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return compiled

    def compile_one(self, source: Path, target: Path, base: list[str], threads: int) -> None:
        part, depends = target.with_suffix(".part.o"), target.with_suffix(".d")
        target.unlink(missing_ok=True)
        command = [*base, f"--threads={threads}", "-MD", "-MF", str(depends), "-c", str(source), "-o", str(part)]
        said = self.run(command)
        target.with_suffix(".log").write_text(f"{source.name}\n{said}", encoding="utf-8")
        target.with_suffix(".command").write_text("\n".join(base), encoding="utf-8")
        part.replace(target)

    def run(self, command: list[str], environment: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        if done.returncode != 0:
            said = [line for line in done.stdout.splitlines() if not RESOURCES.match(line)]
            raise Failed("\n".join([shlex.join(command), *said]))
        return done.stdout


def search_path(first: Path) -> str:
    return os.pathsep.join(filter(None, [str(first), os.environ.get("LD_LIBRARY_PATH")]))


def is_fresh(source: Path, target: Path, base: list[str]) -> bool:
    """Whether ``target`` was made by this command, from files that have not changed since."""
    try:
        if target.with_suffix(".command").read_text(encoding="utf-8") != "\n".join(base):
            return False
        _, _, names = target.with_suffix(".d").read_text(encoding="utf-8").partition(" : ")
        paths = [source, *map(Path, names.replace("\\\n", " ").replace("\\ ", "\0").split())]
        age = target.stat().st_mtime_ns
        return all(Path(str(path).replace("\0", " ")).stat().st_mtime_ns < age for path in paths)
    except OSError:
        return False


def mode() -> str:
    """The value of FFRL_CUDA."""
    given = os.environ.get("FFRL_CUDA", "auto")
    if given not in MODES:
        raise SystemExit(f"FFRL_CUDA = {given!r} is not allowed; expected {', '.join(MODES[:-1])} or {MODES[-1]}")
    return given


def make(given: str, objects: Path, into: Path, root: Path = ROOT, *, editable: bool = False) -> NotBuilt | None:
    """Build what ``given``, of MODES, asks for: into the folder of the package the extension, or the record instead.

    Returns:
        why there is no extension; None where there is one.
    """
    missing = None
    try:
        build(given, objects, into / EXTENSION, root)
    except NotBuilt as reason:
        missing = reason
    into.mkdir(parents=True, exist_ok=True)
    (into / RECORD).unlink(missing_ok=True)
    if missing is not None:
        (into / EXTENSION).unlink(missing_ok=True)  # of an earlier build in the same folder
        (into / RECORD).write_text(missing.sentence("CUDA", editable=editable) + "\n", encoding="utf-8")
    return missing


def build(given: str, objects: Path, target: Path, root: Path) -> None:
    """Raise NotBuilt where no extension comes of it and none was demanded, SystemExit where what was demanded fails."""
    if given == "0":
        raise NotBuilt("it was left out by FFRL_CUDA=0", "unset FFRL_CUDA")
    nvcc = torch = None
    try:
        nvcc = find_nvcc()
        if given != "compile":
            torch = find_torch()
            check_pair(nvcc, torch)
        building = Build(nvcc, architectures(os.environ.get("TORCH_CUDA_ARCH_LIST"), nvcc), objects, root)
    except NotBuilt as reason:
        if given == "auto":
            raise
        found = [f"nvcc of CUDA {dotted(nvcc.version)} at {nvcc.path}"] if nvcc else []
        found += [f"torch {torch.version}"] if torch else []
        found_too = f" (found: {', '.join(found)})" if found else ""
        raise SystemExit(
            f"FFRL_CUDA={given}, but {reason.why}{found_too}; {reason.mend}, or set FFRL_CUDA=0"
        ) from reason
    try:
        if torch is None:
            building.kernels()
        else:
            building.extension(torch, target)
    except Failed as error:
        if given != "auto":
            raise SystemExit(f"{error}\nFFRL_CUDA={given}, but csrc/cuda did not compile; see above") from error
        why = f"it did not compile (nvcc of CUDA {dotted(nvcc.version)}, torch {torch.version if torch else None})"
        raise NotBuilt(why, "set FFRL_CUDA=1 to see the messages of the compiler and mend what they name") from error
    if torch is None:
        raise NotBuilt("FFRL_CUDA=compile only compiles its kernels", "unset FFRL_CUDA")


def is_to_be_built(given: str) -> bool:
    """Whether an extension is to be expected of ``make``."""
    if given != "auto":
        return given == "1"
    try:
        check_pair(find_nvcc(), find_torch())
    except NotBuilt:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the extension ffrl._C_cuda; FFRL_CUDA decides, as in setup.py.")
    parser.add_argument("--objects", type=Path, required=True, help="folder for objects and logs, kept between builds")
    parser.add_argument("--into", type=Path, required=True, help="folder that gets the extension, or why there is none")
    arguments = parser.parse_args()
    missing = make(mode(), arguments.objects, arguments.into)
    if missing is not None:
        print(missing.sentence("CUDA"), file=sys.stderr)


if __name__ == "__main__":
    main()
