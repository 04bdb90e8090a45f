"""float32: the closed form is at most a small factor worse than plain float32 autograd on the same inputs."""

from __future__ import annotations

import pytest
import torch

from ffrl.ops import analytic
from tests.cases import Case, build, cotangents_of, outputs_of
from tests.tolerances import FLOAT32_COTANGENT_RATIO, FLOAT32_FLOOR, FLOAT32_OUTPUT_RATIO, relative_error

CASES = (
    Case(33, 8, 17, 32, 3, "mixed", seed=1),
    Case(33, 32, 65, 17, activation="identity", seed=2),
    Case(65, 64, 64, 64, seed=3),
    Case(128, 3, 96, 80, time="scalar", seed=4),
    Case(128, 48, 32, 40, 3, "mixed", activation="identity", time="repeated", seed=5),
    pytest.param(Case(64, 324, 324, 324, seed=6), marks=pytest.mark.slow, id="paper"),
)


@pytest.mark.parametrize("form", ["gram", "jacobian"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_error_is_bounded_by_that_of_autograd(case: Case, form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(analytic, "laplacian_form", lambda *_, **__: form)
    single = build(case, torch.float32)
    double = single.double()
    errors: dict[str, dict[str, float]] = {}
    reference = outputs_of(double, "oracle")
    reference.update(cotangents_of(double, reference))
    for backend in ("oracle", "analytic"):
        values = outputs_of(single, backend)
        values.update(cotangents_of(single, values))
        errors[backend] = {}
        for name, expected in reference.items():
            value = values[name]
            assert value is not None and expected is not None and value.dtype == torch.float32
            errors[backend][name] = relative_error(value, expected)
    worse = []
    for name, error in errors["analytic"].items():
        ratio = FLOAT32_COTANGENT_RATIO if name.startswith("v_") else FLOAT32_OUTPUT_RATIO
        plain = errors["oracle"][name]
        if error > max(ratio * plain, FLOAT32_FLOOR):
            worse.append(
                f"{name}: {error:.2e} against {plain:.2e} of plain autograd, x{error / plain:.1f} (at most x{ratio})"
            )
    assert not worse, "\n".join(worse)


def test_the_float32_comparison_is_of_the_same_numbers():
    single = build(CASES[0], torch.float32)
    double = single.double()
    for a, b in zip(single.pot.state_dict().values(), double.pot.state_dict().values(), strict=True):
        assert torch.equal(a.double(), b)
    assert torch.equal(single.pot.frequencies.double(), double.pot.frequencies)
    assert torch.equal(single.z.double(), double.z)
    assert list(single.sources) == list(double.sources)
