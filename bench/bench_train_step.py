"""Compare whole iterations of training, from the batch to the projection: python -m bench.bench_train_step.

Prints a Markdown table, or with --profile where the time of ours goes. A case is not timed where a contender that
computes the same loss gives other terms.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.bench_potential import check_json, positive
from bench.machine import header, machine
from bench.measure import SGEMM_SIZE
from bench.timing import Call, interleaved, no_wait, sgemm_call
from bench.train_step_cases import (
    CASE_OF,
    CASES,
    FFRL,
    OBJECTIVES,
    PLAIN,
    TrainCase,
    check_parity,
    iteration,
    problem_of,
)
from bench.train_step_profile import profile
from bench.train_step_tables import (
    COLUMNS,
    PROFILE_COLUMNS,
    StepFigures,
    figures_json,
    profile_json,
    profile_lines,
    profile_summary,
    table_head,
    table_row,
)
from ffrl.errors import FfrlError
from ffrl.ops.backends import resolve_backend
from ffrl.run_folder import write_json

LEGEND = """
Times are medians (quartiles) of interleaved rounds; "times ffrl" is a contender's time over that of ffrl; sgemm is
1024 x 1024 x 1024 in the same rounds. All draw the same batches and take the same fused Adam step.
ffrl: the iteration of the trainer, with --compute.vae-precision float32, the default on the CPU. bfloat16: with that,
the default on a GPU that has it. Convolutions are channels-last on a GPU, for all. plain: the same loss in plain
PyTorch, one step and one frame after the other, by nested autograd with D reverse passes for each Laplacian.
surrogate: plain with the sum of the Hessian's entries in its place. supervised: ffrl with k given. vae: all frames
encoded and decoded by a VAE, no flow. decoding: frame 0 encoded, all decoded from codes beside its own: the least
that a model of sequences does. The other methods (poflow, tvae, ...) as --method trains them."""
PROFILE_LEGEND = """
Medians (quartiles) of each part of ffrl's iteration run alone, its backward with it, and of the whole in the same
rounds; what the sum of the parts leaves out, or counts twice, is the rest. GFLOP are of the products alone, forward
and backward, two a multiply-add (bench/train_step_flops.py). Operator calls are those below autograd without views."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    description, _, note = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.bench_train_step", description=description, epilog=note)
    parser.add_argument("--rounds", type=positive, default=7, help="samples of each contender in each case")
    parser.add_argument("--threads", type=positive, default=None, help="CPU threads; default torch's choice")
    listed = f"of {' '.join(case.name for case in CASES)}; default those for the device"
    parser.add_argument("--cases", nargs="+", choices=CASE_OF, metavar="CASE", help=listed)
    names = [*OBJECTIVES]
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"of {' '.join(names)}; default those of the case",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--backend", default="auto", help="of ffrl's potential operation")
    parser.add_argument("--profile", action="store_true", help="the parts of ffrl's iteration in place of contenders")
    parser.add_argument("--json", type=Path, default=None, metavar="PATH", help="write all numbers to this file, too")
    arguments = parser.parse_args(argv)
    check_json(parser, arguments.json)
    try:
        arguments.device = torch.device(arguments.device)
        if arguments.device.type not in ("cpu", "cuda"):
            raise RuntimeError("expected cpu or cuda")
        if arguments.device.type == "cuda":
            torch.zeros((), device=arguments.device)
    except (AssertionError, RuntimeError) as error:
        parser.error(f"--device: {str(error).splitlines()[0]}")
    try:
        resolve_backend(arguments.backend, arguments.device, fused=True)
    except FfrlError as error:
        parser.error(f"--backend: {error}")
    arguments.cases = chosen_cases(parser, arguments)
    return arguments


def chosen_cases(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[TrainCase]:
    """Those that were named, each of which must be possible, or else all that are."""
    kind, named = arguments.device.type, arguments.cases
    found = []
    for case in [CASE_OF[name] for name in dict.fromkeys(named)] if named else CASES:
        reason = None
        if arguments.profile and case.config.supervision.mode != "supervised":
            reason = f"{case.name} draws k and has no profile"
        elif arguments.profile and PLAIN not in case.contenders:
            reason = f"{case.name} compares other methods with ffrl, whose profile is that of small"
        elif not arguments.profile and kind not in case.devices:
            reason = f"{case.name} is for --device {case.devices[0]}; on {kind} it has a --profile alone"
        elif not contenders_of(case, arguments):
            reason = f"{case.name} has the contenders {' '.join(case.contenders)} alone"
        if reason is None and (named or kind in case.devices):
            found.append(case)
        elif reason is not None and named:
            parser.error(f"--cases: {reason}")
    return found


def contenders_of(case: TrainCase, arguments: argparse.Namespace) -> list[str]:
    return [name for name in dict.fromkeys(arguments.contenders or case.contenders) if name in case.contenders]


def measure(
    case: TrainCase, names: list[str], backend: str, device: torch.device, rounds: int, wait: Call
) -> list[StepFigures]:
    """Figures of every contender at one case; ParityError where one of them computes something else."""
    problem = problem_of(case, device)
    check_parity(problem, names, backend)
    calls: dict[str, Any] = {name: iteration(name, problem, backend) for name in names}
    timings = interleaved({"sgemm": sgemm_call(SGEMM_SIZE, device), **calls}, rounds, wait)
    gflops = 2 * SGEMM_SIZE**3 / timings["sgemm"].median / 1e6
    ours = timings.get(FFRL)
    return [
        StepFigures(case, name, timings[name], ours and timings[name].median / ours.median, gflops) for name in names
    ]


def main(argv: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(given)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device, backend, rounds = arguments.device, arguments.backend, arguments.rounds
    wait = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else no_wait
    command = shlex.join(["python", "-m", "bench.bench_train_step", *given])
    facts = machine()
    facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else facts["cpu"]
    facts["backend"] = resolve_backend(backend, device, fused=True)
    print(f"{header(facts)}\non {facts['device']}, potential operation: {facts['backend']}\n`{command}`")
    content: dict[str, Any] = {"machine": facts, "command": command, "rounds": rounds, "figures": [], "profiles": []}
    print((PROFILE_LEGEND if arguments.profile else LEGEND) + "\n")
    print(table_head(PROFILE_COLUMNS if arguments.profile else COLUMNS), flush=True)
    summaries: list[str] = []
    for case in arguments.cases:
        if arguments.profile:
            profiled = profile(case, backend, device, rounds, wait)
            print(*profile_lines(profiled), sep="\n", flush=True)
            summaries += profile_summary(profiled)
            content["profiles"].append(profile_json(profiled))
        else:
            figures = measure(case, contenders_of(case, arguments), backend, device, rounds, wait)
            print(*map(table_row, figures), sep="\n", flush=True)
            content["figures"] += map(figures_json, figures)
    if summaries:
        print("", *summaries, sep="\n")
    if arguments.json:
        write_json(arguments.json, content)


if __name__ == "__main__":
    main()
