"""Sequences of grids: one factor runs 0..T, nothing else changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ffrl.catalogue import DATA_SETS, GRIDS
from ffrl.config import SplitConfig
from ffrl.data import load_sequences
from ffrl.data.drawn_images import DrawnImages
from ffrl.data.draws import stream_key, uniform_integers
from ffrl.data.factor_sequences import FactorSequences
from ffrl.data.factors import Factor, FactorGrid
from ffrl.data.grids import load_grid
from ffrl.data.splits import FactorSplit
from ffrl.errors import ArgumentError
from ffrl.presets import preset_config
from tests.data.grid_files import NumberedImages, numbered, numbers_of

FACTORS = [(name, factor.name) for name in GRIDS for factor in DATA_SETS[name].factors]


def check_sequences(data: FactorSequences, x: torch.Tensor, k: torch.Tensor) -> None:
    """Exactly the factor of k moves, from 0 in steps of 1, and the numbers are those of the factors."""
    grid = data.split.grid
    numbers = numbers_of(x)  # (B, T+1)
    factors = grid.factors_of(numbers)  # (B, T+1, F)
    assert torch.equal(grid.index_of(factors), numbers)
    moved = (factors != factors[:, :1]).any(1)  # (B, F)
    column = torch.tensor([grid.position(name) for name in data.config.transformations])[k]
    assert torch.equal(moved, torch.nn.functional.one_hot(column, len(grid.factors)).bool())
    along = factors.gather(2, column[:, None, None].expand(-1, factors.shape[1], 1))[..., 0]
    assert torch.equal(along, torch.arange(data.num_steps + 1).expand_as(along))


@pytest.mark.parametrize(("name", "factor"), FACTORS)
def test_one_factor_moves_in_1000_random_sequences(name: str, factor: str) -> None:
    size = next(one.size for one in DATA_SETS[name].factors if one.name == factor)
    data = numbered(name, (factor,), min(size - 1, DATA_SETS[name].num_steps))
    batch = data.training_batch(seed=1, iteration=1, batch_size=1000, mixed=True)
    check_sequences(data, batch.x, batch.k)
    others = data.split.grid.factors_of(numbers_of(batch.x[:, 0]))
    for j, other in enumerate(
        data.split.grid.factors
    ):  # 1000 draws of at most 40 values meet them all, but at (39/40)^1000
        assert other.name == factor or len(others[:, j].unique()) == other.size


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("name", GRIDS)
def test_every_default_transformation_in_every_part(name: str, part: str) -> None:
    data = numbered(name, part=part)
    for k in range(data.num_transformations):
        indices = torch.randint(len(data), (1000,))
        batch = data.sequence(indices, k)
        assert batch.k.tolist() == [k] * 1000
        check_sequences(data, batch.x, batch.k)
        assert set(data.split.part_of(numbers_of(batch.x).reshape(-1))) == {part}
    batch = data.training_batch(seed=3, iteration=7, batch_size=1000, mixed=True)
    check_sequences(data, batch.x, batch.k)


def test_batches_are_a_function_of_their_arguments() -> None:
    data, again = numbered("shapes3d"), numbered("shapes3d")
    one = data.training_batch(0, 5, 64, True)
    data.training_batch(0, 6, 64, True)
    assert torch.equal(one.x, again.training_batch(0, 5, 64, True).x)
    assert one.k.tolist() == sorted(one.k.tolist()) and torch.bincount(one.k).tolist() == [16] * 4
    assert not torch.equal(one.x, data.training_batch(0, 6, 64, True).x)
    assert not torch.equal(one.x, data.training_batch(1, 5, 64, True).x)
    single = data.training_batch(0, 5, 64, False)
    assert len(single.k.unique()) == 1
    kinds = {int(data.training_batch(0, i, 2, False).k[0]) for i in range(60)}
    assert kinds == {0, 1, 2, 3}


@pytest.mark.parametrize("mixed", [True, False])
def test_processes_share_the_joint_batch(mixed: bool) -> None:
    data = numbered("falcor3d")
    joint = data.training_batch(2, 9, 30, mixed)
    for rank in range(3):
        own = data.training_batch(2, 9, 10, mixed, rank=rank, num_ranks=3)
        assert torch.equal(own.x, joint.x[rank::3]) and torch.equal(own.k, joint.k[rank::3])


def test_training_draws_all_sequences_alike() -> None:
    factors = [Factor("a", 2), Factor("b", 20)]
    split = FactorSplit(FactorGrid(factors), ("a",), 1, SplitConfig(test=0.2))
    data = FactorSequences(NumberedImages(split.grid), split, "train")
    assert len(data) == 14
    starts = numbers_of(data.training_batch(0, 1, 14_000, True).x[:, 0])
    counts = torch.bincount(starts)[split.starts("train", [0])]
    assert counts.sum() == 14_000
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 40.8  # chi-squared of 13 degrees, p = 1e-4


def test_every_row_of_a_batch_has_a_draw_of_its_own() -> None:
    """Draw 1 + row of the stream of (seed, iteration), whatever k the row shows."""
    data = numbered("shapes3d")
    starts = numbers_of(data.training_batch(5, 9, 24, True).x[:, 0])
    for k in range(4):
        own = data.split.starts("train", [k])
        rows = range(6 * k, 6 * k + 6)
        draws = [uniform_integers(stream_key(5, 9), 1 + row, 1, len(own))[0] for row in rows]
        assert torch.equal(starts[6 * k : 6 * k + 6], own[torch.tensor(draws)])


def test_a_run_has_the_split_of_its_configuration() -> None:
    config = preset_config("tiny", "shapes3d-generated")
    splits = [
        load_sequences(dataclasses.replace(config, split=SplitConfig(seed=seed, test=share)), "train")[1].split
        for seed, share in ((0, 0.1), (1, 0.1), (0, 0.3))
    ]
    assert len({str(split.as_dict()["cells"]) for split in splits}) == 3
    assert splits[2].count("test") > 2 * splits[0].count("test")


def test_mixed_k_by_tensor() -> None:
    data = numbered("isaac3d")
    k = torch.tensor([7, 0, 3, 3, 1])
    indices = torch.tensor([4, 4, 0, 9, 2])
    batch = data.sequence(indices, k)
    assert torch.equal(batch.k, k)
    for row in range(5):
        assert torch.equal(batch.x[row], data.sequence(indices[row : row + 1], int(k[row])).x[0])


def test_composed_paths() -> None:
    data = numbered("shapes3d", part="test")
    grid = data.split.grid
    progress = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 2]])
    count = data.num_composed([0, 3])
    assert 0 < count < min(data.num_composed([0]), data.num_composed([3]))
    factors = grid.factors_of(numbers_of(data.composed(torch.arange(count), progress)))
    assert torch.equal(factors[:, :, [0, 3]], progress[:, [0, 3]].expand(count, 4, 2))
    assert bool((factors[:, :, [1, 2, 4, 5]] == factors[:, :1, [1, 2, 4, 5]]).all())
    alone = torch.zeros(8, 4, dtype=torch.int64)
    alone[:, 2] = torch.arange(8)
    assert torch.equal(data.composed(torch.arange(50), alone), data.sequence(torch.arange(50), 2).x)
    backward = grid.factors_of(numbers_of(data.composed(torch.arange(50), -alone)))
    assert torch.equal(backward[:, :, 2], torch.arange(7, -1, -1).expand(50, 8))
    assert (
        data.composed(torch.tensor([data.split.count("test") - 1]), torch.zeros(2, 4, dtype=torch.int64)).shape[1] == 2
    )
    with pytest.raises(ArgumentError, match="progress = 8 is not allowed; expected at most 7 steps"):
        data.composed(torch.tensor([0]), torch.cat([alone, alone[-1:] + (alone[-1:] > 0)]))
    with pytest.raises(ArgumentError, match=r"progress\.shape"):
        data.composed(torch.tensor([0]), alone[:, :3])
    with pytest.raises(ArgumentError, match="indices"):
        data.composed(torch.tensor([count]), progress)


@pytest.mark.parametrize("name", [name for name in GRIDS if DATA_SETS[name].generated])
def test_drawn_frames_are_the_images_of_their_factors(name: str) -> None:
    data_set, images = DATA_SETS[name], load_grid(name)
    assert images.generated and images.image_shape == data_set.image_shape and "drawn by ffrl" in images.source
    split = FactorSplit(images.grid, data_set.transformations, data_set.num_steps, SplitConfig())
    data = FactorSequences(images, split, "test")
    batch = data.training_batch(0, 1, data.num_transformations, True)
    assert batch.x.shape == (data.num_transformations, data.num_steps + 1, *data_set.image_shape)
    assert batch.x.dtype == torch.float32 and 0 <= float(batch.x.min()) < float(batch.x.max()) <= 1
    numbers = FactorSequences(NumberedImages(images.grid), split, "test").training_batch(0, 1, len(batch.k), True)
    drawn = images.images(numbers_of(numbers.x).reshape(-1))
    assert torch.equal((batch.x * 255).round().byte().flatten(0, 1), drawn)
    changes = (batch.x[:, 1:] != batch.x[:, :1]).flatten(2).any(2)
    assert bool(changes.all())  # every step of every factor can be seen


def test_drawn_images_that_do_not_fit() -> None:
    def draw(factors: torch.Tensor) -> torch.Tensor:
        return factors[:, :, None, None].byte()

    sizes = {"a": 3, "b": 5}
    images = DrawnImages(FactorGrid([Factor("b", 5)]), draw, sizes, (2, 1, 1), "numbers")
    assert images.images(torch.tensor([4, 0])).flatten(1).tolist() == [[1, 4], [1, 0]]  # a in the middle
    with pytest.raises(ArgumentError, match="grid = c 2 is not allowed; expected factors of a 3, b 5"):
        DrawnImages(FactorGrid([Factor("c", 2)]), draw, sizes, (2, 1, 1), "")
    with pytest.raises(ArgumentError, match="grid = b 4"):
        DrawnImages(FactorGrid([Factor("b", 4)]), draw, sizes, (2, 1, 1), "")
    with pytest.raises(ArgumentError, match="indices"):
        images.images(torch.tensor(1))


def test_refused() -> None:
    data = numbered("shapes3d")
    first = torch.tensor([0])
    for call, message in (
        (lambda: data.sequence(torch.tensor([len(data)]), 0), "indices"),
        (lambda: data.sequence(first.float(), 0), "indices"),
        (lambda: data.sequence(first, 4), "k = 4"),
        (lambda: data.sequence(first, True), "k = True"),
        (lambda: data.sequence(first, torch.tensor([0, 1])), "k = "),
        (lambda: data.training_batch(0, 1, 0, True), "batch_size = 0"),
        (lambda: data.training_batch(0, 1, 2, 1), "mixed = 1"),
        (lambda: data.training_batch(-1, 1, 2, True), "seed = -1"),
        (lambda: data.training_batch(0, 1, 2, True, rank=1), "rank = 1"),
        (lambda: FactorSequences(NumberedImages(FactorGrid([Factor("a", 3)])), data.split, "train"), "images.grid"),
        (lambda: FactorSequences(data.factor_images, data.split, "all"), "part = 'all'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()


def test_the_catalogue_is_what_the_drawings_draw() -> None:
    for name in ("dsprites", "shapes3d"):
        generated = DATA_SETS[f"{name}-generated"]
        assert generated.factors == DATA_SETS[name].factors and generated.image_shape == DATA_SETS[name].image_shape
    for data_set in DATA_SETS.values():
        assert dataclasses.asdict(data_set) and set(data_set.transformations) <= set(data_set.movable)
        assert not data_set.stand_in or DATA_SETS[data_set.stand_in].generated
