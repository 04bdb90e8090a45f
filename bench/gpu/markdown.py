"""The report as Markdown: machine and ceilings, parts, one table of all figures, and what has no figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

FORWARD, BOTH = "forward", "forward + backward"  # as in bench/gpu/benchmark.py, which needs PyTorch
NONE = "-"
COLUMNS = (
    "case",
    "size",
    "contender",
    "samples",
    "forward, ms",
    "forward + backward, ms",
    "on the host, ms",
    "GFLOP/s",
    "of TF32",
    "times the oracle",
    "times compiled",
    "peak extra, MB",
    "error",
)
LEGEND = """\
Times are medians (quartiles) per call over interleaved rounds, by CUDA events on an idle device after the L2 cache was
flushed; "on the host" is the median time until the call had returned, "a / b" is of forward / forward + backward. Rates
count the cubic FLOPs of the operation (bench/cases.py), not those executed; "of TF32" is their share of the measured
rate of TF32 products. Ratios are to the nested-autograd oracle and to the fastest compiled closed form held to the same
tolerance, of forward + backward. "error" is the largest relative error of all results, in norm, against the oracle in
float64 on 32 rows. In a flow, forward is the roll alone (flow_rollout) and forward + backward all derivatives of all
steps (LatentFlow); in training, it is a whole iteration, and its rate counts the FLOPs of the op alone.
"""


def number(value: float | None, digits: int = 4, unit: str = "") -> str:
    return NONE if value is None else f"{value:.{digits}g}{unit}"


def both_of(pair: dict[str, dict[str, Any]], cell: Callable[[dict[str, Any]], str]) -> str:
    """A cell of forward / forward + backward."""
    cells = [cell(pair[name]) if name in pair else NONE for name in (FORWARD, BOTH)]
    return NONE if set(cells) == {NONE} else " / ".join(cells)


def milliseconds(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return NONE
    ms = figure["ms"]
    return f"{number(ms['median'])} ({number(ms['lower'])} to {number(ms['upper'])})"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.3g} %"


def case_name(benchmark: str, case: str) -> str:
    """Every benchmark has a case "tiny"."""
    return f"{benchmark}: {case}" if case == "tiny" else case


def table_rows(figures: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each contender at each case, with both of its measurements."""
    pairs: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for figure in figures:
        key = (figure["benchmark"], figure["case"], figure["contender"])
        pairs.setdefault(key, {})[figure["measurement"]] = figure
    for (benchmark, case, contender), pair in pairs.items():
        any_of = next(iter(pair.values()))
        last = pair.get(BOTH, {})
        peaks = [figure["peak_mb"] for figure in pair.values() if figure["peak_mb"] is not None]
        yield [
            case_name(benchmark, case),
            any_of["shape"],
            contender,
            both_of(pair, lambda figure: str(figure["ms"]["samples"])),
            milliseconds(pair.get(FORWARD)),
            milliseconds(pair.get(BOTH)),
            both_of(pair, lambda figure: number(figure["ms"]["host"], 3)),
            both_of(pair, lambda figure: number(figure.get("cubic_gflops"))),
            both_of(pair, lambda figure: percent(figure.get("cubic_share_of_tf32"))),
            number(last.get("times_oracle"), 3),
            number(last.get("times_compiled"), 3),
            number(max(peaks, default=None), 3),
            number(any_of["error"], 2),
        ]


def machine(report: dict[str, Any]) -> Iterator[str]:
    facts, rates = report["facts"], report["ceilings"]
    gpu, smi = facts.get("gpu") or {}, facts.get("smi") or {}
    if gpu:
        memory = f"{gpu['memory_bytes'] / 1e9:.0f} GB"
        yield f"- GPU: {gpu['name']}, compute capability {gpu['compute_capability']}, {memory}"
    else:
        yield "- GPU: none that PyTorch can use"
    versions = {"driver": smi.get("driver"), **{name: facts.get(name) for name in ("torch", "triton", "cuda", "nvcc")}}
    versions["Python"] = facts.get("python")
    yield "- versions: " + ", ".join(f"{name} {value or 'missing'}" for name, value in versions.items())
    for line in report["clocks"] or ([{"when": "before the benchmarks", "values": smi}] if smi else []):
        values = line["values"] or {}
        names = ("graphics_clock", "memory_clock", "power")
        now = ", ".join(
            f"{name.replace('_clock', '')} {values.get(name)} of {values.get(f'{name}_max')}" for name in names
        )
        yield f"- clocks and power {line['when']}: {now if values else 'nvidia-smi gives no answer'}"
    if rates:
        names = {
            "copy": "copy (read + write)",
            "bf16": "bf16 products",
            "tf32": "TF32 products",
            "fp32": "fp32 products",
        }
        cells = [
            f"{names[name]} {number(rate)} {'GB/s' if name == 'copy' else 'GFLOP/s'}" for name, rate in rates.items()
        ]
        yield f"- measured ceilings: {', '.join(cells)}"
    if report.get("build"):
        build = report["build"]
        done = f"compiled for {build['architectures']} in {build['seconds']:.0f} s"
        yield f"- CUDA kernels: {build['missing'] or done}"
    for line in report["missing"]:
        yield f"- missing: {line['what']}"


def parts(report: dict[str, Any]) -> Iterator[str]:
    for part in report["parts"]:
        ran = "" if part["seconds"] is None else f", {part['seconds']} s of at most {part['limit']} s"
        code = f" (exit status {part['exit']})" if part["exit"] else ""
        yield f"- {part['name']}: {part['status']}{code}{ran}"
        yield from (f"      {line}" for line in part["stderr"])


def tests(report: dict[str, Any]) -> Iterator[str]:
    found = report["tests"]
    if found["collected"] is None:
        yield "No test ran."
        return
    counts = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items())
    yield f"Of {found['collected']} tests of the kernels: {counts or 'none has ended'}."
    failed = [line for line in found["not_passed"] if line["outcome"] == "failed"]
    yield from (f"- {line['test']}: {line['why']}" for line in failed)


def without_figure(report: dict[str, Any]) -> Iterator[str]:
    """What is the same for several cases stands once."""
    cases: dict[tuple[str, str, str], list[str]] = {}
    for line in report["without_figure"]:
        key = (line["contender"] or "all contenders", line["status"], line["why"])
        cases.setdefault(key, []).append(case_name(line["benchmark"], line["case"]))
    for (contender, status, why), names in cases.items():
        yield f"- {contender}: {status}, {why} ({', '.join(names)})"


def table(figures: list[dict[str, Any]]) -> Iterator[str]:
    if not figures:
        yield "There is no figure."
        return
    yield LEGEND
    yield from (f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *table_rows(figures)))


def document(report: dict[str, Any]) -> str:
    sections = {
        "Machine": machine(report),
        "Parts": parts(report),
        "Tests": tests(report),
        "Figures": table(report["figures"]),
        "Without a figure": without_figure(report),
    }
    text = [f"# On the GPU\n\n`{report['command']}`"]
    for title, content in sections.items():
        if body := "\n".join(content):
            text.append(f"## {title}\n\n{body}")
    return "\n\n".join(text) + "\n"
