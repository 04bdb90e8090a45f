"""The memory of the compiled op: O(N·H) kept for the backward, nothing of N·H·D or N·H² numbers allocated, and all that
comes back is written.

The kernels own no memory: what they use, torch allocates, and torch's profiler sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ffrl.ops.fused import potential_derivatives_fused
from ffrl.records import PotentialWeights, TimeFeatures
from tests.cases import Case, build, cotangents_of, outputs_of
from tests.cpp_cases import CAPABILITIES, CPP_CASES, FORMS, Setting, needs_cpp, settings_of, values_with
from tests.memory import kept_elements

pytestmark = needs_cpp

# What the largest allocation of either direction may hold, in numbers: arrays of each row, such as h1, v or cotangents
# of the time features, of width D, H1 and H2 ...
ROW_ARRAYS = 4
# ... arrays of those widths for the 32 rows of a block that a thread works on ...
BLOCK_ARRAYS, ROWS_PER_BLOCK = 16, 32
# ... and matrices (H1, D), (H1, H1), (H2, H1): weights packed in several orders for each potential, and the sums of
# their gradients over the rows of each of at most 16 + K tasks.
TASKS, MATRICES_OF_A_POTENTIAL = 16, 8


def largest_allocation(run: Callable[[], object]) -> int:
    """Numbers of four bytes in the largest allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    return max(event.self_cpu_memory_usage for event in profiler.events()) // 4


def largest_allocations(case: Case, setting: Setting) -> tuple[int, int, int]:
    """In float32: of the forward that a backward follows, of the forward alone, of the backward."""
    inputs = build(case, torch.float32)
    with setting.active():
        forward = largest_allocation(lambda: outputs_of(inputs, "cpp"))
        with torch.no_grad():
            alone = largest_allocation(lambda: outputs_of(inputs, "cpp"))
        outputs = outputs_of(inputs, "cpp")
        return forward, alone, largest_allocation(lambda: cotangents_of(inputs, outputs))


def allocation_bound(case: Case, threads: int) -> int:
    widths = case.latent + case.hidden1 + case.hidden2
    rows = ROW_ARRAYS * case.rows + BLOCK_ARRAYS * ROWS_PER_BLOCK * threads
    return (rows + (TASKS + MATRICES_OF_A_POTENTIAL * case.potentials) * case.hidden1) * widths


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "case",
    [Case(256, 128, 128, 128), Case(512, 128, 128, 128, 3, "mixed", time="repeated"), Case(512, 300, 64, 200)],
    ids=str,
)
def test_the_largest_allocation_is_below_half_of_what_a_jacobian_of_each_row_would_take(
    case: Case, form: str, threads: int
):
    bound = allocation_bound(case, threads)
    assert bound < case.rows * case.hidden2 * min(case.latent, case.hidden1) / 2, "the bound would prove nothing"
    for elements in largest_allocations(case, Setting("auto", form, threads)):
        assert 0 < elements <= bound


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("index", "time"), [("int", "rows"), ("mixed", "rows"), ("mixed", "repeated")])
def test_another_row_takes_as_much_as_a_few_arrays_of_its_widths(form: str, index: str, time: str):
    few, many = (Case(rows, 64, 80, 96, 3, index, time=time) for rows in (1024, 2048))  # beyond 16 tasks
    widths, jacobian = 64 + 80 + 96, 64 * 96
    assert ROW_ARRAYS * widths < jacobian / 5, "the bound would prove nothing"
    setting = Setting("auto", form, 1)
    for a, b in zip(largest_allocations(few, setting), largest_allocations(many, setting), strict=True):
        assert 0 < (b - a) / 1024 <= ROW_ARRAYS * widths


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("hidden1", "hidden2"), [(32, 40), (64, 80)])
def test_a_row_keeps_what_the_backward_reads_and_nothing_else(form: str, hidden1: int, hidden2: int):
    latent = 24

    def kept(rows: int) -> int:
        inputs = build(Case(rows, latent, hidden1, hidden2, time="float"))
        with Setting("auto", form, 1).active():
            return kept_elements(lambda: outputs_of(inputs, "cpp"), inputs.pot.parameters())

    per_row = (kept(160) - kept(64)) / 96
    # z, v (D); h1, q, e (H1); h2, S (H2); u, ∂o/∂t, ∂²o/∂t², ℓ
    assert 0 < per_row <= 2 * latent + 3 * hidden1 + 2 * hidden2 + 4


@pytest.mark.parametrize("latent", [3, 4, 5])
def test_the_jacobian_is_kept_for_up_to_four_dimensions(latent: int):
    hidden1, hidden2 = 64, 80

    def kept(rows: int) -> int:
        inputs = build(Case(rows, latent, hidden1, hidden2, time="float"))
        with Setting("auto", "jacobian", 1).active():
            return kept_elements(lambda: outputs_of(inputs, "cpp"), inputs.pot.parameters())

    per_row = (kept(160) - kept(64)) / 96
    rest = per_row - (latent * hidden2 if latent <= 4 else 0)
    # h1, q; h2, S; then z, v, u, ∂o/∂t, ∂²o/∂t², ℓ
    assert 2 * hidden1 + 2 * hidden2 <= rest <= 2 * hidden1 + 2 * hidden2 + 2 * latent + 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("time", ["rows", "repeated"])
def test_what_is_kept_grows_linearly_in_rows_and_in_width(form: str, time: str):
    def kept(rows: int, width: int) -> int:
        inputs = build(Case(rows, width, width, width + 1, 3, "mixed", time=time, tracked="parameters"))
        with Setting("auto", form, 1).active():
            return kept_elements(lambda: outputs_of(inputs, "cpp"), inputs.pot.parameters())

    base = kept(96, 64)
    assert kept(192, 64) <= 2.05 * base
    assert kept(96, 128) <= 2.02 * base  # keeping one element in a hundred of an (N, H, H) buffer would exceed this


def names_within(event: Any) -> set[str]:
    """Names of all operations that an operation calls."""
    return {name for child in event.cpu_children for name in ({child.name} | names_within(child))}


def test_all_memory_of_the_operators_is_nan_until_they_write_it():
    inputs = build(Case(40, 5, 7, 9, 2, "mixed"))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        values_with(Setting("auto", None, 1), inputs)
    for operator in ("ffrl::potential_forward", "ffrl::potential_backward"):
        calls = [event for event in profiler.events() if event.name == operator]
        allocated = [child for call in calls for child in call.cpu_children if child.name == "aten::new_empty"]
        assert len(allocated) >= 7, operator  # what it returns, and the workspace
        assert all("aten::fill_" in names_within(one) for one in allocated), operator
    # Bytes of workspace are filled with 255, which is NaN in both precisions.
    assert torch.empty(8, dtype=torch.uint8).view(torch.float64).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [case for case in CPP_CASES[500:] if case.rows][:50], ids=str)
def test_every_output_and_every_gradient_is_written(case: Case, dtype: torch.dtype):
    inputs = build(case, dtype)
    for setting in settings_of(case):
        for name, value in values_with(setting, inputs).items():
            assert value is None or value.isfinite().all(), f"{setting} {name}"


@pytest.mark.parametrize("form", [*FORMS, None])
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("tracked", ["z", "features", "weights", "all"])
def test_gradients_of_what_no_row_uses_are_zero(tracked: str, capability: str, form: str | None):
    rows, latent, hidden1, hidden2, potentials, times = 40, 5, 33, 17, 4, 6
    feature_row = torch.tensor([4, 1, 1, 3]).repeat(rows // 4)
    k = torch.tensor([3, 1, 1, 1]).repeat(rows // 4)
    unused_features, unused_potentials = [0, 2, 5], [0, 2]

    def normal(group: str, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).requires_grad_(tracked in (group, "all"))

    z = normal("z", rows, latent)
    features = TimeFeatures(*(normal("features", times, hidden1) for _ in range(3)))
    shapes = ((hidden1, latent), (hidden1,), (hidden2, hidden1), (hidden2,), (hidden2,), ())
    weights = PotentialWeights(*(normal("weights", potentials, *shape) for shape in shapes))
    with Setting(capability, form, 1).active():
        out = potential_derivatives_fused(
            z, features, weights, k=k, feature_row=feature_row, tanh_output=True, laplacian=form is not None
        )
        for output in (value for value in out if value is not None):
            for group, unused in (((z,), []), (features, unused_features), (weights, unused_potentials)):
                sources = [source for source in group if source is not None and source.requires_grad]
                cotangent = torch.randn_like(output)
                for gradient in torch.autograd.grad(output, sources, cotangent, retain_graph=True) if sources else ():
                    assert gradient.isfinite().all()
                    assert not gradient[unused].any()
