"""Rows of one potential among many: the others are not looked at."""

from __future__ import annotations

import pytest
import torch

from tests.cases import Case, build
from tests.kernels.cases import FORMS, triton_values
from tests.kernels.devices import REASON, needs_triton

pytestmark = needs_triton

if REASON is None:
    from ffrl.kernels import potential_forward as host


@pytest.mark.parametrize("form", FORMS)
def test_only_the_gram_matrix_of_the_potential_that_rows_have_is_formed(monkeypatch: pytest.MonkeyPatch, form: str):
    shapes = []
    original = host.batched_product

    def noted(left, right, call):
        shapes.append(tuple(left.shape))
        return original(left, right, call)

    monkeypatch.setattr(host, "batched_product", noted)
    inputs = build(Case(5, 3, 9, 7, 4), torch.float32)
    with torch.no_grad():
        for weight in inputs.pot.weights(None):
            weight[[i for i in range(4) if i != inputs.k]] = torch.nan
    values = triton_values(inputs, form)
    assert shapes and all(shape[0] == 1 for shape in shapes)
    assert values["lap_u"] is not None and values["lap_u"].isfinite().all()
