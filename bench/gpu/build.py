"""Part "build": the CUDA kernels for the GPU that is here: python -m bench.gpu.build.

Where it fails, the backend "cuda" is unusable in the parts after it, and nothing else changes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.part import begin, parser_of

CSRC = Path(__file__).resolve().parents[2] / "csrc"
UNFINISHED = "the build of the CUDA kernels failed or was not done in time; the report has its last messages"


def own_architecture() -> str:
    """That of the first CUDA device, as TORCH_CUDA_ARCH_LIST names it."""
    import torch

    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}" + ("a" if (major, minor) == (9, 0) else "")


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("bench.gpu.build", __doc__)
    parser.add_argument("--objects", type=Path, required=True, help="folder for objects and logs")
    parser.add_argument("--into", type=Path, required=True, help="folder that gets the extension")
    arguments = parser.parse_args(argv)
    lines, _ = begin(arguments)
    sys.path.append(str(CSRC))
    import build_cuda

    arguments.into.mkdir(parents=True, exist_ok=True)
    (arguments.into / build_cuda.RECORD).write_text(UNFINISHED + "\n", encoding="utf-8")
    if arguments.device == "cuda" and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        os.environ["TORCH_CUDA_ARCH_LIST"] = own_architecture()
    begun = time.monotonic()
    missing = build_cuda.make("1" if arguments.device == "cuda" else "auto", arguments.objects, arguments.into)
    lines.write(
        "build",
        seconds=time.monotonic() - begun,
        architectures=os.environ.get("TORCH_CUDA_ARCH_LIST") or None,
        missing=None if missing is None else missing.sentence("CUDA"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
