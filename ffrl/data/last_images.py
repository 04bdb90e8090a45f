"""The last images of a training set, put aside for validation."""

from __future__ import annotations

from ffrl.data.registry import ImageSet
from ffrl.errors import ArgumentError


def split_last(images: ImageSet, count: int) -> tuple[ImageSet, ImageSet]:
    """All images but the last ``count``, and those, each in their old order; the second may be empty.

    Raises:
        ArgumentError: there are not more than ``count`` images.
    """
    total = len(images.labels)
    if not 0 <= count < total:
        raise ArgumentError("validation_images", count, f"an integer in 0..{total - 1}: one image has to be left")
    first, last = (
        images._replace(images=images.images[rows], labels=images.labels[rows])
        for rows in (slice(total - count), slice(total - count, None))
    )
    return first, last


def without_last(images: ImageSet, count: int) -> ImageSet:
    """All images but the last ``count``; the source says how many are left out.

    Raises:
        ArgumentError: there are not more than ``count`` images.
    """
    if not count:
        return images
    rest, _ = split_last(images, count)
    return rest._replace(source=f"{images.source}; without the last {count}")
