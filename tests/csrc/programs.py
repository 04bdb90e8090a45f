"""Programs that test csrc without torch: how they are built, and what a run of them says."""

from __future__ import annotations

import ast
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
NOT_USABLE = 77  # the exit status of a program for an instruction set that the processor lacks

MEMORY = ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
RACES = ("-g1", "-fsanitize=thread")


def constant_of_setup(name: str) -> tuple[str, ...]:
    """A constant of setup.py, which cannot be imported without running it."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name
    )
    return ast.literal_eval(value)


ARITHMETIC = constant_of_setup("ARITHMETIC")  # flags of the extension that change what is computed


def find_compiler() -> tuple[list[str], str | None]:
    """The command of a C++ compiler, or why there is none."""
    named = os.environ.get("CXX", "").strip()
    for command in [named] if named else ["g++", "clang++"]:
        words = shlex.split(command)
        if shutil.which(words[0]):
            return words, None
    return [], f"the C++ compiler {named} that CXX names was not found" if named else "no g++ and no clang++"


def capabilities() -> list[str]:
    """Instruction sets that csrc/cpu has kernels for on this kind of machine."""
    return ["portable", "avx2", "avx512"] if platform.machine() in ("x86_64", "AMD64") else ["portable"]


def environment() -> dict[str, str]:
    """That of this process with the sanitizers told what to look for."""
    kept = {name: value for name, value in os.environ.items() if name not in ("LSAN_OPTIONS", "FFRL_CPU_CAPABILITY")}
    return kept | {
        "ASAN_OPTIONS": "detect_leaks=1:strict_init_order=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment(), timeout=900)


def counts(result: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Section -> checks, as the program printed them; a failure of the program is one here."""
    assert result.returncode == 0, f"exit status {result.returncode}\n{result.stderr}"
    lines = [line.split() for line in result.stdout.splitlines()]
    return {name: int(count) for name, count in lines}


class Builder:
    """Compiles sources of csrc and of this folder, each with the same flags once."""

    def __init__(self, compiler: Sequence[str], folder: Path) -> None:
        self.compiler = [*compiler, "-std=c++17", "-pthread", *ARITHMETIC, f"-I{CSRC}", f"-I{FOLDER}"]
        self.folder = folder
        self.built: dict[tuple[str, ...], Path] = {}

    def compile(self, output: str, arguments: Sequence[object]) -> Path:
        key = (output, *map(str, arguments))
        if key not in self.built:
            path = self.folder / f"{len(self.built)}_{output}"
            command = [*self.compiler, *key[1:], "-o", str(path)]
            result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
            assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"
            self.built[key] = path
        return self.built[key]

    def object(self, source: Path, *flags: str) -> Path:
        return self.compile(f"{source.stem}.o", [*flags, "-c", source])

    def program(self, name: str, objects: Sequence[Path], *flags: str) -> Path:
        return self.compile(name, [*flags, *objects])

    def small(self, name: str, *flags: str) -> Path:
        """A program of this folder that needs at most the plan of the rows."""
        objects = [self.object(FOLDER / f"{name}.cpp", *flags)]
        if name == "row_plan_test":
            objects.append(self.object(CSRC / "cpu" / "row_plan.cpp", *flags))
        return self.program(name, objects, *flags)

    def large(self, name: str, capability: str, test_flags: Sequence[str], kernel_flags: Sequence[str]) -> Path:
        """A program of this folder with the kernels of one instruction set."""
        kernels = f"kernels_{capability}"
        sources = [p for p in sorted((CSRC / "cpu").glob("*.cpp")) if not p.stem.startswith("kernels_")]
        objects = [self.object(path, *kernel_flags) for path in [*sources, CSRC / "cpu" / f"{kernels}.cpp"]]
        objects += [self.object(FOLDER / "other_kernels.cpp", f"-DWITH_{capability}", *kernel_flags)]
        objects += [self.object(FOLDER / f"{name}.cpp", *test_flags)]
        return self.program(name, objects, *test_flags)
