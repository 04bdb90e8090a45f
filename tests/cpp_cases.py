"""Random cases of the compiled op: more sizes and rows than ``tests/cases.py`` has, on every instruction set.

The sizes stand at the edges of what the kernels tile: vectors of 2 to 16 numbers, panels and blocks of 32, and one
beyond. Every column is dealt as in ``tests/cases.py``; where the cubic part would cost more than the case may take, the
case gets fewer rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.ops import available_backends, extension, fused
from tests.cases import COLUMNS, TIMES, Case, Inputs, cotangents_of, dealt, in_full, outputs_of

SIZES = (1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 130)
ROWS = (0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 127, 129, 200, 257, 300)
# Multiply-adds of the cubic part that a case may take: few cases have both many rows and large sizes.
WORK = (*(1e7,) * 20, *(1e8,) * 8, *(4e8,) * 2)
CPP_COLUMNS: dict[str, tuple[Any, ...]] = {
    **COLUMNS,
    "rows": ROWS,
    "latent": SIZES,
    "hidden1": SIZES,
    "hidden2": SIZES,
    "potentials": (1, 2, 3, 5),
}

FORMS = ("gram", "jacobian")
REASON = available_backends()["cpp"]
needs_cpp = pytest.mark.skipif(REASON is not None, reason=f"no C++ backend here: {REASON}")


def usable_capabilities() -> tuple[str, ...]:
    """The instruction sets that this processor has, best first; none without the extension."""
    if REASON is not None:
        return ()
    before, found = extension.cpu_capability(), []
    for name in extension.CPU_CAPABILITIES[1:]:
        try:
            extension.set_cpu_capability(name)
        except ArgumentError:
            continue
        found.append(name)
    extension.set_cpu_capability(before)
    return tuple(found)


CAPABILITIES = usable_capabilities()


class Setting(NamedTuple):
    """What the compiled op is run with; a form of None is the choice of its cost model."""

    capability: str
    form: str | None
    threads: int

    @contextmanager
    def active(self) -> Iterator[None]:
        capability, threads, form = extension.cpu_capability(), torch.get_num_threads(), fused.cpu_laplacian_form
        try:
            extension.set_cpu_capability(self.capability)
            torch.set_num_threads(self.threads)
            if self.form is not None:
                fused.cpu_laplacian_form = lambda *_, **__: self.form  # type: ignore[assignment, return-value]
            yield
        finally:
            extension.set_cpu_capability(capability)
            torch.set_num_threads(threads)
            fused.cpu_laplacian_form = form


def settings_of(case: Case) -> list[Setting]:
    """Every instruction set with every form, and what a user gets; in one case of eight one of them on two threads."""
    forms = FORMS if case.laplacian else (None,)
    settings = [Setting(capability, form, 1) for capability in CAPABILITIES for form in forms]
    settings.append(Setting("auto", None, 1))
    turn, rest = divmod(case.seed, 8)
    if rest == 0:
        settings[turn % len(settings)] = settings[turn % len(settings)]._replace(threads=2)
    return settings


def work_of_row(case: Case) -> int:
    """Multiply-adds of one row in the products of both forms."""
    return case.hidden1 * case.hidden2 * (case.hidden1 + case.latent)


def random_cpp_cases(count: int, seed: int, first_seed: int = 0) -> Iterator[Case]:
    """``count`` cases; the tensors of case i are drawn with ``first_seed + i``."""
    draw = random.Random(seed)
    columns = {name: dealt(values, count, draw) for name, values in CPP_COLUMNS.items()}
    work = dealt(WORK, count, draw)
    for i in range(count):
        case = Case(**{name: column[i] for name, column in columns.items()}, seed=first_seed + i)
        allowed = [rows for rows in ROWS[1:] if rows * work_of_row(case) <= work[i]]
        if case.rows > allowed[-1]:
            case = replace(case, rows=draw.choice(allowed[-3:]))
        if "d2u_dt2" in case.cotangents:
            case = replace(case, d2u_dt2=True)
        if "lap_u" in case.cotangents:
            case = replace(case, laplacian=True)
        if case.tracked in ("t", "z+t") and case.time == "float":
            case = replace(case, time=draw.choice(TIMES[1:]))
        if case.index == "mixed" and case.rows > 1 and case.potentials == 1:
            case = replace(case, potentials=draw.choice((2, 3, 5)))
        yield case


CPP_CASES = tuple(random_cpp_cases(1000, seed=33))
CPP_FULL_CASES = tuple(map(in_full, CPP_CASES))


def values_of(inputs: Inputs, backend: str) -> dict[str, Tensor | None]:
    """Every output, and ``v_X`` of every tracked X."""
    outputs = outputs_of(inputs, backend)
    return {**outputs, **cotangents_of(inputs, outputs)}


def values_with(setting: Setting, inputs: Inputs) -> dict[str, Tensor | None]:
    """The same of the compiled op in a setting."""
    with setting.active():
        return values_of(inputs, "cpp")
