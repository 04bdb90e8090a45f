"""Where the Triton kernels run in these tests: on a GPU, or on the CPU in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils import deterministic

from tests.kernels.devices import DEVICE


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    """An output or a buffer that is left unwritten fails the test."""
    enabled = torch.are_deterministic_algorithms_enabled()
    fill = getattr(deterministic, "fill_uninitialized_memory")  # noqa: B009 - a property that type checkers miss
    torch.use_deterministic_algorithms(True, warn_only=DEVICE.type == "cuda")
    setattr(deterministic, "fill_uninitialized_memory", True)  # noqa: B010
    yield
    torch.use_deterministic_algorithms(enabled)
    setattr(deterministic, "fill_uninitialized_memory", fill)  # noqa: B010
