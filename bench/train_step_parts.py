"""An iteration of ours in parts, each with inputs of its own, so that each can be run and timed alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.training_iteration import Iteration
from ffrl.losses import SequenceLosses, kl_0, log_p_sequence, log_q_sequence, reconstruction_nll
from ffrl.models import SequenceVAE
from ffrl.models.flow import log_det_trace
from ffrl.records import FlowTrajectory
from ffrl.training_step import gradient_norm

DATA, ENCODER, ROLLOUT, DERIVATIVES = "data", "encoder", "rollout", "derivatives"
FORCE, INITIAL, DENSITIES = "force", "initial velocity", "densities and terms"
DECODER, NORM, OPTIMIZER = "decoder + reconstruction", "gradient norm", "optimizer"
# Parts that evaluate u or its derivatives.
POTENTIALS = (ROLLOUT, DERIVATIVES, INITIAL)


class Part(NamedTuple):
    """A piece of work; with ``sources``, also that of the gradients of its outputs in them."""

    name: str
    forward: Callable[[], Sequence[Tensor]]  # outputs that go on to the loss
    sources: Sequence[Tensor] = ()

    def backward(self, outputs: Sequence[Tensor]) -> None:
        """Gradients in all sources, for cotangents X of every output X."""
        cotangents = [output.detach() for output in outputs]
        torch.autograd.grad(outputs, self.sources, cotangents, allow_unused=True)

    def run(self) -> None:
        """Forward, and backward where there is one."""
        outputs = self.forward()
        if self.sources:
            self.backward(outputs)


def discarding(call: Callable[[], object]) -> Callable[[], Sequence[Tensor]]:
    """The call, for a part without gradients."""

    def called() -> Sequence[Tensor]:
        call()
        return ()

    return called


def parts_of(iteration: Iteration) -> list[Part]:
    """In the order of the iteration. The last two go on from the gradients that the iteration left, and take them."""
    model, problem = iteration.model, iteration.problem
    assert isinstance(model, SequenceVAE)
    loss = problem.config.loss
    batch = problem.training_batch(1)
    x, k, num_steps = batch.x, batch.k, batch.x.shape[1] - 1

    with torch.no_grad():
        outputs = model(x, k)
        reconstruction = reconstruction_nll(outputs.logits, x, loss)
    assert outputs.force is not None and outputs.trajectory.lap_u is not None

    def source(value: Tensor) -> Tensor:
        return value.detach().clone().requires_grad_()

    mu, log_var, force, velocity, nll = map(
        source, (outputs.mu, outputs.log_var, outputs.force, outputs.initial_velocity, reconstruction)
    )
    z, du_dz, du_dt, lap_u = map(
        source, (outputs.trajectory.z, outputs.trajectory.du_dz, outputs.trajectory.du_dt, outputs.trajectory.lap_u)
    )
    z0 = source(outputs.trajectory.z[:, 0])

    def derivatives() -> Sequence[Tensor]:
        out = model.flow.derivatives_along(z, k, laplacian=True, d2u_dt2=False)
        assert out.lap_u is not None
        return out.du_dz, out.du_dt, out.lap_u

    def densities() -> Sequence[Tensor]:
        first = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        log_q = log_q_sequence(z[:, 0], mu, log_var, log_det_trace(lap_u, loss.log_det_floor))
        ratio = log_q - log_p_sequence(model, z, k)
        losses = SequenceLosses(
            reconstruction=nll,
            kl_0=kl_0(model, mu, log_var, ratio[:, 0]),
            kl_t=ratio[:, 1:],
            hj_residual=model.pde.residual(FlowTrajectory(z, du_dz, du_dt, None, lap_u), force, k),
            initial_condition=velocity.square().sum(-1),
        )
        return first, torch.stack([*losses.terms(loss).values()]).sum()

    def optimize() -> None:
        iteration.optimizer.step()
        model.project_()
        iteration.optimizer.zero_grad(set_to_none=True)

    def of(module: nn.Module) -> list[Tensor]:
        return list(module.parameters())

    inputs = (mu, log_var, z, du_dz, du_dt, lap_u, force, velocity, nll, *of(model.prior))
    return [
        Part(DATA, discarding(lambda: problem.training_batch(iteration.number))),
        Part(ENCODER, lambda: model.encoder(x[:, 0]), of(model.encoder)),
        Part(ROLLOUT, lambda: (model.flow.roll(z0, k, num_steps).z,), [z0, *of(model.potential)]),
        Part(DERIVATIVES, derivatives, [z, *of(model.potential)]),
        Part(FORCE, lambda: (model.force_along(z, k),), [z, *of(model.force)]),
        Part(INITIAL, lambda: (model.initial_velocity(z0, k),), [z0, *of(model.potential)]),
        Part(
            DECODER,
            lambda: (reconstruction_nll(model.decode_sequence(z), x, loss),),
            [z, *of(model.decoder)],
        ),
        Part(DENSITIES, densities, inputs),
        Part(NORM, discarding(lambda: gradient_norm(model).item())),
        Part(OPTIMIZER, discarding(optimize)),
    ]
