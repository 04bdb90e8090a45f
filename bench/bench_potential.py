"""Compare the ways to compute the potential op, forward and forward with backward: python -m bench.bench_potential.

Prints a Markdown table. A case is not timed where a contender disagrees with the float64 oracle.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cases import CASE_OF, CASES
from bench.contenders import contender_names
from bench.machine import header, machine
from bench.measure import BOTH, FORWARD, Figures, measure
from bench.timing import Timing
from ffrl.errors import OutputError
from ffrl.ops import available_backends
from ffrl.run_folder import check_writable, write_json

NONE = "-"
COLUMNS = (
    "case",
    "N x D x H",
    "contender",
    "rounds",
    "forward, ms",
    "forward + backward, ms",
    "times the oracle",
    "times compiled",
    "cubic FLOPs, of sgemm",
    "all FLOPs, of sgemm",
    "sgemm, GFLOP/s",
    "peak extra, MB",
)
LEGEND = """
Times are medians (quartiles) per call of interleaved rounds. Shares are of the sgemm rate (1024 x 1024 x 1024, in the
same rounds), of forward alone / forward + backward, on the FLOPs of the operation (bench/cases.py), not on those
executed. Peak extra memory is of one forward + backward (bench/peak_memory.py). "compiled" is the closed form under
torch.compile with autograd's backward, in the faster of its two forms."""


def label(figures: Figures) -> str:
    """The contender, with the form of the Laplacian where it was chosen by timing."""
    if figures.forms is None:
        return figures.contender
    chosen = dict.fromkeys((figures.forms[FORWARD], figures.forms[BOTH]))
    return f"{figures.contender} ({' / '.join(chosen)})"


def milliseconds(timing: Timing | None) -> str:
    return NONE if timing is None else f"{timing.median:.4g} ({timing.lower:.4g} to {timing.upper:.4g})"


def shares(figures: Figures, *, whole: bool) -> str:
    values = [figures.share_of_sgemm(backward=backward, whole=whole) for backward in (False, True)]
    return " / ".join(NONE if value is None else f"{100 * value:.3g} %" for value in values)


def table_row(figures: Figures) -> str:
    case = figures.case
    cells = [case.name, case.shape, label(figures)]
    if figures.reason is not None:
        cells += [NONE, f"no figure: {figures.reason}"]
        return "| " + " | ".join([*cells, *[NONE] * (len(COLUMNS) - len(cells))]) + " |"
    assert figures.forward is not None and figures.both is not None and figures.sgemm_gflops is not None
    rounds = dict.fromkeys((figures.forward.rounds, figures.both.rounds))
    ratios, peak = (figures.oracle_ratio, figures.compiled_ratio), figures.peak_mb
    cells += [
        " / ".join(map(str, rounds)),
        milliseconds(figures.forward),
        milliseconds(figures.both),
        *(NONE if ratio is None else f"{ratio:.3g}" for ratio in ratios),
        shares(figures, whole=False),
        shares(figures, whole=True),
        f"{figures.sgemm_gflops:.0f}",
        figures.peak_reason or (NONE if peak is None else f"{peak:.1f}"),
    ]
    return "| " + " | ".join(cells) + " |"


def as_json(figures: Figures) -> dict[str, Any]:
    def timing(value: Timing | None) -> dict[str, float] | None:
        return None if value is None else value._asdict()

    entry = {**figures._asdict(), "case": figures.case._asdict()}
    entry |= {"forward": timing(figures.forward), "both": timing(figures.both)}
    for kind, backward in (("forward", False), ("both", True)):
        entry[f"{kind}_flops"] = figures.case.flops(backward=backward)._asdict()
        for part, whole in (("cubic", False), ("whole", True)):
            entry[f"{kind}_{part}_share_of_sgemm"] = figures.share_of_sgemm(backward=backward, whole=whole)
    return entry


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not allowed; expected an integer >= 1")
    return value


def check_json(parser: argparse.ArgumentParser, path: Path | None) -> None:
    """End with an error of the command line where the file cannot be written: now rather than after the measurement."""
    if path is None:
        return
    if path.is_dir():
        parser.error(f"--json: {path} is a folder")
    try:
        check_writable(path.absolute().parent)
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except (OSError, OutputError) as error:
        parser.error(f"--json: {error}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    description, _, note = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.bench_potential", description=description, epilog=note)
    parser.add_argument("--rounds", type=positive, default=9, help="samples of each contender in each case")
    parser.add_argument("--threads", type=positive, default=None, help="CPU threads; default torch's choice")
    parser.add_argument("--cases", nargs="+", choices=CASE_OF, metavar="CASE", help=f"default all: {' '.join(CASE_OF)}")
    names = contender_names(usable=False)
    parser.add_argument(
        "--contenders", nargs="+", choices=names, metavar="NAME", help=f"of {' '.join(names)}; default all usable here"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (a process for each row)")
    parser.add_argument("--json", type=Path, default=None, metavar="PATH", help="write all numbers to this file, too")
    arguments = parser.parse_args(argv)
    check_json(parser, arguments.json)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(given)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    command = shlex.join(["python", "-m", "bench.bench_potential", *given])
    facts = machine()
    print(f"{header(facts)}\n`{command}`")
    names = list(dict.fromkeys(arguments.contenders or contender_names(usable=True)))
    if not arguments.contenders:
        for name, reason in available_backends().items():
            if reason is not None:
                print(f"not taking part: {name}, {reason}")
    print(LEGEND + "\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    results: list[Figures] = []
    for case in CASES:
        if not arguments.cases or case.name in arguments.cases:
            figures = measure(case, names, arguments.rounds, memory=not arguments.no_memory)
            print(*map(table_row, figures), sep="\n", flush=True)
            results += figures
    if arguments.json:
        content = {"machine": facts, "command": command, "rounds": arguments.rounds}
        write_json(arguments.json, {**content, "figures": [as_json(figures) for figures in results]})


if __name__ == "__main__":
    main()
