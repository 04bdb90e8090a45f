"""Bits of the compiled op: the same in every run, for any number of threads, and for a row in any batch.

Gradients of the weights are sums over the rows of a batch and so depend on it, but for one batch their bits are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ffrl.ops.fused import potential_derivatives_fused
from ffrl.records import PotentialWeights, TimeFeatures
from tests.cases import OUTPUTS, Case, build
from tests.cpp_cases import CAPABILITIES, CPP_FULL_CASES, FORMS, Setting, needs_cpp, values_with

pytestmark = needs_cpp
DTYPES = (torch.float32, torch.float64)
RUNS = 200
POTENTIALS, WHOLE = 3, 300


def differing(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> list[str]:
    """Names whose bits differ."""
    assert a.keys() == b.keys()
    return [name for name, value in a.items() if value is not None and not torch.equal(value, b[name])]  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_200_runs_give_the_same_bits(form: str, threads: int):
    inputs = build(Case(70, 5, 9, 70, 2, "mixed", time="repeated"), torch.float32)
    setting = Setting("auto", form, threads)
    first = values_with(setting, inputs)
    assert all(value is not None and value.isfinite().all() for value in first.values())
    for run in range(1, RUNS):
        assert not differing(first, values_with(setting, inputs)), f"run {run}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_bits_do_not_depend_on_the_number_of_threads(capability: str, dtype: torch.dtype):
    dealt = [case for case in CPP_FULL_CASES if case.rows > 32][:10]
    several_blocks = (
        Case(1100, 5, 33, 66, 3, "mixed", time="repeated"),
        Case(1100, 40, 33, 9, activation="identity", time="scalar"),
    )
    for case in (*dealt, *several_blocks):
        inputs = build(case, dtype)
        for form in FORMS:
            one = values_with(Setting(capability, form, 1), inputs)
            two = values_with(Setting(capability, form, 2), inputs)
            assert not differing(one, two), f"{case}, {form} form"


class Problem(NamedTuple):
    """Arguments of the fused function, a feature row for each row, and the cotangents of its outputs."""

    z: Tensor  # (N, D)
    features: TimeFeatures  # (N, H1) each
    weights: PotentialWeights
    k: Tensor  # (N,)
    cotangents: tuple[Tensor, ...]

    def values(self, rows: Tensor, *, tanh_output: bool, k: int | None = None) -> dict[str, Tensor]:
        """Outputs and v_z of a batch of these rows; ``k``: as the int that all of them have."""
        z = self.z[rows].requires_grad_()
        features = TimeFeatures(*(value[rows] for value in self.features if value is not None))
        k_rows = self.k[rows] if k is None else k
        out = potential_derivatives_fused(
            z, features, self.weights, k=k_rows, feature_row=None, tanh_output=tanh_output
        )
        outputs = [value for value in out if value is not None]
        (v_z,) = torch.autograd.grad(outputs, z, [cotangent[rows] for cotangent in self.cotangents])
        return {**dict(zip(OUTPUTS, outputs, strict=True)), "v_z": v_z}


def random_problem(latent: int, hidden1: int, hidden2: int, dtype: torch.dtype, *, tracked: bool) -> Problem:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    stacked = {
        "weight1": normal(POTENTIALS, hidden1, latent) / latent**0.5,
        "bias1": normal(POTENTIALS, hidden1),
        "weight2": normal(POTENTIALS, hidden2, hidden1) / hidden1**0.5,
        "bias2": normal(POTENTIALS, hidden2),
        "weight3": normal(POTENTIALS, hidden2) / hidden2**0.5,
        "bias3": normal(POTENTIALS),
    }
    features = TimeFeatures(*(normal(WHOLE, hidden1) for _ in range(3)))
    cotangents = tuple(normal(WHOLE, latent) if name == "du_dz" else normal(WHOLE) for name in OUTPUTS)
    for value in stacked.values():
        value.requires_grad_(tracked)
    k = torch.randint(0, POTENTIALS, (WHOLE,))
    return Problem(normal(WHOLE, latent), features, PotentialWeights(**stacked), k, cotangents)


def batches_of(problem: Problem) -> dict[str, Sequence[int] | Tensor]:
    """Batches of rows, in which a row stands alone, elsewhere, or among rows of other potentials."""
    same = (problem.k == problem.k[7]).nonzero().squeeze(1)
    other = (problem.k != problem.k[7]).nonzero().squeeze(1)
    return {
        "alone": [7],
        "twice": [7, 7],
        "last": [*range(150, 213), 7],
        "shuffled": torch.randperm(WHOLE),
        "backwards": torch.arange(WHOLE).flip(0),
        "with its own potential": same,
        "behind another potential": [*other[:40].tolist(), 7],
        "within others": [*other[:17].tolist(), 7, *other[17:50].tolist()],
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("sizes", [(5, 9, 7), (17, 33, 65), (33, 64, 128), (3, 130, 31)], ids=str)
@pytest.mark.parametrize("tracked", [True, False], ids=["weights", "no-weights"])
def test_the_bits_of_a_row_do_not_depend_on_its_batch(
    sizes: tuple[int, int, int], capability: str, form: str, dtype: torch.dtype, tracked: bool
):
    problem = random_problem(*sizes, dtype, tracked=tracked)
    for tanh_output in (True, False):
        with Setting(capability, form, 1).active():
            whole = problem.values(torch.arange(WHOLE), tanh_output=tanh_output)
            assert all(value.isfinite().all() for value in whole.values())
            for name, batch in batches_of(problem).items():
                rows = torch.as_tensor(batch)
                expected = {output: value[rows] for output, value in whole.items()}
                assert not differing(problem.values(rows, tanh_output=tanh_output), expected), name
            for k in range(POTENTIALS):
                rows = (problem.k == k).nonzero().squeeze(1)
                expected = {output: value[rows] for output, value in whole.items()}
                assert not differing(problem.values(rows, tanh_output=tanh_output, k=k), expected), f"k = {k}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_bits_of_outputs_without_a_graph_do_not_depend_on_the_batch(capability: str, form: str):
    problem = random_problem(17, 33, 65, torch.float32, tracked=False)

    def outputs(rows: Tensor) -> dict[str, Tensor | None]:
        features = TimeFeatures(*(value[rows] for value in problem.features if value is not None))
        k = problem.k[rows]
        return potential_derivatives_fused(
            problem.z[rows], features, problem.weights, k=k, feature_row=None, tanh_output=True
        )._asdict()

    with Setting(capability, form, 1).active(), torch.no_grad():
        whole = outputs(torch.arange(WHOLE))
        for name, batch in batches_of(problem).items():
            rows = torch.as_tensor(batch)
            expected = {output: value[rows] for output, value in whole.items() if value is not None}
            assert not differing(outputs(rows), expected), name


def test_a_difference_of_one_bit_is_seen():
    one = torch.ones(3)
    assert differing({"u": one, "lap_u": None}, {"u": one.clone(), "lap_u": None}) == []
    assert differing({"u": one}, {"u": torch.tensor([1.0, 1.0, 1.0 + 2**-23])}) == ["u"]
