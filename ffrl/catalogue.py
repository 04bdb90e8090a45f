"""What there is to know of each data set before anything of it is read. Imports neither torch nor numpy."""

from __future__ import annotations

import dataclasses
import math

from ffrl.factor import Factor


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set: still images that are transformed, or the images of a grid of factors."""

    name: str
    """As on the command line."""
    title: str
    image_shape: tuple[int, int, int]
    """(C, H, W) of the sequences made from it."""
    origin: str
    """Who made it, and where the files are had."""
    licence: str
    size: str
    """Of the files, in words."""
    transformations: tuple[str, ...] = ("scale", "rotation", "hue")
    """Those that a run learns by default: of a grid, names of factors."""
    num_steps: int = 8
    """T, the transitions of a sequence, by default."""
    factors: tuple[Factor, ...] = ()
    """Of a grid, the slowest first, as the files are numbered; empty for still images."""
    generated: bool = False
    """Drawn by the project."""
    files: tuple[str, ...] = ()
    """Of a grid: what is looked for, in this order, in a folder of the set's name or beside one."""
    labels: str = ""
    """Of a folder of images: the file of factors beside it, which may be missing."""
    stand_in: str = ""
    """The generated set of the same kind, which needs no files."""

    @property
    def num_images(self) -> int:
        """Of a grid, as published."""
        return math.prod(factor.size for factor in self.factors)

    @property
    def movable(self) -> tuple[str, ...]:
        """The transformations that a run may choose from."""
        return tuple(factor.name for factor in self.factors) or ("scale", "rotation", "hue")


_DSPRITES = (
    Factor("shape", 3, "square, ellipse, heart"),
    Factor("scale", 6, "0.5 to 1"),
    Factor("orientation", 40, "0° to 360°, the last is the first", closed=True),
    Factor("posX", 32, "left to right"),
    Factor("posY", 32, "top to bottom"),
)
_SHAPES3D = (
    Factor("floor_hue", 10, "0 to 0.9 of the circle"),
    Factor("wall_hue", 10, "0 to 0.9 of the circle"),
    Factor("object_hue", 10, "0 to 0.9 of the circle"),
    Factor("scale", 8, "0.75 to 1.25"),
    Factor("shape", 4, "cube, cylinder, sphere, capsule"),
    Factor("orientation", 15, "-30° to 30°"),
)
_FALCOR3D = (
    Factor("lighting_intensity", 5),
    *(Factor(f"lighting_{axis}-dir", 6) for axis in "xyz"),
    *(Factor(f"camera_{axis}-pos", 6) for axis in "xyz"),
)
# The order of NVIDIA's dataset_demo.py and of their example strips; the formula in their README names factors 2 to 5 in
# another one, in which a factor of size 4 would have to fill the base of one of size 8.
_ISAAC3D = (
    Factor("object_shape", 3),
    Factor("robot_x-move", 8),
    Factor("robot_y-move", 5),
    Factor("camera_height", 4),
    Factor("object_scale", 4),
    Factor("lighting_intensity", 4),
    Factor("lighting_y-dir", 6),
    Factor("object_color", 4),
    Factor("wall_color", 4),
)
_ROOMS = (
    Factor("object_shape", 3, "cube, cylinder, sphere"),
    Factor("robot_x-move", 8, "left to right"),
    Factor("wall_color", 4),
    Factor("lighting_intensity", 5, "dark to bright"),
    Factor("lighting_x-dir", 6, "left to right"),
    Factor("lighting_y-dir", 6, "low to high"),
    Factor("camera_x-pos", 6, "left to right"),
    Factor("camera_y-pos", 6, "low to high"),
)
_DRAWN = "drawn by ffrl as it is needed"
_NVIDIA = "NVIDIA 2019, github.com/NVlabs/High-res-disentanglement-datasets"


DATA_SETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            "mnist",
            "MNIST",
            (3, 28, 28),
            "LeCun, Cortes and Burges 1998; downloaded from a mirror where it is not found",
            "CC BY-SA 3.0, as it is usually cited",
            "12 MB",
        ),
        DataSet(
            "digits",
            "scikit-learn's digits",
            (3, 28, 28),
            "UCI Optical Recognition of Handwritten Digits, test part; comes with scikit-learn",
            "CC BY 4.0",
            "none",
        ),
        DataSet(
            "shapes",
            "squares, ellipses and hearts",
            (3, 28, 28),
            "drawn by ffrl",
            "Apache-2.0",
            "none",
            generated=True,
        ),
        DataSet(
            "dsprites",
            "dSprites",
            (1, 64, 64),
            "Matthey, Higgins, Hassabis and Lerchner 2017, github.com/google-deepmind/dsprites-dataset",
            "Apache-2.0",
            "26 MB, as 377 MB in the cache",
            transformations=("scale", "orientation", "posX", "posY"),
            num_steps=5,
            factors=_DSPRITES,
            files=("dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz", "dsprites_downsampled.npz"),
            stand_in="dsprites-generated",
        ),
        DataSet(
            "shapes3d",
            "3D Shapes",
            (3, 64, 64),
            "Burgess and Kim 2018, github.com/google-deepmind/3d-shapes",
            "Apache-2.0",
            "255 MB, as 5.9 GB in the cache",
            transformations=("floor_hue", "wall_hue", "object_hue", "scale"),
            num_steps=7,
            factors=_SHAPES3D,
            files=("3dshapes.h5",),
            stand_in="shapes3d-generated",
        ),
        DataSet(
            "falcor3d",
            "Falcor3D",
            (3, 128, 128),
            _NVIDIA,
            "CC BY 4.0",
            "3.7 GB at 128 pixels, as 11.5 GB in the cache",
            transformations=tuple(factor.name for factor in _FALCOR3D),
            num_steps=4,
            factors=_FALCOR3D,
            files=("Falcor3D_down128", "."),
            labels="train-rec.labels",
            stand_in="rooms-generated",
        ),
        DataSet(
            "isaac3d",
            "Isaac3D",
            (3, 128, 128),
            _NVIDIA,
            "CC BY 4.0",
            "13 GB at 128 pixels, as 36.2 GB in the cache",
            transformations=tuple(factor.name for factor in _ISAAC3D[1:]),
            num_steps=3,
            factors=_ISAAC3D,
            files=("Isaac3D_down128", "."),
            labels="labels.npy",
            stand_in="rooms-generated",
        ),
        DataSet(
            "dsprites-generated",
            "generated dSprites",
            (1, 64, 64),
            _DRAWN,
            "Apache-2.0",
            "none",
            transformations=("scale", "orientation", "posX", "posY"),
            num_steps=5,
            factors=_DSPRITES,
            generated=True,
        ),
        DataSet(
            "shapes3d-generated",
            "generated scenes in the manner of 3D Shapes",
            (3, 64, 64),
            _DRAWN,
            "Apache-2.0",
            "none",
            transformations=("floor_hue", "wall_hue", "object_hue", "scale"),
            num_steps=7,
            factors=_SHAPES3D,
            generated=True,
        ),
        DataSet(
            "rooms-generated",
            "generated rooms",
            (3, 128, 128),
            _DRAWN,
            "Apache-2.0",
            "none",
            transformations=(
                *("robot_x-move", "lighting_intensity", "lighting_x-dir"),
                *("lighting_y-dir", "camera_x-pos", "camera_y-pos"),
            ),
            num_steps=4,
            factors=_ROOMS,
            generated=True,
        ),
    )
}

STILL_IMAGES = tuple(name for name, data_set in DATA_SETS.items() if not data_set.factors)
GRIDS = tuple(name for name, data_set in DATA_SETS.items() if data_set.factors)
