"""Image sequences in which exactly one transformation acts, made from still images on their device."""

from __future__ import annotations

import itertools
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ffrl.checks import require_integer
from ffrl.config import SequenceConfig
from ffrl.data.draws import stream_key, uniform_integers, uniform_keys
from ffrl.data.transforms import hue_of_red, sampling_grid, scale_rotate_frames
from ffrl.errors import ArgumentError
from ffrl.records import ChosenFrames, SequenceBatch


def transformation_parameter(config: SequenceConfig, name: str, progress: int) -> float:
    """Magnification, degrees of rotation or of hue after ``progress`` steps; negative steps give the inverse."""
    fraction = abs(progress) / config.num_steps
    if name == "scale":
        scale = 1 + (config.max_scale - 1) * fraction
        return 1 / scale if progress < 0 else scale
    degrees = (config.max_rotation if name == "rotation" else config.max_hue) * fraction
    return -degrees if progress < 0 else degrees


class BatchPlan(NamedTuple):
    """What a training batch is made of, before any image is chosen."""

    key: int  # of the stream of (seed, iteration)
    joint_size: int  # B · num_ranks
    sizes: list[int]  # (K,) rows of each transformation in the joint batch
    rows_of_rank: list[int]  # (K,) those of this process


def plan_batch(
    seed: int, iteration: int, batch_size: int, kinds: int, *, mixed: bool, rank: int, num_ranks: int
) -> BatchPlan:
    """The transformations of a batch, see ``Sequences.training_batch``; rows of equal k are consecutive.

    Raises:
        ArgumentError: an argument is outside what is stated there.
    """
    require_integer("batch_size", batch_size, 1)
    if not isinstance(mixed, bool):
        raise ArgumentError("mixed", repr(mixed), "True or False")
    require_integer("num_ranks", num_ranks, 1)
    require_integer("rank", rank, 0)
    if rank >= num_ranks:
        raise ArgumentError("rank", rank, f"an integer in 0..{num_ranks - 1}")
    key = stream_key(seed, iteration)
    joint_size = num_ranks * batch_size
    if mixed:
        each, remainder = divmod(joint_size, kinds)
        sizes = [each + ((j - iteration) % kinds < remainder) for j in range(kinds)]
    else:
        chosen = uniform_integers(key, 0, 1, kinds)[0]
        sizes = [joint_size if j == chosen else 0 for j in range(kinds)]
    ends = [0, *itertools.accumulate(sizes)]
    before = [(end - rank + num_ranks - 1) // num_ranks for end in ends]  # rows of this rank before each end
    return BatchPlan(key, joint_size, sizes, [last - first for first, last in itertools.pairwise(before)])


def choose_frames(
    seed: int, iteration: int, batch_size: int, num_steps: int, count: int, *, rank: int = 0, num_ranks: int = 1
) -> ChosenFrames:
    """``count`` different frames of x_0..x_T, drawn uniformly, for each row of the training batch of an iteration.

    A pure function of the arguments. Each row of the joint batch has T+1 draws of the stream of (seed, iteration),
    after those that its image and k take; its frames are those of the smallest.

    Args:
        seed, iteration, batch_size, rank, num_ranks: as of ``Sequences.training_batch``.
        num_steps: T.
        count: in 1..T+1.

    Raises:
        ArgumentError: an argument is outside what is stated above.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= num_steps + 1:
        raise ArgumentError("count", repr(count), f"an integer in 1..{num_steps + 1}")
    plan = plan_batch(seed, iteration, batch_size, 1, mixed=True, rank=rank, num_ranks=num_ranks)
    rows = np.arange(plan.joint_size)[rank::num_ranks, None]
    draws = uniform_keys(plan.key, 1 + plan.joint_size + rows * (num_steps + 1) + np.arange(num_steps + 1))
    times = np.sort(np.argsort(draws, axis=1, kind="stable")[:, :count], axis=1)
    return ChosenFrames(torch.from_numpy(times), num_steps)


def check_frames(frames: ChosenFrames, batch_size: int, num_steps: int) -> None:
    """Raise ArgumentError unless frames are times (B, M) int64 of 0..T, for sequences of T steps."""
    times = frames.times
    for name, given, wanted in (
        ("frames.num_steps", frames.num_steps, num_steps),
        ("frames.times.ndim", times.ndim, 2),
        ("len(frames.times)", len(times), batch_size),
    ):
        if given != wanted:
            raise ArgumentError(name, given, str(wanted))
    check_index("frames.times.flatten()", times.flatten(), num_steps + 1)
    disordered = (times.diff(dim=1) <= 0).any(1)
    if bool(disordered.any()):
        raise ArgumentError("frames.times", times[disordered][0].tolist(), "rows of different times, in order")


class Steps(Protocol):
    """What moves, and how far."""

    @property
    def transformations(self) -> tuple[str, ...]: ...

    @property
    def num_steps(self) -> int: ...


StepsT = TypeVar("StepsT", bound=Steps)


class Sequences(Generic[StepsT]):
    """What the sequences of still images and of grids have in common."""

    config: StepsT
    device: torch.device

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def num_steps(self) -> int:
        """T, the number of transitions."""
        return self.config.num_steps

    @property
    def num_transformations(self) -> int:
        """K, the number of values of k."""
        return len(self.config.transformations)

    def check_choice(self, indices: Tensor, k: int | Tensor) -> None:
        """Raise ArgumentError unless indices (B,) and k, an int or (B,), are int64 and in range."""
        check_index("indices", indices, len(self))
        if isinstance(k, int) and not isinstance(k, bool):
            if not 0 <= k < self.num_transformations:
                raise ArgumentError("k", k, f"an integer in 0..{self.num_transformations - 1}")
            return
        if not isinstance(k, Tensor):
            raise ArgumentError("k", repr(k), "an integer or a tensor of shape (B,)")
        check_index("k", k, self.num_transformations)
        if k.shape != indices.shape:
            raise ArgumentError("k", tuple(k.shape), f"the shape {tuple(indices.shape)} of indices")

    def training_batch(
        self,
        seed: int,
        iteration: int,
        batch_size: int,
        mixed: bool,
        *,
        frames: ChosenFrames | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> SequenceBatch:
        """The training batch of an iteration: a pure function of the arguments, see ``ffrl.data.draws``.

        Rows are drawn independently and uniformly: of still images, or of a grid's sequences of the row's k. Draw 0
        of the stream of (seed, iteration) belongs to k, draws 1..B to the rows.

        Args:
            seed: in [0, 2^64).
            iteration: in [0, 2^64).
            batch_size: B >= 1.
            mixed: True: rows of equal k form K consecutive blocks whose sizes differ by at most one; the larger
                blocks move on by one each iteration. False: one k, drawn uniformly, for the whole batch.
            frames: those of ``choose_frames`` with the same arguments, which then follow x_0; None: whole sequences.
            rank, num_ranks: of a process among several: its rows are rank, rank + num_ranks, ... of a joint batch of
                num_ranks · B sequences.

        Returns:
            x (B, T+1, C, I, I) float32 in [0, 1] and k (B,) int64, on the device of the data set.

        Raises:
            ArgumentError: an argument is outside what is stated above.
        """
        plan = plan_batch(
            seed, iteration, batch_size, self.num_transformations, mixed=mixed, rank=rank, num_ranks=num_ranks
        )
        if frames is not None:
            check_frames(frames, batch_size, self.num_steps)
        return self._planned(plan, frames, rank, num_ranks)

    def _planned(self, plan: BatchPlan, frames: ChosenFrames | None, rank: int, num_ranks: int) -> SequenceBatch:
        """The rows of a rank of the batch that was planned, with frames that fit it."""
        raise NotImplementedError

    def on_device(self, value: Tensor) -> Tensor:
        """Copied without waiting for the device."""
        if self.device.type == "cuda" and value.device.type == "cpu":
            return value.pin_memory().to(self.device, non_blocking=True)
        return value.to(self.device)


class TransformedImages(Sequences[SequenceConfig]):
    """Sequences x_0..x_T of grey images in the red channel, each under one transformation k.

    Frame t is a transform of x_0, never of frame t-1, at t/T of the transformation's range:
    scale 1 + (max_scale - 1) t/T, rotation max_rotation t/T degrees counter-clockwise, hue max_hue t/T degrees.
    x_0 is exactly the image over 255.

    Args:
        images: (N, I, I) uint8; kept as they are on the device.
        config: ranges, number of steps, and the transformations that k counts.
        device: where images are kept and sequences are made.

    Raises:
        ArgumentError: images are not a non-empty uint8 (N, I, I), or a transformation is not one of still images.

    >>> images = torch.zeros(4, 28, 28, dtype=torch.uint8)
    >>> data = TransformedImages(images, SequenceConfig())
    >>> tuple(data.training_batch(seed=0, iteration=1, batch_size=6, mixed=True).x.shape)
    (6, 9, 3, 28, 28)
    """

    def __init__(self, images: Tensor, config: SequenceConfig, device: torch.device | str = "cpu") -> None:
        if images.ndim != 3 or images.shape[0] == 0 or images.shape[1] != images.shape[2] or images.shape[1] == 0:
            raise ArgumentError("images", tuple(images.shape), "the shape (N, I, I) with N >= 1 and I >= 1")
        if images.dtype != torch.uint8:
            raise ArgumentError("images.dtype", images.dtype, "torch.uint8")
        for name in config.transformations:
            if name not in ("scale", "rotation", "hue"):
                raise ArgumentError("config.transformations", repr(name), "'scale', 'rotation' or 'hue'")
        self.config = config
        self.device = torch.device(device)
        self.images = images.to(self.device)  # (N, I, I)
        steps = range(config.num_steps + 1)
        scale, angle, hue = (
            torch.tensor([transformation_parameter(config, name, t) for t in steps], dtype=torch.float64)
            for name in ("scale", "rotation", "hue")
        )  # (T+1,)
        # x_0 is copied, so that the grids hold t = 1..T: (T, I, I, 2)
        self._grids = {
            name: sampling_grid(size[1:], degrees[1:], images.shape[-1], torch.float32).to(self.device)
            for name, size, degrees in (
                ("scale", scale, torch.zeros_like(scale)),
                ("rotation", torch.ones_like(angle), angle),
            )
            if name in config.transformations
        }
        self._hues = hue_of_red(hue).float().to(self.device)  # (T+1, 3)

    def __len__(self) -> int:
        return self.images.shape[0]

    def sequence(self, indices: Tensor, k: int | Tensor) -> SequenceBatch:
        """The sequences of chosen images under chosen transformations.

        Args:
            indices: (B,) int64 in 0..N-1.
            k: one transformation for all, or (B,) int64, in 0..K-1, counted in ``config.transformations``.

        Returns:
            x (B, T+1, 3, I, I) float32 in [0, 1] and k (B,) int64, on the device of the data set.

        Raises:
            ArgumentError: a shape, dtype or value is outside what is stated above.
        """
        self.check_choice(indices, k)
        if isinstance(k, int):
            sizes = [len(indices) if j == k else 0 for j in range(self.num_transformations)]
            return self._blocks(indices.to(self.device), sizes)
        sizes = torch.bincount(k, minlength=self.num_transformations).tolist()
        order = torch.argsort(k.to(self.device), stable=True)
        grouped = self._blocks(indices.to(self.device)[order], sizes)
        place = torch.argsort(order)
        return SequenceBatch(x=grouped.x[place], k=grouped.k[place])

    def _planned(self, plan: BatchPlan, frames: ChosenFrames | None, rank: int, num_ranks: int) -> SequenceBatch:
        """Draws 1..B of the stream belong to the images, which so do not depend on ``mixed``."""
        indices = torch.tensor(uniform_integers(plan.key, 1, plan.joint_size, len(self))[rank::num_ranks])
        batch = self._blocks(self.on_device(indices), plan.rows_of_rank)
        if frames is None:
            return batch
        kept = self.on_device(F.pad(frames.times, (1, 0)))  # (B, 1+M): x_0 first
        rows = torch.arange(len(kept), device=self.device)[:, None]
        return SequenceBatch(batch.x[rows, kept], batch.k)

    def _blocks(self, indices: Tensor, sizes: list[int]) -> SequenceBatch:
        """Sequences whose first sizes[0] rows show transformation 0, the next sizes[1] rows transformation 1, ..."""
        originals = self.images[indices].float().div_(255)  # (B, I, I)
        count, size = originals.shape[0], originals.shape[-1]
        x = originals.new_empty(count, self.num_steps + 1, 3, size, size)
        first = 0
        for name, rows in zip(self.config.transformations, sizes, strict=True):
            if rows:
                self._write_frames(x[first : first + rows], originals[first : first + rows], name)
            first += rows
        kinds = torch.arange(self.num_transformations, device=self.device)
        # Repeating by a host list keeps the device from being waited for.
        k = torch.cat([kinds[j : j + 1].expand(rows) for j, rows in enumerate(sizes)])
        return SequenceBatch(x=x, k=k)

    def _write_frames(self, x: Tensor, originals: Tensor, name: str) -> None:
        """Fill x (B, T+1, 3, I, I) with the frames of originals (B, I, I); the colour comes after the geometry."""
        if name == "hue":
            torch.mul(originals[:, None, None], self._hues[None, :, :, None, None], out=x)
            return
        x[:, 0, 0] = originals
        # Nothing promises, on every device, that the four rounded bilinear weights add up to no more than 1.
        x[:, 1:, 0] = scale_rotate_frames(originals, self._grids[name]).clamp_(0, 1)
        x[:, :, 1:] = 0


def check_index(name: str, value: Tensor, bound: int) -> None:
    """Raise ArgumentError unless value is (B,) int64 in 0..bound-1."""
    if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype != torch.int64:
        given = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ArgumentError(name, given, "an int64 tensor of shape (B,)")
    if value.numel() and (int(value.min()) < 0 or int(value.max()) >= bound):
        outside = value[(value < 0) | (value >= bound)][0].item()
        raise ArgumentError(name, outside, f"integers in 0..{bound - 1}")
