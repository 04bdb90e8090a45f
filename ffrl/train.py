"""Train a flow-factorized representation: python -m ffrl.train --preset small --data mnist --out runs/mnist.

On several GPUs, or processes: torchrun --nproc-per-node=N -m ffrl.train ...
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ffrl.command_line import USAGE_ERROR, run_command
from ffrl.config import DATA_NAMES, PRESET_NAMES, SupervisionConfig, TrainConfig
from ffrl.errors import FfrlError, OutputError
from ffrl.presets import preset_config, with_all_frames
from ffrl.run_folder import load_config


def parse_config(argv: list[str]) -> TrainConfig:
    """The configuration of a command line: flags over the saved run (with --resume) or over the preset of the data."""
    import tyro  # here, so that ffrl.train can be imported for its functions without the command-line extra

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=TrainConfig.preset)
    first.add_argument("--data", default=TrainConfig.data)
    first.add_argument("--out", type=Path, default=TrainConfig.out)
    first.add_argument("--method", default=TrainConfig.method)
    first.add_argument("--supervision.mode", dest="mode", default=SupervisionConfig.mode)
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(argv)
    if known.resume and not {"-h", "--help"} & set(argv):
        if not known.out.is_dir():
            raise OutputError(f"out = {known.out} holds no run to resume; leave out --resume to start one")
        default = dataclasses.replace(load_config(known.out), out=known.out, resume=True)
    elif known.preset in PRESET_NAMES and known.data in DATA_NAMES:
        default = preset_config(known.preset, known.data)
        if (known.method, known.mode) != (TrainConfig.method, SupervisionConfig.mode):
            default = with_all_frames(default)
    else:
        default = TrainConfig()  # the parser tells of the name
    return tyro.cli(TrainConfig, args=argv, default=default, prog="python -m ffrl.train", description=__doc__)


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Leave it to the first process on this machine to print what all of them find alike, before they are joined."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        yield
        return
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except FfrlError:
        raise SystemExit(USAGE_ERROR) from None


def main(argv: list[str]) -> int:
    with told_once():
        config = parse_config(argv)
        from ffrl.devices import training_device  # loads torch: not before --help has been answered

        device = training_device(config.device)
    from ffrl.distributed import joined, rank
    from ffrl.trainer import Trainer

    with joined(device):
        if rank() != 0:
            logging.getLogger().setLevel(logging.ERROR)  # the first process tells
        Trainer(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
