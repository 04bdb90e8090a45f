"""The 1,797 handwritten digits that scikit-learn brings along, enlarged to the size of MNIST's: no download."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ffrl.data.draws import stream_key, uniform_integers
from ffrl.errors import ArgumentError, DataError

NUM_TRAIN = 1437
_NUM_IMAGES = 1797
_SPLIT_SEED = 0


def load_digits(split: str) -> tuple[Tensor, Tensor, str]:
    """Load a part of scikit-learn's bundled digits (UCI Optical Recognition of Handwritten Digits, test part).

    The 8x8 images in 0..16 are enlarged bicubically by 2.5, so that, as in MNIST, the digit fills the central 20x20 of
    28x28 pixels. They are softer than MNIST's, which were scanned at a higher resolution. The split is a fixed
    permutation; digits of one writer may be in both parts.

    Args:
        split: "train" (1,437 images) or "test" (360).

    Returns:
        images (N, 28, 28) uint8, labels (N,) int64, and where they came from.

    Raises:
        ArgumentError: unknown split.
        DataError: scikit-learn is not installed, or its digits are not the expected ones.
    """
    if split not in ("train", "test"):
        raise ArgumentError("split", repr(split), "one of ('train', 'test')")
    try:
        import sklearn
        import sklearn.datasets
    except ImportError as error:
        raise DataError("data = 'digits' needs scikit-learn, which is not installed: pip install ffrl[data]") from error
    pixels, target = sklearn.datasets.load_digits(return_X_y=True)
    if pixels.shape != (_NUM_IMAGES, 64):
        raise DataError(
            f"scikit-learn {sklearn.__version__}: its digits have shape {pixels.shape}, expected {(_NUM_IMAGES, 64)}"
        )
    small = torch.as_tensor(pixels, dtype=torch.float64).reshape(-1, 8, 8)  # in 0..16
    labels = torch.as_tensor(target, dtype=torch.int64)
    chosen = split_indices(split)
    source = f"digits of scikit-learn {sklearn.__version__}, 8x8 enlarged bicubically to 20x20 within 28x28"
    return enlarge(small[chosen]), labels[chosen], source


def enlarge(small: Tensor) -> Tensor:
    """Enlarge (N, 8, 8) images in 0..16 to (N, 28, 28) uint8, the 8x8 pixels covering the central 20x20."""
    framed = F.pad(small / 16, (2, 2, 2, 2))[:, None]  # (N, 1, 12, 12): strokes at the border fade out
    large = F.interpolate(framed, size=(30, 30), mode="bicubic", align_corners=False)
    inner = large[:, 0, 1:-1, 1:-1].clamp(0, 1)  # (N, 28, 28); bicubic weights overshoot
    # Ties go up whatever the last bits of the interpolation are, so that the bytes are the same on every machine.
    return (inner * 255 + 0.5 + 1e-9).floor().to(torch.uint8)


def split_indices(split: str) -> Tensor:
    """Row numbers of a part in scikit-learn's order: all rows, sorted by a 64-bit draw for each."""
    draws = uniform_integers(stream_key(_SPLIT_SEED, 0), 0, _NUM_IMAGES, 1 << 64)
    order = torch.tensor(sorted(range(_NUM_IMAGES), key=draws.__getitem__))
    return order[:NUM_TRAIN] if split == "train" else order[NUM_TRAIN:]
