"""Each factor of the drawn rooms changes what it should, and the factors are named as in Falcor3D and Isaac3D."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from ffrl.data import rooms_drawing, rooms_stage
from ffrl.data.rooms_drawing import FACTOR_SIZES, SHAPES, draw
from ffrl.data.rooms_stage import CAMERAS, PIXELS, SIZE, Stage
from tests.data.plain_rooms import picture

FALCOR3D_FACTORS = tuple(name for name in FACTOR_SIZES if name.startswith(("lighting", "camera")))
ISAAC3D_FACTORS = (
    *("object_shape", "robot_x-move", "robot_y-move", "camera_y-pos", "object_scale"),
    *("lighting_intensity", "lighting_y-dir", "object_color", "wall_color"),
)
NAMES = list(FACTOR_SIZES)
MIDDLE = {name: size // 2 for name, size in FACTOR_SIZES.items()}


def rows(name: str, **fixed: int) -> Tensor:
    """All values of a factor, the others in the middle of their range or as they are given, (size, 13)."""
    base = MIDDLE | {key.replace("__", "-"): value for key, value in fixed.items()}
    factors = torch.tensor([[base[other] for other in NAMES]]).repeat(FACTOR_SIZES[name], 1)
    factors[:, NAMES.index(name)] = torch.arange(FACTOR_SIZES[name])
    return factors


def changing(factors: Tensor, name: str) -> Tensor:
    """Where each picture (N, 13) changes with the colour of the object or of the walls, (N, 128, 128) bool."""
    images = []
    for value in range(4):
        factors = factors.clone()
        factors[:, NAMES.index(name)] = value
        images.append(draw(factors))
    return torch.stack([image != images[0] for image in images]).any(0).any(1)


def outlines(name: str, **fixed: int) -> Tensor:
    """Of the object, for all values of a factor."""
    return changing(rows(name, **fixed), "object_color")


def middles(masks: Tensor) -> tuple[list[float], list[float]]:
    """Mean row and mean column of each mask."""
    points = [mask.nonzero().double().mean(0) for mask in masks]
    return [float(point[0]) for point in points], [float(point[1]) for point in points]


def is_rising(values: list[float], least: float) -> bool:
    return all(later - earlier > least for earlier, later in itertools.pairwise(values))


def test_falcor3d_and_isaac3d_have_factors_of_these_names() -> None:
    assert {name: FACTOR_SIZES[name] for name in FALCOR3D_FACTORS} == {
        "lighting_intensity": 5,
        "lighting_x-dir": 6,
        "lighting_y-dir": 6,
        "lighting_z-dir": 6,
        "camera_x-pos": 6,
        "camera_y-pos": 6,
        "camera_z-pos": 6,
    }
    isaac = {
        "object_shape": 3,
        "robot_x-move": 8,
        "robot_y-move": 5,
        "object_scale": 4,
        "object_color": 4,
        "wall_color": 4,
    }
    assert isaac.items() <= FACTOR_SIZES.items()
    assert set(ISAAC3D_FACTORS) == {*isaac, "camera_y-pos", "lighting_intensity", "lighting_y-dir"}
    assert {*FALCOR3D_FACTORS, *ISAAC3D_FACTORS} == set(NAMES) and len(SHAPES) == FACTOR_SIZES["object_shape"]


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_colours_change_their_own_surface(shape: int) -> None:
    factors = rows("camera_x-pos", object_shape=shape)
    objects, walls = changing(factors, "object_color"), changing(factors, "wall_color")
    for solid, wall in zip(objects, walls, strict=True):
        assert 300 < solid.sum() < 2000 and 3000 < wall.sum() < 9000
        assert not (solid & wall).sum() > 0.2 * solid.sum()  # the edge
        assert not wall[100:].any() and not solid[110:].any()
        column = int(solid.nonzero()[:, 1].double().mean())
        assert solid[:, column].sum() > 15 and wall[30, 70] and wall[40, 90]


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_the_scale_is_the_size_of_the_object(shape: int) -> None:
    areas = [float(mask.sum()) for mask in outlines("object_scale", object_shape=shape)]
    assert is_rising(areas, 60)
    assert areas[3] / areas[0] == pytest.approx((0.4 / 0.22) ** 2, rel=0.2)


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_the_stand_moves_to_the_right_and_up(shape: int) -> None:
    masks = outlines("robot_x-move", object_shape=shape)
    row, column = middles(masks)
    assert is_rising(column, 3) and column[-1] - column[0] > 40 and max(row) - min(row) < 1.5
    row, column = middles(outlines("robot_y-move", object_shape=shape))
    assert is_rising([-value for value in row], 3) and max(column) - min(column) < 1


def test_the_camera_moves_to_the_right_up_and_ahead() -> None:
    row, column = middles(outlines("camera_x-pos"))
    assert is_rising([-value for value in column], 2) and max(row) - min(row) < 1
    row, column = middles(outlines("camera_y-pos"))
    assert is_rising(row, 2) and max(column) - min(column) < 1
    areas = [float(mask.sum()) for mask in outlines("camera_z-pos")]
    assert is_rising(areas, 20) and areas[-1] > 1.3 * areas[0]


def test_the_light_leaves_every_thing_in_its_place() -> None:
    for name in ("lighting_intensity", "lighting_x-dir", "lighting_y-dir", "lighting_z-dir"):
        masks = outlines(name)
        # What a pixel at the edge of a shadow is the mean of is not what it is elsewhere.
        assert (masks != masks[0]).sum((1, 2)).max() < 0.04 * masks[0].sum(), name


def test_every_pixel_is_lighter_with_more_light() -> None:
    images = draw(rows("lighting_intensity")).int()
    assert (images[1:] >= images[:-1]).all()
    assert (images[4] - images[0]).double().mean() > 40
    assert (images == 255).double().mean() < 0.1


def test_the_light_moves_to_the_right_up_and_to_the_back() -> None:
    images = draw(rows("lighting_x-dir")).double().mean(1)  # (6, 128, 128)
    assert is_rising((images[:, :, 64:].mean((1, 2)) - images[:, :, :64].mean((1, 2))).tolist(), 2)
    images = draw(rows("lighting_y-dir")).double().mean(1)
    assert is_rising((-images[:, 110:].mean((1, 2))).tolist(), 2)  # the floor is further away
    images = draw(rows("lighting_z-dir")).double().mean(1)
    assert is_rising(images[:, 30:60, 70:110].mean((1, 2)).tolist(), 2)  # the wall at the back


def test_the_object_throws_a_shadow() -> None:
    small, large = rows("object_scale", lighting_z__dir=0)[[0, 3]]
    pictures = draw(torch.stack((small, large))).int()
    solid = changing(large[None], "object_color")[0]
    darker = (pictures[0] - pictures[1]).amin(0) > 8
    assert (darker & ~solid).sum() > 60
    lighter = (pictures[1] - pictures[0]).amax(0) > 3
    assert not (lighter & ~solid).any()


def test_pictures_are_those_that_figures_were_reported_on() -> None:
    """Their mean and spread, which a change of the scene would change."""
    number = torch.arange(48)[:, None]
    factors = (number * torch.tensor([1, 3, 2, 1, 3, 1, 2, 1, 5, 1, 5, 1, 5]) + number // 6) % torch.tensor(
        [*FACTOR_SIZES.values()]
    )
    images = draw(factors).double()
    assert images.mean() == pytest.approx(107.16, abs=0.02) and images.std() == pytest.approx(52.36, abs=0.02)


@pytest.mark.parametrize(
    "row",
    [
        (0, 4, 1, 0, 2, 3, 4, 5, 3, 5, 2, 5, 2),  # the cabinet's shadow falls to the left
        (1, 2, 4, 2, 3, 0, 3, 0, 0, 0, 5, 0, 5),  # the object's falls on the ceiling, the cabinet's to the right
        (2, 6, 2, 3, 1, 1, 2, 4, 2, 4, 0, 3, 0),  # the light is close above the object
        (0, 1, 4, 1, 0, 3, 4, 5, 0, 0, 0, 1, 2),  # the cabinet mirrors the light
    ],
    ids=(*SHAPES, "mirror"),
)
def test_pictures_are_those_of_a_plain_ray_caster(row: tuple[int, ...]) -> None:
    wanted = torch.from_numpy(picture(row))
    difference = (draw(torch.tensor([row]))[0].double() - wanted).abs()
    assert difference.mean() < 0.65
    assert (difference > 30).double().mean() < 5e-4
    # There is none where the picture is even, of more than what rounding makes.
    low, high = (
        sign * torch.nn.functional.max_pool2d(sign * wanted[None], 3, stride=1, padding=1)[0] for sign in (-1, 1)
    )
    even = (high - low).amax(0) < 8
    assert even.double().mean() > 0.4 and difference.amax(0)[even].max() < 1.5


def random_rows(count: int) -> Tensor:
    return (torch.rand(count, len(NAMES)) * torch.tensor([*FACTOR_SIZES.values()])).long()


def test_nothing_is_missed_by_looking_only_where_something_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = random_rows(24)
    factors[::2, 7], factors[::2, 8], factors[::2, 10] = 5, 0, 5  # the cabinet's shadow reaches far
    images = draw(factors)
    all_pixels = torch.arange(PIXELS)

    def everywhere(view: rooms_drawing._View) -> tuple[Tensor, Tensor]:
        every = torch.arange(view.square.numel())
        return every, every

    with monkeypatch.context() as patch:
        patch.setattr(rooms_drawing, "_near_shadows", everywhere)
        assert torch.equal(draw(factors), images)
    with monkeypatch.context() as patch:
        patch.setattr(
            rooms_drawing,
            "_near_pixels",
            lambda room, _: [
                torch.cat([all_pixels + image * PIXELS for image in range(room.values.shape[1])]) for _ in range(2)
            ],
        )
        assert torch.equal(draw(factors), images)
    with monkeypatch.context() as patch:
        patch.setattr(rooms_stage, "_nook", lambda: (slice(0, SIZE), slice(0, SIZE)))
        whole = Stage("cpu")
        patch.setattr(rooms_drawing, "stage", lambda _: whole)
        assert torch.equal(draw(factors), images)


def test_what_is_looked_up_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [Stage("cpu"), Stage("cpu")]
    factors = random_rows(12)
    images = draw(factors)
    monkeypatch.setattr(rooms_drawing, "stage", lambda _: stages[0])
    with torch.inference_mode():
        assert torch.equal(draw(factors[:6]), images[:6])
    assert torch.equal(draw(factors), images)
    assert 0 < len(stages[0]._ready) <= 12
    monkeypatch.setattr(rooms_drawing, "stage", lambda _: stages[1])
    with ThreadPoolExecutor(3) as pool:
        for drawn in pool.map(draw, [factors] * 3):
            assert torch.equal(drawn, images)


def test_what_is_looked_up_takes_less_than_60_megabytes() -> None:
    stage = Stage("cpu")
    assert CAMERAS == 216 and sum(table.numel() * table.element_size() for table in stage._tables) < 60e6
