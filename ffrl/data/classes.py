"""Image sets by class: what training leaves out, and the two parts that are scored apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ffrl.data.registry import ImageSet
from ffrl.errors import ArgumentError


def split_classes(images: ImageSet, classes: Sequence[int], argument: str = "classes") -> tuple[ImageSet, ImageSet]:
    """The images of all other classes and those of ``classes``, each in their old order; either may be empty.

    Errors call the classes ``argument``.

    Raises:
        ArgumentError: a class is named twice or has no image in the set.
    """
    known = images.labels.unique().tolist()
    for i, label in enumerate(classes):
        if label not in known or label in classes[:i]:
            raise ArgumentError(f"{argument}[{i}]", label, f"one of the classes {known}, none twice")
    held_out = torch.isin(images.labels, torch.tensor(list(classes), dtype=torch.int64))
    seen, unseen = (
        images._replace(images=images.images[rows], labels=images.labels[rows]) for rows in (~held_out, held_out)
    )
    return seen, unseen


def without_classes(images: ImageSet, classes: Sequence[int]) -> ImageSet:
    """The images of all other classes; the source names those that are left out.

    Raises:
        ArgumentError: a class is named twice or has no image in the set, or no image is left.
    """
    if not classes:
        return images
    seen, _ = split_classes(images, classes, "held_out_classes")
    if len(seen.labels) == 0:
        raise ArgumentError("held_out_classes", tuple(classes), "a selection that leaves a class to train on")
    return seen._replace(source=f"{images.source}; without the classes {', '.join(map(str, sorted(classes)))}")
