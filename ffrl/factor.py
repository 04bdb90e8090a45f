"""A factor of variation of a data set. Imports neither torch nor numpy."""

from __future__ import annotations

import dataclasses

from ffrl.checks import check_types, require, require_integer


@dataclasses.dataclass(frozen=True)
class Factor:
    """A property of an image that takes the values 0..size-1.

    Raises:
        ArgumentError: an empty name, or a size below 1.

    >>> Factor("scale", 6, "0.5 to 1")
    Factor(name='scale', size=6, meaning='0.5 to 1', closed=False)
    """

    name: str
    size: int
    meaning: str = ""
    """What the values 0 to size-1 stand for, in a few words."""
    closed: bool = False
    """Whether the last value is the first again, as after a whole turn."""

    def __post_init__(self) -> None:
        check_types(self, "factor.")
        require(bool(self.name.strip()), "factor.name", self.name, "a name that is not empty")
        require_integer("factor.size", self.size, 1)
