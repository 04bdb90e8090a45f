"""The latent flow: ``flow_rollout`` alone; ``LatentFlow``, all derivatives of all steps, forward and backward."""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
from torch import Tensor

from bench.cases import Case, Flops
from bench.contenders import named
from bench.gpu.benchmark import (
    BOTH,
    FORWARD,
    TINY,
    Benchmark,
    Contender,
    Prepared,
    Results,
    backend_contenders,
    parity_rows,
)
from ffrl.models import LatentFlow, PotentialMLP, flow_rollout
from ffrl.presets import preset_config
from ffrl.records import PotentialDerivatives


class FlowCase(NamedTuple):
    """A batch of B rows along K potentials for T steps."""

    name: str
    batch: int
    steps: int
    latent_dim: int
    hidden: int
    potentials: int
    output_activation: str = "tanh"

    def op_case(self) -> Case:
        """The op that all steps together come to."""
        return Case(self.name, self.batch * self.steps, self.latent_dim, self.hidden)


def preset_case(name: str) -> FlowCase:
    config = preset_config(name)
    model, sequence = config.model, config.sequence
    sizes = (model.latent_dim, model.potential_widths[0], len(sequence.transformations))
    return FlowCase(f"flow-{name}", config.batch_size, sequence.num_steps, *sizes, model.output_activation)


CASE_OF = {
    case.name: case for case in (preset_case("paper"), preset_case("small"), FlowCase(TINY, 40, 2, 3, 5, 2, "identity"))
}


class Problem(NamedTuple):
    pot: PotentialMLP
    z0: Tensor
    k: Tensor  # mixed
    steps: int
    rows: Tensor  # that results are compared on


def forward_backward(flow: LatentFlow, z0: Tensor, k: Tensor, steps: int, rows: Tensor | None = None) -> Results:
    """Outputs X of the given rows (None: all), and v_z0 and v_<parameter> for cotangents X of those rows, by name."""
    out = named(cast(PotentialDerivatives, flow(z0, k, steps)), rows)
    parameters = dict(flow.potential.named_parameters())
    v_z0, *v_parameters = torch.autograd.grad(
        [*out.values()],
        [z0, *parameters.values()],
        [value.detach() for value in out.values()],
        allow_unused=True,  # without an output activation nothing depends on bias3
        materialize_grads=True,
    )
    gradients = {f"v_{name}": value for name, value in zip(parameters, v_parameters, strict=True)}
    return {**out, "v_z0": v_z0 if rows is None else v_z0[rows], **gradients}


class RolloutBenchmark(Benchmark):
    name = "rollout"
    case_names = tuple(CASE_OF)

    def shape(self, case: str) -> str:
        sizes = CASE_OF[case]
        return f"{sizes.batch} x {sizes.steps} steps x {sizes.latent_dim} x {sizes.hidden}, K = {sizes.potentials}"

    def flops(self, case: str, measurement: str) -> Flops | None:
        """Of the Laplacian and all else of the op at every step; the roll itself has no cubic part."""
        return CASE_OF[case].op_case().flops(backward=True) if measurement == BOTH else None

    def contenders(self, case: str) -> list[Contender]:
        return backend_contenders(with_precisions=False)

    def problem(self, case: str, device: torch.device) -> Problem:
        sizes = CASE_OF[case]
        torch.manual_seed(0)
        pot = PotentialMLP(sizes.latent_dim, sizes.hidden, sizes.potentials, sizes.output_activation).to(device)
        z0 = torch.randn(sizes.batch, sizes.latent_dim).to(device).requires_grad_()
        k = (torch.arange(sizes.batch) % sizes.potentials).to(device)
        return Problem(pot, z0, k, sizes.steps, parity_rows(sizes.batch, device))

    def reference(self, problem: Problem) -> Results:
        pot = copy.deepcopy(problem.pot).double()
        z0 = problem.z0[problem.rows].detach().double().requires_grad_()
        return forward_backward(LatentFlow(pot, "oracle"), z0, problem.k[problem.rows], problem.steps)

    def prepare(self, problem: Problem, contender: Contender) -> Prepared:
        pot, z0, k, steps, rows = problem
        flow = LatentFlow(pot, contender.backend)

        def roll() -> Tensor:
            with torch.no_grad():
                return flow_rollout(pot, z0, k, steps, backend=contender.backend).z

        def both(chosen: Tensor | None = None) -> Results:
            return forward_backward(flow, z0, k, steps, chosen)

        return Prepared({FORWARD: roll, BOTH: both}, lambda: [{"z": roll()[rows]}, both(rows)])
