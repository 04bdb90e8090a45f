"""What all drawings by formula must do: images of the stated form, a pure function of each row, errors that name."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from ffrl.data import dsprites_drawing, rooms_drawing, shapes3d_drawing
from ffrl.data.drawing import check_factors, draw_groups, root, to_bytes
from ffrl.errors import ArgumentError

DRAWINGS = {
    "dsprites": (dsprites_drawing, (1, 64, 64)),
    "shapes3d": (shapes3d_drawing, (3, 64, 64)),
    "rooms": (rooms_drawing, (3, 128, 128)),
}
each = pytest.mark.parametrize(("drawing", "shape"), DRAWINGS.values(), ids=DRAWINGS)


def random_factors(drawing: ModuleType, count: int) -> Tensor:
    """(count, F), the first row of zeros and the second of the highest values."""
    sizes = torch.tensor([*drawing.FACTOR_SIZES.values()])
    factors = (torch.rand(count, len(sizes)) * sizes).long()
    factors[0], factors[1] = 0, sizes - 1
    return factors


@each
def test_form(drawing: ModuleType, shape: tuple[int, ...]) -> None:
    images = drawing.draw(random_factors(drawing, 5))
    assert images.shape == (5, *shape) and images.dtype == torch.uint8 and images.device.type == "cpu"
    assert (images.double().flatten(1).std(1) > 10).all()
    empty = drawing.draw(torch.zeros(0, len(drawing.FACTOR_SIZES), dtype=torch.int64))
    assert empty.shape == (0, *shape) and empty.dtype == torch.uint8


@each
def test_an_image_depends_on_its_own_factors_alone(drawing: ModuleType, shape: tuple[int, ...]) -> None:
    factors = random_factors(drawing, 21)
    images = drawing.draw(factors)
    assert torch.equal(drawing.draw(factors), images)
    order = torch.randperm(21)
    assert torch.equal(drawing.draw(factors[order]), images[order])
    assert torch.equal(torch.cat([drawing.draw(row[None]) for row in factors]), images)
    assert torch.equal(drawing.draw(factors[::2]), images[::2])  # not contiguous
    assert torch.equal(drawing.draw(factors[3].repeat(40, 1)), images[3].expand(40, *shape))


@each
def test_the_number_of_threads_does_not_matter(drawing: ModuleType, shape: tuple[int, ...]) -> None:
    factors = random_factors(drawing, 9)
    images = drawing.draw(factors)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    try:
        again = drawing.draw(factors)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(again, images)


@each
def test_every_factor_changes_the_image_at_every_step(drawing: ModuleType, shape: tuple[int, ...]) -> None:
    for base in random_factors(drawing, 4):
        for column, (name, size) in enumerate(drawing.FACTOR_SIZES.items()):
            factors = base.repeat(size, 1)
            factors[:, column] = torch.arange(size)
            images = drawing.draw(factors).flatten(1)
            changed = (images[1:] != images[:-1]).any(1).double().mean()
            # A small sprite of whole pixels may look the same 9 degrees further.
            least = 0.8 if (drawing, name) == (dsprites_drawing, "orientation") else 1
            assert changed >= least, (name, base.tolist(), changed)


@each
def test_bad_factors_are_named(drawing: ModuleType, shape: tuple[int, ...]) -> None:
    good = random_factors(drawing, 3)
    number = good.shape[1]
    with pytest.raises(ArgumentError, match="factors = list is not allowed; expected a tensor"):
        drawing.draw(good.tolist())
    with pytest.raises(ArgumentError, match=r"factors.dtype = torch.int32 .*; expected torch.int64"):
        drawing.draw(good.int())
    with pytest.raises(ArgumentError, match=rf"factors = \({number},\) .*the shape \(N, {number}\)"):
        drawing.draw(good[0])
    with pytest.raises(ArgumentError, match=rf"factors = \(3, {number - 1}\)"):
        drawing.draw(good[:, 1:])
    for column, (name, size) in enumerate(drawing.FACTOR_SIZES.items()):
        for value in (-1, size):
            bad = good.clone()
            bad[2, column] = value
            with pytest.raises(ArgumentError) as caught:
                drawing.draw(bad)
            assert str(caught.value) == (
                f"factors[2] {name} = {value} is not allowed; expected an integer in 0..{size - 1}"
            )


def test_the_first_value_out_of_range_is_named() -> None:
    factors = torch.tensor([[0, 1], [2, 0], [0, -1]])
    with pytest.raises(ArgumentError, match=r"factors\[1\] a = 2"):
        check_factors(factors, {"a": 2, "b": 3})
    assert check_factors(factors[:1], {"a": 2, "b": 3}).tolist() == [[0, 1]]


def test_groups_are_drawn_in_pieces_and_put_in_order() -> None:
    calls = []

    def draw(group: int, rows: Tensor) -> Tensor:
        calls.append((group, len(rows)))
        return rows.to(torch.uint8)[:, :, None] + 100 * group

    factors = torch.arange(14).view(7, 2)
    groups = torch.tensor([0, 2, 0, 0, 2, 0, 0])
    images = draw_groups(draw, factors, groups, [3, 1, 1], (2, 1))
    assert images.dtype == torch.uint8
    assert images[:, :, 0].tolist() == (factors + 100 * groups[:, None]).tolist()
    assert calls == [(0, 3), (0, 2), (2, 1), (2, 1)]


def test_images_that_are_alike_are_drawn_together() -> None:
    calls = []

    def draw(group: int, rows: Tensor) -> Tensor:
        calls.append(rows[:, 0].tolist())
        return rows.to(torch.uint8)[:, :, None]

    factors = torch.tensor([[5, 1], [3, 2], [5, 3], [3, 4], [4, 5], [3, 6]])
    images = draw_groups(draw, factors, torch.tensor([0, 0, 0, 0, 1, 0]), [3, 3], (2, 1), alike=factors[:, 0])
    assert calls == [[3, 3, 3], [5, 5], [4]] and torch.equal(images[:, :, 0].long(), factors)


def test_roots() -> None:
    values = torch.cat((torch.zeros(1), torch.logspace(-20, 20, 1000, base=2)))
    assert (root(values) / values.sqrt() - 1)[1:].abs().max() < 3e-7 and 0 < root(values)[0] < 1e-14


def test_bytes_are_roots_of_the_light() -> None:
    light = torch.tensor([[-0.5, 0.0, 1e-6, 0.25, 0.5, 1.0, 7.0]])
    found = to_bytes([light, light * 0])
    assert found.tolist() == [[[0, 0, 0, 128, 180, 255, 255], [0] * 7]] and found.dtype == torch.uint8
    images = torch.zeros_like(found)
    assert to_bytes([light, light * 0], images) is images and torch.equal(images, found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each
def test_a_gpu_draws_the_same(drawing: ModuleType, shape: tuple[int, ...]) -> None:
    factors = random_factors(drawing, 40)
    found, wanted = drawing.draw(factors.cuda()), drawing.draw(factors)
    assert found.device.type == "cuda" and found.shape == wanted.shape
    difference = (found.cpu().int() - wanted.int()).abs()
    assert difference.max() == 0 if drawing is dsprites_drawing else (difference > 1).double().mean() < 1e-4
