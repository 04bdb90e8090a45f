"""The device of the Triton kernels in the tests, and inputs on it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ffrl.ops import available_backends
from ffrl.ops.backends import is_interpreting
from tests.cases import Inputs, track

DEVICE = torch.device("cuda" if torch.cuda.is_available() and not is_interpreting() else "cpu")
REASON = available_backends()["triton"]
needs_triton = pytest.mark.skipif(
    REASON is not None, reason=f"no Triton kernels here: {REASON}; `make test` runs these tests in the interpreter"
)


def on_device(inputs: Inputs, device: torch.device = DEVICE) -> Inputs:
    """The same numbers where the kernels run, in the same layouts."""
    if device.type == "cpu":
        return inputs

    def moved(value: Tensor) -> Tensor:
        stored = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
        return value.to(device) if 0 in value.stride() else stored.copy_(value)

    pot = copy.deepcopy(inputs.pot).to(device)
    z = moved(inputs.z.detach())
    t = moved(inputs.t.detach()) if isinstance(inputs.t, Tensor) else inputs.t
    k = moved(inputs.k) if isinstance(inputs.k, Tensor) else inputs.k
    cotangents = {name: value.to(device) for name, value in inputs.cotangents.items()}
    sources = track(inputs.case, pot, z, t)
    return replace(inputs, pot=pot, z=z, t=t, k=k, cotangents=cotangents, sources=sources)
