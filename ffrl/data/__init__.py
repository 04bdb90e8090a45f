"""Data sets, exact image transforms, and the sequences made from them."""

from ffrl.data.classes import split_classes, without_classes
from ffrl.data.factor_sequences import FactorSequences, FactorSteps
from ffrl.data.loading import GridPart, SequenceData, load_sequences
from ffrl.data.registry import ImageSet, load_images, resolve_name
from ffrl.data.sequences import TransformedImages
from ffrl.data.transforms import hue_of_red, rotate_hue, scale_rotate

__all__ = [
    "FactorSequences",
    "FactorSteps",
    "GridPart",
    "ImageSet",
    "SequenceData",
    "TransformedImages",
    "hue_of_red",
    "load_images",
    "load_sequences",
    "resolve_name",
    "rotate_hue",
    "scale_rotate",
    "split_classes",
    "without_classes",
]
