"""The last images are put aside, in order, and the source says so."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ffrl.config import SplitConfig, TrainConfig
from ffrl.data import ImageSet, has_validation, load_images, load_sequences, split_last, without_last
from ffrl.errors import ArgumentError
from ffrl.presets import preset_config

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


def test_training_and_validation_are_the_parts_of_the_training_set_and_the_test_set_is_whole():
    config = TrainConfig(data="digits", validation_images=30, held_out_classes=(3,))
    train, test = (load_images("digits", part) for part in ("train", "test"))
    (trained, _), (kept, data), (tested, _) = (load_sequences(config, part) for part in ("train", "validation", "test"))
    assert torch.equal(kept.images, train.images[-30:]) and torch.equal(data.images, kept.images)
    assert torch.equal(trained.images, train.images[:-30][train.labels[:-30] != 3])
    assert torch.equal(tested.images, test.images)
    assert has_validation(config) and not has_validation(dataclasses.replace(config, validation_images=0))
    with pytest.raises(ArgumentError, match=r"^validation_images = 0 "):
        load_sequences(dataclasses.replace(config, validation_images=0), "validation")
    grid = preset_config("tiny", "shapes3d-generated")
    assert has_validation(grid) and len(load_sequences(grid, "validation")[1]) > 0
    assert not has_validation(dataclasses.replace(grid, split=SplitConfig(validation=0.0)))
    with pytest.raises(ArgumentError, match=r"^validation_images = 5 .*split\.validation"):
        dataclasses.replace(grid, validation_images=5)
