"""dSprites for models of digits: in the middle, at their size, of all shapes."""

from __future__ import annotations

import pytest
import torch

from ffrl.data import load_small_sprites
from ffrl.data.grids import load_grid
from ffrl.errors import ArgumentError


def test_the_same_sprites_every_time_of_all_shapes_scales_and_orientations():
    sprites = load_small_sprites("dsprites-generated")
    assert (sprites.images.dtype, tuple(sprites.images.shape)) == (torch.uint8, (1000, 28, 28))
    assert torch.equal(sprites.images, load_small_sprites("dsprites-generated").images)
    assert torch.equal(sprites.images[:7], load_small_sprites("dsprites-generated", count=7).images)
    # 2,880 sprites are in the middle, a third of each shape: 1000/3 with a standard deviation of 12.
    assert all(abs(int(count) - 1000 / 3) < 60 for count in sprites.labels.bincount(minlength=3))
    assert len(load_small_sprites("dsprites-generated", count=10_000).images) == 3 * 6 * 40 * 2 * 2
    assert "drawn" in sprites.source and "28x28" in sprites.source


def test_sprites_are_whole_and_in_the_middle():
    images = load_small_sprites("dsprites-generated", count=10_000).images.double() / 255
    places = torch.arange(28, dtype=torch.float64) - 13.5
    mass = images.sum((1, 2))
    for axis in (1, 2):
        centre = (images.sum(3 - axis) * places).sum(1) / mass
        assert centre.abs().max() < 1.5  # the centroid of a heart is not its centre
    large = load_grid("dsprites-generated")
    grid = large.grid
    # Area is kept: the largest square with 64 pixels a side, at (28/64)².
    square = torch.tensor([[{"scale": 5, "posX": 15, "posY": 15}.get(name, 0) for name in grid.names]])
    area = (large.images(grid.index_of(square)) > 0).double().sum().item() * (28 / 64) ** 2
    assert any(abs(one - area) < 0.02 * area for one in mass.tolist())
    assert images.max() == 1.0 and not images[:, 0].any() and not images[:, :, -1].any()


def test_other_names_are_refused():
    with pytest.raises(ArgumentError, match="data = 'mnist'"):
        load_small_sprites("mnist")
