"""Data sets, exact image transforms, and the sequences made from them."""

from ffrl.data.classes import split_classes, without_classes
from ffrl.data.registry import ImageSet, load_images, resolve_name
from ffrl.data.sequences import TransformedImages
from ffrl.data.splits import split_last, without_last
from ffrl.data.transforms import hue_of_red, rotate_hue, scale_rotate

__all__ = [
    "ImageSet",
    "TransformedImages",
    "hue_of_red",
    "load_images",
    "resolve_name",
    "rotate_hue",
    "scale_rotate",
    "split_classes",
    "split_last",
    "without_classes",
    "without_last",
]
