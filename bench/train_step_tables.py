"""Figures of iterations as Markdown tables and as JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.timing import Timing
from bench.train_step_cases import FFRL, TrainCase
from bench.train_step_parts import FORCE, POTENTIALS
from bench.train_step_profile import PartFigures, Profile

NONE = "-"
COLUMNS = (
    "case",
    "sequences x frames, D x H, batch",
    "contender",
    "rounds",
    "iteration, ms",
    "times ffrl",
    "iterations/s",
    "sgemm, GFLOP/s",
)
PROFILE_COLUMNS = (
    *("case", "part", "forward, ms", "backward, ms", "of the iteration"),
    *("GFLOP", "of sgemm", "operator calls"),
)


class StepFigures(NamedTuple):
    """One contender at one case."""

    case: TrainCase
    contender: str
    timing: Timing
    ffrl_ratio: float | None  # its time over that of ffrl
    sgemm_gflops: float

    @property
    def iterations_per_second(self) -> float:
        return 1e3 / self.timing.median


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table_head(columns: tuple[str, ...]) -> str:
    return f"{line(*columns)}\n|{'---|' * len(columns)}"


def milliseconds(timing: Timing | None) -> str:
    return NONE if timing is None else f"{timing.median:.4g} ({timing.lower:.4g} to {timing.upper:.4g})"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.3g} %"


def table_row(figures: StepFigures) -> str:
    return line(
        figures.case.name,
        figures.case.shape,
        figures.contender,
        str(figures.timing.rounds),
        milliseconds(figures.timing),
        NONE if figures.ffrl_ratio is None else f"{figures.ffrl_ratio:.3g}",
        f"{figures.iterations_per_second:.3g}",
        f"{figures.sgemm_gflops:.0f}",
    )


def part_rate(part: PartFigures, sgemm_gflops: float | None) -> float | None:
    """Rate on the FLOPs of a part over that of sgemm."""
    if part.flops is None or part.milliseconds is None or sgemm_gflops is None:
        return None
    return sum(part.flops) / part.milliseconds / 1e6 / sgemm_gflops


def profile_lines(profile: Profile) -> list[str]:
    """A row for each part, their sum, the whole, and what the parts leave unexplained; then what they add up to."""
    rows = []
    for part in profile.parts:
        flops = NONE if part.flops is None else f"{sum(part.flops) / 1e9:.4g}"
        rate = percent(part_rate(part, profile.sgemm_gflops))
        times = (milliseconds(part.forward), milliseconds(part.backward))
        rows.append(
            line(profile.case.name, part.part, *times, percent(profile.share(part.part)), flops, rate, str(part.calls))
        )
    name, calls = profile.case.name, str(profile.calls[FFRL])
    total = f"{profile.flops / 1e9:.4g}"
    if profile.whole is None or profile.sgemm_gflops is None:
        rows.append(line(name, "whole iteration", NONE, NONE, "100 %", total, NONE, calls))
    else:
        whole = profile.whole.median
        forward = sum(part.forward.median for part in profile.parts if part.forward)
        backward = sum(part.backward.median for part in profile.parts if part.backward)
        rest = whole - forward - backward
        counted = str(sum(part.calls for part in profile.parts))
        explained = percent((forward + backward) / whole)
        rate = percent(profile.flops / whole / 1e6 / profile.sgemm_gflops)
        rows += [
            line(name, "sum of the parts", f"{forward:.4g}", f"{backward:.4g}", explained, NONE, NONE, counted),
            line(name, "rest, not explained", f"{rest:.4g}", NONE, percent(rest / whole), NONE, NONE, NONE),
            line(name, "whole iteration", milliseconds(profile.whole), NONE, "100 %", total, rate, calls),
        ]
    return rows


def profile_summary(profile: Profile) -> list[str]:
    basis = "the iteration" if profile.whole else "the iteration's FLOPs, not timed on this device"
    alone, forced = profile.share(*POTENTIALS), profile.share(*POTENTIALS, FORCE)
    lines = [f"{profile.case.name}, potentials: {percent(alone)} of {basis}; with the force {percent(forced)}"]
    for what, counts in (("operator calls", profile.calls), ("kernel launches", profile.launches)):
        if counts:
            each = ", ".join(f"{name} {count} ({count / counts[FFRL]:.3g}x)" for name, count in counts.items())
            lines.append(f"{profile.case.name}, {what} in an iteration: {each}")
    return lines


def timing_json(timing: Timing | None) -> dict[str, Any] | None:
    return None if timing is None else timing._asdict()


def figures_json(figures: StepFigures) -> dict[str, Any]:
    entry = {**figures._asdict(), "case": figures.case.name, "shape": figures.case.shape}
    return {**entry, "timing": timing_json(figures.timing), "iterations_per_second": figures.iterations_per_second}


def profile_json(profile: Profile) -> dict[str, Any]:
    parts = [
        {
            "part": part.part,
            "forward": timing_json(part.forward),
            "backward": timing_json(part.backward),
            "flops": None if part.flops is None else part.flops._asdict(),
            "share": profile.share(part.part),
            "share_of_sgemm": part_rate(part, profile.sgemm_gflops),
            "calls": part.calls,
        }
        for part in profile.parts
    ]
    return {
        **profile._asdict(),
        "case": profile.case.name,
        "shape": profile.case.shape,
        "parts": parts,
        "whole": timing_json(profile.whole),
        "flops": profile.flops,
        "potentials_share": profile.share(*POTENTIALS),
        "potentials_and_force_share": profile.share(*POTENTIALS, FORCE),
    }
