"""The Triton kernels compiled for a GPU that need not be here: registers, shared memory, matrix instructions.

    python -m bench.compiled_kernels CAPABILITY  ->  a JSON object a line

Each kernel at the tiles of the table and with the options that make it largest. It is a process of its own, because
under TRITON_INTERPRET=1 nothing can be compiled.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ffrl.kernels import (
    cubic_backward,
    cubic_forward,
    quadratic_backward,
    quadratic_forward,
    rollout_kernels,
    row_sums,
    weight_gradients,
)
from ffrl.kernels.flow_rollout import ROLLOUT_ROWS
from ffrl.kernels.launch import UNITS
from ffrl.kernels.tiling import KINDS, OLDEST_WITH_TENSOR_CORES, ROWS, SHAPE_CLASSES, Tile, nearest_capability, tile_of

INDICES = {"p_slot_row", "p_block_k", "p_first_block", "p_feature_row", "p_order", "p_first"}
CUBIC = ("tf32x3", "tf32", "ieee")
QUADRATIC = ("tf32x3", "ieee")
WITHOUT_PRODUCT = Tile(0, 32, 8, 1)  # what the kernels that only add up are launched with
MOST_REGISTERS = 255
# Compute capability -> bytes of shared memory that a program may have.
SHARED = {75: 65_536, 80: 166_912, 86: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
Options = dict[str, Any]


class Kernel(NamedTuple):
    """A kernel as the table's tests and its tuner compile it."""

    function: Any
    kind: str | None  # of its product, in the table; None: no product
    precisions: tuple[str, ...]
    largest: Options  # constants with which it needs most
    smallest: Options = {}  # noqa: RUF012 - and those in which this differs with which it needs least
    rows: int = ROWS  # of a program

    @property
    def name(self) -> str:
        return self.function.__name__


KERNELS = (
    Kernel(quadratic_forward.hidden1_forward, "quadratic", QUADRATIC, {}),
    Kernel(
        quadratic_forward.hidden2_forward, "quadratic_time", QUADRATIC,
        {"FEATURES": "table", "SECOND": True}, {"FEATURES": "shared", "SECOND": False},
    ),
    Kernel(quadratic_forward.q_forward, "quadratic", QUADRATIC, {}),
    Kernel(quadratic_forward.v_forward, "quadratic", QUADRATIC, {}),
    Kernel(
        quadratic_forward.rows_forward, None, (),
        {"TANH": True, "SECOND": True, "FORM": "gram", "KEEP": True, "DEPTH": 16},
        {"TANH": False, "SECOND": False, "FORM": "none", "KEEP": False},
    ),
    Kernel(cubic_forward.matmul, "quadratic", QUADRATIC, {}),
    Kernel(
        cubic_forward.gram_forward, "gram_forward", CUBIC, {"COLUMN_SUMS": True, "UNITS": UNITS}, {"COLUMN_SUMS": False}
    ),
    Kernel(cubic_forward.jacobian_forward, "jacobian", CUBIC, {}),
    Kernel(
        quadratic_backward.rows_backward, None, (),
        dict.fromkeys(("TANH", "HAS_U", "HAS_DZ", "HAS_DT", "HAS_TT", "HAS_LAP"), True),
        dict.fromkeys(("TANH", "HAS_DZ", "HAS_DT", "HAS_TT", "HAS_LAP"), False),
    ),
    Kernel(
        quadratic_backward.hidden1_backward, "quadratic", QUADRATIC,
        {"FORM": "gram", "HAS_V": True}, {"FORM": "none"},
    ),
    Kernel(
        quadratic_backward.hidden2_backward, "quadratic_time", QUADRATIC,
        {"FEATURES": "table", "LAPLACIAN": True, "HAS_V": True, "TIME": True, "SECOND": True},
        {"FEATURES": "shared", "LAPLACIAN": False, "TIME": False, "SECOND": False},
    ),
    Kernel(
        quadratic_backward.sums_backward, "quadratic_time", QUADRATIC,
        dict.fromkeys(("VALUES", "TIME", "SECOND"), True), dict.fromkeys(("VALUES", "TIME", "SECOND"), False),
    ),
    Kernel(quadratic_backward.z_backward, "quadratic", QUADRATIC, {}),
    Kernel(row_sums.segment_sums, None, (), {"COLUMNS": 32, "ORDERED": True}, {"ORDERED": False}),
    Kernel(weight_gradients.weight1_gradient, "weights", QUADRATIC, {"HAS_V": True}, {"HAS_V": False}),
    Kernel(
        weight_gradients.weight2_gradient, "weights", QUADRATIC,
        {"FEATURES": "table", "HAS_V": True, "TIME": True, "SECOND": True},
        {"FEATURES": "shared", "HAS_V": False, "TIME": False, "SECOND": False},
    ),
    Kernel(cubic_backward.gram_backward, "gram_backward", CUBIC, {"UNITS": UNITS}),
    Kernel(cubic_backward.jacobian_cotangent, "jacobian", CUBIC, {}),
    Kernel(cubic_backward.jacobian_backward, "jacobian_backward", CUBIC, {"WEIGHTS": True}, {"WEIGHTS": False}),
    Kernel(cubic_backward.jacobian_weight2, "jacobian_weights", CUBIC, {}),
    Kernel(
        rollout_kernels.rollout_forward, "rollout_forward", QUADRATIC,
        {"SIGN": 1.0, "MIXED": True, "TANH": True, "BLOCK_ROWS": ROWS}, {"MIXED": False, "TANH": False},
        rows=ROLLOUT_ROWS,
    ),
    Kernel(
        rollout_kernels.rollout_backward, "rollout_backward", QUADRATIC,
        {"SIGN": 1.0, "BLOCK_ROWS": ROWS, **dict.fromkeys(("MIXED", "TANH", "HAS_Z", "HAS_DZ", "TIME"), True)},
        dict.fromkeys(("MIXED", "TANH", "HAS_Z", "HAS_DZ", "TIME"), False),
        rows=ROLLOUT_ROWS,
    ),
)  # fmt: skip
KERNEL_OF = {kernel.name: kernel for kernel in KERNELS}


class Resources(NamedTuple):
    """What a program of a compiled kernel takes: registers of a thread, bytes of its stack and local memory (spills and
    arrays), and bytes of shared memory."""

    registers: int
    stack: int
    local: int
    shared: int

    def fit(self, capability: int) -> bool:
        """Nothing spills, and the architecture has the shared memory."""
        return not self.stack and not self.local and self.shared <= SHARED[nearest_capability(capability)]


class Variant(NamedTuple):
    """One compilation."""

    kernel: Kernel
    tile: Tile
    precision: str | None
    smallest: bool = False
    aligned: bool = False  # for sizes D, H1 and H2 that are multiples of 16, which loads are vectorised by

    @property
    def constants(self) -> Options:
        sizes = {"ROWS": self.kernel.rows, "COLUMNS": self.tile.columns, "DEPTH": self.tile.depth}
        options = {**self.kernel.largest, **(self.kernel.smallest if self.smallest else {})}
        return {**sizes, "PRECISION": self.precision, **options}


def precisions_on(capability: int, precisions: tuple[str, ...]) -> tuple[str, ...]:
    """Those that the architecture has: before the tensor cores of 8.0 there is no TF32."""
    return precisions if capability >= OLDEST_WITH_TENSOR_CORES else tuple(set(precisions) & {"ieee"})


def variants(
    capability: int,
    kinds: Sequence[str] = (),
    classes: Sequence[str] = SHAPE_CLASSES,
    *,
    smallest: bool = False,
    aligned: bool = False,
) -> Iterator[Variant]:
    """The kernels of these kinds (default: every kernel) in every arithmetic, at the tiles of the shape classes."""
    for kernel in KERNELS:
        if (kinds and kernel.kind not in kinds) or (smallest and not kernel.smallest):
            continue
        if kernel.kind is None:
            yield Variant(kernel, WITHOUT_PRODUCT, None, smallest, aligned)
            continue
        for precision in precisions_on(capability, kernel.precisions):
            tiles = dict.fromkeys(tile_of(capability, precision, shapes, kernel.kind) for shapes in classes)
            yield from (Variant(kernel, tile, precision, smallest, aligned) for tile in tiles)


def compile_variant(variant: Variant, capability: int) -> Any:
    function, tile, constants = variant.kernel.function, variant.tile, variant.constants
    names = function.arg_names
    constant = {name: constants[name] for name in names if name.isupper() and name in constants}
    signature = {name: "constexpr" if name in constant else type_of(name) for name in names}
    sizes = ("STRIDE", "SLOTS", *(("D", "H1", "H2") if variant.aligned else ()))
    aligned = [i for i, name in enumerate(names) if signature[name][0] == "*" or name in sizes]
    divisible = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=function, signature=signature, constexprs=constant, attrs=divisible)
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def type_of(name: str) -> str:
    """Of an argument, by the names that the kernels give theirs."""
    if not name.startswith("p_"):
        return "i32"
    return "*i32" if name == "p_zero" else "*i64" if name in INDICES else "*fp32"


def resources(compiled: Any) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", text)
    assert found, text
    return Resources(int(found[1]), int(found[2]), int(found[3]), compiled.metadata.shared)


def report(variant: Variant, capability: int) -> dict[str, Any]:
    compiled = compile_variant(variant, capability)
    ptx = compiled.asm["ptx"]
    return {
        "kernel": variant.kernel.name,
        "tile": list(variant.tile),
        "precision": variant.precision,
        **resources(compiled)._asdict(),
        "instructions": sorted(set(re.findall(r"(?:mma|wgmma|tcgen05)[.\w:]*tf32[.\w]*", ptx))),
        "barriers": len(re.findall(r"(?:ttg|gpu)\.barrier", compiled.asm["ttgir"])),
        "read_only_loads": len(re.findall(r"ld\.global\.nc", ptx)),
        "float_atomics": len(re.findall(r"(?:atom|red)\.[.\w]*f32", ptx)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.compiled_kernels", description=description)
    parser.add_argument("capability", type=int, help="compute capability, 10·major + minor")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=(), help="of kernels; default all")
    parser.add_argument("--classes", nargs="+", choices=SHAPE_CLASSES, default=SHAPE_CLASSES, help="of shapes")
    parser.add_argument("--smallest", action="store_true", help="with the options with which a kernel needs least")
    parser.add_argument("--aligned", action="store_true", help="for sizes that are multiples of 16")
    given = parser.parse_args(argv)
    options = {"smallest": given.smallest, "aligned": given.aligned}
    for variant in variants(given.capability, given.kinds, given.classes, **options):
        print(json.dumps(report(variant, given.capability)), flush=True)


if __name__ == "__main__":
    main()
