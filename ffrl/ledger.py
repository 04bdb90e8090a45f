"""What the iterations since the last look have come to, kept on the device so that nothing has to wait for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ffrl.distributed import averaged, num_ranks
from ffrl.errors import TrainingDiverged


class LossLedger:
    """Sums of the loss terms, the first value that was not finite, and whether a process was asked to stop.

    Of several processes all ranks hold the same: the means over the ranks.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.count = 0
        self.names: list[str] = []
        self._saved: dict[str, float] = {}  # sums of a checkpoint, until the names are known
        self._stopping = torch.zeros((), device=device)
        self._bad_iteration = torch.zeros((), dtype=torch.int64, device=device)  # 0: none so far

    def add(self, iteration: int, values: dict[str, Tensor], *, stopping: bool) -> Tensor:
        """Enter the values of an iteration; whether any value so far was not finite, a float32 scalar 0 or 1."""
        flag = torch.full((), float(stopping), device=self.device)
        entered = torch.stack([*(value.detach().float() for value in values.values()), flag])
        if num_ranks() > 1:
            entered = averaged(entered)
        if not self.names:
            self.names = [*values]
            sums = [self._saved.get(name, 0.0) for name in self.names]
            self._sums = torch.tensor(sums, dtype=torch.float64, device=self.device)
            self._bad = torch.zeros_like(entered[:-1])
        self.count += 1
        self._last, self._stopping = entered[:-1], entered[-1]
        self._sums += self._last
        first_bad = ~self._last.isfinite().all() & (self._bad_iteration == 0)
        self._bad = torch.where(first_bad, self._last, self._bad)
        self._bad_iteration = torch.where(first_bad, iteration, self._bad_iteration)
        return (self._bad_iteration > 0).float()

    def check(self, kept: str) -> None:
        """Wait for the device; raises TrainingDiverged for the first value that was not finite."""
        iteration = int(self._bad_iteration)
        if not iteration:
            return
        for name, value in zip(self.names, self._bad.tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingDiverged(name, value, iteration, kept)

    @property
    def diverged(self) -> bool:
        """Waits for the device, as do all below."""
        return bool(self._bad_iteration > 0)

    def stop_requested(self) -> bool:
        """Whether any process was asked to stop before its last iteration."""
        return bool(self._stopping > 0)

    def last(self) -> dict[str, float]:
        """The values of the last iteration."""
        return dict(zip(self.names, self._last.tolist(), strict=True))

    def sums(self) -> dict[str, float]:
        """The sums of ``count`` iterations."""
        return dict(zip(self.names, self._sums.tolist(), strict=True)) if self.names else dict(self._saved)

    def means(self) -> dict[str, float]:
        return {name: value / self.count for name, value in self.sums().items()}

    def restore(self, sums: dict[str, float], count: int) -> None:
        """Go on from what a checkpoint holds."""
        self._saved, self.count, self.names = dict(sums), count, []

    def clear(self) -> None:
        """Begin a new interval."""
        self.count = 0
        self._sums = torch.zeros_like(self._sums)
