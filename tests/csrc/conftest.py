"""The compiler and its sanitizers, where the machine has them."""

from __future__ import annotations

import subprocess

import pytest

from tests.csrc.programs import MEMORY, RACES, Builder, find_compiler, run


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    compiler, missing = find_compiler()
    if missing is not None:
        pytest.skip(missing)
    return Builder(compiler, tmp_path_factory.mktemp("csrc"))


def probe(builder: Builder, flags: tuple[str, ...]) -> str | None:
    """Why a program of one line does not build or run with these flags; None where it does."""
    source = builder.folder / "probe.cpp"
    source.write_text("int main() { return 0; }\n", encoding="utf-8")
    try:
        result = run(builder.compile("probe", [*flags, source]))
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if result.returncode == 0 else result.stderr or f"exit status {result.returncode}"


def skip_unless_usable(builder: Builder, flags: tuple[str, ...]) -> tuple[str, ...]:
    why = probe(builder, flags)
    if why is not None:
        pytest.skip(f"a program of one line fails with {' '.join(flags)}: {why.strip().splitlines()[-1]}")
    return flags


@pytest.fixture(scope="session")
def memory_flags(builder: Builder) -> tuple[str, ...]:
    """Options of the sanitizers of memory and of undefined behaviour."""
    return skip_unless_usable(builder, MEMORY)


@pytest.fixture(scope="session")
def race_flags(builder: Builder) -> tuple[str, ...]:
    """Options of the sanitizer of threads."""
    return skip_unless_usable(builder, RACES)
