"""Classes that are left out: which images stay, in which order, and what is refused."""

from __future__ import annotations

import pytest
import torch

from ffrl.data import ImageSet, split_classes, without_classes
from ffrl.errors import ArgumentError

LABELS = [4, 7, 4, 0, 7, 9]


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.arange(6, dtype=torch.uint8)[:, None, None].expand(6, 2, 2)
    return ImageSet("mnist", pixels, torch.tensor(LABELS), "a place")


def test_parts_are_complete_and_in_order(images: ImageSet) -> None:
    seen, unseen = split_classes(images, (7, 0))
    assert seen.labels.tolist() == [4, 4, 9] and seen.images[:, 0, 0].tolist() == [0, 2, 5]
    assert unseen.labels.tolist() == [7, 0, 7] and unseen.images[:, 0, 0].tolist() == [1, 3, 4]
    assert seen.name == unseen.name == "mnist"
    everything, nothing = split_classes(images, ())
    assert everything.labels.tolist() == LABELS and len(nothing.labels) == 0


def test_what_stays_says_what_is_missing(images: ImageSet) -> None:
    assert without_classes(images, ()) is images
    left = without_classes(images, (7, 0))
    assert left.labels.tolist() == [4, 4, 9]
    assert left.source == "a place; without the classes 0, 7"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((7, 3), r"held_out_classes\[1\] = 3 .*\[0, 4, 7, 9\]"),
        ((7, 7), r"held_out_classes\[1\] = 7"),
        ((0, 4, 7, 9), r"held_out_classes = \(0, 4, 7, 9\)"),
    ],
)
def test_bad_held_out_classes_are_named(images: ImageSet, classes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        without_classes(images, classes)


def test_bad_classes_have_the_name_that_they_were_given(images: ImageSet) -> None:
    with pytest.raises(ArgumentError, match=r"^classes\[0\] = 77 .*\[0, 4, 7, 9\]"):
        split_classes(images, (77,))
