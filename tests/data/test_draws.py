"""The counter-based draws: reference values, no collisions, uniformity."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ffrl.data.draws import mix64, stream_key, uniform_integers
from ffrl.errors import ArgumentError


def test_splitmix64_reference_values() -> None:
    # the generator's first outputs from state 1234567, as published with its reference code
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert uniform_integers(1234567, 0, 4, 1 << 64) == expected
    assert mix64(1234567) == expected[0]


def test_no_collisions_among_many_pairs() -> None:
    pairs = [(seed, iteration) for seed in range(100) for iteration in range(1, 1001)]
    pairs += [(2**32 + seed, iteration) for seed in range(10) for iteration in range(1, 101)]
    keys = {stream_key(seed, iteration) for seed, iteration in pairs}
    assert len(keys) == len(pairs) == 101_000
    draws = {tuple(uniform_integers(key, 1, 4, 60_000)) for key in keys}  # 60000^4 possible: no chance meetings
    assert len(draws) == len(pairs)


def test_draws_are_uniform_and_unrelated() -> None:
    bound = 50
    draws = np.array([uniform_integers(stream_key(seed, i), 1, 64, bound) for seed in (0, 1) for i in range(1, 1001)])
    assert draws.min() == 0 and draws.max() == bound - 1
    assert stats.chisquare(np.bincount(draws.ravel(), minlength=bound)).pvalue > 1e-3
    for one, other in (
        (draws[:, :-1], draws[:, 1:]),  # neighbours in a batch
        (draws[:-1], draws[1:]),  # neighbouring iterations
        (draws[:1000], draws[1000:]),  # neighbouring seeds
    ):
        counts = np.bincount(one.ravel() * bound + other.ravel(), minlength=bound * bound)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_positions_do_not_depend_on_the_range_asked_for() -> None:
    key = stream_key(3, 4)
    assert uniform_integers(key, 0, 10, 97)[4:7] == uniform_integers(key, 4, 3, 97)


@pytest.mark.parametrize(
    ("seed", "iteration", "words"),
    [
        (-1, 0, "seed = -1"),
        (2**64, 0, "seed = 18446744073709551616"),
        (True, 0, "seed = True"),
        ("7", 0, "seed = '7'"),
        (0, -5, "iteration = -5"),
        (0, 1.0, "iteration = 1.0"),
    ],
)
def test_bad_arguments_are_named(seed, iteration, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        stream_key(seed, iteration)
    assert words in str(caught.value)
