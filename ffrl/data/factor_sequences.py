"""Image sequences from a grid of factors: one factor runs 0..T, nothing else changes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ffrl.data.draws import uniform_integers
from ffrl.data.factors import FactorImages
from ffrl.data.sequences import BatchPlan, Sequences, check_index
from ffrl.data.splits import FactorSplit, Part
from ffrl.errors import ArgumentError
from ffrl.records import ChosenFrames, SequenceBatch


class FactorSteps(NamedTuple):
    """What moves, and how far: to a grid what ``SequenceConfig`` is to still images."""

    transformations: tuple[str, ...]
    num_steps: int


class FactorSequences(Sequences[FactorSteps]):
    """Sequences x_0..x_T of a part of a grid; frame t of transformation k shows factor k at t, all others as in x_0.

    Sequence ``index`` of transformation k begins at image ``split.starts(part, [k])[index]``: the others are random,
    but the same for the same seed, and different for different k. There are more sequences of some k than of others;
    ``len`` is the smallest of their numbers, and training draws from all of each.

    Args:
        images: the grid.
        split: its parts; it also says what moves, and how far.
        part: "train", "validation" or "test".
        device: where sequences are put.

    Raises:
        ArgumentError: another grid than the split's, or an unknown part.
    """

    def __init__(
        self, images: FactorImages, split: FactorSplit, part: Part, device: torch.device | str = "cpu"
    ) -> None:
        if images.grid != split.grid:
            raise ArgumentError("images.grid", images.grid, f"that of the split, {split.grid}")
        self.factor_images, self.split = images, split
        self.part: Part = part
        self.config = FactorSteps(split.transformations, split.num_steps)
        self.device = torch.device(device)
        self.as_bytes = False  # leaves x as it is kept, uint8, for who passes it on
        self._starts = [split.starts(part, [k]) for k in range(self.num_transformations)]
        self._bases = [images.grid.bases[images.grid.position(name)] for name in self.config.transformations]

    def __len__(self) -> int:
        return min(map(len, self._starts))

    @property
    def drawn_on_device(self) -> bool:
        """Whether images are drawn where they are wanted, and that is not the CPU."""
        return self.factor_images.generated and self.device.type != "cpu"

    def sequence(self, indices: Tensor, k: int | Tensor) -> SequenceBatch:
        """Chosen sequences, each with the arguments, result and errors of ``TransformedImages.sequence``.

        Args:
            indices: (B,) int64 in 0..len-1.
            k: one transformation for all, or (B,) int64, in 0..K-1, counted in ``config.transformations``.

        Returns:
            x (B, T+1, C, I, I) float32 in [0, 1] and k (B,) int64, on the device of the data set.
        """
        self.check_choice(indices, k)
        kinds = [k] * len(indices) if isinstance(k, int) else k.tolist()
        starts = [int(self._starts[kind][index]) for kind, index in zip(kinds, indices.tolist(), strict=True)]
        return self._sequences(starts, kinds)

    def _planned(self, plan: BatchPlan, frames: ChosenFrames | None, rank: int, num_ranks: int) -> SequenceBatch:
        """Draw 1 + row of the stream belongs to the sequence of each row, uniform over all sequences of its k."""
        kinds = list(itertools.chain.from_iterable([k] * size for k, size in enumerate(plan.sizes)))
        starts: list[int] = []
        for k, size in enumerate(plan.sizes):
            draws = uniform_integers(plan.key, 1 + len(starts), size, len(self._starts[k]))
            starts += self._starts[k][torch.tensor(draws, dtype=torch.int64)].tolist()
        return self._sequences(starts[rank::num_ranks], kinds[rank::num_ranks], frames)

    def num_composed(self, ks: Sequence[int]) -> int:
        """How many images all of these transformations can start from; 0 where cells are too small for it."""
        return len(self.split.starts(self.part, ks))

    def composed(self, indices: Tensor, progress: Tensor) -> Tensor:
        """Frames along a path of one or several transformations.

        The acting factors start at 0, or, where they run backward, so far above it that the lowest is 0; which images
        these are depends on what acts.

        Args:
            indices: (B,) int64 in 0..``num_composed``-1 of the transformations that act; of all images where none does.
            progress: (S+1, K) int64, in steps.

        Returns:
            (B, S+1, C, I, I) float32 in [0, 1].

        Raises:
            ArgumentError: a shape, dtype or value is outside what is stated above, or a factor moves by more than T.
        """
        if progress.dim() != 2 or progress.shape[1] != self.num_transformations or not len(progress):
            raise ArgumentError("progress.shape", tuple(progress.shape), f"(S+1, {self.num_transformations})")
        acting = [k for k in range(self.num_transformations) if bool(progress[:, k].any())]
        values = progress - progress.amin(0).clamp(max=0)
        if int(values.max()) > self.num_steps:
            raise ArgumentError("progress", int(values.max()), f"at most {self.num_steps} steps of any factor")
        starts = self.split.starts(self.part, acting)
        check_index("indices", indices, len(starts))
        frames = (values * torch.tensor(self._bases)).sum(1)  # (S+1,)
        numbers = starts[indices.cpu()][:, None] + frames  # (B, S+1)
        return self._frames(numbers)

    def _sequences(self, starts: list[int], kinds: list[int], frames: ChosenFrames | None = None) -> SequenceBatch:
        """Whole sequences, or x_0 and the frames chosen; only these are read or drawn."""
        steps = torch.tensor([self._bases[k] for k in kinds], dtype=torch.int64)[:, None]
        shown = torch.arange(self.num_steps + 1) if frames is None else F.pad(frames.times, (1, 0))
        numbers = torch.tensor(starts, dtype=torch.int64)[:, None] + steps * shown
        return SequenceBatch(self._frames(numbers), self.on_device(torch.tensor(kinds, dtype=torch.int64)))

    def _frames(self, numbers: Tensor) -> Tensor:
        """Images (B, S+1) as (B, S+1, C, I, I) float32, or as bytes."""
        each, places = numbers.reshape(-1).unique(return_inverse=True)  # x_0 may be among the frames chosen
        if self.factor_images.generated:
            each = self.on_device(each)  # drawn there
        images = self.on_device(self.factor_images.images(each))
        frames = images[self.on_device(places)].unflatten(0, tuple(numbers.shape))
        return frames if self.as_bytes else to_floats(frames)


def to_floats(images: Tensor) -> Tensor:
    """Images uint8 as float32 in [0, 1]."""
    return images.float().div_(255)
