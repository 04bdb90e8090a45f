"""Judge contenders of one case, in a process that a kernel may break: python -m bench.gpu.check_case.

Prints a line "start" before each contender and a line "verdict" after it. What is compiled is left in the caches of
torch.compile and Triton, for the parts that measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from bench.gpu.lines import plain
from bench.gpu.parity import judge
from bench.gpu.registry import BENCHMARKS


def show(kind: str, **values: object) -> None:
    print(json.dumps(plain({"kind": kind, **values})), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.check_case", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--case", required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--contenders", nargs="+", required=True, metavar="NAME")
    arguments = parser.parse_args(argv)
    benchmark, device = BENCHMARKS[arguments.benchmark], torch.device(arguments.device)
    contenders = {contender.name: contender for contender in benchmark.contenders(arguments.case)}
    problem = benchmark.problem(arguments.case, device)
    reference = benchmark.reference(problem)
    for name in arguments.contenders:
        show("start", contender=name)
        verdict = judge(benchmark, problem, reference, contenders[name])
        show("verdict", contender=name, **verdict.line())
        del verdict
        if device.type == "cuda":
            torch.cuda.synchronize()  # raises where a kernel broke the context: then the rest needs a new process
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
