"""The memory contract: O(N·H) kept for the backward, temporaries bounded by TILE_ELEMENTS."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ffrl.ops import analytic, laplacian_forms
from tests.cases import Case, Inputs, build, cotangents_of, outputs_of


def kept_elements(inputs: Inputs) -> int:
    """Elements of all distinct storages that autograd keeps after a forward, parameters left out."""
    owned = {value.untyped_storage().data_ptr() for value in inputs.pot.parameters()}
    seen: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in owned:
            seen[storage.data_ptr()] = storage.nbytes() // value.element_size()
        kept.append(value)  # so that no address is used twice
        return value

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        outputs_of(inputs, "analytic")
    return sum(seen.values())


@pytest.mark.parametrize("form", ["gram", "jacobian"])
@pytest.mark.parametrize(("hidden1", "hidden2"), [(32, 40), (64, 80)])
def test_a_row_keeps_what_the_backward_reads_and_nothing_else(
    form: str, hidden1: int, hidden2: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(analytic, "laplacian_form", lambda *_, **__: form)
    latent = 24
    few, many = (kept_elements(build(Case(rows, latent, hidden1, hidden2, time="float"))) for rows in (50, 150))
    per_row = (many - few) / 100
    # z, v (D); h1, q, e (H1); h2, S (H2); u, ∂o/∂t, ∂²o/∂t², ℓ
    assert per_row <= 2 * latent + 3 * hidden1 + 2 * hidden2 + 4


@pytest.mark.parametrize("form", ["gram", "jacobian"])
@pytest.mark.parametrize("time", ["rows", "repeated"])
def test_what_is_kept_grows_linearly_in_rows_and_in_width(form: str, time: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(analytic, "laplacian_form", lambda *_, **__: form)

    def kept(rows: int, width: int) -> int:
        case = Case(rows, width, width, width + 1, 3, "mixed", time=time, tracked="parameters")
        return kept_elements(build(case))

    base = kept(96, 64)
    assert kept(192, 64) <= 2.05 * base
    assert kept(96, 128) <= 2.02 * base  # keeping one element in a hundred of an (N, H, H) buffer would exceed this


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.operation = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() // leaf.element_size() > self.elements:
                self.elements = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.operation = str(func)
        return result


@pytest.mark.parametrize("form", ["gram", "jacobian"])
@pytest.mark.parametrize("case", [Case(64, 9, 17, 65), Case(200, 30, 16, 20), Case(100, 12, 20, 60)], ids=str)
def test_no_temporary_exceeds_the_tile(case: Case, form: str, monkeypatch: pytest.MonkeyPatch):
    tile = 2500
    monkeypatch.setattr(analytic, "laplacian_form", lambda *_, **__: form)
    monkeypatch.setattr(laplacian_forms, "TILE_ELEMENTS", tile)
    inputs = build(case)
    with LargestTensor() as forward:
        outputs = outputs_of(inputs, "analytic")
    with LargestTensor() as backward:
        cotangents_of(inputs, outputs)
    # activations of the rows, the weights, and the embedding of the times (E = H1) are allowed to be there
    allowed = max(tile, case.rows * max(case.latent, case.hidden1 + 1, case.hidden2), case.hidden1 * case.hidden2)
    assert allowed < case.rows * case.hidden2 * min(case.latent, case.hidden1) / 5, "the bound would prove nothing"
    assert 0 < forward.elements <= allowed, forward.operation
    assert 0 < backward.elements <= allowed, backward.operation


def test_the_graph_is_freed_with_the_outputs():
    inputs = build(Case(7, 8, 17, 3))
    inputs.z.grad = None
    outputs = outputs_of(inputs, "analytic")
    u = outputs["u"]
    assert u is not None
    u.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        u.sum().backward()
