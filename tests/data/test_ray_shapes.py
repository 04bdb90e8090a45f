"""Rays meet the solids where a walk along them first comes inside."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ffrl.data.ray_shapes import (
    Hit,
    Vector,
    at,
    box,
    box_blocks,
    capsule,
    cylinder,
    cylinder_blocks,
    dot,
    sphere,
    sphere_blocks,
)

Inside = Callable[[Tensor, Tensor, Tensor], Tensor]
SOLIDS: dict[str, tuple[Callable[[Vector, Vector], Hit], Inside]] = {
    "box": (
        lambda o, d: box(o, d, (0.5, 0.8, 0.3)),
        lambda x, y, z: (x.abs() < 0.5) & (y.abs() < 0.8) & (z.abs() < 0.3),
    ),
    "cylinder": (
        lambda o, d: cylinder(o, d, 0.6, 0.7),
        lambda x, y, z: (x**2 + z**2 < 0.36) & (y.abs() < 0.7),
    ),
    "sphere": (lambda o, d: sphere(o, d, 0.75), lambda x, y, z: x**2 + y**2 + z**2 < 0.5625),
    "capsule": (
        lambda o, d: capsule(o, d, 0.5, 0.4),
        lambda x, y, z: x**2 + (y.abs() - 0.4).clamp(min=0) ** 2 + z**2 < 0.25,
    ),
}


def rays(count: int) -> tuple[Vector, Vector]:
    """From about 3 away, most of them towards the origin, in float64."""
    origin = torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64)) * 3
    towards = torch.randn(count, 3, dtype=torch.float64) * 0.45 - origin
    towards[::7] *= -1  # away
    towards = torch.nn.functional.normalize(towards)
    return tuple(origin.unbind(1)), tuple(towards.unbind(1))  # type: ignore[return-value]


@pytest.mark.parametrize("name", SOLIDS)
def test_a_hit_is_where_a_ray_comes_inside(name: str) -> None:
    meet, inside = SOLIDS[name]
    origin, direction = rays(2000)
    hit = meet(origin, direction)
    steps = torch.linspace(0, 5, 2501, dtype=torch.float64)[:, None]
    walk = inside(*at(origin, direction, steps))  # (steps, rays)
    met, first = walk.any(0), walk.double().argmax(0)
    assert 500 < met.sum() < 1800
    assert not hit.distance[met].isinf().any()
    grazing = ~hit.distance.isinf() & ~met  # inside for less than a step
    assert grazing.sum() <= 10
    assert (hit.distance[met] - steps[first[met], 0]).abs().max() < 0.06
    assert (hit.distance[met] - steps[first[met], 0]).abs().median() < 0.002


@pytest.mark.parametrize("name", SOLIDS)
def test_normals_have_unit_length_and_point_outward(name: str) -> None:
    meet, inside = SOLIDS[name]
    origin, direction = rays(2000)
    hit = meet(origin, direction)
    found = ~hit.distance.isinf()
    normal: Vector = tuple(part.expand(2000)[found] for part in hit.normal)  # type: ignore[assignment]
    point: Vector = tuple(part[found] for part in at(origin, direction, hit.distance))  # type: ignore[assignment]
    assert (dot(normal, normal) - 1).abs().max() < 1e-9
    assert (dot(normal, tuple(part[found] for part in direction)) < 0).all()  # type: ignore[arg-type]
    outside = at(point, normal, torch.tensor(1e-6, dtype=torch.float64))
    within = at(point, normal, torch.tensor(-1e-6, dtype=torch.float64))
    assert not inside(*outside).any() and inside(*within).double().mean() > 0.999


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("box", lambda o, d: box_blocks(o, d, (0.5, 0.8, 0.3))),
        ("cylinder", lambda o, d: cylinder_blocks(o, d, 0.6, 0.7)),
        ("sphere", lambda o, d: sphere_blocks(o, d, 0.75)),
    ],
)
def test_a_segment_is_blocked_where_some_of_it_is_inside(name: str, blocks: Callable[[Vector, Vector], Tensor]) -> None:
    inside = SOLIDS[name][1]
    (x, y, z), (right, up, ahead) = rays(3000)
    start = torch.rand(3000, dtype=torch.float64) * 4
    length = torch.rand(3000, dtype=torch.float64) * 4
    origin, way = at((x, y, z), (right, up, ahead), start), (right * length, up * length, ahead * length)
    steps = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    wanted = inside(*at(origin, way, steps)).any(0)
    found = blocks(origin, way)
    assert 600 < wanted.sum() < 2400 and inside(*origin).sum() > 100
    assert not (wanted & ~found).any() and (found & ~wanted).sum() <= 10  # inside for less than a step


def test_known_distances_and_directions_along_the_axes() -> None:
    one, none = torch.ones(1), torch.zeros(1)
    down = (none, -one, none)
    above = (none, 5 * one, none)
    for hit, distance in (
        (box(above, down, (1.0, 2.0, 3.0)), 3.0),
        (cylinder(above, down, 0.5, 1.5), 3.5),
        (sphere(above, down, 1.25), 3.75),
        (capsule(above, down, 0.5, 1.0), 3.5),
    ):
        assert hit.distance.tolist() == [distance] and [float(part) for part in hit.normal] == [0, 1, 0]
    beside = (5 * one, none, none)
    left = (-one, none, none)
    for hit in (
        box(beside, left, (1.0, 1.0, 1.0)),
        cylinder(beside, left, 1.0, 0.5),
        sphere(beside, left, 1.0),
        capsule(beside, left, 1.0, 0.5),
    ):
        assert hit.distance.tolist() == [4.0] and [float(part) for part in hit.normal] == [1, 0, 0]
    for miss in (box(beside, down, (1.0, 1.0, 1.0)), cylinder(beside, down, 1.0, 1.0), capsule(beside, down, 1.0, 1.0)):
        assert miss.distance.tolist() == [math.inf]
    assert sphere(beside, (one, none, none), 1.0).distance.tolist() == [math.inf]
