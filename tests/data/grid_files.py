"""Miniature files of the exact layout of the published ones, and images that say which number they have."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffrl.catalogue import DATA_SETS, DataSet
from ffrl.config import SplitConfig
from ffrl.data.factor_sequences import FactorSequences
from ffrl.data.factors import FactorGrid
from ffrl.data.splits import FactorSplit


class NumberedImages:
    """A grid whose image i is the number i in its four bytes, (1, 2, 2)."""

    image_shape = (1, 2, 2)
    generated = False
    source = "numbers"

    def __init__(self, grid: FactorGrid) -> None:
        self.grid = grid

    def images(self, indices: Tensor) -> Tensor:
        digits = indices[:, None] // torch.tensor([1 << 24, 1 << 16, 1 << 8, 1]) % 256
        return digits.to(torch.uint8).reshape(-1, 1, 2, 2)


def numbered(
    name: str, transformations: tuple[str, ...] = (), num_steps: int = 0, part: str = "train"
) -> FactorSequences:
    """Sequences of a set of the catalogue whose images are their numbers; by default of all that moves in it."""
    data_set = DATA_SETS[name]
    images = NumberedImages(FactorGrid(data_set.factors))
    moving, steps = transformations or data_set.transformations, num_steps or data_set.num_steps
    split = FactorSplit(images.grid, moving, steps, SplitConfig())
    return FactorSequences(images, split, part)  # type: ignore[arg-type]


def numbers_of(x: Tensor) -> Tensor:
    """Numbers (...) of the frames (..., 1, 2, 2) of ``NumberedImages``, in 0 to 1."""
    digits = (x.double() * 255).round().long().flatten(-3)
    return (digits * torch.tensor([1 << 24, 1 << 16, 1 << 8, 1])).sum(-1)


def smaller(name: str, *sizes: int) -> DataSet:
    """A published set with as many factors, each of fewer values."""
    data_set = DATA_SETS[name]
    factors = [dataclasses.replace(factor, size=size) for factor, size in zip(data_set.factors, sizes, strict=True)]
    return dataclasses.replace(data_set, factors=tuple(factors))


def random_pixels(count: int, *shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(count).integers(0, high, (count, *shape), dtype=np.uint8)


def labels_of(data_set: DataSet) -> np.ndarray:
    """Factors of all images, each from 0 to 1, (N, F) float64."""
    grid = FactorGrid(data_set.factors)
    values = grid.factors_of(torch.arange(len(grid))).numpy().astype(np.float64)
    return values / np.maximum(np.array(grid.sizes) - 1, 1)


def write_shapes3d(path: Path, data_set: DataSet, **layout: Any) -> np.ndarray:
    """``images`` (N, 64, 64, 3) uint8 and ``labels`` (N, 6) float64; ``layout`` is of the images."""
    import h5py

    _, height, width = data_set.image_shape
    pixels = random_pixels(data_set.num_images, height, width, 3)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=pixels, **layout)
        labels = labels_of(data_set)
        labels[:, -1] = -30 + 60 * labels[:, -1]  # the orientation in degrees
        file.create_dataset("labels", data=labels)
    return pixels


def write_png_folder(folder: Path, data_set: DataSet) -> np.ndarray:
    """``images/%06d.png``, RGB, and the labels, a NumPy array under the set's name for them."""
    from PIL import Image

    _, height, width = data_set.image_shape
    pixels = random_pixels(data_set.num_images, height, width, 3)
    (folder / "images").mkdir(parents=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "images" / f"{number:06d}.png")
    with open(folder / data_set.labels, "wb") as file:
        np.save(file, labels_of(data_set))
    return pixels


def write_dsprites(path: Path, sizes: tuple[int, ...], colour: bool = True, **members: Any) -> np.ndarray:
    """The members of the published file, ``metadata`` pickled; ``members`` take the place of some, or remove them."""
    classes = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    if colour:
        classes = np.concatenate([np.zeros_like(classes[:, :1]), classes], axis=1)
    pixels = random_pixels(len(classes), 64, 64, high=2)
    content = {
        "metadata": np.array({"title": "dSprites"}, dtype=object),
        "imgs": pixels,
        "latents_classes": classes,
        "latents_values": classes.astype(np.float64),
        **members,
    }
    np.savez_compressed(path, **{name: value for name, value in content.items() if value is not None})
    return pixels
