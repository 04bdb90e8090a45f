"""Cases of the Triton kernels: sizes at the edges of their tiles, few rows where the sizes are large."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from torch import Tensor

from ffrl.ops import fused
from tests.cases import COLUMNS, Case, cotangents_of, dealt, in_full, outputs_of
from tests.kernels.devices import on_device

FORMS = ("gram", "jacobian")
SIZES = (1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65)
ROWS = (0, 1, 2, 7, 33, 63, 64, 65, 130)
# Multiply-adds of the cubic part that a case may take: the interpreter is slow.
WORK = 1e6

LARGE = (
    Case(3, 226, 226, 65, 2, "mixed", time="scalar", seed=1),
    Case(2, 324, 324, 33, time="float", activation="identity", seed=2),
    Case(2, 3, 324, 40, seed=3),
    Case(2, 16, 17, 324, 2, "mixed", seed=4),
    Case(2, 17, 40, 226, seed=5),
    Case(200, 3, 17, 16, 3, "mixed", time="repeated", seed=6),
)


def random_triton_cases(count: int, seed: int) -> Iterator[Case]:
    draw = random.Random(seed)
    replaced = {"rows": ROWS, "latent": SIZES, "hidden1": SIZES, "hidden2": SIZES, "potentials": (1, 2, 3, 5)}
    columns = {name: dealt(values, count, draw) for name, values in {**COLUMNS, **replaced}.items()}
    for i in range(count):
        case = Case(**{name: column[i] for name, column in columns.items()}, seed=i)
        work = case.hidden1 * case.hidden2 * (case.hidden1 + case.latent)
        case = replace(case, rows=min(case.rows, max(row for row in ROWS if row <= 2 or row * work <= WORK)))
        if "d2u_dt2" in case.cotangents:
            case = replace(case, d2u_dt2=True)
        if "lap_u" in case.cotangents:
            case = replace(case, laplacian=True)
        if case.tracked in ("t", "z+t") and case.time == "float":
            case = replace(case, time="scalar")
        if case.index == "mixed" and case.rows > 1 and case.potentials == 1:
            case = replace(case, potentials=draw.choice((2, 3, 5)))
        yield case


CASES = tuple(random_triton_cases(66, seed=40))
FULL_CASES = (*map(in_full, CASES), *map(in_full, LARGE))


@contextmanager
def form_of(form: str | None) -> Iterator[None]:
    """The Triton backend with that form of the Laplacian; None: its own choice."""
    with pytest.MonkeyPatch.context() as patch:
        if form is not None:
            patch.setattr(fused, "gpu_laplacian_form", lambda *_, **__: form)
        yield


def triton_values(inputs, form: str | None = None) -> dict[str, Tensor | None]:
    """Every output, and ``v_X`` of every tracked X, on the CPU."""
    moved = on_device(inputs)
    with form_of(form):
        outputs = outputs_of(moved, "triton")
        values = {**outputs, **cotangents_of(moved, outputs)}
    return {name: value if value is None else value.cpu() for name, value in values.items()}
