"""Where rays meet a box, an upright cylinder, a sphere or an upright capsule, each convex and about the origin."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.data.drawing import root

_NEVER = 1e9  # a distance that nothing has
Vector = tuple[Tensor, Tensor, Tensor]  # x, y (up), z; the three broadcast against each other


class Hit(NamedTuple):
    """The first point of a ray, origin + distance · direction, that is in a solid."""

    distance: Tensor  # in lengths of the direction; infinite where the ray misses
    normal: Vector  # of unit length, outward; finite but of no meaning where the ray misses


def dot(left: Vector, right: Vector) -> Tensor:
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def at(origin: Vector, direction: Vector, distance: Tensor) -> Vector:
    """The point origin + distance · direction."""
    x, y, z = (o + distance * d for o, d in zip(origin, direction, strict=True))
    return x, y, z


def box(origin: Vector, direction: Vector, half: tuple[float, float, float]) -> Hit:
    """The box with half sides ``half``; for rays that start outside, as in all functions here."""
    sides, near, far = _through_box(origin, direction, half)
    distance = torch.where((near < far) & (near > 0), near, math.inf)
    x, y, z = (-torch.sign(d) * (side == near) for d, side in zip(direction, sides, strict=True))
    return Hit(distance, (x, y, z))


def cylinder(origin: Vector, direction: Vector, radius: float, half_height: float) -> Hit:
    """The upright cylinder of a radius, from -half_height to half_height."""
    (side, cap), near, far = _through_cylinder(origin, direction, radius, half_height)
    distance = torch.where((near < far) & (near > 0), near, math.inf)
    on_side = (side >= cap).to(near.dtype)
    x, _, z = at(origin, direction, near)
    beside = on_side * (1 / radius)
    return Hit(distance, (x * beside, (on_side - 1) * torch.sign(direction[1]), z * beside))


def sphere(origin: Vector, direction: Vector, radius: float) -> Hit:
    """The sphere of a radius; directions have unit length."""
    along = dot(origin, direction)
    square = along * along - (dot(origin, origin) - radius * radius)
    near = -along - root(square)
    distance = torch.where((square > 0) & (near > 0), near, math.inf)
    x, y, z = at(origin, direction, near)
    return Hit(distance, (x / radius, y / radius, z / radius))


def capsule(origin: Vector, direction: Vector, radius: float, half_height: float) -> Hit:
    """All points within a radius of the upright segment from -half_height to half_height; directions of unit length."""
    side, _ = _tube(origin, direction, radius)
    height = origin[1] + side * direction[1]
    on_side = height.abs() < half_height
    end = torch.sign(height) * half_height
    cap = sphere((origin[0], origin[1] - end, origin[2]), direction, radius)
    distance = torch.where(on_side & (side > 0), side, cap.distance)
    distance = torch.where(side >= _NEVER, math.inf, distance)
    x, y, z = at(origin, direction, distance.clamp(max=_NEVER))
    up = (y - y.clamp(-half_height, half_height)) / radius
    return Hit(distance, (x / radius, up, z / radius))


def box_blocks(origin: Vector, direction: Vector, half: tuple[float, float, float]) -> Tensor:
    """Whether the segment from origin to origin + direction, of any length, passes through the box; so below."""
    _, near, far = _through_box(origin, direction, half)
    return near.clamp(min=0) < far.clamp(max=1)


def cylinder_blocks(origin: Vector, direction: Vector, radius: float, half_height: float) -> Tensor:
    _, near, far = _through_cylinder(origin, direction, radius, half_height)
    return near.clamp(min=0) < far.clamp(max=1)


def sphere_blocks(origin: Vector, direction: Vector, radius: float) -> Tensor:
    nearest = (-dot(origin, direction) / dot(direction, direction)).clamp(0, 1)
    point = at(origin, direction, nearest)
    return dot(point, point) < radius * radius


def _through_box(origin: Vector, direction: Vector, half: tuple[float, float, float]) -> tuple[Vector, Tensor, Tensor]:
    """Distances to the sides of each axis that come first, and where a ray is in all three pairs, first and last."""
    slabs = [_slab(o, d, h) for o, d, h in zip(origin, direction, half, strict=True)]
    (near_x, far_x), (near_y, far_y), (near_z, far_z) = slabs
    near = torch.maximum(torch.maximum(near_x, near_y), near_z)
    far = torch.minimum(torch.minimum(far_x, far_y), far_z)
    return (near_x, near_y, near_z), near, far


def _through_cylinder(
    origin: Vector, direction: Vector, radius: float, half_height: float
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Distances to the side and to the end that come first, and where a ray is within both, first and last."""
    side_near, side_far = _tube(origin, direction, radius)
    cap_near, cap_far = _slab(origin[1], direction[1], half_height)
    return (side_near, cap_near), torch.maximum(side_near, cap_near), torch.minimum(side_far, cap_far)


def _slab(origin: Tensor, direction: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Distances at which a coordinate is first and last between -half and half."""
    inverse = 1 / torch.where(direction == 0, 1e-12, direction)
    middle, reach = -origin * inverse, inverse.abs() * half
    return middle - reach, middle + reach


def _tube(origin: Vector, direction: Vector, radius: float) -> tuple[Tensor, Tensor]:
    """Distances at which a ray enters and leaves the endless upright cylinder; where it misses, the second is less."""
    (x, _, z), (across, _, along) = origin, direction
    a = (across * across + along * along).clamp(min=1e-12)
    b = x * across + z * along
    c = x * x + z * z - radius * radius
    square = b * b - a * c
    half, inverse = root(square), 1 / a
    missed = (square <= 0).to(square.dtype) * (2 * _NEVER)
    return (-b - half) * inverse + missed, (half - b) * inverse - missed
