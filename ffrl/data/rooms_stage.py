"""What the pictures of ``rooms_drawing`` look up: values of the factors, rays, and the fixed room from every camera.

There are 216 cameras. What each sees of the fixed room takes 16 bytes a pixel, 57 MB for all of them. On a CPU a camera
is computed when it is first asked for, some 10 ms; until then its memory is not used. On other devices all are computed
at once, so that nothing waits to learn which are there.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffrl.data.ray_shapes import Vector
from ffrl.data.rooms_scene import CABINET, CABINET_HALF, DEEP, NUMBER, SURFACES, WALL, WIDE, ambient_at, see_fixed

SIZE = 128
_BITS = 14
PIXELS = 2**_BITS  # SIZE²
VALUES = {
    "robot_x-move": np.linspace(-1.05, 1.05, 8),
    "robot_y-move": np.linspace(0.25, 1.05, 5),  # the height on which the object stands
    "object_scale": np.linspace(0.22, 0.4, 4),  # half its height
    "lighting_intensity": np.linspace(0.35, 1.35, 5),
    "lighting_x-dir": np.linspace(-1.6, 1.6, 6),
    "lighting_y-dir": np.linspace(1.55, 2.45, 6),
    "lighting_z-dir": np.linspace(-2.2, 0.9, 6),
    "camera_x-pos": np.linspace(-0.5, 0.5, 6),
    "camera_y-pos": np.linspace(1.1, 1.9, 6),
    "camera_z-pos": np.linspace(-3.6, -2.7, 6),
}
CAMERAS = 6 * 6 * 6
TANGENT, TILT = 0.60, 0.13  # of half the field of view; radians that the camera looks down
SAMPLES = ((0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875))  # of a pixel, no two in a row or a column
_FIXED_SAMPLES = tuple(((4 * i + j + 0.5) / 16, (4 * j + i + 0.5) / 16) for j in range(4) for i in range(4))
_AT_ONCE = 2  # cameras, on a CPU
_HUES = {  # red, green and blue on the screen
    "object": ((0.20, 0.16, 0.85), (0.86, 0.46, 0.10), (0.12, 0.62, 0.56), (0.88, 0.80, 0.32)),
    "wall": ((0.46, 0.72, 0.36), (0.74, 0.74, 0.72), (0.80, 0.62, 0.80), (0.50, 0.64, 0.84)),
}
# The cabinet and what is ever in its shadow, along x: the light is in front of the cabinet, so that only what is beside
# it can be, and as far to the left as the lowest light on the right throws the shadow of its top.
_TOP, _BESIDE = CABINET[1] + CABINET_HALF[1], CABINET[0] - CABINET_HALF[0]
_LOWEST, _RIGHTMOST = VALUES["lighting_y-dir"][0], VALUES["lighting_x-dir"][-1]
NOOK = (_BESIDE - (_RIGHTMOST - _BESIDE) * _TOP / (_LOWEST - _TOP), WIDE)


class Backdrop(NamedTuple):
    """What cameras see of the fixed room: means over the samples of a pixel, (cameras, P) for P = 128² pixels."""

    reflected: Vector  # float16, red, green and blue, amounts of light; nothing of the wall
    wall: Tensor  # uint8, share of the wall in 1/16
    ambient: Tensor  # float16, factor of the ambient light
    distance: Tensor  # float32
    normal: Vector  # int8, in 1/16
    cabinet: Tensor  # uint8, share of the cabinet in 1/16; (cameras, rows, columns) of the nook


_SHARE = 16.0  # shares and normals are kept as integers of this part of one
_KEPT = ((torch.float16, 1.0),) * 3 + (
    (torch.uint8, _SHARE),
    (torch.float16, 1.0),
    (torch.float32, 1.0),
    *(((torch.int8, _SHARE),) * 3),
    (torch.uint8, _SHARE),
)


class Stage:
    """The tables of one device.

    Attributes:
        values: of the factors, name -> (values,), in metres.
        walls: (4, 3) amounts of light that the colours of the wall reflect.
        objects: (4, 3), likewise.
        stand: (1, 3), likewise.
        middle: (P,) each, of unit length: rays through the middles of the pixels.
        grid: (128, 128) int64, numbers of the pixels.
        corners: of a box, (8, 1, 1) each, -1 or 1 to the right and back, 0 or 1 upward.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.values = {name: self._moved(torch.from_numpy(values)) for name, values in VALUES.items()}
        self.walls, self.objects = self._light(_HUES["wall"]), self._light(_HUES["object"])
        self.stand = self._light([SURFACES["stand"]])
        self._surfaces = self._light([*SURFACES.values(), (0, 0, 0)])
        self.middle = self._rays(0.5, 0.5)
        self._samples = self._stacked_rays(SAMPLES)
        self._fixed_samples = self._stacked_rays(_FIXED_SAMPLES)
        self.grid = torch.arange(PIXELS, device=self.device).view(SIZE, SIZE)
        corners = torch.cartesian_prod(torch.tensor([-1, 1]), torch.tensor([0, 1]), torch.tensor([-1, 1]))
        right, up, back = self._moved(corners)[:, :, None, None].unbind(1)
        self.corners: Vector = (right, up, back)
        self._nook = _nook()
        rows, columns = (part.stop - part.start for part in self._nook)
        shapes = [(CAMERAS, PIXELS)] * (len(_KEPT) - 1) + [(CAMERAS, rows, columns)]
        self._tables = [
            torch.empty(shape, dtype=dtype, device=device) for shape, (dtype, _) in zip(shapes, _KEPT, strict=True)
        ]
        self._ready: set[int] = set()
        self._lock = threading.Lock()

    def nook(self, values: Tensor) -> Tensor:
        """The view of (N, P), or (P,), that holds the cabinet and its shadow, whatever the camera."""
        rows, columns = self._nook
        return values.view(-1, SIZE, SIZE)[:, rows, columns]

    def sample_rays(self, pixels: Tensor) -> Vector:
        """Rays through the samples of pixels (M,), (samples, M) each, of unit length."""
        x, y, z = (part.index_select(1, pixels) for part in self._samples)
        return x, y, z

    def prepare(self, cameras: Tensor) -> None:
        """Compute what the cameras (N,), by ``camera_numbers``, see, where that was not done before."""
        if len(self._ready) == CAMERAS:
            return
        wanted = cameras.unique().tolist() if self.device.type == "cpu" else range(CAMERAS)
        with self._lock, torch.inference_mode(False), torch.no_grad():
            missing = [camera for camera in wanted if camera not in self._ready]
            step = _AT_ONCE if self.device.type == "cpu" else CAMERAS
            for first in range(0, len(missing), step):
                some = missing[first : first + step]
                self._compute(some)
                self._ready.update(some)

    def backdrop(self, cameras: Tensor) -> Backdrop:
        """What cameras (N,) that were prepared see, float32, shares and normals in units of one."""
        parts = []
        for table, (_, scale) in zip(self._tables, _KEPT, strict=True):
            part = table.index_select(0, cameras).float()
            parts.append(part if scale == 1 else part.mul_(1 / scale))
        red, green, blue, wall, ambient, distance, right, up, back, cabinet = parts
        return Backdrop((red, green, blue), wall, ambient, distance, (right, up, back), cabinet)

    def _compute(self, cameras: list[int]) -> None:
        means = self._see(torch.tensor(cameras, device=self.device))
        for table, mean, (dtype, scale) in zip(self._tables, means, _KEPT, strict=True):
            kept = mean if dtype.is_floating_point else (mean * scale).round()
            for camera, row in zip(cameras, kept, strict=True):
                table[camera].copy_(row)

    def _see(self, cameras: Tensor) -> list[Tensor]:
        """What cameras (N,) see, in the order of a ``Backdrop``, float32 in units of one."""
        places = zip("xyz", _camera_places(cameras), strict=True)
        place = torch.stack(
            [self.values[f"camera_{axis}-pos"].index_select(0, part) for axis, part in places]
        )  # (3, N)
        x, y, z = place[:, :, None]
        means, kind = self._parts((x, y, z), self.middle)
        edges = changes(kind.view(-1, SIZE, SIZE))
        total = [torch.zeros_like(edges, dtype=torch.float32) for _ in means]
        camera, pixel = split(edges)
        x, y, z = place.index_select(1, camera)
        for sample in range(len(_FIXED_SAMPLES)):
            right, up, ahead = (part[sample].index_select(0, pixel) for part in self._fixed_samples)
            for sums, part in zip(total, self._parts((x, y, z), (right, up, ahead))[0], strict=True):
                sums.add_(part)
        for mean, sums in zip(means, total, strict=True):
            mean.view(-1).scatter_(0, edges, sums / len(_FIXED_SAMPLES))
        means[-1] = self.nook(means[-1])
        return means

    def _parts(self, camera: Vector, ray: Vector) -> tuple[list[Tensor], Tensor]:
        """What rays see, in the order of a ``Backdrop``, and a number for each surface and side."""
        seen = see_fixed(camera, ray)
        place = seen.surface.flatten()
        reflected = [channel.index_select(0, place).view_as(seen.distance) for channel in self._surfaces.unbind(1)]
        wall, cabinet = ((seen.surface == number).float() for number in (WALL, NUMBER["cabinet"]))
        ambient = ambient_at(seen.point, seen.normal[1])
        side = seen.normal[0] + 2 * seen.normal[1] + 4 * seen.normal[2]
        kind = seen.surface * 8 + side.int()
        return [*reflected, wall, ambient, seen.distance, *seen.normal, cabinet], kind

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(self.device, torch.float32)

    def _light(self, colours: object) -> Tensor:
        return self._moved(torch.tensor(colours, dtype=torch.float64) ** 2)

    def _rays(self, right_of: float, below: float) -> Vector:
        """Rays through a point of every pixel, (P,) each, of unit length."""
        number = torch.arange(SIZE, dtype=torch.float64)
        across, down = ((number + part) * 2 / SIZE - 1 for part in (right_of, below))
        right, rise = (part.flatten() * TANGENT for part in torch.broadcast_tensors(across, -down[:, None]))
        up = rise * math.cos(TILT) - math.sin(TILT)
        ahead = rise * math.sin(TILT) + math.cos(TILT)
        length = (right**2 + up**2 + ahead**2).sqrt()
        return self._moved(right / length), self._moved(up / length), self._moved(ahead / length)

    def _stacked_rays(self, samples: Sequence[tuple[float, float]]) -> Vector:
        """Rays through points of every pixel, (samples, P) each."""
        x, y, z = (torch.stack(parts) for parts in zip(*(self._rays(*sample) for sample in samples), strict=True))
        return x, y, z


@functools.lru_cache(maxsize=8)
def stage(device: str) -> Stage:
    with torch.inference_mode(False), torch.no_grad():
        return Stage(device)


def camera_numbers(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The number, 0 to 215, of the camera at each place of the factors' ranges, (N,) int64 each."""
    return x * 36 + y * 6 + z


def _camera_places(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return numbers // 36, numbers // 6 % 6, numbers % 6


def project(camera: Vector, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column, in pixels from the upper left corner, at which a camera sees points in front of it."""
    x, y, z = x - camera[0], y - camera[1], z - camera[2]
    scale = SIZE / 2 / TANGENT / (z * math.cos(TILT) - y * math.sin(TILT))
    return SIZE / 2 - (y * math.cos(TILT) + z * math.sin(TILT)) * scale, SIZE / 2 + x * scale


def changes(kind: Tensor) -> Tensor:
    """Numbers of the pixels of which (N, 128, 128) is not the same for one beside, above or below."""
    edge = torch.zeros_like(kind, dtype=torch.bool)
    for one, other in (((..., slice(1, None), slice(None)), (..., slice(-1), slice(None))), (_RIGHT, _LEFT)):
        change = kind[one] != kind[other]
        edge[one] |= change
        edge[other] |= change
    return edge.flatten().nonzero()[:, 0]


_RIGHT, _LEFT = (..., slice(1, None)), (..., slice(-1))


def split(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The image of pixels that are numbered across images, and the number in it."""
    return pixels >> _BITS, pixels & (PIXELS - 1)


def _nook() -> tuple[slice, slice]:
    """Rows and columns that hold the cabinet and what is in its shadow."""
    camera = torch.meshgrid(*(torch.from_numpy(VALUES[f"camera_{axis}-pos"]) for axis in "xyz"), indexing="ij")
    corners = torch.tensor([(x, y, z) for x in NOOK for y in (0, _TOP) for z in (CABINET[2] - CABINET_HALF[2], DEEP)])
    x, y, z = corners.double()[:, :, None].unbind(1)  # (8, 1)
    rows, columns = project((camera[0].flatten(), camera[1].flatten(), camera[2].flatten()), x, y, z)
    ends = [(int(places.min()), int(places.max()) + 1) for places in (rows, columns)]
    first, second = (slice(max(start, 0), min(stop, SIZE)) for start, stop in ends)
    return first, second
