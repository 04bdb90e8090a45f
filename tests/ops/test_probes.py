"""The random signs of Hutchinson's estimate: their moments, their generator, and bad arguments."""

from __future__ import annotations

import pytest
import torch

from ffrl.errors import ArgumentError
from ffrl.ops.hutchinson import draw_probes

STANDARD_ERRORS = 4.5  # a normal deviate exceeds this seven times in a million


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probes_are_independent_signs(dtype: torch.dtype):
    probes = draw_probes(torch.zeros(50, 6, dtype=dtype), 400)
    assert probes.shape == (400, 50, 6) and probes.dtype == dtype and not probes.requires_grad
    assert torch.equal(probes.abs(), torch.ones_like(probes))
    axes = {
        "coordinates": probes.flatten(0, 1).T,
        "rows": probes.transpose(0, 1).flatten(1),
        "probes": probes.flatten(1),
    }
    for name, signs in axes.items():
        count = signs.shape[1]
        assert (signs.mean(1).abs() <= STANDARD_ERRORS / count**0.5).all(), name
        moments = signs @ signs.T / count - torch.eye(signs.shape[0], dtype=dtype)
        assert (moments.abs() <= (STANDARD_ERRORS + 1) / count**0.5).all(), name


def test_probes_follow_the_generator_and_advance_it():
    z = torch.zeros(5, 3)
    first, second = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    a, b = draw_probes(z, 2, first), draw_probes(z, 2, first)
    assert not torch.equal(a, b)
    default = torch.get_rng_state()
    assert torch.equal(draw_probes(z.double(), 2, second), a.double()), "the signs depend on the dtype"
    assert torch.equal(draw_probes(z, 2, second), b)
    assert torch.equal(torch.get_rng_state(), default), "the default generator was used"
    torch.manual_seed(4)
    assert torch.equal(draw_probes(z, 2), a)


@pytest.mark.parametrize("num_probes", [0, -1, 1.0, True, None, "4", torch.tensor(2)])
def test_a_number_of_probes_that_is_no_positive_int_is_refused(num_probes: object):
    with pytest.raises(ArgumentError) as failure:
        draw_probes(torch.zeros(4, 3), num_probes)  # type: ignore[arg-type]
    assert str(failure.value) == f"num_probes = {num_probes!r} is not allowed; expected an int >= 1"


@pytest.mark.parametrize("generator", [0, "cpu", torch.get_rng_state])
def test_what_is_no_generator_is_refused(generator: object):
    with pytest.raises(ArgumentError) as failure:
        draw_probes(torch.zeros(4, 3), 1, generator)  # type: ignore[arg-type]
    assert str(failure.value).startswith(f"generator = {generator!r} is not allowed; expected a torch.Generator")


def test_a_generator_on_another_device_is_refused_and_not_advanced():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    with pytest.raises(ArgumentError) as failure:
        draw_probes(torch.zeros(4, 3, device="meta"), 1, generator)
    assert str(failure.value) == "generator.device = cpu is not allowed; expected the device of z, meta"
    assert torch.equal(generator.get_state(), before)
