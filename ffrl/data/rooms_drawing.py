"""Pictures of a lit room, by a small ray caster: an object on a stand, with a light and a camera that move.

They stand in for Falcor3D and Isaac3D (Nie et al. 2020) where those cannot be had, with factors of the same names and
sizes, and are no copies of their images. All seven factors of Falcor3D are here. Of Isaac3D's nine, eight are here under
their own names (robot_x-move and robot_y-move move the stand sideways and its top up, as the robot's arm moves what it
holds) and camera_height is camera_y-pos, with six values for four; lighting_intensity has Falcor3D's five for four.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffrl.data import ray_shapes
from ffrl.data.drawing import check_factors, in_pieces, to_bytes
from ffrl.data.ray_shapes import Hit, Vector, dot

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
FALCOR3D_FACTORS = tuple(name for name in FACTOR_SIZES if name.startswith(("lighting", "camera")))
"""Those of Falcor3D, in its order."""
ISAAC3D_FACTORS = (
    *("object_shape", "robot_x-move", "robot_y-move", "camera_y-pos", "object_scale"),
    *("lighting_intensity", "lighting_y-dir", "object_color", "wall_color"),
)
"""Those of Isaac3D, in its order; camera_y-pos is its camera_height."""

SHAPES = ("cube", "cylinder", "sphere")
# Metres: x to the right, y up, z away from the camera. The room is from -WIDE to WIDE, 0 to HIGH, and as far as DEEP.
_WIDE, _HIGH, _DEEP = 2.7, 2.75, 2.6
_VALUES = {
    "robot_x-move": np.linspace(-1.15, 1.15, 8),
    "robot_y-move": np.linspace(0.25, 1.05, 5),  # the height on which the object stands
    "object_scale": np.linspace(0.22, 0.4, 4),  # half its height
    "lighting_intensity": np.linspace(0.35, 1.35, 5),
    "lighting_x-dir": np.linspace(-1.9, 1.9, 6),
    "lighting_y-dir": np.linspace(1.55, 2.6, 6),
    "lighting_z-dir": np.linspace(-2.2, 0.9, 6),
    "camera_x-pos": np.linspace(-0.7, 0.7, 6),
    "camera_y-pos": np.linspace(1.1, 1.9, 6),
    "camera_z-pos": np.linspace(-3.6, -2.7, 6),
}
_STAND_Z = 0.5
_POLE, _PLATE, _PLATE_HALF = 0.045, 0.2, 0.025  # radii of the pole and of the plates at its ends, half their thickness
_AROUND = 0.4 * 2**0.5 + 0.01  # of the stand's axis: no object reaches further
_CABINET, _CABINET_HALF = (1.55, 0.375, 2.2), (0.85, 0.375, 0.4)
_CABINET_AROUND = math.hypot(0.85, 0.4) + 0.01

_TANGENT, _TILT = 0.60, 0.13  # of half the field of view; radians that the camera looks down
_SAMPLES = ((0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875))  # of a pixel, no two in a row or a column
# The light is a small ball: each sample of a pixel sees another point of it.
_LIGHT_POINTS = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
_LIGHT_RADIUS = 0.06
_AMBIENT = 0.2
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

    The object is a cube, cylinder or sphere; it stands on a plate that moves sideways and up. The light is a small ball
    in the room, which moves to the right (x), up (y) and to the back (z); it casts shadows. The camera moves likewise
    and looks in one direction. A pixel is the mean of 4 rays.

    Args:
        factors: (N, 13) int64, columns and ranges of ``FACTOR_SIZES``.

    Returns:
        (N, 3, 128, 128) uint8, RGB, on the device of ``factors``.

    Raises:
        ArgumentError: a dtype, shape or value of ``factors`` is outside what is stated above.
    """
    check_factors(factors, FACTOR_SIZES)
    images = torch.empty((len(factors), 3, SIZE, SIZE), dtype=torch.uint8, device=factors.device)
    for shape in range(len(SHAPES)):
        rows = (factors[:, 0] == shape).nonzero()[:, 0]
        images[rows] = in_pieces(functools.partial(_draw_one_shape, shape), factors[rows], _PIECE, (3, SIZE, SIZE))
    return images


class _Room(NamedTuple):
    """What the factors of N images say, (N,) each."""

    shape: int
    stand_x: Tensor
    stand_y: Tensor
    half: Tensor
    intensity: Tensor
    light: Vector
    camera: Vector

    def of(self, image: Tensor) -> _Room:
        """For rays: of the image that each belongs to."""
        vectors = (tuple(part.index_select(0, image) for part in vector) for vector in (self.light, self.camera))
        values = (value.index_select(0, image) for value in self[1:5])
        return _Room(self.shape, *values, *vectors)  # type: ignore[arg-type]


def _draw_one_shape(shape: int, factors: Tensor) -> Tensor:
    """Pictures of one shape, (N, 13) -> (N, 3, 128, 128). Below, S are the rays of a pixel and P the pixels."""
    tables = _tables(str(factors.device))
    columns = dict(zip(FACTOR_SIZES, factors.unbind(1), strict=True))
    value = {name: tables.values[name][columns[name]] for name in _VALUES}
    light, camera = (
        tuple(value[f"{thing}_{axis}"] for axis in axes)
        for thing, axes in (("lighting", ("x-dir", "y-dir", "z-dir")), ("camera", ("x-pos", "y-pos", "z-pos")))
    )
    names = ("robot_x-move", "robot_y-move", "object_scale", "lighting_intensity")
    room = _Room(shape, *(value[name] for name in names), light, camera)  # type: ignore[arg-type]

    point, normal, surface = _see_room(room, tables)
    seen = _see_solids(room, tables, point, normal, surface)
    brightness, gloss = _light_up(room, tables, point, normal, seen)
    colours = torch.cat(  # (N, surfaces, 3)
        (
            tables.surfaces.expand(len(factors), -1, -1),
            tables.walls[columns["wall_color"], None],
            tables.objects[columns["object_color"], None],
        ),
        1,
    )
    first = torch.arange(len(factors), device=factors.device, dtype=torch.int32)[:, None, None] * colours.shape[1]
    place = (surface + first).flatten()
    layers = []
    for channel in range(3):
        own = colours[:, :, channel].flatten().index_select(0, place).view_as(brightness)
        lit = own * brightness + gloss  # (N, S, P)
        total = lit[:, 0]
        for sample in range(1, lit.shape[1]):
            total = total + lit[:, sample]
        layers.append(total / lit.shape[1])
    return to_bytes(torch.stack(layers, 1)).view(-1, 3, SIZE, SIZE)


def _see_room(room: _Room, tables: _Tables) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Where the camera's rays meet the room: points, normals, (N, S, P) float32 each, and surfaces, int32."""
    camera = [part[:, None, None] for part in room.camera]
    direction = tables.rays
    to_x, to_y, to_z = (
        plane - own * inverse for plane, own, inverse in zip(tables.to_planes, camera, tables.inverse, strict=True)
    )
    distance = torch.minimum(torch.minimum(to_x, to_y), to_z)
    x, y, z = (own + distance * part for own, part in zip(camera, direction, strict=True))
    on_x, on_y = distance == to_x, distance == to_y
    on_z = ~(on_x | on_y)
    normal = [-torch.sign(direction[0]) * on_x, -torch.sign(direction[1]) * on_y, -on_z.float()]

    board = (x * (1 / 0.3) + 100).int()
    floor = (board * board + board // 2) % 3  # plank, darker or lighter, in no simple order
    across, along = x.abs() - 1.75, (z - 0.45).abs() - 1.15
    edge = torch.maximum(across, along)
    floor = torch.where(edge < 0, torch.where(edge > -0.09, _NUMBER["rug's border"], _NUMBER["rug"]), floor)
    wall = torch.where(y < 0.1, _NUMBER["skirting"], _WALL)
    right, up = (x + 0.95).abs() - 0.55, (y - 1.75).abs() - 0.4  # from the border of the painting
    edge = torch.maximum(right, up)
    sun = (x + 0.75) * (x + 0.75) + (y - 1.85) * (y - 1.85) < 0.017
    canvas = torch.where(y < 1.58 + 0.25 * (x + 1.1) * (x + 0.6), _NUMBER["hill"], _NUMBER["canvas"])
    canvas = torch.where(sun, _NUMBER["sun"], canvas)
    painting = torch.where(edge > -0.05, _NUMBER["frame"], canvas)
    wall = torch.where(on_z & (edge < 0), painting, wall)
    surface = torch.where(on_y, torch.where(direction[1] < 0, floor, _NUMBER["ceiling"]), wall)
    return [x, y, z], normal, surface.int()


class _Seen(NamedTuple):
    """The rays that meet a solid, (M,) each."""

    ray: Tensor  # which of N S P
    gloss: Tensor  # how much of the light the surface mirrors
    direction: Vector


def _see_solids(room: _Room, tables: _Tables, point: list[Tensor], normal: list[Tensor], surface: Tensor) -> _Seen:
    """Put the solids before the room, in the tensors given."""
    right, _, ahead = tables.rays
    x, z = room.camera[0][:, None, None], room.camera[2][:, None, None]
    near_stand = _passes(x - room.stand_x[:, None, None], z - _STAND_Z, right, ahead, _AROUND)
    near_cabinet = _passes(x - _CABINET[0], z - _CABINET[2], right, ahead, _CABINET_AROUND)
    rays = (near_stand | near_cabinet).flatten().nonzero()[:, 0]
    per_image = surface[0].numel()
    image, within = rays // per_image, rays % per_image
    own = room.of(image)
    direction = tuple(part.flatten().index_select(0, within) for part in tables.rays)
    distance = torch.full_like(own.half, math.inf)
    facing = [torch.zeros_like(distance) for _ in range(3)]
    material = torch.zeros_like(rays, dtype=torch.int32)
    for hit, number in _solids(own, own.camera, direction):  # type: ignore[arg-type]
        nearer = hit.distance < distance
        distance = torch.where(nearer, hit.distance, distance)
        facing = [torch.where(nearer, new, old) for new, old in zip(hit.normal, facing, strict=True)]
        material = torch.where(nearer, number, material)
    found = (~distance.isinf()).nonzero()[:, 0]
    where, along = rays[found], distance[found]
    ways = tuple(part[found] for part in direction)
    for axis in range(3):
        point[axis].view(-1)[where] = own.camera[axis][found] + along * ways[axis]
        normal[axis].view(-1)[where] = facing[axis][found]
    chosen = material[found]
    surface.view(-1)[where] = chosen
    gloss = torch.where(chosen == _OBJECT, 0.35, torch.where(chosen == _NUMBER["stand"], 0.25, 0.03))
    return _Seen(where, gloss, ways)  # type: ignore[arg-type]


def _passes(x: Tensor, z: Tensor, across: Tensor, along: Tensor, radius: float) -> Tensor:
    """Whether a line from (x, z) passes the upright axis through the origin within a radius."""
    aside = x * along - z * across
    return aside * aside < radius * radius * (across * across + along * along)


def _solids(room: _Room, origin: Vector, direction: Vector) -> list[tuple[Hit, int]]:
    """Where rays (M,) first meet each solid, and of what surface it is."""
    x, y, z = origin[0] - room.stand_x, origin[1] - room.stand_y, origin[2] - _STAND_Z
    middle = room.stand_y * 0.5
    # A pole as long as the stand is high, in units of its height.
    tall = 1 / middle
    scaled = (x, (origin[1] - middle) * tall, z), (direction[0], direction[1] * tall, direction[2])
    stand = _NUMBER["stand"]
    half = room.half
    size = 1 / half
    small = (x * size, (y - half) * size, z * size)
    meet = (
        lambda: ray_shapes.box(small, direction, (1.0, 1.0, 1.0)),
        lambda: ray_shapes.cylinder(small, direction, 1.0, 1.0),
        lambda: ray_shapes.sphere(small, direction, 1.0),
    )[room.shape]
    hit = meet()
    cabinet = tuple(o - c for o, c in zip(origin, _CABINET, strict=True))
    return [
        (Hit(hit.distance * half, hit.normal), _OBJECT),
        (ray_shapes.cylinder(*scaled, _POLE, 1.0), stand),
        (ray_shapes.cylinder((x, y + _PLATE_HALF, z), direction, _PLATE, _PLATE_HALF), stand),
        (ray_shapes.cylinder((x, origin[1] - _PLATE_HALF, z), direction, _PLATE, _PLATE_HALF), stand),
        (ray_shapes.box(cabinet, direction, _CABINET_HALF), _NUMBER["cabinet"]),  # type: ignore[arg-type]
    ]


def _light_up(
    room: _Room, tables: _Tables, point: list[Tensor], normal: list[Tensor], seen: _Seen
) -> tuple[Tensor, Tensor]:
    """Brightness of the surfaces and what they mirror, (N, S, P) each."""
    x, y, z = point
    light = [part[:, None, None] + shift for part, shift in zip(room.light, tables.light_points, strict=True)]
    way = [towards - here for towards, here in zip(light, point, strict=True)]  # (N, S, P)
    square = way[0] * way[0] + way[1] * way[1] + way[2] * way[2]
    inverse = 1 / square.sqrt()
    facing = ((normal[0] * way[0] + normal[1] * way[1] + normal[2] * way[2]) * inverse).clamp(min=0)
    intensity = room.intensity[:, None, None]
    direct = facing * (intensity * 1.9) / (0.75 + 0.32 * square)

    shaded = _in_shadow(room, point, normal, way, inverse, facing)
    direct.view(-1)[shaded] = 0.0
    # Corners of the room see less of it; up sees the bright ceiling. The light's reflections fill the shadows.
    gap_x, gap_y, gap_z = (_WIDE - x.abs()).clamp(min=0), torch.minimum(y, _HIGH - y).clamp(min=0), _DEEP - z
    corners = 0.25
    open_x = torch.where(normal[0] != 0, 1.0, 0.7 + 0.3 * gap_x / (gap_x + corners))
    open_y = torch.where(normal[1] != 0, 1.0, 0.65 + 0.35 * gap_y / (gap_y + corners))
    open_z = torch.where(normal[2] != 0, 1.0, 0.7 + 0.3 * gap_z / (gap_z + corners))
    ambient = (_AMBIENT * (0.35 + 0.9 * intensity)) * (0.85 + 0.15 * normal[1]) * open_x * open_y * open_z

    gloss = torch.zeros_like(direct)
    lit = direct.view(-1)[seen.ray] > 0
    across = tuple(part.view(-1)[seen.ray] for part in normal)
    to_light = tuple((part * inverse).view(-1)[seen.ray] for part in way)
    mirrored = dot(seen.direction, to_light) - 2 * dot(seen.direction, across) * dot(across, to_light)  # type: ignore[arg-type]
    mirrored = mirrored.clamp(0, 1)
    for _ in range(5):
        mirrored = mirrored * mirrored  # to the power of 32
    strength = room.intensity.index_select(0, seen.ray // direct[0].numel())
    gloss.view(-1)[seen.ray] = mirrored * seen.gloss * strength * lit
    return ambient + direct, gloss


def _in_shadow(
    room: _Room, point: list[Tensor], normal: list[Tensor], way: list[Tensor], inverse: Tensor, facing: Tensor
) -> Tensor:
    """The numbers of the rays whose points do not see the light."""
    x, _, z = point
    near_stand = _passes(x - room.stand_x[:, None, None], z - _STAND_Z, way[0], way[2], _AROUND)
    near_cabinet = _passes(x - _CABINET[0], z - _CABINET[2], way[0], way[2], _CABINET_AROUND)
    rays = ((near_stand | near_cabinet) & (facing > 0)).flatten().nonzero()[:, 0]
    own = room.of(rays // x[0].numel())
    closer = inverse.view(-1)[rays]
    towards = tuple(part.view(-1)[rays] * closer for part in way)
    origin = tuple(p.view(-1)[rays] + 1e-3 * n.view(-1)[rays] for p, n in zip(point, normal, strict=True))
    end = 1 / closer
    blocked = torch.zeros_like(rays, dtype=torch.bool)
    for hit, _ in _solids(own, origin, towards):  # type: ignore[arg-type]
        blocked |= hit.distance < end
    return rays[blocked]


class _Tables(NamedTuple):
    values: dict[str, Tensor]  # of the factors, in metres
    surfaces: Tensor  # (1, surfaces, 3) amounts of light
    walls: Tensor  # (4, 3)
    objects: Tensor  # (4, 3)
    rays: Vector  # (S, P) each, of unit length
    inverse: Vector  # 1 over them
    to_planes: Vector  # the plane that each ray goes to, over the ray: the distance from where the coordinate is 0
    light_points: tuple[Tensor, ...]  # (S, 1) each, metres from the middle of the light


@functools.lru_cache(maxsize=8)
def _tables(device: str) -> _Tables:
    def moved(value: Tensor) -> Tensor:
        return value.to(device, torch.float32)

    def light(colours: object) -> Tensor:
        return moved(torch.tensor(colours, dtype=torch.float64) ** 2)

    number = torch.arange(SIZE, dtype=torch.float64)
    offset = torch.tensor(_SAMPLES, dtype=torch.float64)[:, :, None, None]  # (S, 2, 1, 1)
    across = ((number[None, None, :] + offset[:, 0]) * 2 / SIZE - 1) * _TANGENT  # (S, 1, 128)
    rise = -((number[None, :, None] + offset[:, 1]) * 2 / SIZE - 1) * _TANGENT
    right, rise = (part.flatten(1) for part in torch.broadcast_tensors(across, rise))
    up = rise * math.cos(_TILT) - math.sin(_TILT)
    ahead = rise * math.sin(_TILT) + math.cos(_TILT)
    length = (right**2 + up**2 + ahead**2).sqrt()
    rays = [part / length for part in (right, up, ahead)]
    planes = [torch.sign(rays[0]) * _WIDE, torch.where(rays[1] > 0, _HIGH, 0.0), torch.full_like(up, _DEEP)]
    points = torch.tensor(_LIGHT_POINTS, dtype=torch.float64) * (_LIGHT_RADIUS / 3**0.5)
    return _Tables(
        {name: moved(torch.from_numpy(values)) for name, values in _VALUES.items()},
        light([[*_SURFACES.values()]]),
        light(_HUES["wall"]),
        light(_HUES["object"]),
        tuple(moved(ray) for ray in rays),  # type: ignore[arg-type]
        tuple(moved(1 / ray) for ray in rays),  # type: ignore[arg-type]
        tuple(moved(plane / ray) for plane, ray in zip(planes, rays, strict=True)),  # type: ignore[arg-type]
        tuple(moved(part[:, None]) for part in points.unbind(1)),
    )
