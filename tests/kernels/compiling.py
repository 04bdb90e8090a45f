"""Compiles the Triton kernels for GPUs that are not here, at the sizes of their table: run as a program.

    python -m tests.kernels.compiling CAPABILITY  ->  one JSON object a line

A line tells kernel, tile, precision, registers, bytes of spills and of shared memory, and which matrix instructions the
PTX holds. It runs in a process of its own, because under TRITON_INTERPRET=1 nothing can be compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ffrl.kernels import cubic_backward, cubic_forward, quadratic_backward, quadratic_forward, weight_gradients
from ffrl.kernels.tiling import OLDEST_WITH_TENSOR_CORES, ROWS, Tile, tile_of

INDICES = {"p_slot_row", "p_block_k", "p_first_block", "p_feature_row", "p_order", "p_first"}
CUBIC = ("tf32x3", "tf32", "ieee")
QUADRATIC = ("tf32x3", "ieee")
WITHOUT_PRODUCT = Tile(0, 32, 8, 1)  # what the kernels that only add up are launched with
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

# Kernel -> kind of product in the tile table (None: no product), precisions, and the options that make it largest.
KERNELS: dict[Any, tuple[str | None, tuple[str, ...], dict[str, Any]]] = {
    quadratic_forward.hidden1_forward: ("quadratic", QUADRATIC, {}),
    quadratic_forward.hidden2_forward: ("quadratic_time", QUADRATIC, {"FEATURES": "table", "SECOND": True}),
    quadratic_forward.q_forward: ("quadratic", QUADRATIC, {}),
    quadratic_forward.v_forward: ("quadratic", QUADRATIC, {}),
    quadratic_forward.rows_forward: (None, (), {"TANH": True, "SECOND": True, "FORM": "gram", "KEEP": True}),
    cubic_forward.matmul: ("quadratic", QUADRATIC, {}),
    cubic_forward.gram_forward: ("gram_forward", CUBIC, {"COLUMN_SUMS": True}),
    cubic_forward.jacobian_forward: ("jacobian", CUBIC, {}),
    quadratic_backward.rows_backward: (
        None, (), {"TANH": True, **dict.fromkeys(("HAS_U", "HAS_DZ", "HAS_DT", "HAS_TT", "HAS_LAP"), True)},
    ),
    quadratic_backward.hidden1_backward: ("quadratic", QUADRATIC, {"FORM": "gram", "HAS_V": True}),
    quadratic_backward.hidden2_backward: (
        "quadratic_time", QUADRATIC,
        {"FEATURES": "table", "LAPLACIAN": True, "HAS_V": True, "TIME": True, "SECOND": True},
    ),
    quadratic_backward.sums_backward: ("quadratic_time", QUADRATIC, {"VALUES": True, "TIME": True, "SECOND": True}),
    quadratic_backward.z_backward: ("quadratic", QUADRATIC, {}),
    quadratic_backward.feature_sums: (None, (), {"COLUMNS": 32}),
    weight_gradients.weight1_gradient: ("weights", QUADRATIC, {"HAS_V": True, "EXTRA": True}),
    weight_gradients.weight2_gradient: (
        "weights", QUADRATIC,
        {"FEATURES": "table", "HAS_V": True, "TIME": True, "SECOND": True, "EXTRA": True},
    ),
    cubic_backward.gram_backward: ("gram_backward", CUBIC, {}),
    cubic_backward.jacobian_cotangent: ("jacobian", CUBIC, {}),
    cubic_backward.jacobian_backward: ("jacobian_backward", CUBIC, {}),
    cubic_backward.jacobian_weight2: ("jacobian_weights", CUBIC, {}),
}  # fmt: skip


def variants(capability: int, only: str | None = None) -> Iterator[tuple[Any, Tile, str | None, dict[str, Any]]]:
    for kernel, (kind, precisions, options) in KERNELS.items():
        if only is not None and only not in kernel.__name__:
            continue
        if capability < OLDEST_WITH_TENSOR_CORES:
            precisions = precisions[-1:]
        for precision in precisions or (None,):
            tile = WITHOUT_PRODUCT if kind is None else tile_of(capability, str(precision), "wide", kind)
            sizes = {"ROWS": ROWS, "COLUMNS": tile.columns, "DEPTH": tile.depth, "PRECISION": precision}
            yield kernel, tile, precision, {**sizes, **options}


def compile_kernel(kernel: Any, tile: Tile, constants: dict[str, Any], capability: int) -> Any:
    names = kernel.arg_names
    constant = {name: constants[name] for name in names if name.isupper() and name in constants}
    signature = {
        name: "constexpr"
        if name in constant
        else ("*i64" if name in INDICES else "*fp32")
        if name.startswith("p_")
        else "i32"
        for name in names
    }
    pointers = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] == "*"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constant, attrs=pointers)
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of local memory (spills and arrays) of the only kernel in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", text)
    assert found, text
    return {"registers": int(found[1]), "stack": int(found[2]), "local": int(found[3])}


def report(capability: int, only: str | None = None) -> Iterator[dict[str, Any]]:
    for kernel, tile, precision, constants in variants(capability, only):
        compiled = compile_kernel(kernel, tile, constants, capability)
        ptx = compiled.asm["ptx"]
        yield {
            "kernel": kernel.__name__,
            "tile": list(tile),
            "precision": precision,
            **resources(compiled.asm["cubin"]),
            "shared": compiled.metadata.shared,
            "instructions": sorted(set(re.findall(r"(?:mma|wgmma|tcgen05)[.\w:]*tf32[.\w]*", ptx))),
            "float_atomics": len(re.findall(r"(?:atom|red)\.[.\w]*f32", ptx)),
        }


if __name__ == "__main__":
    for line in report(int(sys.argv[1]), *sys.argv[2:]):
        print(json.dumps(line), flush=True)
