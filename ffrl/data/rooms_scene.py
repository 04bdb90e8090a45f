"""The room of ``rooms_drawing``: where rays meet the fixed things and the movable ones, and what keeps light off.

Lengths are metres: x to the right, y up, z away from the camera. The room is from -WIDE to WIDE, 0 to HIGH, and as far
as DEEP. A cabinet stands in it; a stand with the object on it moves. The light is in the room, in front of the cabinet
and above it and the stand. The camera is above the top of the stand, so that the object hides the stand and never the
stand the object.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.data import ray_shapes
from ffrl.data.drawing import root
from ffrl.data.ray_shapes import Hit, Vector

SHAPES = ("cube", "cylinder", "sphere")
WIDE, HIGH, DEEP = 2.7, 2.75, 2.6
STAND_Z = 0.5
POLE, PLATE, PLATE_HALF = 0.045, 0.2, 0.025  # radii of the pole and of the plates at its ends, half their thickness
CUBE_TURN = 0.55  # radians about the upright axis
CABINET, CABINET_HALF = (1.55, 0.375, 2.2), (0.85, 0.375, 0.4)
AROUND = (2**0.5, 1.0, 1.0)  # radius of the upright cylinder about each shape, in units of half its height
BALL = (3**0.5, 2**0.5, 1.0)  # radius of the ball about each shape, likewise

SURFACES = {  # red, green and blue on the screen
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
NUMBER = {name: number for number, name in enumerate(SURFACES)}
WALL = len(SURFACES)  # its colour is a factor


class Fixed(NamedTuple):
    """What rays see of the room and the cabinet."""

    point: Vector
    distance: Tensor
    normal: Vector
    surface: Tensor  # int32


def see_fixed(origin: Vector, direction: Vector) -> Fixed:
    """Where rays from within the room meet it or the cabinet."""
    right, up, _ = direction
    to_x, to_y, to_z = _to_room(origin, direction)
    distance = torch.minimum(torch.minimum(to_x, to_y), to_z)
    on_x, on_y = distance == to_x, distance == to_y
    on_z = ~(on_x | on_y)
    normal = (-torch.sign(right) * on_x, -torch.sign(up) * on_y, on_z * -1.0)
    cabinet = ray_shapes.box(_from(CABINET, origin), direction, CABINET_HALF)
    on_cabinet = cabinet.distance < distance
    distance = torch.where(on_cabinet, cabinet.distance, distance)
    x, y, z = ray_shapes.at(origin, direction, distance)
    surface = torch.where(y < 0.1, NUMBER["skirting"], WALL)
    surface = torch.where(on_z & (y > 1.3) & (y < 2.2), _back_wall_at(x, y), surface)
    surface = torch.where(on_y, torch.where(up < 0, _floor_at(x, z), NUMBER["ceiling"]), surface)
    surface = torch.where(on_cabinet, NUMBER["cabinet"], surface).int()
    n_x, n_y, n_z = (torch.where(on_cabinet, own, of) for own, of in zip(cabinet.normal, normal, strict=True))
    return Fixed((x, y, z), distance, (n_x, n_y, n_z), surface)


def meet_fixed(origin: Vector, direction: Vector) -> tuple[Vector, Tensor]:
    """The points that ``see_fixed`` has, for a camera, and whether they are on the cabinet."""
    to_x, to_y, to_z = _to_room(origin, direction)
    room = torch.minimum(torch.minimum(to_x, to_y), to_z)
    near, far = _through_cabinet(origin, direction)
    on_cabinet = near < torch.minimum(room, far)
    return ray_shapes.at(origin, direction, torch.where(on_cabinet, near, room)), on_cabinet


def _to_room(origin: Vector, direction: Vector) -> Vector:
    """Distances to the side wall, floor or ceiling, and back wall."""
    right, up, ahead = direction
    to_x = (torch.sign(right) * WIDE - origin[0]) / right
    to_y = ((up > 0) * HIGH - origin[1]) / up
    return to_x, to_y, (DEEP - origin[2]) / ahead


def _from(place: tuple[float, float, float], point: Vector) -> Vector:
    return point[0] - place[0], point[1] - place[1], point[2] - place[2]


def _floor_at(x: Tensor, z: Tensor) -> Tensor:
    """Surfaces of the floor: planks, on which lies a rug."""
    board = (x * (1 / 0.3) + 100).int()
    planks = (board * board + board // 2) % 3  # plank, darker or lighter, in no simple order
    edge = torch.maximum(x.abs() - 1.75, (z - 0.45).abs() - 1.15)  # from the border of the rug
    rug = torch.where(edge > -0.09, NUMBER["rug's border"], NUMBER["rug"])
    return torch.where(edge < 0, rug, planks)


def _back_wall_at(x: Tensor, y: Tensor) -> Tensor:
    """Surfaces of the wall at the back above the skirting: a painting hangs on it."""
    sun = (x + 0.75) * (x + 0.75) + (y - 1.85) * (y - 1.85) < 0.017
    hill = y < 1.58 + 0.25 * (x + 1.1) * (x + 0.6)
    canvas = torch.where(sun, NUMBER["sun"], torch.where(hill, NUMBER["hill"], NUMBER["canvas"]))
    edge = torch.maximum((x + 0.95).abs() - 0.55, (y - 1.75).abs() - 0.4)  # from the border of the painting
    return torch.where(edge < 0, torch.where(edge > -0.05, NUMBER["frame"], canvas), WALL)


def ambient_at(point: Vector, facing_up: Tensor) -> Tensor:
    """The factor of the ambient light: corners see less of the room, and what faces up sees the bright ceiling."""
    x, y, z = point
    ambient = 0.85 + 0.15 * facing_up
    for gap in (WIDE - x.abs(), torch.minimum(y, HIGH - y), DEEP - z):
        ambient = ambient * (1 - 0.08 / (gap.clamp(min=0) + 0.25))
    return ambient


def see_object(shape: int, stand: Vector, origin: Vector, direction: Vector) -> Hit:
    """Where rays, with directions of unit length, meet the object.

    Args:
        shape: position in ``SHAPES``.
        stand: x of its axis, height of its top, and half the height of the object on it.
        origin: as far as it is from the room's own.
    """
    half = stand[2]
    origin = _from_object(stand, origin)
    if SHAPES[shape] == "cube":
        hit = ray_shapes.box(_turned(origin), _turned(direction), (1.0, 1.0, 1.0))
        hit = Hit(hit.distance, _turned(hit.normal, -1))
    elif SHAPES[shape] == "cylinder":
        hit = ray_shapes.cylinder(origin, direction, 1.0, 1.0)
    else:
        hit = ray_shapes.sphere(origin, direction, 1.0)
    return Hit(hit.distance * half, hit.normal)


def see_stand(stand: Vector, camera: Vector, direction: Vector) -> Hit:
    """Where rays meet the stand: a pole between two plates."""
    pole, top, foot = (
        torch.where(near < far, near, math.inf) for near, far in _through_stand(stand, camera, direction)
    )
    distance = torch.minimum(torch.minimum(top, foot), pole)
    x, y, z = ray_shapes.at(camera, direction, distance.clamp(max=100))
    x, z = x - stand[0], z - STAND_Z
    side = torch.minimum((y - stand[1]).abs(), (y - 2 * PLATE_HALF).abs()) > 1e-4  # not on top of a plate
    beside = torch.where(distance == pole, 1 / POLE, 1 / PLATE) * side
    return Hit(distance, (x * beside, (~side).float(), z * beside))


def object_blocks(shape: int, stand: Vector, light: Vector, way: Vector) -> Tensor:
    """Whether the object is on the way from the light to the points light + way; so below."""
    size = 1 / stand[2]
    origin, way = _from_object(stand, light), (way[0] * size, way[1] * size, way[2] * size)
    if SHAPES[shape] == "cube":
        return ray_shapes.box_blocks(_turned(origin), _turned(way), (1.0, 1.0, 1.0))
    if SHAPES[shape] == "cylinder":
        return ray_shapes.cylinder_blocks(origin, way, 1.0, 1.0)
    return ray_shapes.sphere_blocks(origin, way, 1.0)


def stand_blocks(stand: Vector, light: Vector, way: Vector) -> Tensor:
    pole, top, foot = (near.clamp(min=0) < far.clamp(max=1) for near, far in _through_stand(stand, light, way))
    return pole | top | foot


def cabinet_blocks(light: Vector, way: Vector) -> Tensor:
    near, far = _through_cabinet(light, way)
    return near < far.clamp(max=1)


def _through_cabinet(origin: Vector, way: Vector) -> tuple[Tensor, Tensor]:
    """Where rays from a place in front of the cabinet and above it enter and leave it, in lengths of ``way``.

    They enter from above and from the front, and leave it in the floor or the back wall or through its sides.
    """
    x, y, z = _from(CABINET, origin)
    inverse = 1 / torch.where(way[0] == 0, 1e-12, way[0])
    middle, reach = -x * inverse, inverse.abs() * CABINET_HALF[0]
    top = (CABINET_HALF[1] - y) / way[1].clamp(max=-1e-9)
    front = (-CABINET_HALF[2] - z) / way[2].clamp(min=1e-9)
    return torch.maximum(torch.maximum(middle - reach, top), front), middle + reach


def _through_stand(stand: Vector, origin: Vector, way: Vector) -> list[tuple[Tensor, Tensor]]:
    """Where rays from a place above the stand enter and leave its pole, upper plate and lower plate.

    Distances are in lengths of ``way``; the first is not below the second where the ray misses.
    """
    x, z = origin[0] - stand[0], origin[2] - STAND_Z
    square = (way[0] * way[0] + way[2] * way[2]).clamp(min=1e-12)
    inverse = 1 / square
    nearest = (x * way[0] + z * way[2]) * -inverse
    beside = (x * x + z * z) * inverse - nearest * nearest  # square of the distance from the axis there
    pole, plate = (root(radius * radius * inverse - beside) for radius in (POLE, PLATE))  # half the way through
    # Upward rays are at all heights of the stand, and end there, before they begin.
    down = 1 / way[1]
    top, below_top, above_foot, foot = (
        (height - origin[1]) * down for height in (stand[1], stand[1] - 2 * PLATE_HALF, 2 * PLATE_HALF, 0.0)
    )
    enter, leave = nearest - plate, nearest + plate
    return [
        (torch.maximum(nearest - pole, top), torch.minimum(nearest + pole, foot)),
        (torch.maximum(enter, top), torch.minimum(leave, below_top)),
        (torch.maximum(enter, above_foot), torch.minimum(leave, foot)),
    ]


def _from_object(stand: Vector, origin: Vector) -> Vector:
    """From the middle of the object, in units of half its height."""
    size = 1 / stand[2]
    return (origin[0] - stand[0]) * size, (origin[1] - stand[1]) * size - 1, (origin[2] - STAND_Z) * size


def _turned(vector: Vector, way: int = 1) -> Vector:
    """As the cube sees it, or back."""
    cos, sin = math.cos(CUBE_TURN), math.sin(CUBE_TURN) * way
    x, y, z = vector
    return x * cos - z * sin, y, x * sin + z * cos
