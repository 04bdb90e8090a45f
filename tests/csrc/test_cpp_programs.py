"""csrc without torch: its headers, and its C++ programs, plain and under the sanitizers.

What a program checks is in its source; here it is built and run, and the checks that it counted are looked at.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.csrc.programs import ARITHMETIC, CSRC, FOLDER, NOT_USABLE, ROOT, Builder, capabilities, counts, run

HEADERS = sorted((CSRC / "ffrl").glob("*.h"))
FUNCTION = re.compile(r"^FFRL_INLINE [\w<>]+ (\w+)\(", re.M)
FUNCTIONS = {path.name: FUNCTION.findall(path.read_text(encoding="utf-8")) for path in HEADERS}
MATHEMATICS = ("math_test", "output_math_test", "time_math_test")  # a section for every function
# The derivatives of these are in the cotangents of their callers.
TWIN_OF_ITS_CALLER = {"output_phi": "output_row_vjp", "output_psi": "output_row_vjp", "gelu": "time_unit_vjp"}

# Program -> section -> fewest checks.
SMALL = {
    "row_plan_test": {
        "mixed": 600_000,
        "one_potential": 200_000,
        "bound": 20_000,
        "left_out": 14_000,
        "out_of_range": 400,
    },
    "guarded_test": {"guards": 720, "poison": 6, "counters": 6},
}
SECTIONS = {"sizes": 450_000, "combinations": 180_000, "threads": 1_500, "alignments": 3_500}
SECTIONS |= {"saturation": 27_000, "statuses": 1_500}
LARGE = {
    "potential_test": {"capability": 1, "differences": 13_000}
    | {f"{name}_{scalar}": fewest for name, fewest in SECTIONS.items() for scalar in ("float", "double")},
    "time_features_test": {"float": 260_000, "double": 260_000},
}
# Of kernels for the GPU, whose threads are emulated.
SECTIONS = {"sizes": 240_000, "combinations": 100_000, "orders": 1_700, "saturation": 38_000}
SECTIONS |= {"batches": 17_000, "padding": 58_000, "nothing": 550}
ROLLOUT_SECTIONS = {"sizes": 350_000, "combinations": 75_000, "orders": 900, "batches": 2_500, "padding": 20_000}
ROLLOUT_SECTIONS |= {"nothing": 280}
CUBIC_SECTIONS = {"gram_matrix": 41_000, "gram_forward": 170_000, "gram_backward": 23_000}
CUBIC_SECTIONS |= {"jacobian_forward": 53_000, "jacobian_backward": 140_000}
EMULATED = {
    "cuda_cubic_test": {"fragments": 1_000, "precisions": 2, "cuts": 800, "many_potentials": 9_500}
    | {"batches": 27_000, "nan_rows": 9_700}
    | {f"{name}_{scalar}": fewest for name, fewest in CUBIC_SECTIONS.items() for scalar in ("float", "double")},
    "cuda_potential_test": {"plans": 350, "traps": 300}
    | {f"{name}_{scalar}": fewest for name, fewest in SECTIONS.items() for scalar in ("float", "double")},
    "cuda_precision_test": {"units": 160, "rows": 160},
    "cuda_rollout_test": {"layouts": 20, "traps": 90}
    | {f"{name}_{scalar}": fewest for name, fewest in ROLLOUT_SECTIONS.items() for scalar in ("float", "double")},
}


def check(found: dict[str, int], expected: dict[str, int]) -> None:
    assert found.keys() == expected.keys()
    assert not {name: found[name] for name in expected if found[name] < expected[name]}


def check_mathematics(builder: Builder, *flags: str) -> None:
    """A point is checked for 400 inputs and at least two instantiations; that makes four checks or more for each."""
    found = {}
    for name in MATHEMATICS:
        found |= counts(run(builder.small(name, *flags)))
    check(found, dict.fromkeys((name for names in FUNCTIONS.values() for name in names), 3_000))


def check_large(program: Path, capability: str, *arguments: str) -> None:
    result = run(program, capability, *arguments)
    if result.returncode == NOT_USABLE:
        pytest.skip(f"this processor does not have {capability}")
    check(counts(result), LARGE[program.name.partition("_")[2]])


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_header_compiles_alone_without_a_warning(builder: Builder, header: Path):
    flags = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-include", header, "-x", "c++", "/dev/null"]
    builder.compile(header.name, flags)


def test_every_function_of_the_mathematics_has_its_cotangent_beside_it():
    assert len(FUNCTIONS["potential_math.h"]) >= 13 and len(FUNCTIONS["time_math.h"]) >= 3
    for header in HEADERS:
        names = FUNCTIONS[header.name]
        assert len(names) == header.read_text(encoding="utf-8").count("\nFFRL_INLINE ")  # the pattern finds them all
        for name in names:
            twin = TWIN_OF_ITS_CALLER.get(name, f"{name}_vjp")
            if "_vjp" not in name:
                assert any(re.fullmatch(rf"{twin}(_\w+)?", other) for other in names), f"{name} has no {twin}"


def test_programs_are_compiled_for_the_arithmetic_that_ships(builder: Builder):
    assert set(ARITHMETIC) == {"-fno-math-errno", "-ffp-contract=off"}
    assert set(ARITHMETIC) <= set(builder.compiler)
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert re.search(r"^COMPILE_ARGS = \[\n    .*\*ARITHMETIC", source, re.M)
    changes_numbers = r'"-(?:ffast|Ofast|fno-math|ffp|funsafe|fassociative|mfma|march|fno-signed|ffinite)[^"]*"'
    assert len(re.findall(changes_numbers, source)) == len(ARITHMETIC)  # there are no others


def test_mathematics(builder: Builder):
    check_mathematics(builder, "-O2")


def test_mathematics_under_the_sanitizers(builder: Builder, memory_flags: tuple[str, ...]):
    check_mathematics(builder, "-O0", *memory_flags)


@pytest.mark.parametrize("name", SMALL)
def test_program(builder: Builder, name: str):
    check(counts(run(builder.small(name, "-O2"))), SMALL[name])


@pytest.mark.parametrize("name", SMALL)
def test_program_under_the_sanitizers(builder: Builder, memory_flags: tuple[str, ...], name: str):
    check(counts(run(builder.small(name, "-O0", *memory_flags))), SMALL[name])


@pytest.mark.parametrize("name", EMULATED)
def test_emulated_kernels(builder: Builder, name: str):
    check(counts(run(builder.small(name, "-O2"))), EMULATED[name])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", EMULATED)
def test_emulated_kernels_under_the_sanitizers(builder: Builder, memory_flags: tuple[str, ...], name: str):
    check(counts(run(builder.small(name, "-O1", *memory_flags))), EMULATED[name])


@pytest.mark.parametrize("fault", ["read_behind", "read_before", "write_behind", "overflow", "misaligned", "leak"])
def test_sanitizers_end_a_program_with(builder: Builder, memory_flags: tuple[str, ...], fault: str):
    program = builder.small("faults", "-O0", *memory_flags)
    assert run(program).returncode == 0
    result = run(program, fault)
    assert result.returncode != 0 and re.search("Sanitizer|runtime error", result.stderr)


# Optimised kernels under the sanitizers take the compiler a minute for each instruction set, these a fifth of it.
@pytest.mark.parametrize("name", LARGE)
def test_kernels_under_the_sanitizers(builder: Builder, memory_flags: tuple[str, ...], name: str):
    level, mode = ("-O1", ["quick"]) if name == "potential_test" else ("-O0", [])
    program = builder.large(name, "portable", (level, *memory_flags), ("-O0", *memory_flags))
    check_large(program, "portable", *mode)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", capabilities())
@pytest.mark.parametrize("name", LARGE)
def test_kernels_in_full(builder: Builder, name: str, capability: str):
    mode = ["full"] if name == "potential_test" else []
    check_large(builder.large(name, capability, ("-O2",), ("-O2",)), capability, *mode)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", capabilities())
@pytest.mark.parametrize("name", LARGE)
def test_kernels_in_full_under_the_sanitizers(
    builder: Builder, memory_flags: tuple[str, ...], name: str, capability: str
):
    mode = ["full"] if name == "potential_test" else []
    flags = ("-O1", *memory_flags)
    check_large(builder.large(name, capability, flags, flags), capability, *mode)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_threads_share_nothing_that_they_write(builder: Builder, race_flags: tuple[str, ...]):
    flags = ("-O1", *race_flags)
    assert "data race" in run(builder.small("faults", *flags), "race").stderr
    found = counts(run(builder.large("potential_test", "portable", flags, flags), "portable", "threads"))
    check(found, {"capability": 1, "threads_float": 1_500, "threads_double": 1_500})
    check_large(builder.large("time_features_test", "portable", flags, flags), "portable")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the path")
def test_mathematics_compiles_for_the_device(tmp_path: Path):
    flags = ["-arch=sm_80", "-std=c++17", "-Werror", "all-warnings", f"-I{CSRC}"]
    command = ["nvcc", *flags, "-c", str(FOLDER / "device_math.cu"), "-o", str(tmp_path / "device_math.o")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    source = (FOLDER / "device_math.cu").read_text(encoding="utf-8")
    names = [name for names in FUNCTIONS.values() for name in names]
    assert not [name for name in names if not re.search(rf"\b{name}\(", source)]
