"""Random draws that are a pure function of (seed, iteration, position): no state, no order of calls.

``torch.Generator`` is not used here: ``manual_seed`` of its CPU generator keeps the low 32 bits only, so that among
10^5 pairs two would be expected to share all their draws, and its streams may change between versions of torch.
"""

from __future__ import annotations

import numpy as np

from ffrl.errors import ArgumentError

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # the increment of SplitMix64, 2^64 over the golden ratio


def mix64(x: int) -> int:
    """The output function of SplitMix64, a bijection of 64-bit integers (Steele, Lea and Flood, OOPSLA 2014).

    >>> hex(mix64(0))
    '0xe220a8397b1dcdaf'
    """
    x = (x + _GAMMA) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def stream_key(seed: int, iteration: int) -> int:
    """The 64-bit key mix64(mix64(seed) xor iteration): one to one in either argument while the other is fixed.

    Raises:
        ArgumentError: an argument is not an integer in [0, 2^64).
    """
    for name, value in (("seed", seed), ("iteration", iteration)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MASK:
            raise ArgumentError(name, repr(value), "an integer in [0, 2^64)")
    return mix64(mix64(seed) ^ iteration)


def uniform_integers(key: int, first: int, count: int, bound: int) -> list[int]:
    """Draws ``first`` to ``first + count - 1`` of the stream of a key, uniform over 0..bound-1.

    Draw i is floor(r_i bound / 2^64) with r_i output i of SplitMix64 started at the key; a value's probability differs
    from 1/bound by less than 2^-64.
    """
    return [(mix64((key + i * _GAMMA) & _MASK) * bound) >> 64 for i in range(first, first + count)]


def uniform_keys(key: int, numbers: np.ndarray) -> np.ndarray:
    """Draws of the stream of a key by number, uniform over 64 bits: (N,) integers >= 0 -> (N,) uint64.

    >>> int(uniform_keys(5, np.array([3]))[0]) == uniform_integers(5, 3, 1, 1 << 64)[0]
    True
    """
    x = np.uint64(key) + numbers.astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(_GAMMA)  # modulo 2^64
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
