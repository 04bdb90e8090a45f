"""Parts of a grid: no image in two, whatever moves."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from ffrl.catalogue import DATA_SETS, GRIDS
from ffrl.config import SplitConfig
from ffrl.data.factors import Factor, FactorGrid
from ffrl.data.splits import PARTS, FactorSplit
from ffrl.errors import ArgumentError


def split_of(name: str, **changes: float) -> FactorSplit:
    data_set = DATA_SETS[name]
    config = SplitConfig(**changes)  # type: ignore[arg-type]
    return FactorSplit(FactorGrid(data_set.factors), data_set.transformations, data_set.num_steps, config)


def frames_of(split: FactorSplit, part: str, k: int) -> torch.Tensor:
    """All images that the sequences of a transformation show, (N, T+1)."""
    base = split.grid.bases[split.grid.position(split.transformations[k])]
    return split.starts(part, [k])[:, None] + base * torch.arange(split.num_steps + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", GRIDS)
def test_no_image_and_no_combination_of_the_others_is_in_two_parts(name: str) -> None:
    split = split_of(name)
    size = len(split.grid)
    shown = {part: np.zeros(size, dtype=bool) for part in PARTS}
    for k in range(len(split.transformations)):
        others = []
        for part in PARTS:
            frames = frames_of(split, part, k)
            shown[part][frames.reshape(-1).numpy()] = True
            others.append(set(frames[:, 0].tolist()))  # factor k is 0 there, so that the others are what is left
            assert set(split.part_of(frames[:500].reshape(-1))) == {part}
        assert not others[0] & others[1] and not others[0] & others[2] and not others[1] & others[2]
        assert sum(map(len, others)) == size // split.grid.sizes[split.grid.position(split.transformations[k])]
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not (shown[one] & shown[other]).any()


@pytest.mark.parametrize("name", GRIDS)
def test_shares_are_kept_and_every_transformation_is_in_every_part(name: str) -> None:
    split = split_of(name)
    size = len(split.grid)
    counts = {part: split.count(part) for part in PARTS}
    assert sum(counts.values()) == size
    for part in ("validation", "test"):
        assert 0.09 * size <= counts[part] <= 0.1 * size
        for k in range(len(split.transformations)):
            assert len(split.starts(part, [k])) >= 0.03 * sum(len(split.starts(one, [k])) for one in PARTS)


def test_cells_are_what_sequences_join() -> None:
    """Against a search through all sequences of a small grid."""
    grid = FactorGrid([Factor("a", 4), Factor("b", 3), Factor("c", 2), Factor("d", 5)], [1, 4, 60, 12])
    split = FactorSplit(grid, ("a", "d"), 2, SplitConfig(test=0.3, validation=0.2))
    values = grid.factors_of(torch.arange(120)).tolist()
    leader = list(range(120))

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    for i, row in enumerate(values):
        for j in (0, 3):
            if row[j] == 0:
                for t in (1, 2):
                    leader[find(i + t * grid.bases[j])] = find(i)
    cells = split.cell_of(torch.arange(120)).tolist()
    groups = {}
    for i in range(120):
        groups.setdefault(find(i), []).append(cells[i])
    assert all(len(set(group)) == 1 for group in groups.values())
    assert len(groups) == len(set(cells)) == (1 + 1) * 3 * 2 * (1 + 2)


def test_a_value_that_is_the_first_again_is_in_its_part() -> None:
    split = split_of("dsprites")
    orientation = split.grid.position("orientation")
    factors = split.grid.factors_of(torch.randint(len(split.grid), (2000,)))
    factors[:, orientation] = 39
    last = split.grid.index_of(factors)
    factors[:, orientation] = 0
    assert split.part_of(last) == split.part_of(split.grid.index_of(factors))
    still = FactorSplit(split.grid, ("posX",), 5, SplitConfig())
    assert still.part_of(last) == still.part_of(split.grid.index_of(factors))


def test_a_function_of_the_seed() -> None:
    one, same, other = (split_of("shapes3d", seed=seed) for seed in (1, 1, 2))
    assert one.as_dict() == same.as_dict() and one.as_dict()["cells"] != other.as_dict()["cells"]
    assert torch.equal(one.starts("train", [2]), same.starts("train", [2]))
    starts = one.starts("train", [2])
    assert not torch.equal(starts, starts.sort().values)
    # The first tenth is a fair sample of all: mean of each other factor within 5 standard errors.
    factors = one.grid.factors_of(starts).double()
    part = factors[: len(starts) // 10]
    deviation = factors.std(0) / math.sqrt(len(part))
    assert bool(((part.mean(0) - factors.mean(0)).abs() <= 5 * deviation).all())


def test_saved_and_compared() -> None:
    split = split_of("falcor3d")
    saved = json.loads(json.dumps(split.as_dict()))
    split.check_saved(saved)
    assert saved["images"] == {part: split.count(part) for part in PARTS}
    for name, value in (("seed", 5), ("cells", {}), ("factors", []), ("num_steps", 3)):
        with pytest.raises(ArgumentError, match=f"split.{name} = "):
            split.check_saved({**saved, name: value})
    with pytest.raises(ArgumentError, match="that of the run: None"):
        split.check_saved({})


def test_several_at_once_start_where_all_are_zero() -> None:
    split = split_of("shapes3d-generated")
    starts = split.starts("test", [1, 3])
    factors = split.grid.factors_of(starts)
    assert len(starts) > 100 and not factors[:, [1, 3]].any() and factors[:, [0, 2]].any()
    assert torch.equal(starts, split.starts("test", [3, 1]))
    assert len(split.starts("test", [])) == split.count("test")


def test_what_cannot_be_divided_is_refused() -> None:
    full = FactorGrid([Factor("a", 3), Factor("b", 3)])
    with pytest.raises(ArgumentError, match=r"split.validation = 0.1 .* fall into 1 cells, the largest of 9"):
        FactorSplit(full, ("a", "b"), 2, SplitConfig())
    with pytest.raises(ArgumentError, match="num_steps = 3 is not allowed; expected below 3, the values of a"):
        FactorSplit(full, ("a",), 3, SplitConfig())
    with pytest.raises(ArgumentError, match="factor = 'c'"):
        FactorSplit(full, ("c",), 2, SplitConfig())
    with pytest.raises(ArgumentError, match="num_steps = 0"):
        FactorSplit(full, ("a",), 0, SplitConfig())
    without = FactorSplit(full, ("a",), 2, SplitConfig(validation=0.0, test=0.4))
    assert {part: without.count(part) for part in PARTS} == {"train": 6, "validation": 0, "test": 3}
    with pytest.raises(ArgumentError, match="part = 'all'"):
        without.starts("all", [0])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="k = 1"):
        without.starts("test", [1])


@pytest.mark.parametrize("changes", [{"test": 0.0}, {"test": 1.0}, {"validation": -0.1}, {"seed": -1}, {"seed": 2**63}])
def test_refused_shares(changes: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=r"split\."):
        SplitConfig(**changes)  # type: ignore[arg-type]
