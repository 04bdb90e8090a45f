"""The typed errors of ffrl. Each names the argument, the value given and what is allowed."""

from __future__ import annotations


class FfrlError(Exception):
    """Base class of every error that ffrl raises on purpose."""


class ArgumentError(FfrlError, ValueError):
    """An argument or configuration value is outside what is allowed.

    >>> raise ArgumentError("time_dim", 7, "an even integer >= 4")
    Traceback (most recent call last):
    ...
    ffrl.errors.ArgumentError: time_dim = 7 is not allowed; expected an even integer >= 4
    """

    def __init__(self, name: str, given: object, allowed: str) -> None:
        super().__init__(f"{name} = {given} is not allowed; expected {allowed}")
        self.name = name
        self.given = given
        self.allowed = allowed

    def __reduce__(self) -> tuple[object, ...]:  # so that another process can raise it
        return type(self), (self.name, str(self.given), self.allowed)


class BackendError(FfrlError, RuntimeError):
    """A backend was asked for by name and cannot be used here; the message says why."""


class DerivativeOrderError(FfrlError, RuntimeError):
    """A derivative was asked for that the fused op does not offer (second reverse, forward mode)."""


class DataError(FfrlError, RuntimeError):
    """A data file is missing, truncated, corrupt or has the wrong checksum."""


class CheckpointError(FfrlError, RuntimeError):
    """A checkpoint is missing, truncated, corrupt or belongs to another configuration."""


class OutputError(FfrlError, RuntimeError):
    """The output folder cannot be written, or already holds something that would be lost."""


class TrainingDiverged(FfrlError, ArithmeticError):
    """A loss term became NaN or infinite.

    Attributes:
        term: name of the first offending term.
        iteration: iteration (1-based) in which it appeared.
    """

    def __init__(self, term: str, value: float, iteration: int, kept: str) -> None:
        super().__init__(
            f"loss term {term!r} became {value} in iteration {iteration}; "
            f"training stopped, last good checkpoint: {kept}"
        )
        self.term = term
        self.value = value
        self.iteration = iteration
        self.kept = kept

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.term, self.value, self.iteration, self.kept)


class DistributedError(FfrlError, RuntimeError):
    """A process of a run on several is gone, or they could not be joined."""

    def __init__(self, rank: int, num_ranks: int, when: str, reason: str) -> None:
        super().__init__(
            f"process {rank} of {num_ranks} has lost another one {when}; "
            f"continue from the last checkpoint with --resume ({reason})"
        )
        self.rank, self.num_ranks, self.when, self.reason = rank, num_ranks, when, reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.rank, self.num_ranks, self.when, self.reason)
