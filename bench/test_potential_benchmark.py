"""pytest-benchmark cases of the potential op, outside the default test run: pytest bench.

One test for each case and backend, forward and backward; nothing is timed before its results agree with the oracle's.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import CASES, Case
from bench.contenders import check_parity, derivatives_of, forward_backward, problem
from ffrl.ops import available_backends

BACKENDS = [name for name, reason in available_backends().items() if reason is None]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_backward(case: Case, backend: str, benchmark: BenchmarkFixture):
    pot, z = problem(case)
    derivatives = derivatives_of(backend, pot)
    check_parity(backend, derivatives, pot, z)
    benchmark(forward_backward, derivatives, pot, z)
