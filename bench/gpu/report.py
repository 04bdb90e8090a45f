"""Merge what the parts have written into gpu.json and gpu.md: python -m bench.gpu.report OUT_FOLDER PART ...

Needs nothing but Python, so that there is a report where PyTorch is missing. Ends with 1 where a part failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.gpu.lines import plain, read_lines
from bench.gpu.markdown import document

TIMED_OUT = (124, 137)  # how `timeout` ends
LAST_LINES = 15  # of stderr, of a part that failed
Line = dict[str, Any]


def part_result(folder: Path, name: str) -> Line:
    """How a part ended, from NAME.status (exit status, seconds, limit) and NAME.stderr in the folder."""
    try:
        code, seconds, limit = map(int, (folder / f"{name}.status").read_text().split())
    except (OSError, ValueError):
        return {"name": name, "status": "not run", "exit": None, "seconds": None, "limit": None, "stderr": []}
    status = "ok" if code == 0 else "timed out" if code in TIMED_OUT else "failed"
    errors = folder / f"{name}.stderr"
    text = errors.read_text(errors="replace") if code and errors.is_file() else ""
    last = [line.rstrip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
    return {"name": name, "status": status, "exit": code, "seconds": seconds, "limit": limit, "stderr": last}


def of_kind(lines: Iterable[Line], kind: str) -> list[Line]:
    return [{name: value for name, value in line.items() if name != "kind"} for line in lines if line["kind"] == kind]


def best_ceilings(ceilings: Iterable[Line]) -> dict[str, float]:
    """The highest rate of each kind over the sizes."""
    best: dict[str, float] = {}
    for line in ceilings:
        best[line["name"]] = max(line["value"], best.get(line["name"], 0.0))
    return best


def with_rates(figures: list[Line], ceilings: dict[str, float]) -> list[Line]:
    """Add to each figure its GFLOP/s, its shares of the ceilings, and its ratios to the oracle and to "compiled".

    The latter is the fastest compiled form of the same case that is held to the same tolerance.
    """
    median = {(f["benchmark"], f["case"], f["contender"], f["measurement"]): f["ms"]["median"] for f in figures}

    def fastest_compiled(figure: Line) -> float | None:
        key = ("benchmark", "case", "measurement", "tolerance")
        alike = [f for f in figures if f["backend"] == "compiled" and all(f[name] == figure[name] for name in key)]
        return min((f["ms"]["median"] for f in alike), default=None)

    found = []
    for figure in figures:
        own = figure["ms"]["median"]
        oracle = median.get((figure["benchmark"], figure["case"], "oracle", figure["measurement"]))
        compiled = fastest_compiled(figure)
        rates: Line = {
            "times_oracle": None if oracle is None else oracle / own,
            "times_compiled": None if compiled is None else compiled / own,
        }
        for part, number in (figure["flops"] or {}).items():
            rate = number / own / 1e6
            rates[f"{part}_gflops"] = rate
            rates |= {f"{part}_share_of_{name}": rate / top for name, top in ceilings.items() if name != "copy"}
        found.append({**figure, **rates})
    return found


def without_figure(verdicts: Iterable[Line], figures: Iterable[Line]) -> list[Line]:
    """The last verdict on each contender at each case that has no figure, where it says why."""

    def key(line: Line) -> tuple[str, str, str | None]:
        return line["benchmark"], line["case"], line["contender"]

    with_figure = set(map(key, figures))
    last = {key(line): line for line in verdicts}
    return [line for name, line in last.items() if line["status"] != "ok" and name not in with_figure]


def merged(folder: Path, parts: Sequence[str]) -> Line:
    """The whole report, of the parts that left something in the folder."""
    lines = [line for name in parts for line in read_lines(folder / f"{name}.jsonl")]
    ceilings = of_kind(lines, "ceiling")
    best = best_ceilings(ceilings)
    figures, tests = of_kind(lines, "figure"), of_kind(lines, "test")
    outcomes = [line["outcome"] for line in tests]
    return {
        "parts": [part_result(folder, name) for name in parts],
        "facts": next(iter(of_kind(lines, "facts")), {}),
        "missing": of_kind(lines, "missing"),
        "build": next(iter(of_kind(lines, "build")), None),
        "clocks": of_kind(lines, "clocks"),
        "ceilings": best,
        "ceilings_measured": ceilings,
        "tests": {
            "collected": next((line["number"] for line in of_kind(lines, "collected")), None),
            "outcomes": {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)},
            "not_passed": [line for line in tests if line["outcome"] != "passed"],
        },
        "figures": with_rates(figures, best),
        "without_figure": without_figure(of_kind(lines, "verdict"), figures),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="holds the folder parts; gets gpu.json and gpu.md")
    parser.add_argument("parts", nargs="+", metavar="PART")
    parser.add_argument("--command", default="bash bench/gpu.sh", help="that this is the report of")
    arguments = parser.parse_args(argv)
    report = {"command": arguments.command, **merged(arguments.out / "parts", arguments.parts)}
    text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False)
    (arguments.out / "gpu.json").write_text(text + "\n", encoding="utf-8")
    (arguments.out / "gpu.md").write_text(document(report), encoding="utf-8")
    bad = [part for part in report["parts"] if part["status"] != "ok"]
    for status in dict.fromkeys(part["status"] for part in bad):
        print(f"{status}: {', '.join(part['name'] for part in bad if part['status'] == status)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
