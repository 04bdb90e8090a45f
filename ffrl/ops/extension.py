"""The extensions ffrl._C (C++) and ffrl._C_cuda: loaded once, and in words why where they cannot be."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import torch  # before the extension, whose symbols are those of the torch that is running

from ffrl.errors import ArgumentError, BackendError

MODULE, CUDA_MODULE = "ffrl._C", "ffrl._C_cuda"
PACKAGE = Path(__file__).resolve().parents[1]
CAPABILITY_VARIABLE = "FFRL_CPU_CAPABILITY"
CPU_CAPABILITIES = ("auto", "avx512", "avx2", "portable")

# What the extension is built for (TORCH_API in setup.py).
OLDEST_TORCH = "2.10"


@functools.cache
def load_extension() -> str | None:
    """None once ffrl._C is imported and its operators are registered, else the reason why they are not.

    The reason is one line. Where the extension was not built it is the one that the build left in ``_C_missing.txt``.
    """
    reason = import_reason(MODULE)
    if reason is not None:
        return reason
    module = importlib.import_module(MODULE)
    wish = os.environ.get(CAPABILITY_VARIABLE, "auto")
    try:
        module.set_cpu_capability(wish)
    except ValueError as error:
        return f"the environment variable {CAPABILITY_VARIABLE} does not fit: {error}"
    return None


def import_reason(name: str) -> str | None:
    """None once the extension of that name is imported, else why it is not."""
    record = PACKAGE / f"{name.rpartition('.')[2]}_missing.txt"
    if record.is_file():
        return record.read_text(encoding="utf-8").strip()
    if importlib.util.find_spec(name) is None:
        return (
            f"the extension {name} is not in this installation (nothing was built in {PACKAGE}); "
            "run `pip install --no-build-isolation .`, or the same with -e, in the source tree of ffrl"
        )
    try:
        importlib.import_module(name)
    except ImportError as error:
        first_line = (str(error).splitlines() or [""])[0]
        return (
            f"the extension {name} does not load: it is built for torch {OLDEST_TORCH} and later, "
            f"torch {torch.__version__} is running, and the loader says: {first_line}; install a torch that fits, "
            "or run `pip install --no-build-isolation .` again in the source tree of ffrl"
        )
    return None


def cpu_capability() -> str:
    """The instruction set that the C++ kernels use: "avx512", "avx2" or "portable".

    Raises:
        BackendError: the extension cannot be used here; the message says why.
    """
    return extension().cpu_capability()


def set_cpu_capability(name: str) -> None:
    """Let the C++ kernels of this process use another instruction set; "auto" is the best that the processor has.

    Raises:
        ArgumentError: ``name`` is not known, or the processor does not have it.
        BackendError: the extension cannot be used here; the message says why.
    """
    module = extension()
    try:
        module.set_cpu_capability(name)
    except (TypeError, ValueError) as error:
        allowed = f"one of {', '.join(map(repr, CPU_CAPABILITIES))}, and one that this processor has"
        raise ArgumentError("name", repr(name), allowed) from error


def extension() -> ModuleType:
    reason = load_extension()
    if reason is not None:
        raise BackendError(f"the C++ kernels cannot be used here: {reason}")
    return importlib.import_module(MODULE)
