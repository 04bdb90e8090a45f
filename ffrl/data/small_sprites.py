"""dSprites at the size of a digit, for models of still images that have never seen one (the paper's figure 7)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from ffrl.data.draws import stream_key, uniform_keys
from ffrl.data.grids import load_grid
from ffrl.data.registry import ImageSet

SIZE, COUNT = 28, 1000
_SEED = 0


def load_small_sprites(name: str, data_dir: Path | None = None, count: int = COUNT) -> ImageSet:
    """Sprites in the middle of the image, of all shapes, scales and orientations, reduced to 28x28.

    In the middle: the two middle values of posX and posY, so that enlarged and rotated ones stay in the image.
    64x64 pixels are reduced by bilinear interpolation with antialiasing. A function of the arguments alone.

    Args:
        name: "dsprites" or "dsprites-generated".
        data_dir: where the files are, see ``ffrl.data.grids.find_grid``.
        count: at most so many, chosen at random.

    Returns:
        images (N, 28, 28) uint8 and labels (N,) int64, the shape: 0 square, 1 ellipse, 2 heart.

    Raises:
        ArgumentError, DataError: as ``load_grid``.
    """
    images = load_grid(name, data_dir)
    grid = images.grid
    middle = {
        j: ((size - 1) // 2, size // 2)
        for j, (factor, size) in enumerate(zip(grid.names, grid.sizes, strict=True))
        if factor in ("posX", "posY")
    }
    values = [sorted(set(middle.get(j, range(size)))) for j, size in enumerate(grid.sizes)]
    factors = torch.cartesian_prod(*(torch.tensor(one) for one in values))  # (M, F)
    indices = grid.index_of(factors)
    order = torch.from_numpy(uniform_keys(stream_key(_SEED, 0), indices.numpy()).argsort(kind="stable"))
    factors, indices = factors[order[:count]], indices[order[:count]]
    large = images.images(indices).float()  # (N, 1, 64, 64)
    small = F.interpolate(large, (SIZE, SIZE), mode="bilinear", antialias=True).clamp(0, 255).round().byte()
    source = f"{images.source}, in the middle, reduced to {SIZE}x{SIZE}"
    return ImageSet(name, small[:, 0], factors[:, grid.position("shape")], source)
