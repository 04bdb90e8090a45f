"""What the compiled op saves may come back from hooks as other memory: the gradients have the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.cases import Case, build, cotangents_of, outputs_of
from tests.cpp_cases import CAPABILITIES, FORMS, Setting, needs_cpp

pytestmark = needs_cpp

# The same numbers with other strides, or behind an address that no vector begins at.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "last dimension first": lambda value: value.movedim(-1, 0).contiguous().movedim(0, -1),
    "every second number": lambda value: torch.stack([value, value + 1], dim=-1)[..., 0],
    "one element behind": lambda value: torch.cat([value.new_ones(1), value.flatten()])[1:].view(value.shape),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_do_not_depend_on_where_the_saved_tensors_come_back(
    layout: str, capability: str, form: str, dtype: torch.dtype
):
    returned: list[torch.Size] = []

    def unpack(value: Tensor) -> Tensor:
        if value.dim() == 0:
            return value
        moved = LAYOUTS[layout](value)
        assert torch.equal(moved, value)
        assert value.dim() < 3 or not moved.is_contiguous() or moved.data_ptr() % 64
        returned.append(value.shape)
        return moved

    inputs = build(Case(70, 3, 17, 9, 2, "mixed"), dtype)
    with Setting(capability, form, 1).active():
        expected = cotangents_of(inputs, outputs_of(inputs, "cpp"))
        with torch.autograd.graph.saved_tensors_hooks(lambda value: value, unpack):
            outputs = outputs_of(inputs, "cpp")
        actual = cotangents_of(inputs, outputs)
    blocks = [shape for shape in returned if len(shape) == 3 and shape[2] == 32]
    assert len(blocks) == 1 and blocks[0][0] == 70 // 32 + 2, "what the op keeps for itself came by the hook"
    for name, value in expected.items():
        assert value is not None and value.norm() > 1e-3
        assert torch.equal(actual[name], value), name  # type: ignore[arg-type]
