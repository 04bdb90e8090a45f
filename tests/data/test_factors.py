"""Numbers to factors and back, against the published tables of bases."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from ffrl.catalogue import DATA_SETS, GRIDS
from ffrl.data.factors import Factor, FactorGrid
from ffrl.errors import ArgumentError

BASES = {
    "dsprites": (245760, 40960, 1024, 32, 1),
    "shapes3d": (48000, 4800, 480, 60, 15, 1),
    "falcor3d": (46656, 7776, 1296, 216, 36, 6, 1),
    "isaac3d": (245760, 30720, 6144, 1536, 384, 96, 16, 4, 1),
}
COUNTS = {"dsprites": 737280, "shapes3d": 480000, "falcor3d": 233280, "isaac3d": 737280}


@pytest.mark.parametrize("name", BASES)
def test_bases_and_counts_of_the_published_sets(name: str) -> None:
    grid = FactorGrid(DATA_SETS[name].factors)
    assert grid.bases == BASES[name] and len(grid) == COUNTS[name] == DATA_SETS[name].num_images


@pytest.mark.parametrize("name", GRIDS)
def test_every_number_decomposes_and_comes_back(name: str) -> None:
    grid = FactorGrid(DATA_SETS[name].factors)
    numbers = torch.randint(len(grid), (1000,))
    numbers[:2] = torch.tensor([0, len(grid) - 1])
    factors = grid.factors_of(numbers)
    assert factors.shape == (1000, len(grid.factors)) and torch.equal(grid.index_of(factors), numbers)
    assert torch.equal((factors * torch.tensor(grid.bases)).sum(1), numbers)
    assert factors[1].tolist() == [size - 1 for size in grid.sizes] and not factors[0].any()
    expected = np.unravel_index(numbers.numpy(), grid.sizes)
    assert np.array_equal(factors.numpy(), np.stack(expected, axis=1))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_in_which_the_factors_vary(order: tuple[int, ...]) -> None:
    sizes = (2, 3, 5)
    factors = [Factor("abc"[j], sizes[j]) for j in range(3)]
    bases, base = [0, 0, 0], 1
    for j in order:
        bases[j], base = base, base * sizes[j]
    grid = FactorGrid(factors, bases)
    values = grid.factors_of(torch.arange(30))
    assert len({tuple(row) for row in values.tolist()}) == 30
    assert torch.equal(grid.index_of(values), torch.arange(30))
    assert values[bases[order[2]], order[2]] == 1 and values[bases[order[2]]].sum() == 1


def test_the_readmes_order_of_isaac3d_is_refused() -> None:
    """It gives base 30720 to a factor of 4 values, which does not fill the next one's 245760."""
    wrong = {"robot_x-move": 1536, "robot_y-move": 384, "camera_height": 6144, "object_scale": 30720}
    factors = DATA_SETS["isaac3d"].factors
    bases = [wrong.get(f.name, base) for f, base in zip(factors, BASES["isaac3d"], strict=True)]
    with pytest.raises(ArgumentError, match=r"bases\[\d\] = "):
        FactorGrid(factors, bases)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FactorGrid([]), "factors = "),
        (lambda: FactorGrid([Factor("a", 2), Factor("a", 3)]), "no name twice"),
        (lambda: FactorGrid([Factor("a", 2), Factor("b", 3)], [1, 1]), "bases"),
        (lambda: FactorGrid([Factor("a", 2), Factor("b", 3)], [4, 1]), r"bases\[0\] = 4"),
        (lambda: FactorGrid([Factor("a", 2)], [1, 2]), "1 integers"),
        (lambda: Factor("", 2), "factor.name"),
        (lambda: Factor("a", 0), "factor.size = 0"),
        (lambda: Factor("a", True), "factor.size"),
        (lambda: FactorGrid([Factor("a", 2)]).factors_of(torch.tensor([2])), "indices = 2"),
        (lambda: FactorGrid([Factor("a", 2)]).factors_of(torch.tensor([-1])), "indices = -1"),
        (lambda: FactorGrid([Factor("a", 2)]).factors_of(torch.tensor([0.0])), "torch.float32"),
        (lambda: FactorGrid([Factor("a", 2)]).index_of(torch.tensor([[2]])), "factors = 2"),
        (lambda: FactorGrid([Factor("a", 2)]).index_of(torch.zeros(3, 2, dtype=torch.int64)), r"factors = \(3, 2\)"),
        (lambda: FactorGrid([Factor("a", 2)]).position("b"), "factor = 'b'"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(("name", "moving"), [("falcor3d", 41), ("isaac3d", 42)])
def test_sample_frames_count_through_each_factor(mnist_dir: Path, name: str, moving: int) -> None:
    """The strips: one for each factor, in the published order, from 0 to its last value."""
    path = mnist_dir / name / f"{name}_samples_128.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    grid = FactorGrid(DATA_SETS[name].factors)
    with np.load(path) as samples:
        assert tuple(samples["factor_names"].tolist()) == grid.names
        assert tuple(samples["factor_sizes"].tolist()) == grid.sizes and len(samples["images"]) == moving
        for j in range(len(grid.factors)):
            rows = samples["factor"] == j
            assert samples["value_index"][rows].tolist() == list(range(grid.sizes[j]))
            frames = torch.arange(grid.sizes[j]) * grid.bases[j]
            assert grid.factors_of(frames)[:, j].tolist() == samples["value_index"][rows].tolist()
            images = samples["images"][rows].astype(int)
            assert all(np.abs(one - other).sum() > 1000 for one, other in itertools.pairwise(images))
