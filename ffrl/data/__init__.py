"""Data sets, exact image transforms, and the sequences made from them."""

from ffrl.data.classes import split_classes, without_classes
from ffrl.data.factor_sequences import FactorSequences, FactorSteps
from ffrl.data.last_images import split_last, without_last
from ffrl.data.loading import GridPart, SequenceData, has_validation, load_sequences, training_batch
from ffrl.data.registry import ImageSet, load_images, resolve_name
from ffrl.data.sequences import TransformedImages
from ffrl.data.small_sprites import load_small_sprites
from ffrl.data.transforms import hue_of_red, rotate_hue, scale_rotate

__all__ = [
    "FactorSequences",
    "FactorSteps",
    "GridPart",
    "ImageSet",
    "SequenceData",
    "TransformedImages",
    "has_validation",
    "hue_of_red",
    "load_images",
    "load_sequences",
    "load_small_sprites",
    "resolve_name",
    "rotate_hue",
    "scale_rotate",
    "split_classes",
    "split_last",
    "training_batch",
    "without_classes",
    "without_last",
]
