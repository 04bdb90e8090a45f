"""Uninitialised memory is NaN in the tests of the op, so that an output or a buffer left unwritten fails them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils import deterministic


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    enabled = torch.are_deterministic_algorithms_enabled()
    fill = getattr(deterministic, "fill_uninitialized_memory")  # noqa: B009 - a property that type checkers miss
    torch.use_deterministic_algorithms(True)
    setattr(deterministic, "fill_uninitialized_memory", True)  # noqa: B010
    yield
    torch.use_deterministic_algorithms(enabled)
    setattr(deterministic, "fill_uninitialized_memory", fill)  # noqa: B010
