"""Images a second of the drawings by formula: python -m bench.bench_drawing.

Prints a Markdown table. Nothing is timed before an image drawn alone is the one drawn among others.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.bench_potential import check_json, positive
from bench.machine import header, machine
from bench.measure import SGEMM_SIZE
from bench.timing import Timing, interleaved, no_wait, sgemm_call
from bench.train_step_tables import line, milliseconds, table_head
from ffrl.data import dsprites_drawing, rooms_drawing, shapes3d_drawing
from ffrl.run_folder import write_json


class Drawing(NamedTuple):
    draw: Callable[[Tensor], Tensor]
    sizes: Mapping[str, int]


DRAWINGS = {
    name: Drawing(module.draw, module.FACTOR_SIZES)
    for name, module in (
        ("dsprites", dsprites_drawing),
        ("shapes3d", shapes3d_drawing),
        ("rooms", rooms_drawing),
    )
}
COLUMNS = ("set", "size", "images a call", "rounds", "a call, ms", "images/s", "images/s a thread", "sgemm, GFLOP/s")
LEGEND = """
Random combinations of the factors, drawn by one call. Times are medians (quartiles) of interleaved rounds, images/s
those of the median; sgemm is 1024 x 1024 x 1024 in the same rounds."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    description, _, note = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.bench_drawing", description=description, epilog=note)
    parser.add_argument("--rounds", type=positive, default=7, help="samples of each set")
    parser.add_argument("--threads", type=positive, default=None, help="CPU threads; default torch's choice")
    parser.add_argument(
        "--sets", nargs="+", choices=DRAWINGS, default=[*DRAWINGS], metavar="SET", help=f"of {' '.join(DRAWINGS)}"
    )
    parser.add_argument("--images", type=positive, default=128, help="drawn by one call")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, default=None, metavar="PATH", help="write all numbers to this file, too")
    arguments = parser.parse_args(argv)
    check_json(parser, arguments.json)
    try:
        arguments.device = torch.device(arguments.device)
        torch.zeros((), device=arguments.device)
    except (AssertionError, RuntimeError) as error:
        parser.error(f"--device: {str(error).splitlines()[0]}")
    return arguments


def random_factors(drawing: Drawing, count: int, device: torch.device) -> Tensor:
    """(count, F), the same ones in every run."""
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randint(size, (count,), generator=generator) for size in drawing.sizes.values()]
    return torch.stack(columns, 1).to(device)


def check_alone(name: str, factors: Tensor) -> None:
    """AssertionError where the last image of a call is not the one that its factors give alone."""
    draw = DRAWINGS[name].draw
    if not torch.equal(draw(factors)[-1:], draw(factors[-1:])):
        raise AssertionError(f"{name}: the last of {len(factors)} images is another one when it is drawn alone")


def measure(names: Sequence[str], count: int, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Figures of every set, for a table and for JSON."""
    factors = {name: random_factors(DRAWINGS[name], count, device) for name in names}
    for name in names:
        check_alone(name, factors[name])
    calls = {name: functools.partial(DRAWINGS[name].draw, factors[name]) for name in names}
    wait = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else no_wait
    timings = interleaved({"sgemm": sgemm_call(SGEMM_SIZE, device), **calls}, rounds, wait)
    gflops = 2 * SGEMM_SIZE**3 / timings["sgemm"].median / 1e6
    return [
        {
            "set": name,
            "shape": list(calls[name]().shape[1:]),
            "images": count,
            "timing": timings[name]._asdict(),
            "images_per_second": 1e3 * count / timings[name].median,
            "sgemm_gflops": gflops,
        }
        for name in names
    ]


def table_row(figures: dict[str, Any], threads: int) -> str:
    timing, rate = Timing(**figures["timing"]), figures["images_per_second"]
    shape = " x ".join(map(str, figures["shape"]))
    cells = (figures["set"], shape, figures["images"], timing.rounds, milliseconds(timing))
    return line(*map(str, cells), f"{rate:.4g}", f"{rate / threads:.4g}", f"{figures['sgemm_gflops']:.3g}")


def main(argv: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(given)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device: torch.device = arguments.device
    command = shlex.join(["python", "-m", "bench.bench_drawing", *given])
    facts = machine()
    facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else facts["cpu"]
    print(f"{header(facts)}\non {facts['device']}\n`{command}`\n{LEGEND}\n")
    print(table_head(COLUMNS), flush=True)
    figures = measure([*dict.fromkeys(arguments.sets)], arguments.images, device, arguments.rounds)
    print(*(table_row(row, facts["threads"]) for row in figures), sep="\n")
    if arguments.json:
        write_json(arguments.json, {"machine": facts, "command": command, "figures": figures})


if __name__ == "__main__":
    main()
