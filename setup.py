"""Build of ffrl: what depends on the tree and on the machine. The metadata are in pyproject.toml.

The environment variable FFRL_CPP decides about the C++ extension ffrl._C: "auto" (default) builds it where that is
possible and installs without it elsewhere, "1" makes it an error that it is not possible, "0" leaves it out. An
installation without it holds ffrl/_C_missing.txt: one line that says why, and what to do. FFRL_CUDA decides about the
CUDA extension ffrl._C_cuda in the same way (csrc/build_cuda.py), whose record is ffrl/_C_cuda_missing.txt.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any, ClassVar

from setuptools import Command, Distribution, Extension, find_packages, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))

import build_cuda  # noqa: E402
from cuda_toolkit import OLDEST_TORCH, PYTHON_API, PYTHON_TAG, TORCH_API, NotBuilt  # noqa: E402

RECORD = "ffrl/_C_missing.txt"
ARITHMETIC = ("-fno-math-errno", "-ffp-contract=off")  # what numbers come out; tests/csrc compiles with them too
COMPILE_ARGS = [
    *("-O3", "-std=c++17", "-g0", *ARITHMETIC, "-fvisibility=hidden", "-Wall"),
    f"-fmacro-prefix-map={ROOT}/=",  # messages name csrc/..., not the folder of the build
    f"-DTORCH_TARGET_VERSION={TORCH_API}",
]


class RecordCpp(Command):
    """The last step of a build: _C_missing.txt beside the modules, or nothing there but the extension."""

    description = "record why the C++ extension is missing"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    missing: NotBuilt | None = None
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        self.record(inplace=self.editable_mode)

    def record(self, *, inplace: bool) -> None:
        path = Path("" if inplace else self.build_lib, RECORD)
        path.unlink(missing_ok=True)
        if self.missing is not None:
            for stale in path.parent.glob("_C.*.so"):  # of an earlier build in the same folder
                stale.unlink()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.missing.sentence("C++", editable=inplace) + "\n", encoding="utf-8")

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return [] if self.missing is None else [os.path.join(self.build_lib, RECORD)]

    def get_output_mapping(self) -> dict[str, str]:
        return {path: RECORD for path in self.get_outputs() if self.editable_mode}


class BuildCuda(Command):
    """The CUDA extension beside the modules, or _C_cuda_missing.txt."""

    description = "build the CUDA extension"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        inplace = self.editable_mode
        package, objects = Path("" if inplace else self.build_lib, "ffrl"), Path("build", "cuda").absolute()
        self.missing = build_cuda.make(build_cuda.mode(), objects, package, editable=inplace)

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        name = build_cuda.EXTENSION if self.missing is None else build_cuda.RECORD
        return [os.path.join(self.build_lib, "ffrl", name)]

    def get_output_mapping(self) -> dict[str, str]:
        return {path: f"ffrl/{Path(path).name}" for path in self.get_outputs() if self.editable_mode}


class Build(build):
    sub_commands: ClassVar = [*build.sub_commands, ("record_cpp", None), ("build_cuda", None)]


class PlatformDistribution(Distribution):
    """With compiled code in it, whatever became of the C++ extension."""

    def has_ext_modules(self) -> bool:
        return True


def find_compiler() -> str:
    """The C++ compiler that CXX names, else the first of the usual ones."""
    named = os.environ.get("CXX", "").strip()
    for command in [named] if named else ["g++", "clang++", "c++"]:
        if shutil.which(shlex.split(command)[0]):
            return command
    if named:
        raise NotBuilt(f"the C++ compiler that CXX names was not found (CXX={named})", "correct CXX or unset it")
    raise NotBuilt("no C++ compiler was found (tried $CXX, g++, clang++, c++)", "install one")


def find_torch() -> Any:
    try:
        import torch
        import torch.utils.cpp_extension
    except Exception as error:  # a broken installation of torch fails in many ways
        first_line = (str(error).splitlines() or [""])[0]
        why = f"torch could not be imported by the build ({type(error).__name__}: {first_line})"
        raise NotBuilt(why, "install torch") from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise NotBuilt(f"the build found torch {torch.__version__}, older than {oldest}", "update torch")
    return torch


def cpp_extension(cpp: str) -> tuple[Extension, type[Command]]:
    """The extension and the command that builds it; ``cpp`` is the value of FFRL_CPP."""
    if cpp == "0":
        raise NotBuilt("it was left out by FFRL_CPP=0", "unset FFRL_CPP")
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise NotBuilt("this Python does not have the stable ABI of CPython", "use a standard CPython")
    compiler = os.environ["CXX"] = find_compiler()  # left alone, torch and setuptools choose differently
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").is_file():
        mend = "install the headers of Python (on Debian and Ubuntu the package python3-dev)"
        raise NotBuilt(f"there is no Python.h in {headers}", mend)
    torch = find_torch()
    # The ninja of a virtual environment that is not activated is not on the path.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    torch.utils.cpp_extension.min_supported_cpython = PYTHON_API

    class BuildCpp(torch.utils.cpp_extension.BuildExtension):
        """torch's command; under "auto" it carries on without an extension that does not compile."""

        def finalize_options(self) -> None:
            super().finalize_options()
            if self.editable_mode:  # pip names a new folder every time; in this one ninja keeps what has not changed
                self.build_temp = f"build/temp.{self.plat_name}-{sys.implementation.cache_tag}"

        def run(self) -> None:
            inplace = bool(self.inplace)
            try:
                super().run()
            except Exception as error:
                why = f"did not compile (compiler {compiler}, torch {torch.__version__})"
                if cpp == "1":
                    raise SystemExit(f"FFRL_CPP=1, but the C++ extension of ffrl {why}: {error}") from error
                mend = "set FFRL_CPP=1 to see the messages of the compiler and mend what they name"
                RecordCpp.missing = NotBuilt(f"it {why}", mend)
                self.inplace, self.extensions = inplace, []
            self.get_finalized_command("record_cpp").record(inplace=inplace)

    sources = [path for part in ("bindings", "cpu") for path in sorted(Path("csrc", part).glob("*.cpp"))]
    extension = torch.utils.cpp_extension.CppExtension(
        "ffrl._C",
        [source.as_posix() for source in sources if "cuda" not in source.name],
        depends=[path.as_posix() for path in sorted(Path("csrc").rglob("*.h"))],
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args=COMPILE_ARGS,
        py_limited_api=True,
    )
    extension.libraries = ["torch_cpu"]  # the one library of torch that is called
    return extension, BuildCpp


def build_arguments() -> dict[str, Any]:
    """The arguments of setup() that build the extensions, or that record why they are not built."""
    cpp, cuda = os.environ.get("FFRL_CPP", "auto"), build_cuda.mode()
    if cpp not in ("auto", "0", "1"):
        raise SystemExit(f"FFRL_CPP = {cpp!r} is not allowed; expected auto, 0 or 1")
    commands: dict[str, type[Command]] = {"build": Build, "record_cpp": RecordCpp, "build_cuda": BuildCuda}
    arguments: dict[str, Any] = {"cmdclass": commands}
    # The commands that only ask for the metadata need not wait for torch.
    if not any(word.startswith(("build", "bdist", "editable", "install", "develop")) for word in sys.argv[1:]):
        return arguments
    options = {"bdist_wheel": {"py_limited_api": PYTHON_TAG}}
    try:
        extension, commands["build_ext"] = cpp_extension(cpp)
        arguments |= {"ext_modules": [extension], "options": options}
    except NotBuilt as reason:
        if cpp == "1":
            raise SystemExit(f"FFRL_CPP=1, but {reason.sentence('C++')}") from reason
        RecordCpp.missing = reason
    if build_cuda.is_to_be_built(cuda):
        arguments |= {"distclass": PlatformDistribution, "options": options}
    return arguments


packages = find_packages(str(ROOT), include=["ffrl", "ffrl.*"])
package_dir: dict[str, str] = {}

# The top-level import name "kernels" belongs to another distribution, so the folder is installed as ffrl.kernels.
if (ROOT / "kernels" / "__init__.py").is_file():
    package_dir["ffrl.kernels"] = "kernels"
    packages += ["ffrl.kernels", *(f"ffrl.kernels.{name}" for name in find_packages(str(ROOT / "kernels")))]

setup(packages=packages, package_dir=package_dir, package_data={"ffrl": ["py.typed"]}, **build_arguments())
