"""What Hutchinson's estimate of the Laplacian keeps and makes: O(P·N·(D + H)), never N·H·D."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.ops.hutchinson import draw_probes, hutchinson_rows
from tests.cases import Case, Inputs, build, cotangents_of
from tests.memory import LargestTensor, kept_elements


def estimate(inputs: Inputs, probes: Tensor) -> Tensor:
    time = torch.as_tensor(inputs.t, dtype=inputs.z.dtype)
    return hutchinson_rows(inputs.pot, inputs.z, time, inputs.k, probes, fused=True)


@pytest.mark.parametrize(("latent", "hidden1", "hidden2"), [(64, 32, 40), (48, 64, 80)])
@pytest.mark.parametrize("num_probes", [1, 3])
def test_a_row_keeps_what_its_width_and_its_probes_need(latent: int, hidden1: int, hidden2: int, num_probes: int):
    def kept(rows: int) -> int:
        inputs = build(Case(rows, latent, hidden1, hidden2, time="scalar"))
        probes = draw_probes(inputs.z, num_probes)
        return kept_elements(lambda: estimate(inputs, probes), inputs.pot.parameters())

    per_row = (kept(150) - kept(50)) / 100
    per_probe = latent + 2 * hidden1 + hidden2 + 1  # ξ; W1 ξ and d1∘W1 ξ; J ξ; v·ξ
    allowed = num_probes * per_probe + latent + 8 * (hidden1 + hidden2 + 1)  # z, and a few activations of each layer
    assert allowed < hidden2 * latent / 1.4, "the bound would prove nothing"
    assert per_row <= allowed


def test_no_temporary_is_larger_than_the_probes_in_the_widest_layer():
    case = Case(200, 30, 16, 20, 3, "mixed", time="repeated", cotangents="lap_u")
    inputs, num_probes = build(case), 3
    probes = draw_probes(inputs.z, num_probes)
    with LargestTensor() as forward:
        outputs: dict[str, Tensor | None] = {"lap_u": estimate(inputs, probes)}
    with LargestTensor() as backward:
        cotangents_of(inputs, outputs)
    allowed = num_probes * case.rows * case.latent
    assert allowed < case.rows * case.hidden1 * min(case.latent, case.hidden2) / 3, "the bound would prove nothing"
    assert 0 < forward.elements <= allowed, forward.operation
    assert 0 < backward.elements <= allowed, backward.operation
