"""The figures of one case: who is right, who is fast, who needs how much memory."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.cases import Case
from bench.closed_form import FORMS
from bench.contenders import COMPILED, Derivatives, check_parity, derivatives_of, forward, forward_backward, problem
from bench.timing import Call, Timing, interleaved, sgemm_call
from ffrl.errors import BackendError
from ffrl.models import PotentialMLP
from ffrl.ops.laplacian_forms import LaplacianForm

ROOT = Path(__file__).resolve().parents[1]
SGEMM_SIZE = 1024
# Rounds in which the forms of the compiled closed form are compared before the faster one is measured.
CHOICE_ROUNDS = 3
FORWARD, BOTH = "forward", "forward + backward"

# Of the compiled closed form: its faster form, by measurement.
Chosen = dict[str, LaplacianForm]


class Figures(NamedTuple):
    """One contender at one case; where ``reason`` says why it cannot be used here, there is nothing else."""

    case: Case
    contender: str
    reason: str | None = None
    forms: Chosen | None = None  # of the compiled closed form only
    forward: Timing | None = None
    both: Timing | None = None
    oracle_ratio: float | None = None  # of the oracle's forward + backward to this one's
    compiled_ratio: float | None = None  # of the compiled closed form's, likewise
    sgemm_gflops: float | None = None
    peak_mb: float | None = None
    peak_reason: str | None = None

    def share_of_sgemm(self, *, backward: bool, whole: bool) -> float | None:
        """Rate on the FLOPs of the operation, not on those executed, over that of sgemm."""
        timing = self.both if backward else self.forward
        if timing is None or self.sgemm_gflops is None:
            return None
        flops = self.case.flops(backward=backward)
        return (flops.whole if whole else flops.cubic) / timing.median / 1e6 / self.sgemm_gflops


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message that says something, fit for a cell of a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}".replace("|", "/")[:160]


def timed_calls(derivatives: Derivatives, pot: PotentialMLP, z: Tensor) -> dict[str, Call]:
    return {
        FORWARD: functools.partial(forward, derivatives, z),
        BOTH: functools.partial(forward_backward, derivatives, pot, z),
    }


def compiled_forms(pot: PotentialMLP, z: Tensor) -> dict[LaplacianForm, Derivatives] | str:
    """The compiled closed form in both forms; or why ``torch.compile`` does not work here (no C++ compiler, say)."""
    forms = {form: derivatives_of(COMPILED, pot, form) for form in FORMS}
    try:
        for derivatives in forms.values():
            forward_backward(derivatives, pot, z)
    except Exception as error:  # whatever it is, it is reported in the place of a figure
        return one_line(error)
    return forms


def faster_forms(candidates: dict[LaplacianForm, Derivatives], pot: PotentialMLP, z: Tensor) -> Chosen:
    """The faster form for each measurement, by a short timing; each form is checked before."""
    for derivatives in candidates.values():
        check_parity(COMPILED, derivatives, pot, z)
    calls = {form: timed_calls(derivatives, pot, z) for form, derivatives in candidates.items()}
    chosen: Chosen = {}
    for kind in (FORWARD, BOTH):
        timings = interleaved({form: calls[form][kind] for form in calls}, CHOICE_ROUNDS)
        chosen[kind] = min(timings, key=lambda form: timings[form].median)
    return chosen


def backend(name: str, pot: PotentialMLP, z: Tensor) -> Derivatives | str:
    """The op with the backend of this name, or why that cannot be used here."""
    derivatives = derivatives_of(name, pot)
    try:
        derivatives(z[:1])
    except BackendError as error:
        return one_line(error)
    return derivatives


def peak_memory(case: Case, contender: str, form: LaplacianForm | None) -> tuple[float | None, str | None]:
    """MB by ``bench.peak_memory`` in a process of its own, or the reason why there is no figure."""
    command = [sys.executable, "-m", "bench.peak_memory", "--case", case.name, "--contender", contender]
    command += ["--threads", str(torch.get_num_threads()), *(["--form", form] if form else [])]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
        return None, lines[-1].replace("|", "/")[:160]
    return float(finished.stdout), None


def measure(case: Case, names: Sequence[str], rounds: int, *, memory: bool) -> list[Figures]:
    """Figures of every contender at one case; ParityError where one of them is wrong."""
    torch.compiler.reset()  # a limit on compilations of one function holds over all cases
    pot, z = problem(case)
    failures: dict[str, str] = {}
    chosen: dict[str, Chosen] = {}
    calls: dict[tuple[str, str], Call] = {}
    for name in names:
        found = compiled_forms(pot, z) if name == COMPILED else backend(name, pot, z)
        if isinstance(found, str):
            failures[name] = found
        elif isinstance(found, dict):
            chosen[name] = faster_forms(found, pot, z)
            for kind, form in chosen[name].items():
                calls[name, kind] = timed_calls(found[form], pot, z)[kind]
        else:
            check_parity(name, found, pot, z)
            calls |= {(name, kind): call for kind, call in timed_calls(found, pot, z).items()}

    timings = interleaved({("sgemm", BOTH): sgemm_call(SGEMM_SIZE), **calls}, rounds)
    sgemm_gflops = 2 * SGEMM_SIZE**3 / timings["sgemm", BOTH].median / 1e6
    rows = []
    for name in names:
        if name in failures:
            rows.append(Figures(case, name, failures[name]))
            continue
        forms = chosen.get(name)
        peak, why = peak_memory(case, name, forms and forms[BOTH]) if memory else (None, None)
        both = timings[name, BOTH]
        references = (timings.get((reference, BOTH)) for reference in ("oracle", COMPILED))
        ratios = (reference and reference.median / both.median for reference in references)
        rows.append(Figures(case, name, None, forms, timings[name, FORWARD], both, *ratios, sgemm_gflops, peak, why))
    return rows
