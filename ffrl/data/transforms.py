"""Exact image transforms, batched, on the device of their input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ffrl.errors import ArgumentError


def scale_rotate(images: Tensor, scale: Tensor, angle_degrees: Tensor) -> Tensor:
    """Magnify and rotate images about their centre, bilinearly, with zeros beyond the border.

    With pixel offsets (x right, y down) from the centre, angle θ and scale s, the output at (x', y') shows the input at

        x = (x' cos θ - y' sin θ) / s,    y = (x' sin θ + y' cos θ) / s.

    The result is that of ``affine_grid`` and ``grid_sample`` with ``align_corners=False``, without their rounding where
    a pixel falls on a pixel: scale 1 with a multiple of 90 degrees moves values and changes none.

    Args:
        images: (M, I, I), or (M, C, I, I) whose channels move together; float32 or float64.
        scale: (M,) magnification, > 0; 2 shows the middle half of the image.
        angle_degrees: (M,) degrees counter-clockwise as seen on the screen.

    Returns:
        The transformed images, shape and dtype of ``images``.

    Raises:
        ArgumentError: a shape, dtype or value is outside what is stated above.

    >>> image = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    >>> scale_rotate(image, torch.ones(1), torch.tensor([90.0]))
    tensor([[[1., 3.],
             [0., 2.]]])
    """
    if images.ndim not in (3, 4) or images.shape[-1] != images.shape[-2]:
        raise ArgumentError("images", tuple(images.shape), "the shape (M, I, I) or (M, C, I, I)")
    _require_float("images", images)
    grid = sampling_grid(scale, angle_degrees, images.shape[-1], images.dtype)
    if grid.shape[0] != images.shape[0]:
        raise ArgumentError("scale", tuple(scale.shape), f"one value for each of the {images.shape[0]} images")
    channels = images if images.ndim == 4 else images[:, None]  # (M, C, I, I)
    return _sample(channels, grid).reshape(images.shape)


def scale_rotate_frames(images: Tensor, grid: Tensor) -> Tensor:
    """Show every image under every transform of a sampling grid.

    Args:
        images: (B, I, I), float32 or float64.
        grid: (T, I, I, 2) from ``sampling_grid``, dtype and device of ``images``.

    Returns:
        (B, T, I, I): ``out[:, t] = scale_rotate(images, scale[t], angle_degrees[t])``.
    """
    batch, size = images.shape[0], images.shape[-1]
    steps = grid.shape[0]
    # All images are channels of one picture and all grids one tall grid, so that each bilinear weight is computed once.
    tall = grid.reshape(1, steps * size, size, 2)
    return _sample(images[None], tall).reshape(batch, steps, size, size)


def sampling_grid(scale: Tensor, angle_degrees: Tensor, image_size: int, dtype: torch.dtype) -> Tensor:
    """Where each output pixel of ``scale_rotate`` looks, (M, I, I, 2) in the coordinates of the padded image.

    The coordinates are ``grid_sample``'s for an image padded to the next power of two: only there are its conversions
    from pixels and back exact in binary floating point.
    """
    for name, value in (("scale", scale), ("angle_degrees", angle_degrees)):
        if value.ndim != 1 or value.shape != scale.shape:
            raise ArgumentError(name, tuple(value.shape), "the shape (M,), the same for scale and angle_degrees")
        if not bool(torch.isfinite(value).all()):
            raise ArgumentError(name, value.tolist(), "finite numbers")
    if not bool((scale > 0).all()):
        raise ArgumentError("scale", scale.tolist(), "numbers > 0")
    cos, sin = _cos_sin(angle_degrees.double())
    a = (cos / scale).to(dtype)[:, None, None]  # (M, 1, 1)
    b = (sin / scale).to(dtype)[:, None, None]
    centre = (image_size - 1) / 2
    offset = torch.arange(image_size, dtype=dtype, device=scale.device) - centre
    x, y = offset[None, None, :], offset[None, :, None]  # (1, 1, I), (1, I, 1)
    source = torch.stack((a * x - b * y, b * x + a * y), dim=-1) + centre  # (M, I, I, 2) in pixels
    return (2 * source + 1) / _padded_size(image_size) - 1


def rotate_hue(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate the hue of RGB images by an angle in HSV, value and saturation unchanged.

    With V = max(R, G, B), chroma C = V - min(R, G, B) and hue h in sixths of the circle, each channel becomes
    V - C max(0, min(m, 4 - m, 1)), m = (n + h + degrees/60) mod 6, n = 5, 3, 1 for red, green, blue.

    Args:
        images: (M, 3, I, I) in [0, 1], float32 or float64.
        degrees: (M,) any finite number; whole turns return the image as it is.

    Returns:
        (M, 3, I, I) in [0, 1], dtype of ``images``.

    Raises:
        ArgumentError: a shape or dtype is outside what is stated above.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ArgumentError("images", tuple(images.shape), "the shape (M, 3, I, I)")
    _require_float("images", images)
    _require_degrees(degrees, images.shape[0])
    red, green, blue = images.unbind(1)  # (M, I, I) each
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma > 0, chroma, 1)  # a grey pixel has no hue, and any will do
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    turn = torch.remainder(degrees.double(), 360.0)
    sixth = sixth + (turn / 60).to(images.dtype)[:, None, None]
    start = torch.tensor([5, 3, 1], dtype=images.dtype, device=images.device)[:, None, None]
    m = torch.remainder(start + sixth[:, None], 6)  # (M, 3, I, I)
    rotated = value[:, None] - chroma[:, None] * torch.minimum(m, 4 - m).clamp(0, 1)
    return torch.where((turn == 0)[:, None, None, None], images, rotated)


def hue_of_red(degrees: Tensor) -> Tensor:
    """The RGB colour of pure red after its hue is rotated by an angle, (M,) -> (M, 3) in [0, 1], float64.

    A grey digit g in the red channel has value g and full saturation, so that ``rotate_hue`` of it is g times this.

    >>> hue_of_red(torch.tensor([0.0, 60.0, 120.0, 160.0])).mul(3).round().tolist()
    [[3.0, 0.0, 0.0], [3.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 2.0]]
    """
    _require_degrees(degrees, degrees.shape[0] if degrees.ndim == 1 else -1)
    start = torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64, device=degrees.device)
    m = torch.remainder(start + torch.remainder(degrees.double(), 360.0)[:, None] / 60, 6)  # (M, 3)
    return 1 - torch.minimum(m, 4 - m).clamp(0, 1)


def _cos_sin(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, exact at the multiples of 90 degrees."""
    quarter = torch.round(degrees / 90)
    rest = torch.deg2rad(degrees - 90 * quarter)  # within 45 degrees of zero
    cos, sin = torch.cos(rest), torch.sin(rest)
    quarter = torch.remainder(quarter, 4)
    swapped = torch.remainder(quarter, 2) == 1
    cos_sign = torch.where((quarter == 1) | (quarter == 2), -1.0, 1.0)
    sin_sign = torch.where(quarter >= 2, -1.0, 1.0)
    return cos_sign * torch.where(swapped, sin, cos), sin_sign * torch.where(swapped, cos, sin)


def _padded_size(image_size: int) -> int:
    return 1 << max(image_size - 1, 0).bit_length()


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    margin = _padded_size(images.shape[-1]) - images.shape[-1]
    padded = F.pad(images, (0, margin, 0, margin))  # to the right and below: pixel indices stay
    return F.grid_sample(padded, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _require_float(name: str, value: Tensor) -> None:
    if value.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(f"{name}.dtype", value.dtype, "torch.float32 or torch.float64")


def _require_degrees(degrees: Tensor, count: int) -> None:
    if degrees.ndim != 1 or degrees.shape[0] != count:
        raise ArgumentError("degrees", tuple(degrees.shape), "the shape (M,), one angle for each image")
    if not bool(torch.isfinite(degrees).all()):
        raise ArgumentError("degrees", degrees.tolist(), "finite numbers")
