"""Batches of some frames: those of the whole batch, drawn uniformly, the same in any number of processes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from ffrl.config import SequenceConfig
from ffrl.data import TransformedImages
from ffrl.data.draws import stream_key, uniform_integers
from ffrl.data.sequences import choose_frames
from ffrl.errors import ArgumentError
from ffrl.records import ChosenFrames
from tests.data.grid_files import numbered


def still() -> TransformedImages:
    images = torch.randint(0, 256, (30, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return TransformedImages(images, SequenceConfig(num_steps=5))


@pytest.mark.parametrize("data", [still(), numbered("shapes3d")], ids=["still images", "grid"])
@pytest.mark.parametrize("mixed", [True, False])
def test_the_frames_are_those_of_the_whole_batch(data: Any, mixed: bool) -> None:
    whole = data.training_batch(4, 7, 22, mixed)
    frames = choose_frames(4, 7, 22, data.num_steps, 3)
    some = data.training_batch(4, 7, 22, mixed, frames=frames)
    assert some.x.shape == (22, 4, *whole.x.shape[2:]) and torch.equal(some.k, whole.k)
    assert torch.equal(some.x[:, 0], whole.x[:, 0])
    for row in range(22):
        assert torch.equal(some.x[row, 1:], whole.x[row, frames.times[row]])


def test_every_choice_is_as_likely_as_any_other() -> None:
    """10 choices of 2 of 5 frames in 20,000 rows: chi-squared of 9 degrees, p = 1e-4; the same of 100 iterations."""
    choices = {pair: number for number, pair in enumerate(itertools.combinations(range(5), 2))}
    for rows in (
        choose_frames(1, 1, 20_000, 4, 2).times,
        torch.cat([choose_frames(1, iteration, 200, 4, 2).times for iteration in range(100)]),
    ):
        counts = torch.bincount(torch.tensor([choices[tuple(row)] for row in rows.tolist()]), minlength=10)
        assert counts.sum() == 20_000 and float(((counts - 2000) ** 2 / 2000).sum()) < 33.7


def test_form_and_dependence() -> None:
    frames = choose_frames(3, 9, 40, 7, 3)
    assert frames.num_steps == 7 and frames.times.shape == (40, 3) and frames.times.dtype == torch.int64
    assert (frames.times.diff(dim=1) > 0).all() and frames.times.min() == 0 and frames.times.max() == 7
    assert torch.equal(choose_frames(3, 9, 40, 7, 3).times, frames.times)
    for other in (choose_frames(4, 9, 40, 7, 3), choose_frames(3, 10, 40, 7, 3)):
        assert not torch.equal(other.times, frames.times)
    assert torch.equal(choose_frames(3, 9, 5, 7, 8).times, torch.arange(8).expand(5, 8))
    for rank in range(4):
        own = choose_frames(3, 9, 10, 7, 3, rank=rank, num_ranks=4)
        assert torch.equal(own.times, frames.times[rank::4])


def test_the_draws_are_none_of_those_that_choose_images() -> None:
    """Of the stream of (seed, iteration), draw 0 is of k and 1 to 6 of the images; T+1 draws for each row follow."""
    times = choose_frames(8, 3, 6, 7, 3).times
    for row in range(6):
        draws = uniform_integers(stream_key(8, 3), 1 + 6 + 8 * row, 8, 1 << 64)
        assert times[row].tolist() == sorted(sorted(range(8), key=draws.__getitem__)[:3])


@pytest.mark.parametrize("count", [0, 9, True, 2.0, None])
def test_how_many_are_possible(count: Any) -> None:
    with pytest.raises(ArgumentError, match=r"count = .* is not allowed; expected an integer in 1\.\.8"):
        choose_frames(0, 1, 4, 7, count)


@pytest.mark.parametrize("data", [still(), numbered("dsprites")], ids=["still images", "grid"])
@pytest.mark.parametrize(
    ("times", "steps", "words"),
    [
        ([[0, 1]] * 4, 3, "frames.num_steps = 3 is not allowed; expected 5"),
        ([[0, 1]] * 3, 5, "len(frames.times) = 3 is not allowed; expected 4"),
        ([0, 1, 2, 3], 5, "frames.times.ndim = 1"),
        ([[0, 6]] * 4, 5, "= 6 is not allowed; expected integers in 0..5"),
        ([[-1, 2]] * 4, 5, "= -1 is not allowed"),
        ([[0, 1], [1, 2], [3, 3], [0, 5]], 5, "frames.times = [3, 3] is not allowed; expected rows of different times"),
        ([[0, 1], [2, 1], [3, 4], [0, 5]], 5, "frames.times = [2, 1]"),
    ],
)
def test_frames_of_other_batches_are_refused(data: Any, times: list[Any], steps: int, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        data.training_batch(0, 1, 4, True, frames=ChosenFrames(torch.tensor(times), steps))
    assert words in str(caught.value)
