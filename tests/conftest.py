"""What all tests share: one thread, and a seed of its own for every test."""

from __future__ import annotations

import random
import signal
import zlib

import numpy
import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    # A job in the background, of a shell without job control, ignores the interrupt, and so would its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """A seed that depends on the test's name only, never on the order or the selection of tests."""
    value = zlib.crc32(request.node.nodeid.encode())
    random.seed(value)
    numpy.random.seed(value)
    torch.manual_seed(value)
    return value
