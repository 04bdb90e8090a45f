"""What a benchmark of this folder is: cases, contenders, the calls that are timed, the results that are checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.cases import Flops
from bench.contenders import COMPILED, PARITY_ROWS, TOLERANCE
from bench.timing import Call
from ffrl.ops import available_backends
from ffrl.ops.laplacian_forms import LaplacianForm

FORWARD, BOTH = "forward", "forward + backward"
TINY = "tiny"  # the case of every benchmark that is there to try it
# Backends whose cubic products can be computed in several precisions, and these.
GPU_KERNELS = ("triton", "cuda")
PRECISIONS = ("ieee", "tf32x3", "tf32")
# Of one TF32 product, which keeps about three digits; all others are held to TOLERANCE.
TF32_TOLERANCE = 2e-2

Results = dict[str, Tensor]


class Contender(NamedTuple):
    """One way to compute, by the name in the report."""

    name: str
    backend: str
    precision: str | None = None  # of the cubic products in kernels for the GPU
    form: LaplacianForm | None = None  # of the compiled closed form
    matmul: str = "highest"  # torch's setting for its own products: "highest", or "high" for TF32

    @property
    def tolerance(self) -> float:
        """Relative error against the float64 oracle, in norm, beyond which nothing is reported."""
        return TF32_TOLERANCE if self.precision == "tf32" or self.matmul == "high" else TOLERANCE


class Prepared(NamedTuple):
    """A contender at a case: what is timed, and its results on PARITY_ROWS rows, by name."""

    calls: dict[str, Call]
    results: Callable[[], list[Results]]


class Benchmark(ABC):
    """Problems and contenders of one kind; problems are the same in every process."""

    name: str
    case_names: tuple[str, ...]  # TINY among them

    def chosen_cases(self, cases: str) -> list[str]:
        """All cases but the tiny one for "full", or that one."""
        return [name for name in self.case_names if (name == TINY) == (cases == TINY)]

    @abstractmethod
    def shape(self, case: str) -> str:
        """Sizes for the report."""

    @abstractmethod
    def flops(self, case: str, measurement: str) -> Flops | None:
        """The limit for the operation by bench/cases.py; None where there is nothing cubic in it."""

    @abstractmethod
    def contenders(self, case: str) -> list[Contender]:
        """Plain torch first, kernels last: what breaks the device then takes no other with it."""

    @abstractmethod
    def problem(self, case: str, device: torch.device) -> Any:
        """Inputs on the device."""

    @abstractmethod
    def reference(self, problem: Any) -> Results:
        """By the oracle, in float64, on PARITY_ROWS rows."""

    @abstractmethod
    def prepare(self, problem: Any, contender: Contender) -> Prepared:
        """Whatever is called of it may raise BackendError, where the contender cannot be used on the device."""


def parity_rows(num_rows: int, device: torch.device) -> Tensor:
    """PARITY_ROWS of the rows, spread over all of them."""
    return torch.linspace(0, num_rows - 1, min(PARITY_ROWS, num_rows)).long().to(device)


def backend_names() -> list[str]:
    """All backends: plain torch first, the kernels for the GPU last."""
    first = ["oracle", "analytic"]
    others = [name for name in available_backends() if name not in first]
    return [*first, *sorted(others, key=lambda name: (name in GPU_KERNELS, others.index(name)))]


def backend_contenders(*, with_precisions: bool) -> list[Contender]:
    """A contender for each backend, or for each precision of one that has several."""
    reasons = available_backends()
    found = []
    for name in backend_names():
        if with_precisions and name in GPU_KERNELS and reasons[name] is None:
            found += [Contender(f"{name} {precision}", name, precision) for precision in PRECISIONS]
        else:
            found.append(Contender(name, name))
    return found


def compiled_contender(form: LaplacianForm, matmul: str = "highest") -> Contender:
    name = f"{COMPILED} {form}" + (", TF32" if matmul == "high" else "")
    return Contender(name, COMPILED, form=form, matmul=matmul)
