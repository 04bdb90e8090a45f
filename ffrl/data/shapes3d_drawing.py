"""Pictures in the manner of 3D Shapes, by a small ray caster: a solid on the floor of a square room, seen in an orbit.

They have the factors of the published set (Burgess and Kim 2018) and are no copies of its images.
"""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffrl.data import ray_shapes
from ffrl.data.drawing import check_factors, draw_groups, to_bytes
from ffrl.data.ray_shapes import Hit, Vector, dot

SIZE = 64
FACTOR_SIZES = {"floor_hue": 10, "wall_hue": 10, "object_hue": 10, "scale": 8, "shape": 4, "orientation": 15}
SHAPES = ("cube", "cylinder", "sphere", "capsule")
SCALES = tuple(np.linspace(0.75, 1.25, FACTOR_SIZES["scale"]).tolist())
DEGREES = tuple(np.linspace(-30, 30, FACTOR_SIZES["orientation"]).tolist())
ROWS, COLUMNS = (8, 55), (11, 53)
"""The part of the picture that holds the object whatever the factors are: rows and columns from, and up to but not."""

# Lengths are in units of the object, which at scale 1 is about 1.7 high.
_DISTANCE, _EYE, _AIM = 6.4, 3.1, 1.05  # the camera's from the axis and above the floor, and where it looks on the axis
_TANGENT = 0.37  # of half the field of view
_FOOT = 0.8  # half the side of the cube, radius of the cylinder
_WALL = 4.2  # from the axis
_LIGHT = (-0.51, 0.74, -0.44)  # towards the light, before it is brought to unit length
_SUN, _SKY = 0.72, 0.34
_ROOM_SAMPLES = tuple(((i + 0.5) / 4, (j + 0.5) / 4) for j in range(4) for i in range(4))  # of a pixel, right and down
_OBJECT_SAMPLES = ((0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875))  # no two in a row or a column
_PIECE = 4  # images at a time

# Around the object at scale 1: the share of the light and of the sky that the floor sees, sampled on a square.
_REACH, _SAMPLES = 3.2, 96  # half a side, samples a side
_LIGHT_RAYS, _SKY_RAYS = 48, 96
_LIGHT_SPREAD = 0.13  # radius of the light, as seen from 1 away


def draw(factors: Tensor) -> Tensor:
    """Draw a cube, cylinder, sphere or capsule standing in the middle of a room.

    Hues are i/10 of the circle, scales 0.75 to 1.25, orientations -30 to 30 degrees: those of the camera about the
    upright axis through the object. Light, object and room stay where they are. A pixel is the mean of 4 rays to the
    object and of 16 to the room.

    Args:
        factors: (N, 6) int64, columns and ranges of ``FACTOR_SIZES``.

    Returns:
        (N, 3, 64, 64) uint8, RGB, on the device of ``factors``.

    Raises:
        ArgumentError: a dtype, shape or value of ``factors`` is outside what is stated above.
    """
    check_factors(factors, FACTOR_SIZES)
    rows, shape = [_PIECE] * len(SHAPES), (3, SIZE, SIZE)
    return draw_groups(_draw_one_shape, factors, factors[:, 4], rows, shape, alike=_pose(factors))


def _pose(factors: Tensor) -> Tensor:
    """A number for each scale and orientation, (N,)."""
    return factors[:, 3] * FACTOR_SIZES["orientation"] + factors[:, 5]


def _draw_one_shape(shape: int, factors: Tensor) -> Tensor:
    """Pictures of one shape, (N, 6) -> (N, 3, 64, 64); what depends on the pose alone is computed once for each."""
    stage, shades = _stage(str(factors.device)), _shades(shape, str(factors.device))
    colours = [stage.colours.index_select(0, factors[:, j]) for j in range(3)]  # (N, 3) of floor, walls, object
    pose, place = _pose(factors).unique(return_inverse=True)
    scale = stage.scales.index_select(0, pose // FACTOR_SIZES["orientation"])[:, None]  # (poses, 1)
    orientation = pose % FACTOR_SIZES["orientation"]

    light, sky = _look_up(shades, stage.floor_points.index_select(0, orientation) / scale[:, :, None])  # (poses, Q)
    floor = stage.floor.index_select(0, orientation) * (_SUN * stage.sun_on_floor * light + _SKY * sky)
    layers = _object_layers(shape, scale, stage.turns.index_select(0, orientation), stage)
    floor, cover, diffuse, gloss = (layer.index_select(0, place) for layer in (floor, *layers))
    wall = stage.wall.index_select(0, factors[:, 5])  # (N, 4096)
    window = (-1, ROWS[1] - ROWS[0], COLUMNS[1] - COLUMNS[0])
    bare = (1 - cover).view(window)
    channels = []
    for channel in range(3):
        floor_colour, wall_colour, object_colour = (colour[:, channel, None] for colour in colours)  # (N, 1)
        picture = wall_colour * wall
        picture[:, -floor.shape[1] :] += floor_colour * floor
        picture = picture.view(-1, SIZE, SIZE)
        solid = (object_colour * diffuse + gloss).view(window)
        picture[:, ROWS[0] : ROWS[1], COLUMNS[0] : COLUMNS[1]].mul_(bare).add_(solid)
        channels.append(picture)
    return to_bytes(channels)


def _object_layers(shape: int, scale: Tensor, turn: Tensor, stage: _Stage) -> tuple[Tensor, Tensor, Tensor]:
    """Of the window's pixels, (N, P) each: the share that the object covers, its diffuse light, and its gloss.

    Args:
        scale: (N, 1).
        turn: (N, 2), cosine and sine of the camera's angle.
    """
    cos, sin = turn[:, :1, None], turn[:, 1:, None]  # (N, 1, 1)
    right, up, ahead = stage.rays  # (S, P): rays of the camera at angle 0
    direction = (right * cos - ahead * sin, up, right * sin + ahead * cos)
    # The object is kept and the camera moved nearer or further: distances are in units of the scale.
    small = scale[:, :, None]
    origin = (_DISTANCE * sin / small, _EYE / small, -_DISTANCE * cos / small)
    hit = _meet(shape, origin, direction)
    covered = (hit.distance < math.inf).float()
    distance = hit.distance.clamp(max=100)
    normal = hit.normal
    sun = tuple(_unit(_LIGHT))
    facing = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2]
    height = origin[1] + distance * direction[1]
    open_sky = (0.62 + 0.38 * normal[1]) * (0.55 + 0.45 * (height * 1.4).clamp(0, 1))
    diffuse = 0.95 * _SUN * facing.clamp(min=0) + 1.15 * _SKY * open_sky
    against = dot(direction, normal)
    mirrored = direction[0] * sun[0] + direction[1] * sun[1] + direction[2] * sun[2] - 2 * against * facing
    gloss = mirrored.clamp(0, 1)
    for _ in range(4):
        gloss = gloss * gloss  # to the power of 16
    gloss = 0.22 * gloss * (facing > 0)
    return _mean_of_samples(covered), _mean_of_samples(diffuse * covered), _mean_of_samples(gloss * covered)


def _mean_of_samples(values: Tensor) -> Tensor:
    """(N, S, P) -> (N, P), added in the order of S."""
    total = values[:, 0].clone()
    for sample in range(1, values.shape[1]):
        total += values[:, sample]
    return total / values.shape[1]


def _meet(shape: int, origin: Vector, direction: Vector) -> Hit:
    """Where rays meet a shape at scale 1 that stands on the floor at the origin."""
    x, y, z = origin
    if SHAPES[shape] == "cube":
        return ray_shapes.box((x, y - _FOOT, z), direction, (_FOOT, _FOOT, _FOOT))
    if SHAPES[shape] == "cylinder":
        return ray_shapes.cylinder((x, y - 0.85, z), direction, _FOOT, 0.85)
    if SHAPES[shape] == "sphere":
        return ray_shapes.sphere((x, y - 0.95, z), direction, 0.95)
    return ray_shapes.capsule((x, y - 1.1, z), direction, 0.62, 0.48)


class _Stage(NamedTuple):
    """What does not depend on the object. O orientations, P pixels of the window, S rays for each."""

    colours: Tensor  # (10, 3) of the hues, amounts of light
    scales: Tensor  # (8,)
    turns: Tensor  # (O, 2) cosine and sine
    rays: Vector  # (S, P) each, of unit length, right, up and ahead of the camera at angle 0
    wall: Tensor  # (O, 4096) share of wall in a pixel times its brightness
    floor: Tensor  # (O, Q) likewise; Q pixels, those of the rows in which there is floor
    floor_points: Tensor  # (O, 2, Q) x and z of the floor behind the pixel's centre; far away where there is none
    sun_on_floor: float


@functools.lru_cache(maxsize=8)
def _stage(device: str) -> _Stage:
    hues = [colorsys.hsv_to_rgb(i / 10, 0.82, 0.97) for i in range(10)]
    colours = torch.tensor(hues, dtype=torch.float64) ** 2
    angles = torch.tensor(DEGREES, dtype=torch.float64).deg2rad()
    turns = torch.stack((angles.cos(), angles.sin()), 1)
    everywhere = _camera_rays((0, SIZE), (0, SIZE), _ROOM_SAMPLES)
    floor, wall = (torch.stack(layers) for layers in zip(*(_room(turn, everywhere) for turn in turns), strict=True))
    above = int((floor.amax(0) > 0).nonzero()[0]) // SIZE  # rows with walls alone
    right, up, ahead = (ray[0] for ray in _camera_rays((above, SIZE), (0, SIZE), ((0.5, 0.5),)))
    distance = torch.where(up < -1e-6, -_EYE / up, math.inf).clamp(max=1e3)  # to the floor
    points = [_turned(right * distance, ahead * distance - _DISTANCE, turn) for turn in turns]

    def moved(value: Tensor) -> Tensor:
        return value.to(device, torch.float32)

    right, up, ahead = _camera_rays(ROWS, COLUMNS, _OBJECT_SAMPLES)
    return _Stage(
        moved(colours),
        moved(torch.tensor(SCALES)),
        moved(turns),
        (moved(right), moved(up), moved(ahead)),
        moved(wall),
        moved(floor[:, above * SIZE :]),
        moved(torch.stack([torch.stack(point) for point in points])),
        _unit(_LIGHT)[1],
    )


def _unit(vector: tuple[float, float, float]) -> list[float]:
    length = math.hypot(*vector)
    return [part / length for part in vector]


def _turned(x: Tensor, z: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """x and z in the room of what the camera at angle 0 sees at x and z."""
    return x * turn[0] - z * turn[1], x * turn[1] + z * turn[0]


def _camera_rays(rows: tuple[int, int], columns: tuple[int, int], samples: Sequence[tuple[float, float]]) -> Vector:
    """Rays of the camera at angle 0 through the samples of the pixels, (samples, pixels) float64 each, unit length."""
    offset = torch.tensor(samples, dtype=torch.float64)[:, :, None, None]  # (S, 2, 1, 1)
    across = (torch.arange(*columns)[None, None, :] + offset[:, 0]) * 2 / SIZE - 1  # (S, 1, columns)
    down = (torch.arange(*rows)[None, :, None] + offset[:, 1]) * 2 / SIZE - 1
    across, down = (part.flatten(1) for part in torch.broadcast_tensors(across, down))
    tilt = math.atan2(_EYE - _AIM, _DISTANCE)
    rise, ahead = -down * _TANGENT, torch.ones_like(down)
    up = rise * math.cos(tilt) - ahead * math.sin(tilt)
    ahead = rise * math.sin(tilt) + ahead * math.cos(tilt)
    right = across * _TANGENT
    length = (right**2 + up**2 + ahead**2).sqrt()
    return right / length, up / length, ahead / length


def _room(turn: Tensor, rays: Vector) -> tuple[Tensor, Tensor]:
    """Floor and wall of the empty room in one orientation, (pixels,) each: share in the pixel times brightness."""
    right, up, ahead = rays
    x0, z0 = _turned(torch.zeros(1), torch.full((1,), -_DISTANCE), turn)
    dx, dz = _turned(right, ahead, turn)
    to_floor = torch.where(up < 0, -_EYE / up, math.inf)
    to_x, to_z = (_WALL - torch.sign(dx) * x0) / dx.abs(), (_WALL - torch.sign(dz) * z0) / dz.abs()
    to_wall = torch.minimum(to_x, to_z)
    on_floor = to_floor < to_wall
    distance = torch.minimum(to_floor, to_wall)
    x, y, z = x0 + distance * dx, _EYE + distance * up, z0 + distance * dz
    # A corner is darker than what is away from it, and the light falls off from where it points.
    corner = torch.minimum(_WALL - x.abs(), _WALL - z.abs()).clamp(min=0)
    near_wall = 0.68 + 0.32 * corner / (corner + 0.35)
    floor = near_wall * 1.12 / (1 + 0.022 * (x**2 + z**2))
    sun = _unit(_LIGHT)
    on_x = to_x < to_z
    facing = torch.where(on_x, -torch.sign(dx) * sun[0], -torch.sign(dz) * sun[2]).clamp(min=0)
    beside = torch.where(on_x, _WALL - z.abs(), _WALL - x.abs()).clamp(min=0)
    edges = (0.7 + 0.3 * beside / (beside + 0.3)) * (0.62 + 0.38 * y.clamp(min=0) / (y.clamp(min=0) + 0.3))
    wall = (0.85 * _SUN * facing + 0.95 * _SKY) * edges * 1.1 / (1 + 0.03 * (y - 2) ** 2)
    return torch.where(on_floor, floor, 0.0).mean(0), torch.where(on_floor, 0.0, wall).mean(0)


@functools.lru_cache(maxsize=32)
def _shades(shape: int, device: str) -> Tensor:
    """Shares of the light and of the sky that the floor around the shape at scale 1 sees, (2, samples²) float32."""
    place = torch.linspace(-_REACH, _REACH, _SAMPLES, dtype=torch.float64)
    x, z = place[None, :, None], place[:, None, None]
    # What is under a flat bottom is never seen, but pixels at its edge may have their centre there: it is taken to be
    # lit as the floor beside it is.
    if SHAPES[shape] in ("cube", "cylinder"):
        radius = torch.maximum(x.abs(), z.abs()) if SHAPES[shape] == "cube" else (x**2 + z**2).sqrt()
        away = (_FOOT * 1.02 / radius).clamp(min=1)
        x, z = x * away, z * away
    sun = torch.tensor(_unit(_LIGHT), dtype=torch.float64)
    side = torch.linalg.cross(sun, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    side = side / side.norm()
    other = torch.linalg.cross(sun, side)
    radius, angle = _spiral(_LIGHT_RAYS)
    spread = _LIGHT_SPREAD * radius
    lights = sun[:, None] + side[:, None] * spread * angle.cos() + other[:, None] * spread * angle.sin()
    radius, angle = _spiral(_SKY_RAYS)  # the shadow of a hemisphere: rays are denser upward, as the light counts
    skies = torch.stack((radius * angle.cos(), (1 - radius**2).sqrt(), radius * angle.sin()))
    seen = []
    far = 20.0
    for right, up, ahead in (lights / lights.norm(dim=0), skies):
        # From the light to the floor: a place below the object is in its shadow.
        hit = _meet(shape, (x + far * right, far * up, z + far * ahead), (-right, -up, -ahead))
        seen.append((hit.distance >= far).double().mean(2).flatten())
    return torch.stack(seen).float().to(device)


def _spiral(count: int) -> tuple[Tensor, Tensor]:
    """Radii and angles of points spread evenly over the unit disc, (count,) float64 each."""
    number = torch.arange(count, dtype=torch.float64) + 0.5
    return (number / count).sqrt(), number * math.pi * (3 - 5**0.5)


def _look_up(table: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Both shares at floor points (N, 2, P), between the samples bilinearly, (N, P) each."""
    place = ((points + _REACH) * ((_SAMPLES - 1) / (2 * _REACH))).clamp(0, _SAMPLES - 1.001)
    corner = place.int()
    right, down = (place - corner).unbind(1)  # (N, P)
    column, row = corner.unbind(1)
    first = (row * _SAMPLES + column).flatten()
    found = []
    for shares in table:
        corners = (shares.index_select(0, first + step) for step in (0, 1, _SAMPLES, _SAMPLES + 1))
        top, top_right, below, below_right = (corner.view_as(right) for corner in corners)
        top, below = top + (top_right - top) * right, below + (below_right - below) * right
        found.append(top + (below - top) * down)
    return found[0], found[1]
