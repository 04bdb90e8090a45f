"""Peak extra memory of one forward and backward of one contender, in MB (10^6 bytes): python -m bench.peak_memory.

Method: in a process of its own, the contender is called once at a tiny shape (the compiled one at the true shape, for
it is compiled for one shape only). Free heap is returned to the system; VmHWM of /proc/self/status, the high-water mark
of the resident set, is reset through /proc/self/clear_refs; and the contender is called once. The result is

    (VmHWM afterwards - VmRSS before) - (RssFile afterwards - RssFile before)

so it sees whatever allocates: torch, a C++ kernel's own buffers, MKL's packing. The second bracket takes out pages of
program code that the call is the first to run. Outputs and gradients are part of it; the potential and z are not. The
heap is told to map every block from 64 KiB on and to unmap it when freed, so that freed memory does not count on.

Resolution: the kernel counts resident pages for each core in batches, some 0.1 MB a core, and smaller blocks stay in
the heap; two runs agree within about 1 MB on a few cores. A figure below that says only that it is little.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.cases import CASE_OF, Case
from bench.closed_form import FORMS
from bench.contenders import COMPILED, contender_names, derivatives_of, forward_backward, problem
from ffrl.ops.laplacian_forms import LaplacianForm

TINY = Case("tiny", 4, 3, 5)
# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
MAPPED_FROM_BYTES = 1 << 16


class PeakMemoryError(RuntimeError):
    """This system lacks what the measurement needs."""


def settle_heap() -> None:
    """Let freed blocks go back to the system at once, and all threads share one heap."""
    libc = ctypes.CDLL(None)
    settings = {M_MMAP_THRESHOLD: MAPPED_FROM_BYTES, M_TRIM_THRESHOLD: MAPPED_FROM_BYTES, M_TOP_PAD: 0, M_ARENA_MAX: 1}
    if not hasattr(libc, "mallopt") or not all(libc.mallopt(name, value) for name, value in settings.items()):
        raise PeakMemoryError("needs the mallopt of glibc")


def resident() -> dict[str, int]:
    """Fields of /proc/self/status in bytes."""
    text = Path("/proc/self/status").read_text()
    return {name: 1024 * int(kilobytes) for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def peak_extra_mb(call: Callable[[], object]) -> float:
    """Resident memory of this process that one call needs beyond what was there before, in MB."""
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident()
        kept = call()  # what it returns is counted, too
        after = resident()
    except OSError as error:
        raise PeakMemoryError(f"needs {error.filename}: {error.strerror}") from error
    del kept
    extra = after["VmHWM"] - before["VmRSS"] - (after["RssFile"] - before["RssFile"])
    return max(0, extra) / 1e6


def measure(case: Case, contender: str, form: LaplacianForm) -> float:
    settle_heap()
    warm_up = case if contender == COMPILED else TINY
    pot, z = problem(warm_up)
    derivatives = derivatives_of(contender, pot, form)
    forward_backward(derivatives, pot, z)
    if warm_up != case:
        pot, z = problem(case)
        derivatives = derivatives_of(contender, pot, form)
    return peak_extra_mb(lambda: forward_backward(derivatives, pot, z))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peak_memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", required=True, choices=CASE_OF)
    parser.add_argument("--contender", required=True, choices=contender_names(usable=False))
    parser.add_argument("--form", default="gram", choices=FORMS, help="of the compiled closed form")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default torch's choice")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    os.environ["MKL_DISABLE_FAST_MM"] = "1"  # else MKL keeps the buffers of the first call for the next
    print(f"{measure(CASE_OF[arguments.case], arguments.contender, arguments.form):.1f}")


if __name__ == "__main__":
    main()
