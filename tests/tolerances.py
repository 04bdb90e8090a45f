"""How two results are compared, and the bounds that the tests use.

A relative error is norm-wise over one whole tensor: |actual - expected| / max(|expected|, SCALE_FLOOR) with Frobenius
norms. The floor makes the measure absolute for references that are zero or nearly so (a cotangent that vanishes
identically, an empty tensor): there the difference itself must stay below bound * SCALE_FLOOR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

SCALE_FLOOR = 1e-3  # the inputs of tests/cases.py give outputs and cotangents of order one

FLOAT64 = 1e-10  # analytic against oracle, oracle against exact fields
ROUNDING = 1e-12  # float64, the same formula in another order of summation

# float32 against the float64 oracle: multiples of the error of plain float32 autograd on the same inputs
FLOAT32_OUTPUT_RATIO = 2.0
FLOAT32_COTANGENT_RATIO = 3.0
FLOAT32_FLOOR = torch.finfo(torch.float32).eps  # two ulps of every entry at most


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm-wise relative error in float64; infinite where the result is not finite and the reference is."""
    difference = (actual.double() - expected.double()).norm().item()
    error = difference / max(expected.double().norm().item(), SCALE_FLOOR)
    return error if math.isfinite(error) else math.inf


def mismatch(name: str, actual: Tensor | None, expected: Tensor | None, bound: float) -> str | None:
    """One line on how ``actual`` departs from ``expected``, or None where it does not."""
    if actual is None or expected is None:
        return None if actual is expected else f"{name}: {actual} against {expected}"
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return f"{name}: {tuple(actual.shape)} {actual.dtype} against {tuple(expected.shape)} {expected.dtype}"
    error = relative_error(actual, expected)
    if error <= bound:
        return None
    difference = (actual - expected).abs().flatten()
    worst = int(difference.nan_to_num(nan=math.inf).argmax())
    return (
        f"{name} {tuple(actual.shape)}: relative error {error:.2e} = {error / bound:.1e} x the bound {bound:.0e}; "
        f"max abs {difference[worst]:.3e} at flat index {worst} ({actual.flatten()[worst]:.9g} against "
        f"{expected.flatten()[worst]:.9g}); |expected| = {expected.norm():.3e}, |actual|/|expected| = "
        f"{(actual.norm() / expected.norm()).item():.6f}"
    )


def assert_matches(
    actual: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None], bound: float, context: str = ""
) -> None:
    """Every entry within ``bound``; the failure lists all that are not."""
    assert actual.keys() == expected.keys(), f"{context}: {sorted(actual)} against {sorted(expected)}"
    lines = [line for name in expected if (line := mismatch(name, actual[name], expected[name], bound)) is not None]
    assert not lines, "\n  ".join([f"{context}: {len(lines)} of {len(expected)} results differ", *lines])
