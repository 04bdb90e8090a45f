"""What extensions are built with: nvcc, torch, architectures; and why one is not built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

PYTHON_API, PYTHON_TAG = "0x030b0000", "cp311"  # the extensions run on Python 3.11 and later
TORCH_API = "0x020a000000000000"  # and on torch 2.10 and later, which ffrl/ops/extension.py says where it does not load
OLDEST_TORCH = (2, 11)  # in pyproject.toml; an older one is replaced after the build, or its headers are too old

OLDEST_CAPABILITY = (8, 0)
OLDEST_CUDA = (12, 0)
DEFAULT_ARCHITECTURES = ("8.0", "9.0a", "10.0")  # and PTX of the newest that nvcc knows
NAMED_ARCHITECTURES = {  # as torch.utils.cpp_extension has them
    "Turing": "7.5+PTX",
    "Ampere+Tegra": "8.7",
    "Ampere": "8.0 8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell+Tegra": "11.0",
    "Blackwell": "10.0 10.3 12.0 12.1+PTX",
}
ARCHITECTURE = re.compile(r"(\d+)\.(\d)([af]?)(\+PTX)?")


class NotBuilt(Exception):
    """Why an extension is not built, and what the user can do about it."""

    def __init__(self, why: str, mend: str) -> None:
        super().__init__(why, mend)
        self.why = why
        self.mend = mend

    def sentence(self, what: str, *, editable: bool = False) -> str:
        again = f"`pip install --no-build-isolation {'-e ' if editable else ''}.`"
        return (
            f"the {what} extension was not built when ffrl was installed: {self.why}; "
            f"{self.mend}, then run {again} in the source tree of ffrl"
        )


class Nvcc(NamedTuple):
    path: str
    version: tuple[int, int]
    known: frozenset[str]  # what it makes code for, such as "8.0"


class Torch(NamedTuple):
    """What the build needs of torch."""

    version: str
    cuda: str | None
    include: Path
    lib: Path


def find_nvcc() -> Nvcc:
    """The nvcc of CUDA_HOME or CUDA_PATH, else the first on the path, else that of the usual place."""
    homes = [home for home in map(os.environ.get, ("CUDA_HOME", "CUDA_PATH")) if home]
    candidates = [*(str(Path(home, "bin", "nvcc")) for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    path = next(filter(None, map(shutil.which, candidates)), None)
    if path is None:
        why = f"nvcc was not found (looked for {', '.join(candidates)})"
        raise NotBuilt(why, "install the CUDA toolkit of the version that torch is built for, or set CUDA_HOME")
    release = re.search(r"release (\d+)\.(\d+)", output_of(path, "--version"))
    if release is None:
        raise NotBuilt(f"{path} does not say which release it is", "install the CUDA toolkit again")
    version = int(release[1]), int(release[2])
    if version < OLDEST_CUDA:
        raise NotBuilt(f"{path} is of CUDA {dotted(version)}, older than {dotted(OLDEST_CUDA)}", "update the toolkit")
    codes = re.findall(r"sm_(\d+)(\d)\b", output_of(path, "--list-gpu-code"))
    return Nvcc(path, version, frozenset(f"{major}.{minor}" for major, minor in codes))


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NotBuilt(f"`{' '.join(command)}` failed ({error})", "install the CUDA toolkit again") from error


def dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def find_torch() -> Torch:
    try:
        import torch
    except Exception as error:  # a broken installation of torch fails in many ways
        first_line = (str(error).splitlines() or [""])[0]
        why = f"torch could not be imported by the build ({type(error).__name__}: {first_line})"
        raise NotBuilt(why, "install torch") from error
    folder = Path(str(torch.__file__)).parent
    return Torch(torch.__version__, torch.version.cuda, folder / "include", folder / "lib")


def check_pair(nvcc: Nvcc, torch: Torch) -> None:
    """Raise unless what this nvcc compiles runs in this torch."""
    if tuple(map(int, torch.version.split(".")[:2])) < OLDEST_TORCH:
        raise NotBuilt(f"the build found torch {torch.version}, older than {dotted(OLDEST_TORCH)}", "update torch")
    if torch.cuda is None:
        mend = f"install a torch that is built for CUDA {nvcc.version[0]}"
        raise NotBuilt(f"the build found torch {torch.version}, which is built without CUDA", mend)
    if int(torch.cuda.split(".")[0]) != nvcc.version[0]:
        why = f"{nvcc.path} is of CUDA {dotted(nvcc.version)}, and torch {torch.version} is built for CUDA {torch.cuda}"
        raise NotBuilt(why, "install both of one major version (CUDA_HOME chooses another nvcc)")


class Architecture(NamedTuple):
    major: int
    minor: int
    suffix: str  # "a": of this one GPU architecture alone, "f": of its family
    ptx: bool  # also for later ones, compiled by the driver

    @property
    def name(self) -> str:
        return f"{self.major}.{self.minor}{self.suffix}{'+PTX' if self.ptx else ''}"

    @property
    def flags(self) -> list[str]:
        number = f"{self.major}{self.minor}{self.suffix}"
        codes = [f"sm_{number}", *([f"compute_{number}"] if self.ptx else [])]
        return [f"-gencode=arch=compute_{number},code={code}" for code in codes]


def architectures(wish: str | None, nvcc: Nvcc) -> list[Architecture]:
    """What is compiled for; ``wish`` is TORCH_CUDA_ARCH_LIST, whose architectures before 8.0 are left out."""
    if wish is None or not wish.strip():
        names = [name for name in DEFAULT_ARCHITECTURES if name.rstrip("a") in nvcc.known]
        if not names:
            raise NotBuilt(f"{nvcc.path} knows none of {', '.join(DEFAULT_ARCHITECTURES)}", "update the toolkit")
        newest = names[-1].rstrip("a")  # the PTX of 9.0a is for no later one
        return [architecture(name) for name in (*(name for name in names if name != newest), newest + "+PTX")]
    names = " ".join(NAMED_ARCHITECTURES.get(name, name) for name in re.split(r"[\s;,]+", wish.strip(" ;,"))).split()
    try:
        found = [architecture(name) for name in dict.fromkeys(names)]
    except ValueError as error:
        mend = "correct it; allowed are for example '8.0 9.0a 10.0+PTX' and 'Hopper'"
        raise NotBuilt(f"TORCH_CUDA_ARCH_LIST = {wish!r} names {error}, which is no architecture", mend) from error
    wanted = [one for one in found if (one.major, one.minor) >= OLDEST_CAPABILITY]
    if not wanted:
        why = f"TORCH_CUDA_ARCH_LIST = {wish!r} names nothing from {dotted(OLDEST_CAPABILITY)} on"
        raise NotBuilt(why, "correct it or unset it")
    for one in wanted:
        if dotted((one.major, one.minor)) not in nvcc.known:
            why = f"TORCH_CUDA_ARCH_LIST = {wish!r} names {one.name}, which {nvcc.path} does not know"
            raise NotBuilt(f"{why} (CUDA {dotted(nvcc.version)})", "correct it, unset it, or update the toolkit")
    return wanted


def architecture(name: str) -> Architecture:
    match = ARCHITECTURE.fullmatch(name)
    if match is None:
        raise ValueError(repr(name))
    return Architecture(int(match[1]), int(match[2]), match[3], match[4] is not None)
