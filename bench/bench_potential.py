"""Compare the backends of the potential op, forward and backward: python -m bench.bench_potential.

Prints a Markdown table. A case is not timed where a backend disagrees with the float64 oracle.
"""

from __future__ import annotations

import argparse
import copy
import platform
from collections.abc import Callable, Sequence

import torch

from bench.cases import CASES, Case
from bench.timing import interleaved, sgemm_call
from ffrl.models import PotentialMLP
from ffrl.ops import available_backends, potential_derivatives

# Relative error against the float64 oracle, in norm, beyond which a figure would be of a wrong result.
TOLERANCE = 1e-4
SGEMM_SIZE = 1024
# The oracle in float64 is slow: these many rows show a wrong formula as well as all of them.
PARITY_ROWS = 32


class ParityError(RuntimeError):
    """A backend disagrees with the oracle: its figures would be of a wrong result."""


def outputs_and_gradients(pot: PotentialMLP, z: torch.Tensor, backend: str) -> list[torch.Tensor]:
    """One forward, and one backward from all outputs to z and every weight."""
    out = potential_derivatives(pot, z, 1.0, 0, backend=backend)
    loss = (out.u + out.du_dt + out.lap_u + out.du_dz.square().sum(1)).sum()
    return [out.u, out.du_dz, out.du_dt, out.lap_u, *torch.autograd.grad(loss, [z, *pot.parameters()])]


def check_parity(pot: PotentialMLP, z: torch.Tensor, backend: str) -> None:
    """Raise ParityError unless outputs and gradients agree with the float64 oracle's, on the first PARITY_ROWS rows."""
    few = z[:PARITY_ROWS].detach().requires_grad_()
    reference = outputs_and_gradients(copy.deepcopy(pot).double(), few.detach().double().requires_grad_(), "oracle")
    for given, wanted in zip(outputs_and_gradients(pot, few, backend), reference, strict=True):
        error = float((given.double() - wanted).detach().norm() / wanted.detach().norm().clamp(min=1e-6))
        if not error < TOLERANCE:
            raise ParityError(f"{backend}: a result of shape {tuple(given.shape)} is off by {error:.1e}")


def measure(case: Case, backends: Sequence[str], rounds: int) -> list[str]:
    """Rows of the table for one case."""
    torch.manual_seed(0)
    pot = PotentialMLP(case.latent_dim, case.hidden)
    z = torch.randn(case.num_rows, case.latent_dim, requires_grad=True)
    for backend in backends:
        check_parity(pot, z, backend)

    def contender(backend: str) -> Callable[[], object]:
        return lambda: outputs_and_gradients(pot, z, backend)

    timings = interleaved({"sgemm": sgemm_call(SGEMM_SIZE), **{name: contender(name) for name in backends}}, rounds)
    sgemm_rate = 2 * SGEMM_SIZE**3 / timings["sgemm"].median / 1e6  # GFLOP/s
    rows = []
    for backend in backends:
        timing = timings[backend]
        ratio = timings[backends[0]].median / timing.median
        share = case.flops / timing.median / 1e6 / sgemm_rate
        rows.append(
            f"| {case.name} | {case.num_rows} x {case.latent_dim} x {case.hidden} | {backend} | {timing.median:.1f} "
            f"({timing.lower:.1f} to {timing.upper:.1f}) | {ratio:.1f} | {100 * share:.0f} % of {sgemm_rate:.0f} |"
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bench_potential", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="calls of each contender in each case")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default torch's choice")
    parser.add_argument("--cases", nargs="*", choices=[case.name for case in CASES], help="default: all")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    usable = [name for name, reason in available_backends().items() if reason is None]
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads, "
        f"float32, median and quartiles of {arguments.rounds} interleaved rounds\n"
    )
    print("| case | N x D x H | backend | forward + backward, ms | times the oracle | of sgemm, GFLOP/s |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        if not arguments.cases or case.name in arguments.cases:
            print(*measure(case, usable, arguments.rounds), sep="\n", flush=True)


if __name__ == "__main__":
    main()
