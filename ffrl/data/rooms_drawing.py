"""Pictures of a lit room, by a small ray caster: an object on a stand, with a light and a camera that move.

They stand in for Falcor3D and Isaac3D (Nie et al. 2020) where those cannot be had, with factors of the same names, and
are no copies of their images. All seven factors of Falcor3D are here in their sizes. Eight of Isaac3D's nine are here
under their names (robot_x-move and robot_y-move move a stand sideways and its top up, as the robot's arm moves what it
holds); its camera_height is camera_y-pos. Where both sets have a factor, its size is Falcor3D's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffrl.data import ray_shapes
from ffrl.data.drawing import check_factors, draw_groups, root, to_bytes
from ffrl.data.ray_shapes import Hit, Vector, at, dot

SIZE = 128
FACTOR_SIZES = {
    "object_shape": 3,
    "robot_x-move": 8,
    "robot_y-move": 5,
    "object_scale": 4,
    "object_color": 4,
    "wall_color": 4,
    "lighting_intensity": 5,
    "lighting_x-dir": 6,
    "lighting_y-dir": 6,
    "lighting_z-dir": 6,
    "camera_x-pos": 6,
    "camera_y-pos": 6,
    "camera_z-pos": 6,
}

SHAPES = ("cube", "cylinder", "sphere")
# Metres: x to the right, y up, z away from the camera. The room is from -WIDE to WIDE, 0 to HIGH, and as far as DEEP.
_WIDE, _HIGH, _DEEP = 2.7, 2.75, 2.6
_VALUES = {
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
_STAND_Z = 0.5
_POLE, _PLATE, _PLATE_HALF = 0.045, 0.2, 0.025  # radii of the pole and of the plates at its ends, half their thickness
_AROUND = 3**0.5 + 0.01  # no object reaches further from its middle, in units of half its height
_CUBE_TURN = 0.55  # radians about the upright axis
_CABINET, _CABINET_HALF = (1.55, 0.375, 2.2), (0.85, 0.375, 0.4)
_CABINET_AROUND = math.hypot(0.85, 0.4) + 0.01

_TANGENT, _TILT = 0.60, 0.13  # of half the field of view; radians that the camera looks down
_SAMPLES = ((0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875))  # of a pixel, no two in a row or a column
_PIECE = 2  # images at a time

_HUES = {  # red, green and blue on the screen
    "object": ((0.20, 0.16, 0.85), (0.86, 0.46, 0.10), (0.12, 0.62, 0.56), (0.88, 0.80, 0.32)),
    "wall": ((0.46, 0.72, 0.36), (0.74, 0.74, 0.72), (0.80, 0.62, 0.80), (0.50, 0.64, 0.84)),
}
_SURFACES = {
    "plank": (0.66, 0.48, 0.30),
    "darker plank": (0.58, 0.40, 0.24),
    "lighter plank": (0.73, 0.55, 0.36),
    "rug": (0.62, 0.16, 0.17),
    "rug's border": (0.84, 0.76, 0.62),
    "skirting": (0.88, 0.87, 0.84),
    "ceiling": (0.93, 0.93, 0.92),
    "frame": (0.22, 0.17, 0.13),
    "canvas": (0.90, 0.86, 0.76),
    "sun": (0.88, 0.40, 0.20),
    "hill": (0.22, 0.36, 0.42),
    "cabinet": (0.50, 0.36, 0.26),
    "stand": (0.42, 0.43, 0.46),
}
_WALL, _OBJECT = len(_SURFACES), len(_SURFACES) + 1
_NUMBER = {name: number for number, name in enumerate(_SURFACES)}


def draw(factors: Tensor) -> Tensor:
    """Draw rooms.

    The object is a cube, cylinder or sphere; it stands on a plate that moves sideways and up. The light is a point in
    the room, which moves to the right (x), up (y) and to the back (z); it casts shadows. The camera moves likewise and
    looks in one direction. A pixel at an edge is the mean of 4 rays, others are one ray each.

    Args:
        factors: (N, 13) int64, columns and ranges of ``FACTOR_SIZES``.

    Returns:
        (N, 3, 128, 128) uint8, RGB, on the device of ``factors``.

    Raises:
        ArgumentError: a dtype, shape or value of ``factors`` is outside what is stated above.
    """
    check_factors(factors, FACTOR_SIZES)
    return draw_groups(_draw_one_shape, factors, factors[:, 0], [_PIECE] * len(SHAPES), (3, SIZE, SIZE))


class _Room(NamedTuple):
    """What the factors say, (N,) each for N images or (M,) for the images that M rays belong to."""

    shape: int
    stand: Vector  # x of its axis, height of its top, and half the height of the object on it
    intensity: Tensor
    light: Vector
    camera: Vector

    def of(self, image: Tensor) -> _Room:
        """For rays, of which each belongs to one of the images."""
        stand, light, camera = (_pick(vector, image) for vector in (self.stand, self.light, self.camera))
        return _Room(self.shape, stand, self.intensity.index_select(0, image), light, camera)


class _Scene(NamedTuple):
    """The images of a piece."""

    room: _Room  # of N images
    colours: tuple[Tensor, Tensor, Tensor]  # (N · surfaces,) each: red, green, blue
    tables: _Tables


class _Points(NamedTuple):
    """What M rays see, (M,) each."""

    point: Vector
    normal: Vector
    surface: Tensor  # int32
    solid: Tensor  # the numbers of the rays that meet a solid


def _draw_one_shape(shape: int, factors: Tensor) -> Tensor:
    """Pictures of one shape, (N, 13) -> (N, 3, 128, 128): a ray a pixel first, then four where that is not enough."""
    scene = _scene(shape, factors)
    pixels = SIZE * SIZE
    every = torch.arange(len(factors) * pixels, device=factors.device)
    ray = tuple(part.expand(len(factors), -1).flatten() for part in scene.tables.middle)
    colours, kind = _cast(scene, every // pixels, ray)  # type: ignore[arg-type]
    # A pixel is cast again where it shows something else than the next one: another surface, side or shadow.
    kind = kind.view(-1, SIZE, SIZE)
    edge = torch.zeros_like(kind, dtype=torch.bool)
    for one, other in (((..., slice(1, None), slice(None)), (..., slice(-1), slice(None))), (_RIGHT, _LEFT)):
        change = kind[one] != kind[other]
        edge[one] |= change
        edge[other] |= change
    edges = edge.flatten().nonzero()[:, 0]
    for some in edges.split(pixels // 2 * len(factors) // len(_SAMPLES)):
        image, pixel = some // pixels, some % pixels
        rays = [_pick(through, pixel) for through in scene.tables.rays]
        right, up, ahead = (torch.cat(parts) for parts in zip(*rays, strict=True))
        again, _ = _cast(scene, image.repeat(len(rays)), (right, up, ahead))
        for values, several in zip(colours, again, strict=True):
            first, second, third, fourth = several.view(len(rays), -1)
            values.scatter_(0, some, (first + second + third + fourth) / len(rays))
    return to_bytes([values.view(-1, SIZE, SIZE) for values in colours])


_RIGHT, _LEFT = (..., slice(1, None)), (..., slice(-1))


def _scene(shape: int, factors: Tensor) -> _Scene:
    tables = _tables(str(factors.device))
    columns = dict(zip(FACTOR_SIZES, factors.unbind(1), strict=True))
    value = {name: tables.values[name].index_select(0, columns[name]) for name in _VALUES}
    room = _Room(
        shape,
        (value["robot_x-move"], value["robot_y-move"], value["object_scale"]),
        value["lighting_intensity"],
        (value["lighting_x-dir"], value["lighting_y-dir"], value["lighting_z-dir"]),
        (value["camera_x-pos"], value["camera_y-pos"], value["camera_z-pos"]),
    )
    painted = (tables.walls[columns["wall_color"], None], tables.objects[columns["object_color"], None])
    colours = torch.cat((tables.surfaces.expand(len(factors), -1, -1), *painted), 1)  # (N, surfaces, 3)
    red, green, blue = (channel.flatten() for channel in colours.unbind(2))
    return _Scene(room, (red, green, blue), tables)


def _cast(scene: _Scene, image: Tensor, direction: Vector) -> tuple[list[Tensor], Tensor]:
    """The light that M rays of the images' cameras see.

    Args:
        image: (M,) int64, the image of each ray.
        direction: (M,) each, of unit length.

    Returns:
        Red, green and blue, (M,) each, and what is seen, (M,) int32: a number for each surface, side and shadow.
    """
    own = scene.room.of(image)
    seen = _see_room(own, direction)
    seen = _see_solids(own, direction, seen)
    brightness, gloss, shaded = _light_up(own, direction, seen)
    place = seen.surface + image.int() * (_OBJECT + 1)
    colours = [channel.index_select(0, place) * brightness for channel in scene.colours]
    for channel in colours:
        channel.scatter_add_(0, seen.solid, gloss)
    right, up, _ = seen.normal
    side = (right > 0.5).int() + 2 * (right < -0.5).int() + 3 * (up > 0.5).int()
    return colours, (seen.surface * 6 + side) * 2 + shaded.int()


def _see_room(own: _Room, direction: Vector) -> _Points:
    """Where rays meet the room, as if it were empty."""
    right, up, ahead = direction
    camera_x, camera_y, camera_z = own.camera
    to_x = (torch.sign(right) * _WIDE - camera_x) / right
    to_y = ((up > 0) * _HIGH - camera_y) / up
    to_z = (_DEEP - camera_z) / ahead
    distance = torch.minimum(torch.minimum(to_x, to_y), to_z)
    x, y, z = at(own.camera, direction, distance)
    on_x, on_y = distance == to_x, distance == to_y
    on_z = ~(on_x | on_y)
    normal = (-torch.sign(right) * on_x, -torch.sign(up) * on_y, on_z * -1.0)
    surface = torch.full_like(on_x, _WALL, dtype=torch.int32)
    surface = surface + (y < 0.1).int() * (_NUMBER["skirting"] - _WALL)

    # The floor and the painting are looked at where they are alone.
    surface = torch.where(on_y, _NUMBER["ceiling"], surface)
    below = (on_y & (up < 0)).nonzero()[:, 0]
    surface.scatter_(0, below, _floor_at(x.index_select(0, below), z.index_select(0, below)))
    behind = (on_z & (y > 1.3) & (y < 2.2)).nonzero()[:, 0]
    surface.scatter_(0, behind, _back_wall_at(x.index_select(0, behind), y.index_select(0, behind)))
    return _Points((x, y, z), normal, surface, below)


def _floor_at(x: Tensor, z: Tensor) -> Tensor:
    """Surfaces of the floor, int32: planks, on which lies a rug."""
    board = (x * (1 / 0.3) + 100).int()
    planks = (board * board + board // 2) % 3  # plank, darker or lighter, in no simple order
    edge = torch.maximum(x.abs() - 1.75, (z - 0.45).abs() - 1.15)  # from the border of the rug
    rug = torch.where(edge > -0.09, _NUMBER["rug's border"], _NUMBER["rug"]).int()
    return torch.where(edge < 0, rug, planks)


def _back_wall_at(x: Tensor, y: Tensor) -> Tensor:
    """Surfaces of the wall at the back above the skirting, int32: a painting hangs on it."""
    sun = (x + 0.75) * (x + 0.75) + (y - 1.85) * (y - 1.85) < 0.017
    hill = y < 1.58 + 0.25 * (x + 1.1) * (x + 0.6)
    canvas = torch.where(sun, _NUMBER["sun"], torch.where(hill, _NUMBER["hill"], _NUMBER["canvas"]))
    edge = torch.maximum((x + 0.95).abs() - 0.55, (y - 1.75).abs() - 0.4)  # from the border of the painting
    return torch.where(edge < 0, torch.where(edge > -0.05, _NUMBER["frame"], canvas), _WALL).int()


def _see_solids(own: _Room, direction: Vector, seen: _Points) -> _Points:
    """Put the solids before the room."""
    distance = torch.full_like(own.intensity, math.inf)
    point, normal, surface = list(seen.point), list(seen.normal), seen.surface
    for near, solids in _near_solids(own, own.camera, direction):
        origin, way = _pick(own.camera, near), _pick(direction, near)
        for hit, number in solids(_pick(own.stand, near), origin, way):
            nearer = (hit.distance < distance.index_select(0, near)).nonzero()[:, 0]
            rays, along = near.index_select(0, nearer), hit.distance.index_select(0, nearer)
            distance.scatter_(0, rays, along)
            surface.index_fill_(0, rays, number)
            start, course = _pick(origin, nearer), _pick(way, nearer)
            facing = _pick(hit.normal, nearer)
            for axis, reached in enumerate(at(start, course, along)):
                normal[axis].scatter_(0, rays, facing[axis])
                point[axis].scatter_(0, rays, reached)
    solid = (~distance.isinf()).nonzero()[:, 0]
    return _Points((point[0], point[1], point[2]), (normal[0], normal[1], normal[2]), surface, solid)


Solids = Callable[[Vector, Vector, Vector], list[tuple[Hit, int]]]  # of _Room.stand, origin and direction


def _near_solids(own: _Room, origin: Vector, direction: Vector) -> list[tuple[Tensor, Solids]]:
    """The numbers of the rays, of any length, that may meet solids, and what gives the distances and surfaces."""
    stand_x, stand_y, half = own.stand
    x, y, z = origin[0] - stand_x, origin[1] - (stand_y + half), origin[2] - _STAND_Z
    right, up, ahead = direction
    aside = x * ahead - z * right
    across = right * right + ahead * ahead
    close = aside * aside
    stand = close < _PLATE * _PLATE * across
    # The ball around the object.
    along = x * right + y * up + z * ahead
    square = across + up * up
    reach = half * _AROUND
    ball = along * along > (x * x + y * y + z * z - reach * reach) * square
    to_x, to_z = origin[0] - _CABINET[0], origin[2] - _CABINET[2]
    aside = to_x * ahead - to_z * right
    cabinet = (aside * aside < _CABINET_AROUND * _CABINET_AROUND * across) & ((up < 0) | (origin[1] < _CABINET[1] * 2))
    near = ((ball, functools.partial(_object, own.shape)), (stand, _stand), (cabinet, _cabinet))
    return [(rays.nonzero()[:, 0], solids) for rays, solids in near]


def _object(shape: int, stand: Vector, origin: Vector, direction: Vector) -> list[tuple[Hit, int]]:
    stand_x, stand_y, half = stand
    size = 1 / half
    x, y, z = (origin[0] - stand_x) * size, (origin[1] - stand_y) * size - 1, (origin[2] - _STAND_Z) * size
    if SHAPES[shape] == "cube":
        cos, sin = math.cos(_CUBE_TURN), math.sin(_CUBE_TURN)
        right, up, ahead = direction
        turned = (right * cos - ahead * sin, up, right * sin + ahead * cos)
        hit = ray_shapes.box((x * cos - z * sin, y, x * sin + z * cos), turned, (1.0, 1.0, 1.0))
        right, up, ahead = hit.normal
        hit = Hit(hit.distance, (right * cos + ahead * sin, up, ahead * cos - right * sin))
    elif SHAPES[shape] == "cylinder":
        hit = ray_shapes.cylinder((x, y, z), direction, 1.0, 1.0)
    else:
        hit = ray_shapes.sphere((x, y, z), direction, 1.0)
    return [(Hit(hit.distance * half, hit.normal), _OBJECT)]


def _stand(stand: Vector, origin: Vector, direction: Vector) -> list[tuple[Hit, int]]:
    """A pole between two plates."""
    stand_x, stand_y, _ = stand
    x, y, z = origin[0] - stand_x, origin[1], origin[2] - _STAND_Z
    middle = stand_y * 0.5
    tall = 1 / middle  # the pole is measured in units of half its height upward
    right, up, ahead = direction
    hits = (
        ray_shapes.cylinder((x, (y - middle) * tall, z), (right, up * tall, ahead), _POLE, 1.0),
        ray_shapes.cylinder((x, y - (stand_y - _PLATE_HALF), z), direction, _PLATE, _PLATE_HALF),
        ray_shapes.cylinder((x, y - _PLATE_HALF, z), direction, _PLATE, _PLATE_HALF),
    )
    return [(hit, _NUMBER["stand"]) for hit in hits]


def _cabinet(stand: Vector, origin: Vector, direction: Vector) -> list[tuple[Hit, int]]:
    x, y, z = origin
    middle = (x - _CABINET[0], y - _CABINET[1], z - _CABINET[2])
    return [(ray_shapes.box(middle, direction, _CABINET_HALF), _NUMBER["cabinet"])]


def _light_up(own: _Room, direction: Vector, seen: _Points) -> tuple[Tensor, Tensor, Tensor]:
    """Brightness of what M rays see (M,), what the solids among it mirror, and which of it is in shadow (M,) bool."""
    x, y, z = seen.point
    normal = seen.normal
    way = (own.light[0] - x, own.light[1] - y, own.light[2] - z)
    square = dot(way, way)
    inverse = square.rsqrt()
    to_light = (way[0] * inverse, way[1] * inverse, way[2] * inverse)
    facing = dot(normal, to_light).clamp(min=0)
    direct = facing * (own.intensity * 1.9) / (0.75 + 0.32 * square)

    lifted = at(seen.point, normal, torch.full_like(x, 1e-3))
    shaded = torch.zeros_like(seen.surface, dtype=torch.bool)
    for near, solids in _near_solids(own, lifted, to_light):
        near = near.index_select(0, (facing.index_select(0, near) > 0).nonzero()[:, 0])
        end = root(square.index_select(0, near))
        for hit, _ in solids(_pick(own.stand, near), _pick(lifted, near), _pick(to_light, near)):
            blocked = (hit.distance < end).nonzero()[:, 0]
            shaded.index_fill_(0, near.index_select(0, blocked), True)
    direct = direct * ~shaded

    # Corners of the room see less of it, and what faces up sees the bright ceiling. Reflections of the light fill the
    # shadows.
    ambient = (0.13 + 0.33 * own.intensity) * (0.85 + 0.15 * normal[1])
    for gap in (_WIDE - x.abs(), torch.minimum(y, _HIGH - y), _DEEP - z):
        ambient = ambient * (1 - 0.08 / (gap.clamp(min=0) + 0.25))
    solid = seen.solid
    across, light = _pick(normal, solid), _pick(to_light, solid)
    ray = _pick(direction, solid)
    mirrored = (dot(ray, light) - 2 * dot(ray, across) * dot(across, light)).clamp(0, 1)
    for _ in range(5):
        mirrored = mirrored * mirrored  # to the power of 32
    share = torch.where(seen.surface.index_select(0, solid) == _NUMBER["cabinet"], 0.03, 0.3)
    gloss = mirrored * share * own.intensity.index_select(0, solid) * (direct.index_select(0, solid) > 0)
    return ambient + direct, gloss, shaded


def _pick(vector: Vector, index: Tensor) -> Vector:
    x, y, z = (part.index_select(0, index) for part in vector)
    return x, y, z


class _Tables(NamedTuple):
    values: dict[str, Tensor]  # of the factors, in metres
    surfaces: Tensor  # (1, surfaces, 3) amounts of light
    walls: Tensor  # (4, 3)
    objects: Tensor  # (4, 3)
    middle: Vector  # (P,) each, of unit length: rays through the middles of the P pixels
    rays: list[Vector]  # (P,) each, for every sample


@functools.lru_cache(maxsize=8)
def _tables(device: str) -> _Tables:
    def moved(value: Tensor) -> Tensor:
        return value.to(device, torch.float32)

    def light(colours: object) -> Tensor:
        return moved(torch.tensor(colours, dtype=torch.float64) ** 2)

    def rays(right_of: float, below: float) -> Vector:
        number = torch.arange(SIZE, dtype=torch.float64)
        across, down = ((number + part) * 2 / SIZE - 1 for part in (right_of, below))
        right, rise = (part.flatten() * _TANGENT for part in torch.broadcast_tensors(across, -down[:, None]))
        up = rise * math.cos(_TILT) - math.sin(_TILT)
        ahead = rise * math.sin(_TILT) + math.cos(_TILT)
        length = (right**2 + up**2 + ahead**2).sqrt()
        return moved(right / length), moved(up / length), moved(ahead / length)

    return _Tables(
        {name: moved(torch.from_numpy(values)) for name, values in _VALUES.items()},
        light([[*_SURFACES.values()]]),
        light(_HUES["wall"]),
        light(_HUES["object"]),
        rays(0.5, 0.5),
        [rays(*sample) for sample in _SAMPLES],
    )
