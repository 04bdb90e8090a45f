"""What the drawings by formula share: the check of their factors, and batches in pieces.

The drawings use additions, products, quotients and square roots of single numbers alone, in a written order, and look
sines, cosines and colours up in tables: those are rounded the same way whatever the size of a batch is.

On a CPU the pieces are so small that PyTorch does each operation in the thread that asks for it: up to 32,768 numbers,
for most. Operations take microseconds here, so that threads would gain nothing, and where other work keeps the cores
busy every operation that is shared out waits for the other thread to be scheduled, milliseconds long. ``sqrt``,
``floor`` and assignment to indexed places share out less, and are avoided. Nor are pieces drawn side by side: two
threads that call so small operations fight over the interpreter's lock, and on two cores are slower than one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ffrl.errors import ArgumentError

GPU_ROWS = 64


def check_factors(factors: object, sizes: Mapping[str, int]) -> Tensor:
    """Return ``factors`` where they are (N, F) int64 with 0 <= factors[:, j] < size of factor j, F = len(sizes).

    Raises:
        ArgumentError: a type, dtype, shape or value is outside what is stated above.
    """
    if not isinstance(factors, Tensor):
        raise ArgumentError("factors", type(factors).__name__, "a tensor of dtype torch.int64")
    if factors.dtype != torch.int64:
        raise ArgumentError("factors.dtype", factors.dtype, "torch.int64")
    if factors.ndim != 2 or factors.shape[1] != len(sizes):
        raise ArgumentError("factors", tuple(factors.shape), f"the shape (N, {len(sizes)}) for {', '.join(sizes)}")
    limits = torch.tensor([*sizes.values()], device=factors.device)
    outside = (factors < 0) | (factors >= limits)
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        name, size = [*sizes.items()][column]
        raise ArgumentError(f"factors[{row}] {name}", int(factors[row, column]), f"an integer in 0..{size - 1}")
    return factors


def draw_groups(
    draw: Callable[[int, Tensor], Tensor],
    factors: Tensor,
    groups: Tensor,
    rows: Sequence[int],
    shape: tuple[int, ...],
    alike: Tensor | None = None,
) -> Tensor:
    """Draw the images of each group by themselves, in pieces.

    Args:
        draw: of a group and some rows of ``factors``, images (rows, *shape) uint8.
        factors: (N, F).
        groups: (N,) int64, of each row, 0 to len(rows) - 1.
        rows: of each group, how many are drawn at a time on a CPU; on other devices it is GPU_ROWS times as many.
        shape: of an image.
        alike: (N,) int64; images of a group come in the order of these numbers, those with equal ones in one piece as
            far as there is room, for a ``draw`` that has less work with such.

    Returns:
        (N, *shape) uint8, in the order of ``factors``.
    """
    images = torch.empty((factors.shape[0], *shape), dtype=torch.uint8, device=factors.device)
    on_cpu = factors.device.type == "cpu"
    for group, count in enumerate(rows):
        members = (groups == group).nonzero()[:, 0]
        if alike is not None:
            members = members[alike[members].argsort(stable=True)]
        for piece in members.split(count if on_cpu else count * GPU_ROWS):
            if not len(piece):
                continue
            drawn = draw(group, factors.index_select(0, piece))
            if on_cpu:
                for row, image in zip(piece.tolist(), drawn, strict=True):
                    for target, source in zip(images[row], image, strict=True):
                        target.copy_(source)
            else:
                images.index_copy_(0, piece, drawn)
    return images


def root(values: Tensor) -> Tensor:
    """The square root of numbers >= 0, 1e-15 at 0. (``sqrt`` shares out among threads what takes microseconds.)"""
    values = values.clamp(min=1e-30)
    return values * values.rsqrt()


def to_bytes(light: Sequence[Tensor], images: Tensor | None = None) -> Tensor:
    """Channels (N, ...) of amounts of light to (N, C, ...) uint8: the square root, for a screen, of at most 1.

    They are written to ``images`` where it is given.
    """
    first = light[0]
    if images is None:
        images = torch.empty((first.shape[0], len(light), *first.shape[1:]), dtype=torch.uint8, device=first.device)
    for number, channel in enumerate(light):
        channel = channel.clamp(1e-30, 1)
        images[:, number] = (channel * channel.rsqrt()).mul_(255).add_(0.5)
    return images
