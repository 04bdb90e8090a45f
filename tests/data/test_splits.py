"""The last images are put aside, in order, and the source says so."""

from __future__ import annotations

import pytest
import torch

from ffrl.data import ImageSet, split_last, without_last
from ffrl.errors import ArgumentError

IMAGES = ImageSet(
    "digits", torch.arange(5, dtype=torch.uint8)[:, None, None].expand(5, 8, 8), torch.arange(5) + 10, "made here"
)


def test_the_last_images_are_split_off():
    rest, last = split_last(IMAGES, 2)
    assert rest.labels.tolist() == [10, 11, 12] and rest.images[:, 0, 0].tolist() == [0, 1, 2]
    assert last.labels.tolist() == [13, 14] and last.images[:, 7, 7].tolist() == [3, 4]
    assert without_last(IMAGES, 2).labels.tolist() == [10, 11, 12]
    assert without_last(IMAGES, 2).source == "made here; without the last 2"
    assert without_last(IMAGES, 0) is IMAGES
    assert len(split_last(IMAGES, 0)[1].labels) == 0


@pytest.mark.parametrize("count", [-1, 5, 6])
def test_one_image_is_left(count: int):
    with pytest.raises(ArgumentError, match=rf"^validation_images = {count} .* 0\.\.4"):
        without_last(IMAGES, count)
