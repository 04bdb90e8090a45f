"""Several processes that train one model, as torchrun starts them; one process alone is the case of one rank.

Every rank holds the whole model and an equal share of each joint batch. Gradients are averaged by
DistributedDataParallel; what else has to agree is here.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ffrl.errors import ArgumentError, DistributedError, FfrlError

Result = TypeVar("Result")


def requested_ranks() -> int:
    """The number of processes that torchrun has started, from its variable WORLD_SIZE; 1 without it."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentError("WORLD_SIZE", repr(text), "an integer >= 1, as torchrun sets it")
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(text) > 1 and missing:
        raise ArgumentError("WORLD_SIZE", text, f"1 without the variables that torchrun sets with it: {missing}")
    return int(text)


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0..num_ranks()-1; rank 0 writes."""
    return dist.get_rank() if num_ranks() > 1 else 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be one of the processes that torchrun has started: NCCL between GPUs, gloo between CPUs.

    Raises:
        DistributedError: they could not be joined, or one of them is gone.
    """
    if requested_ranks() == 1 or num_ranks() > 1:
        yield
        return
    # DistributedDataParallel imports this module, whose default arguments would hold the group for good. Its threads
    # have to end before the interpreter does: one of gloo's that frees a tensor later aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    backend = "nccl" if device.type == "cuda" else "gloo"
    with lost_ranks_reported("at the start"):
        dist.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def lost_ranks_reported(when: str) -> Iterator[None]:
    """Turn the failure of a collective operation, by which one learns that another process is gone, into an error."""
    try:
        yield
    except RuntimeError as error:  # DistBackendError is one; gloo's own errors have no type of their own
        text = str(error)
        if requested_ranks() == 1 or not (isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text):
            raise
        number = int(os.environ["RANK"])  # also where they have not been joined yet
        reason = re.split(r"\.\s", text.partition("\n")[0], maxsplit=1)[0]  # gloo's have jokes in the second sentence
        raise DistributedError(number, requested_ranks(), when, reason) from error


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, with its gradient; the tensor itself where there is one.

    Where every rank uses the mean alike, the average that DistributedDataParallel takes of the gradients is that of
    one process with the joint batch.
    """
    return value if num_ranks() == 1 else MeanOverRanks.apply(value)  # type: ignore[no-any-return]


class MeanOverRanks(torch.autograd.Function):
    """``mean_over_ranks`` of several; its adjoint is the mean of the cotangents."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return averaged(value)

    @staticmethod
    def backward(ctx: Any, v_mean: Tensor) -> Tensor:  # type: ignore[override]
        return averaged(v_mean)


def averaged(value: Tensor) -> Tensor:
    """The mean over all ranks, without a gradient."""
    mean = value.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(mean)
    return mean / num_ranks()


def together(action: Callable[[], Result], when: str = "at the start") -> Result:
    """Do something on every rank and go on only if it has succeeded on all; ``when`` is for a DistributedError.

    Raises:
        FfrlError: rank 0 raises the first error of all ranks, and so tells of it.
        SystemExit: the others end with the exit code of an error, silently.
    """
    if num_ranks() == 1:
        return action()
    result: Any = None
    error: FfrlError | None = None
    try:
        result = action()
    except FfrlError as raised:
        error = raised
    errors: list[Any] = [None] * num_ranks()
    with lost_ranks_reported(when):
        dist.all_gather_object(errors, None if error is None else str(error))
    failed = [number for number, text in enumerate(errors) if text is not None]
    if not failed:
        return result
    if rank() != 0:
        raise SystemExit(2)
    raise error if error is not None else FfrlError(f"process {failed[0]}: {errors[failed[0]]}")
