"""Where a model is trained, and what is done to it so that it runs fast there."""

from __future__ import annotations

import os

import torch

from ffrl.config import ComputeConfig
from ffrl.distributed import requested_ranks
from ffrl.errors import ArgumentError
from ffrl.models import Autoencoder


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU or else the CPU. Raises ArgumentError for one that is not there.

    A GPU without a number is the first, or of several processes the one with the process's number on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and requested_ranks() > 1:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ArgumentError("device", repr(name), "'auto', 'cpu', 'cuda' or 'cuda:N'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        allowed = f"one of the {count} CUDA devices that torch sees here, or 'cpu'"
        raise ArgumentError("device", repr(name), allowed if count else "'cpu': torch sees no CUDA device here")
    return device


def training_device(name: str) -> torch.device:
    """``resolve_device`` for training, which checks for all processes at once where there are several.

    Raises:
        ArgumentError: also for one GPU of several processes, and where some of those on this machine have none.
    """
    if requested_ranks() == 1:
        return resolve_device(name)
    if name.startswith("cuda:"):
        raise ArgumentError("device", repr(name), "'cuda' with several processes, each of which takes its own GPU")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        resolve_device("cuda:0")
        count, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if local > count:
            raise ArgumentError("device", repr(name), f"'cpu', or at most {count} processes: a CUDA device for each")
    return resolve_device(name)


def prepare_for_speed(model: Autoencoder, config: ComputeConfig, device: torch.device) -> None:
    """Put the encoder, decoder and q(k | x) into the precision and form that the configuration asks for."""
    on_gpu = device.type == "cuda"
    has_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if config.vae_precision == "bfloat16" or (config.vae_precision == "auto" and has_bfloat16):
        model.vae_dtype = torch.bfloat16
    for network in model.networks():
        if config.channels_last == "on" or (config.channels_last == "auto" and on_gpu):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.compile_vae:
            network.compile(dynamic=False)


def lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's state the strides of its parameters: the fused step takes both element by element."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dim():
                    state[name] = torch.empty_like(parameter).copy_(value)
