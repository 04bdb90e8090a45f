"""Configuration of the VP score. Imports neither torch nor numpy."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ffrl.checks import check_types, require, require_integer, require_number

Start = Literal["decoded", "truth"]


@dataclasses.dataclass(frozen=True)
class VPConfig:
    """How a classifier of the transformation is trained and tested on pairs of images; the defaults are FFRL's."""

    num_pairs: int = 10_000
    """Pairs [x_0, x_T] of as many test images, as many of each transformation as of any other, up to one."""
    train_fraction: float = 0.1
    """Share of the pairs that the classifier is trained on, 0.1 or 0.01 in the paper; it is tested on the others."""
    start: Start = "decoded"
    """First image of a generated pair: decode(z_0), made by the model as x_T is, or the true x_0."""
    widths: tuple[int, ...] = (32, 64, 128, 128)
    """Channels of the classifier's convolutions, each of stride 2 and followed by batch normalisation."""
    learning_rate: float = 5e-3
    batch_size: int = 32
    epochs: int = 300
    evaluate_every: int = 1
    """Epochs between tests; the last one is always tested, and only tested ones can be the best."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One classifier each, with its own pairs, split, initial weights and order."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("batch_size", "num_pairs"):
            require_integer(name, getattr(self, name), 2)
        for name in ("epochs", "evaluate_every"):
            require_integer(name, getattr(self, name), 1)
        require_number("train_fraction", self.train_fraction, 0.0, above=True)
        require_number("learning_rate", self.learning_rate, 0.0, above=True)
        fits = 2 <= self.num_train < self.num_pairs
        allowed = "two pairs or more to train on and one to test, of num_pairs the share train_fraction to train on"
        require(fits, "num_pairs, train_fraction", (self.num_pairs, self.train_fraction), allowed)
        require(len(self.widths) > 0, "widths", self.widths, "at least one width")
        for i, width in enumerate(self.widths):
            require_integer(f"widths[{i}]", width, 1)
        require(
            len(self.seeds) > 0 and len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "seeds, none twice"
        )
        for i, seed in enumerate(self.seeds):
            require_integer(f"seeds[{i}]", seed, 0)
            require(seed < 2**63, f"seeds[{i}]", seed, "an integer below 2^63")

    @property
    def num_train(self) -> int:
        """Pairs to train on: the share rounded to a whole number."""
        return round(self.train_fraction * self.num_pairs)
