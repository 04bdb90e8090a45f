"""The drawn rooms once more, as plainly as can be: all solids, shadows and surfaces for each of 16 rays a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RIGHT, UP, BACK = np.eye(3)
SURFACES = {
    "planks": [(0.66, 0.48, 0.30), (0.58, 0.40, 0.24), (0.73, 0.55, 0.36)],
    "object": [(0.20, 0.16, 0.85), (0.86, 0.46, 0.10), (0.12, 0.62, 0.56), (0.88, 0.80, 0.32)],
    "wall": [(0.46, 0.72, 0.36), (0.74, 0.74, 0.72), (0.80, 0.62, 0.80), (0.50, 0.64, 0.84)],
}
STAND, CABINET = (0.42, 0.43, 0.46), (0.50, 0.36, 0.26)


class Solid(NamedTuple):
    """A box, turned about the upright axis, a cylinder or a sphere, and what its surface is like."""

    kind: str
    middle: Sequence[float]
    half: Sequence[float]  # half sides, or radius, half height, radius
    turn: float
    colour: Sequence[float]
    gloss: float


class Hits(NamedTuple):
    distance: Array  # (M,), infinite for a miss
    normal: Array  # (M, 3)


def hits(solid: Solid, origin: Array, direction: Array) -> Hits:
    """Of rays (M, 3) that start outside."""
    cos, sin = np.cos(solid.turn), np.sin(solid.turn)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    o, d = (origin - solid.middle) @ turn.T / solid.half, direction @ turn.T / solid.half
    axes = {"box": (0, 1, 2), "cylinder": (1,), "sphere": ()}[solid.kind]
    round_axes = {"box": (), "cylinder": (0, 2), "sphere": (0, 1, 2)}[solid.kind]
    near, far, normal = np.full(len(o), -np.inf), np.full(len(o), np.inf), np.zeros_like(o)
    with np.errstate(divide="ignore", invalid="ignore"):
        for axis in axes:
            first, last = np.sort([(-1 - o[:, axis]) / d[:, axis], (1 - o[:, axis]) / d[:, axis]], axis=0)
            later = first > near
            normal[later] = -np.sign(d[later, axis])[:, None] * np.eye(3)[axis]
            near, far = np.maximum(near, first), np.minimum(far, last)
        if round_axes:
            r, s = o[:, round_axes], d[:, round_axes]
            a, b, c = (s * s).sum(1), (r * s).sum(1), (r * r).sum(1) - 1
            half = np.sqrt(b * b - a * c)  # not a number where the ray misses
            first, last = (-b - half) / a, (-b + half) / a
            later = ~(first <= near)
            ends = o + first[:, None] * d
            normal[later] = 0
            for axis in round_axes:
                normal[later, axis] = ends[later, axis]
            near, far = np.maximum(near, first), np.minimum(far, last)
        distance = np.where((near < far) & (near > 0), near, np.inf)
    return Hits(distance, normal @ turn)


def solids(row: Sequence[int]) -> list[Solid]:
    """The object, the stand's three parts and the cabinet."""
    shape, x, top, half = row[0], -1.05 + 0.3 * row[1], 0.25 + 0.2 * row[2], 0.22 + 0.06 * row[3]
    kind = ("box", "cylinder", "sphere")[shape]
    plate = (0.2, 0.025, 0.2)
    return [
        Solid(kind, (x, top + half, 0.5), (half,) * 3, 0.55 * (shape == 0), SURFACES["object"][row[4]], 0.3),
        Solid("cylinder", (x, top / 2, 0.5), (0.045, top / 2, 0.045), 0, STAND, 0.3),
        Solid("cylinder", (x, top - 0.025, 0.5), plate, 0, STAND, 0.3),
        Solid("cylinder", (x, 0.025, 0.5), plate, 0, STAND, 0.3),
        Solid("box", (1.55, 0.375, 2.2), (0.85, 0.375, 0.4), 0, CABINET, 0.03),
    ]


def room_colours(point: Array, normal: Array, wall: Sequence[float]) -> Array:
    """(M, 3), on the screen."""
    x, y, z = point.T
    colours = np.tile(wall, (len(point), 1))
    colours[y < 0.1] = (0.88, 0.87, 0.84)
    painted = (normal[:, 2] != 0) & (abs(x + 0.95) < 0.55) & (abs(y - 1.75) < 0.4)
    colours[painted] = (0.22, 0.17, 0.13)
    canvas = painted & (abs(x + 0.95) <= 0.5) & (abs(y - 1.75) <= 0.35)
    colours[canvas] = (0.90, 0.86, 0.76)
    colours[canvas & (y < 1.58 + 0.25 * (x + 1.1) * (x + 0.6))] = (0.22, 0.36, 0.42)
    colours[canvas & ((x + 0.75) ** 2 + (y - 1.85) ** 2 < 0.017)] = (0.88, 0.40, 0.20)
    colours[normal[:, 1] < 0] = (0.93, 0.93, 0.92)
    floor = normal[:, 1] > 0
    board = np.floor(x / 0.3 + 100).astype(int)
    colours[floor] = np.array(SURFACES["planks"])[(board * board + board // 2) % 3][floor]
    rug = np.maximum(abs(x) - 1.75, abs(z - 0.45) - 1.15)
    colours[floor & (rug < 0)] = (0.84, 0.76, 0.62)
    colours[floor & (rug <= -0.09)] = (0.62, 0.16, 0.17)
    return colours


def light_seen(row: Sequence[int], direction: Array) -> Array:
    """Red, green and blue that rays of the camera (M, 3) of unit length see."""
    camera = np.array([-0.5 + 0.2 * row[10], 1.1 + 0.16 * row[11], -3.6 + 0.18 * row[12]])
    light = np.array([-1.6 + 0.64 * row[7], 1.55 + 0.18 * row[8], -2.2 + 0.62 * row[9]])
    intensity = 0.35 + 0.25 * row[6]
    things = solids(row)

    lower, upper = np.array([-2.7, 0, -1e9]), np.array([2.7, 2.75, 2.6])
    to_sides = np.where(direction > 0, upper - camera, lower - camera) / direction
    side = to_sides.argmin(1)
    distance = to_sides.min(1)
    normal = -np.sign(direction) * np.eye(3)[side]
    colours = room_colours(camera + distance[:, None] * direction, normal, SURFACES["wall"][row[5]])
    gloss = np.zeros(len(direction))
    for thing in things:
        met = hits(thing, np.broadcast_to(camera, direction.shape), direction)
        nearer = met.distance < distance
        distance[nearer], normal[nearer] = met.distance[nearer], met.normal[nearer]
        colours[nearer], gloss[nearer] = thing.colour, thing.gloss

    point = camera + distance[:, None] * direction
    way = light - point
    length = np.linalg.norm(way, axis=1)
    way /= length[:, None]
    facing = (normal * way).sum(1)
    free = facing > 0
    for thing in things:
        free &= ~(hits(thing, point + 1e-3 * normal, way).distance < length)
    direct = np.where(free, 1.9 * intensity * facing / (0.75 + 0.32 * length**2), 0)
    x, y, z = point.T
    ambient = (0.13 + 0.33 * intensity) * (0.85 + 0.15 * normal[:, 1])
    for gap in (2.7 - abs(x), np.minimum(y, 2.75 - y), 2.6 - z):
        ambient *= 1 - 0.08 / (np.maximum(gap, 0) + 0.25)
    mirrored = (direction * way).sum(1) - 2 * (direction * normal).sum(1) * facing
    shine = gloss * intensity * free * np.clip(mirrored, 0, 1) ** 32
    return colours**2 * (ambient + direct)[:, None] + shine[:, None]


def picture(row: Sequence[int]) -> Array:
    """(3, 128, 128) in 0..255 of a row of factors."""
    place = (np.arange(512) + 0.5) / 256 - 1
    across, rise = (part.ravel() * 0.6 for part in np.meshgrid(place, -place))
    ahead = np.cos(0.13) * BACK - np.sin(0.13) * UP
    above = np.sin(0.13) * BACK + np.cos(0.13) * UP
    direction = ahead + across[:, None] * RIGHT + rise[:, None] * above
    light = light_seen(row, direction / np.linalg.norm(direction, axis=1, keepdims=True))
    mean = light.reshape(128, 4, 128, 4, 3).mean((1, 3))
    return 255 * np.sqrt(np.clip(mean, 0, 1)).transpose(2, 0, 1)
