"""Part "machine": what the GPU can do at most here and now, and its clocks: python -m bench.gpu.ceilings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch

from bench.gpu.environment import gpu_uuid, smi
from bench.gpu.lines import Lines, message
from bench.gpu.part import Deadline, begin, parser_of
from bench.gpu.precision import matmul_precision
from bench.gpu.stopwatch import Stopwatch, interleaved, stopwatch_of
from bench.timing import Call

ROUNDS = 5
COPY_BYTES = {"full": 1 << 30, "tiny": 1 << 20}
MATMUL_SIZES = {"full": (4096, 6144, 8192), "tiny": (128,)}
# Seconds for which the device is kept busy before its clocks are read under load.
LOAD_SECONDS = 1.0


class Arithmetic(NamedTuple):
    """What a matrix product is computed in: the operands' dtype, and torch's setting for float32 operands."""

    dtype: torch.dtype
    matmul: str = "highest"


ARITHMETICS = {
    "bf16": Arithmetic(torch.bfloat16),
    "tf32": Arithmetic(torch.float32, "high"),
    "fp32": Arithmetic(torch.float32),
}


def copy_bandwidth(stopwatch: Stopwatch, device: torch.device, size: int, lines: Lines) -> None:
    """Bytes read and written a second, by a copy within the device's memory."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = interleaved({"copy": lambda: target.copy_(source)}, stopwatch, ROUNDS)["copy"]
    rate = 2 * size / found.median / 1e6
    lines.write("ceiling", name="copy", size=size, value=rate, unit="GB/s", ms=found._asdict())


def product(size: int, arithmetic: Arithmetic, device: torch.device) -> Call:
    left, right = (torch.randn(size, size, device=device).to(arithmetic.dtype) for _ in range(2))
    out = torch.empty_like(left)

    def call() -> None:
        with matmul_precision(arithmetic.matmul):
            torch.mm(left, right, out=out)

    return call


def matmul_rates(stopwatch: Stopwatch, device: torch.device, size: int, lines: Lines) -> None:
    calls = {name: product(size, arithmetic, device) for name, arithmetic in ARITHMETICS.items()}
    for name, found in interleaved(calls, stopwatch, ROUNDS).items():
        rate = 2 * size**3 / found.median / 1e6
        lines.write("ceiling", name=name, size=size, value=rate, unit="GFLOP/s", ms=found._asdict())


def clocks(device: torch.device, lines: Lines, *, size: int) -> None:
    """Clocks and power now, and while the device multiplies matrices."""
    if device.type != "cuda":
        return
    uuid = gpu_uuid(torch.cuda.get_device_properties(device))
    lines.write("clocks", when="before the benchmarks", values=smi(uuid))
    call, deadline = product(size, ARITHMETICS["bf16"], device), Deadline(LOAD_SECONDS)
    while not deadline.is_over:
        for _ in range(20):
            call()
        torch.cuda.synchronize()
    for _ in range(400):  # queued, so that they run while nvidia-smi answers
        call()
    lines.write("clocks", when="under load", values=smi(uuid))
    torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser_of("bench.gpu.ceilings", __doc__).parse_args(argv)
    lines, _ = begin(arguments)
    device = torch.device(arguments.device)
    stopwatch = stopwatch_of(device)
    sizes = MATMUL_SIZES[arguments.cases]
    failures = 0
    for measure in (
        lambda: copy_bandwidth(stopwatch, device, COPY_BYTES[arguments.cases], lines),
        *(lambda size=size: matmul_rates(stopwatch, device, size, lines) for size in sizes),
        lambda: clocks(device, lines, size=sizes[-1]),
    ):
        try:
            measure()
        except Exception as error:  # one figure that cannot be had loses no other
            failures += 1
            print(message(error), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
