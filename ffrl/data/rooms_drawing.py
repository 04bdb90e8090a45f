"""Pictures of a lit room, by a small ray caster: an object on a stand, with a light and a camera that move.

They stand in for Falcor3D and Isaac3D (Nie et al. 2020) where those cannot be had, with factors of the same names, and
are no copies of their images. All seven factors of Falcor3D are here in their sizes. Eight of Isaac3D's nine are here
under their names (robot_x-move and robot_y-move move a stand sideways and its top up, as the robot's arm moves what it
holds); its camera_height is camera_y-pos. Where both sets have a factor, its size is Falcor3D's.

What a camera sees of the fixed room is looked up (``rooms_stage``) and lit for every picture. Rays are cast at the
stand and the object, and from the room to the light only where something may be on the way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.data.drawing import check_factors, draw_groups, to_bytes
from ffrl.data.ray_shapes import Vector, at, dot
from ffrl.data.rooms_scene import (
    AROUND,
    BALL,
    PLATE,
    SHAPES,
    STAND_Z,
    ambient_at,
    cabinet_blocks,
    meet_fixed,
    object_blocks,
    see_object,
    see_stand,
    stand_blocks,
)
from ffrl.data.rooms_stage import (
    PIXELS,
    SAMPLES,
    SIZE,
    VALUES,
    Backdrop,
    Stage,
    camera_numbers,
    changes,
    project,
    split,
    stage,
)

__all__ = ["FACTOR_SIZES", "SHAPES", "SIZE", "draw"]

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
_COLUMN = {name: column for column, name in enumerate(FACTOR_SIZES)}
_PIECE, _VIEW = 8, 2  # images at a time; of which whole pictures are worked on at a time, on a CPU
_RAYS = 2 * PIXELS  # at a time, on a CPU
_MARGIN = 0.01  # metres, or pixels, by which what may matter is taken larger


def draw(factors: Tensor) -> Tensor:
    """Draw rooms.

    The object is a cube, cylinder or sphere; it stands on a plate that moves sideways and up. The light is a point in
    the room, which moves to the right (x), up (y) and to the back (z); it casts shadows. The camera moves likewise and
    looks in one direction. A pixel is the mean of 16 rays to the fixed room and of 4 to the object and the stand; what
    is in shadow, in the fixed room, is the mean of 4 rays where that changes from a pixel to the next, else of one.

    Args:
        factors: (N, 13) int64, columns and ranges of ``FACTOR_SIZES``.

    Returns:
        (N, 3, 128, 128) uint8, RGB, on the device of ``factors``.

    Raises:
        ArgumentError: a dtype, shape or value of ``factors`` is outside what is stated above.
    """
    check_factors(factors, FACTOR_SIZES)
    looked_up = stage(str(factors.device))
    looked_up.prepare(_cameras(factors))
    draw_some = functools.partial(_draw_one_shape, looked_up)
    return draw_groups(draw_some, factors, factors[:, 0], [_PIECE] * len(SHAPES), (3, SIZE, SIZE))


def _cameras(factors: Tensor) -> Tensor:
    x, y, z = (factors[:, _COLUMN[f"camera_{axis}-pos"]] for axis in "xyz")
    return camera_numbers(x, y, z)


class _Room(NamedTuple):
    """What the factors say, for N images or for the images that N pixels belong to."""

    shape: int
    values: Tensor  # (10, N), the rows of ``VALUES``

    @property
    def stand(self) -> Vector:
        """x of its axis, height of its top, and half the height of the object on it, (N,) each."""
        return self.values[0], self.values[1], self.values[2]

    @property
    def intensity(self) -> Tensor:
        return self.values[3]

    @property
    def light(self) -> Vector:
        return self.values[4], self.values[5], self.values[6]

    @property
    def camera(self) -> Vector:
        return self.values[7], self.values[8], self.values[9]

    def of(self, image: Tensor) -> _Room:
        """For pixels, of which each belongs to one of the images."""
        return _Room(self.shape, self.values.index_select(1, image))


class _View(NamedTuple):
    """The fixed room in some of the images, N of them."""

    images: slice
    room: _Room
    seen: Backdrop
    from_light: Vector  # (N, P) each, to the points that are seen
    square: Tensor  # (N, P), of its length


def _draw_one_shape(looked_up: Stage, shape: int, factors: Tensor) -> Tensor:
    """Pictures of one shape, (N, 13) -> (N, 3, 128, 128), seen by cameras that were prepared."""
    values = (looked_up.values[name].index_select(0, factors[:, _COLUMN[name]]) for name in VALUES)
    room = _Room(shape, torch.stack([*values]))
    wall, paint = (
        table.index_select(0, factors[:, _COLUMN[name]])
        for table, name in ((looked_up.walls, "wall_color"), (looked_up.objects, "object_color"))
    )
    count, step = len(factors), _VIEW if factors.device.type == "cpu" else len(factors)
    parts = [slice(first, min(first + step, count)) for first in range(0, count, step)]
    views = [_view(part, room, _cameras(factors[part]), looked_up) for part in parts]
    lit = _lit(views, room, looked_up)
    light = torch.empty((3, count, PIXELS), device=factors.device)
    for view in views:
        _light_up(view, lit[view.images], wall[view.images], light[:, view.images], looked_up)
    on_object, on_stand = _near_pixels(room, looked_up)
    for pixels in _few(on_stand):
        _put(_layer(room, pixels, looked_up, of_stand=True), light, looked_up.stand.expand_as(wall))
    for pixels in _few(on_object):
        _put(_layer(room, pixels, looked_up, of_stand=False), light, paint)
    images = torch.empty((count, 3, SIZE, SIZE), dtype=torch.uint8, device=factors.device)
    for part in parts:
        to_bytes([*light[:, part].unflatten(2, (SIZE, SIZE))], images[part])
    return images


def _few(pixels: Tensor) -> Sequence[Tensor]:
    """In parts, on a CPU, so small that rays through all their samples can be cast together."""
    return pixels.split(_RAYS // len(SAMPLES)) if pixels.device.type == "cpu" else [pixels]


def _view(images: slice, room: _Room, cameras: Tensor, looked_up: Stage) -> _View:
    """Of all images' room, and the numbers of the cameras of the view's."""
    room = _Room(room.shape, room.values[:, images])
    seen = looked_up.backdrop(cameras)
    start = _minus(room.camera, room.light)
    x, y, z = (part[:, None] + seen.distance * along for part, along in zip(start, looked_up.middle, strict=True))
    return _View(images, room, seen, (x, y, z), dot((x, y, z), (x, y, z)))


def _light_up(view: _View, lit: Tensor, wall: Tensor, light: Tensor, looked_up: Stage) -> None:
    """Write the light of a view's pixels to ``light``, (3, N, P).

    Args:
        lit: (N, P), the share of each pixel that sees the lamp.
        wall: (N, 3), what its paint reflects.
    """
    _, room, seen, from_light, square = view
    inverse = square.rsqrt()
    direct = _direct(dot(seen.normal, from_light), square, inverse, lit, room.intensity[:, None])
    brightness = _base(room.intensity)[:, None] * seen.ambient + direct
    gloss = _cabinet_gloss(view, inverse, lit, looked_up)
    for channel, reflected, paint in zip(light, seen.reflected, wall.unbind(1), strict=True):
        torch.mul(seen.wall * paint[:, None] + reflected, brightness, out=channel)
        looked_up.nook(channel).add_(gloss)


def _direct(against: Tensor, square: Tensor, inverse: Tensor, lit: Tensor, intensity: Tensor) -> Tensor:
    """The light that comes from the lamp itself.

    Args:
        against: the normal times the way from the lamp, of the length whose square and inverse follow.
        lit: the share that sees the lamp.
    """
    return against.clamp(max=0) * inverse * lit * (intensity * -1.9) / (square * 0.32 + 0.75)


def _base(intensity: Tensor) -> Tensor:
    """Ambient light: reflections of the light fill the shadows."""
    return 0.13 + 0.33 * intensity


def _cabinet_gloss(view: _View, inverse: Tensor, lit: Tensor, looked_up: Stage) -> Tensor:
    """The light that the cabinet mirrors, in the nook, (N, rows, columns)."""
    cut = looked_up.nook
    normal, ray, from_light = (_each(cut, part) for part in (view.seen.normal, looked_up.middle, view.from_light))
    mirrored = _mirrored(ray, normal, from_light, cut(inverse))
    return mirrored * cut(lit) * view.seen.cabinet * (view.room.intensity * 0.03)[:, None, None]


def _mirrored(ray: Vector, normal: Vector, from_light: Vector, inverse: Tensor) -> Tensor:
    """How much of the light what faces it mirrors, 0 to 1; ``inverse`` is 1 over the distance from the light."""
    facing = dot(normal, from_light)
    mirrored = ((2 * dot(ray, normal) * facing - dot(ray, from_light)) * inverse).clamp(0, 1) * (facing < 0)
    for _ in range(5):
        mirrored = mirrored * mirrored  # to the power of 32
    return mirrored


def _lit(views: list[_View], room: _Room, looked_up: Stage) -> Tensor:
    """The share of each pixel of the fixed room that sees the light, (N, P) for the N images of all views."""
    shape = (room.values.shape[1], PIXELS)
    dark = torch.empty(shape, dtype=torch.bool, device=room.values.device)
    for view in views:
        looked_up.nook(dark[view.images].zero_()).copy_(_in_shadow_of_cabinet(view, looked_up))
    found = [_near_shadows(view) for view in views]
    for blocks, near in zip((_blocked_by_object, _blocked_by_stand), zip(*found, strict=True), strict=True):
        pixels = torch.cat([some + view.images.start * PIXELS for some, view in zip(near, views, strict=True)])
        ends = [_pick(_each(Tensor.flatten, v.from_light), some) for v, some in zip(views, near, strict=True)]
        x, y, z = (torch.cat(parts) for parts in zip(*ends, strict=True))
        blocked = blocks(room.of(split(pixels)[0]), (x, y, z)).nonzero()[:, 0]
        dark.view(-1).index_fill_(0, pixels.index_select(0, blocked), True)
    lit = torch.empty(shape, device=dark.device)
    edges = []
    for view in views:
        part = dark[view.images]
        lit[view.images].copy_(~part)
        edges.append(changes(part.unflatten(1, (SIZE, SIZE))) + view.images.start * PIXELS)
    for some in _few(torch.cat(edges)):
        image, pixel = split(some)
        lit.view(-1).scatter_(0, some, _lit_samples(room.of(image), pixel, looked_up))
    return lit


def _in_shadow_of_cabinet(view: _View, looked_up: Stage) -> Tensor:
    """In the nook, (N, rows, columns)."""
    x, y, z = (part[:, None, None] for part in view.room.light)
    return cabinet_blocks((x, y, z), _each(looked_up.nook, view.from_light)) & (view.seen.cabinet < 0.5)


def _near_shadows(view: _View) -> tuple[Tensor, Tensor]:
    """The numbers of the pixels that may be in the shadow of the object, and of those that may be in the stand's."""
    room, from_light = view.room, view.from_light
    x, y, z = (
        (part - light)[:, None]
        for part, light in zip((room.stand[0], room.stand[1] + room.stand[2], STAND_Z), room.light, strict=True)
    )
    across = x * from_light[0] + z * from_light[2]
    ball = room.stand[2][:, None] * BALL[room.shape] + _MARGIN
    on_object = _may_pass(across + y * from_light[1], view.square, x * x + y * y + z * z - ball * ball)
    level = view.square - from_light[1] * from_light[1]
    on_stand = _may_pass(across, level, x * x + z * z - (PLATE + _MARGIN) ** 2)
    below = (room.stand[1] - room.light[1])[:, None] - from_light[1]
    on_stand = torch.minimum(on_stand, below)
    return (on_object.flatten() > 0).nonzero()[:, 0], (on_stand.flatten() > 0).nonzero()[:, 0]


def _may_pass(along: Tensor, square: Tensor, outside: Tensor) -> Tensor:
    """Above 0 where a ray may pass through a ball, (N, P).

    Args:
        along: (N, P), the ray times the way to the ball's middle.
        square: (N, P), of the ray's length.
        outside: (N, 1), square of the distance to the middle less that of the radius; below 0 all rays pass.
    """
    ahead = along + (outside < 0) * 1e3
    return torch.minimum(ahead, along * along - outside * square)


def _blocked_by_object(own: _Room, end: Vector) -> Tensor:
    return object_blocks(own.shape, own.stand, own.light, end)


def _blocked_by_stand(own: _Room, end: Vector) -> Tensor:
    return stand_blocks(own.stand, own.light, end)


def _lit_samples(own: _Room, pixel: Tensor, looked_up: Stage) -> Tensor:
    """The share of the samples of pixels (M,) of the fixed room that see the light, (M,)."""
    end, on_cabinet = meet_fixed(own.camera, looked_up.sample_rays(pixel))
    end = _minus(end, own.light)
    blocked = cabinet_blocks(own.light, end) & ~on_cabinet
    blocked |= _blocked_by_object(own, end)
    blocked |= _blocked_by_stand(own, end)
    return 1 - _mean_of_samples(blocked.float())


class _Layer(NamedTuple):
    """A solid, of M pixels, (M,) each."""

    pixels: Tensor  # their numbers among those of all images
    image: Tensor
    cover: Tensor  # the share that it covers
    brightness: Tensor  # times that share
    gloss: Tensor  # likewise


def _layer(room: _Room, pixels: Tensor, looked_up: Stage, *, of_stand: bool) -> _Layer:
    image, pixel = split(pixels)
    own, ray = room.of(image), looked_up.sample_rays(pixel)
    hit = see_stand(own.stand, own.camera, ray) if of_stand else see_object(own.shape, own.stand, own.camera, ray)
    covered = (hit.distance < 100).float()
    point = at(own.camera, ray, hit.distance.clamp(max=100))
    from_light = _minus(point, own.light)
    square = dot(from_light, from_light)
    inverse = square.rsqrt()
    lit = covered
    if of_stand:  # the object is lit wherever it faces the light
        end = at(from_light, hit.normal, torch.full_like(square, 1e-3))
        lit = lit * ~(_blocked_by_object(own, end) | _blocked_by_stand(own, end))
    direct = _direct(dot(hit.normal, from_light), square, inverse, lit, own.intensity)
    brightness = _base(own.intensity) * ambient_at(point, hit.normal[1]) * covered + direct
    gloss = _mirrored(ray, hit.normal, from_light, inverse) * lit * (own.intensity * 0.3)
    return _Layer(pixels, image, *(_mean_of_samples(values) for values in (covered, brightness, gloss)))


def _mean_of_samples(values: Tensor) -> Tensor:
    """(4, M) -> (M,), added in a fixed order."""
    first, second, third, fourth = values
    return (first + second + third + fourth) / len(SAMPLES)


def _put(layer: _Layer, light: Tensor, reflected: Tensor) -> None:
    """Blend a layer into the light of pictures (3, N, P), of which each solid reflects (N, 3)."""
    bare = 1 - layer.cover
    for channel, colour in zip(light.flatten(1), reflected.unbind(1), strict=True):
        own = layer.brightness * colour.index_select(0, layer.image) + layer.gloss
        channel.scatter_(0, layer.pixels, channel.index_select(0, layer.pixels) * bare + own)


def _near_pixels(room: _Room, looked_up: Stage) -> list[Tensor]:
    """The numbers of the pixels that may show the object, and of those that may show the stand."""
    x, top, half = room.stand
    radius = torch.stack((half * AROUND[room.shape], torch.full_like(half, PLATE)))  # (2, N): object, stand
    low, high = torch.stack((top, torch.zeros_like(top))), torch.stack((top + half * 2, top))
    right, up, back = looked_up.corners  # (8, 1, 1) each, -1 or 1; 0 or 1 for up
    rows, columns = project(room.camera, x + right * radius, low + up * (high - low), STAND_Z + back * radius)
    ends = [(places.amin(0) - _MARGIN, places.amax(0) + _MARGIN + 1) for places in (rows, columns)]
    first_row, end_row, first_column, end_column = (
        end.clamp(0, SIZE).int().tolist() for pair in ends for end in pair
    )  # of solids, of images
    return [
        torch.cat(
            [
                looked_up.grid[top:bottom, left:right].flatten() + image * PIXELS
                for image, (top, bottom, left, right) in enumerate(zip(*windows, strict=True))
            ]
        )
        for windows in zip(first_row, end_row, first_column, end_column, strict=True)
    ]


def _minus(left: Vector, right: Vector) -> Vector:
    return left[0] - right[0], left[1] - right[1], left[2] - right[2]


def _each(change: Callable[[Tensor], Tensor], vector: Vector) -> Vector:
    return change(vector[0]), change(vector[1]), change(vector[2])


def _pick(vector: Vector, index: Tensor) -> Vector:
    return _each(lambda part: part.index_select(0, index), vector)
