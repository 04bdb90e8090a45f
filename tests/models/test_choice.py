"""The straight-through gradient: the value of one potential, the weights' gradient of all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ffrl.config import LossConfig, PDEName
from ffrl.errors import ArgumentError
from ffrl.losses import sequence_losses
from ffrl.models import SequenceVAE
from ffrl.models.choice import Choice, draw_choice, draw_gumbel
from ffrl.ops import potential_derivatives
from ffrl.records import SequenceBatch
from ffrl.supervision import recognize
from tests.models.reference import TINY, random_batch, tiny_model
from tests.tolerances import FLOAT64, relative_error


def one_hot(k: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.one_hot(k, 3).to(dtype).requires_grad_()


def test_value_and_gradients_of_a_hand_computed_case():
    """value_of(k) = c_k s: the chosen one gives value and gradient in s, all of them the gradient in the weights."""
    scale = torch.tensor([2.0, 5.0], requires_grad=True)
    constants = torch.tensor([1.0, 10.0, 100.0])
    k = torch.tensor([2, 0])
    weights = one_hot(k, torch.float32)
    value = Choice(k, weights).through(lambda one: constants[one] * scale)
    assert value.tolist() == [200.0, 5.0]
    value.sum().backward()
    assert scale.grad is not None and weights.grad is not None
    assert scale.grad.tolist() == [100.0, 1.0]
    assert weights.grad.tolist() == [[2.0, 20.0, 200.0], [5.0, 50.0, 500.0]]


def test_a_given_k_evaluates_nothing_else():
    asked = []
    Choice(torch.tensor([1, 0])).through(lambda k: (asked.append(k), torch.zeros(2))[1])
    assert len(asked) == 1
    weights = one_hot(torch.tensor([1, 0]))
    with torch.no_grad():
        Choice(torch.tensor([1, 0]), weights).through(lambda k: (asked.append(k), torch.zeros(2))[1])
    assert len(asked) == 2


def test_draws_follow_the_logits_and_the_gradient_is_that_of_the_softmax():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(60_000, 3).clone().requires_grad_()
    choice = draw_choice(logits, 0.5, draw_gumbel(*logits.shape))
    assert choice.weights is not None
    assert torch.equal(choice.weights.argmax(1), choice.k)
    assert relative_error(choice.weights.detach().sum(1), torch.ones(60_000)) <= 1e-6
    shares = torch.bincount(choice.k, minlength=3) / 60_000
    # Standard error of a share is at most 0.002.
    assert relative_error(shares, logits.detach()[0].softmax(0)) <= 0.01
    torch.manual_seed(0)
    noisy = F.gumbel_softmax(logits, tau=0.5)  # the same noise
    v_weights = torch.randn(60_000, 3)
    (found,) = torch.autograd.grad(choice.weights, logits, v_weights)
    (expected,) = torch.autograd.grad(noisy, logits, v_weights)
    assert relative_error(found, expected) <= 1e-6


@pytest.mark.parametrize("log_det", ["trace", "exact", "hutchinson"])
def test_the_loss_and_every_other_gradient_are_those_of_the_given_k(log_det: str):
    model, batch, config = tiny_model(), random_batch(5, 3), LossConfig(log_det=log_det)  # type: ignore[arg-type]
    noise = torch.randn(5, 3, dtype=torch.float64)
    found = []
    for choice in (None, Choice(batch.k, one_hot(batch.k))):
        torch.manual_seed(5)  # the same probes
        losses = sequence_losses(model, batch, config, noise, choice)
        loss = torch.stack(list(losses.terms(config).values())).sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
        found.append([loss.detach(), *gradients])
    for given, drawn in zip(*found, strict=True):
        assert relative_error(drawn, given) <= FLOAT64


@pytest.mark.parametrize("log_det", ["trace", "exact"])
@pytest.mark.parametrize("term", ["reconstruction", "kl_t", "hj_residual", "initial_condition"])
def test_gradient_in_the_weights_is_that_of_the_mixed_potential(log_det: str, term: str):
    """u = Σ_k w_k u^k, its flow, force and prior by a naive loop, differentiated by autograd in w at a one-hot w."""
    check_gradient_in_the_weights(tiny_model(), LossConfig(log_det=log_det), term)  # type: ignore[arg-type]


@pytest.mark.parametrize("pde", ["hj", "fokker_planck", "heat", "wave"])
def test_gradient_in_the_weights_of_other_equations(pde: PDEName):
    model = SequenceVAE(TINY, 3, pde=pde).double()
    with torch.no_grad():
        for parameter in model.potential.parameters():
            parameter.mul_(2)
        for parameter in model.pde.parameters():  # the speeds of waves
            parameter.copy_(torch.tensor([0.5, 1.0, 2.0]))
    check_gradient_in_the_weights(model, LossConfig(pde=pde), "hj_residual")


def check_gradient_in_the_weights(model: SequenceVAE, config: LossConfig, term: str) -> None:
    torch.manual_seed(3)
    batch = random_batch(4, 3)
    with torch.no_grad():
        model.prior.diffusivity.copy_(torch.tensor([0.1, 0.3, 0.7]))
    noise = torch.randn(4, 3, dtype=torch.float64)
    weights = one_hot(batch.k)
    losses = sequence_losses(model, batch, config, noise, Choice(batch.k, weights))
    cotangent = torch.randn_like(getattr(losses, term))
    (found,) = torch.autograd.grad(getattr(losses, term), weights, cotangent)
    (expected,) = torch.autograd.grad(naive_term(model, batch, config, noise, weights, term), weights, cotangent)
    assert found.norm() > 1e-6
    assert relative_error(found, expected) <= FLOAT64


def hessians(model: SequenceVAE, z: Tensor, time: Tensor, k: int) -> Tensor:
    def u(row: Tensor) -> Tensor:
        return model.potential(row[None], time[:1], k)[0]

    return torch.stack([torch.autograd.functional.hessian(u, row, create_graph=True) for row in z])


def naive_term(
    model: SequenceVAE, batch: SequenceBatch, config: LossConfig, noise: Tensor, weights: Tensor, term: str
) -> Tensor:
    """The term with every quantity of the flow replaced by its mean over k under the weights, all of it in the graph.

    What multiplies a weight of zero still has a gradient in it; quantities of k that are not chosen are constants,
    except through the state, where they are multiplied by zero.
    """
    mu, log_var = model.encoder(batch.x[:, 0])
    z = mu + torch.exp(0.5 * log_var) * noise

    def derivatives(z: Tensor, t: float):
        return [potential_derivatives(model.potential, z, t, k, d2u_dt2=True, backend="oracle") for k in range(3)]

    def mixed(values: list[Tensor]) -> Tensor:
        return torch.einsum("bk,bk...->b...", weights, torch.stack(values, dim=1))

    velocity0 = mixed([out.du_dz for out in derivatives(z, 0.0)])
    states, residuals, log_dets = [z], [], []
    for t in (1, 2, 3):
        out = derivatives(states[-1], float(t))
        du_dz, du_dt = mixed([one.du_dz for one in out]), mixed([one.du_dt for one in out])
        time = torch.full((4,), float(t), dtype=torch.float64)
        u, lap_u, d2u_dt2 = (mixed([getattr(one, name) for one in out]) for name in ("u", "lap_u", "d2u_dt2"))
        squared = du_dz.square().sum(1)
        if config.pde == "hj_force":
            force = mixed([-model.force(states[-1], time, k).square() for k in range(3)])
            residuals.append(du_dt + 0.5 * squared - force)
        elif config.pde == "wave":
            residuals.append(d2u_dt2 - (weights @ model.pde.speed).square() * lap_u)
        else:
            sides = {"hj": 0.5 * squared, "heat": -lap_u, "fokker_planck": squared + (u - 1) * lap_u}
            residuals.append(du_dt + sides[config.pde])
        if config.log_det == "trace":
            laplacian = mixed([one.lap_u for one in out])  # type: ignore[misc]
            log_dets.append(torch.log((1 + laplacian).abs().clamp(min=config.log_det_floor)))
        else:
            stretches = [torch.eye(3, dtype=torch.float64) + hessians(model, states[-1], time, k) for k in range(3)]
            log_dets.append(mixed([torch.linalg.slogdet(stretch)[1] for stretch in stretches]))
        states.append(states[-1] + du_dz)
    path = torch.stack(states, dim=1)
    if term == "initial_condition":
        return velocity0.square().sum(1)
    if term == "hj_residual":
        return torch.stack(residuals, dim=1)
    if term == "reconstruction":
        error = torch.sigmoid(model.decode_sequence(path)) - batch.x
        return 0.5 * error.square().flatten(2).sum(-1)
    log_q0 = -0.5 * (noise.square() + log_var).sum(1)
    log_q = log_q0[:, None] - torch.stack(log_dets, dim=1).cumsum(1)
    times = torch.arange(4, dtype=torch.float64)
    log_p = mixed([model.prior.log_prob(path, times, torch.full((4, 1), k)) for k in range(3)])
    return log_q - log_p[:, 1:]


def test_the_recognition_network_looks_at_every_frame_and_at_its_own_number_of_them():
    model = SequenceVAE(TINY, 3, recognized_frames=4).double()
    x = random_batch(2, 3).x.requires_grad_()
    logits = recognize(model, x)
    assert logits.shape == (2, 3)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert bool((gradient.flatten(2).norm(dim=2) > 0).all())
    with pytest.raises(ArgumentError, match=r"x\.shape\[1\] = 5"):
        recognize(model, random_batch(2, 4).x)
    with pytest.raises(ArgumentError, match=r"model\.transformation"):
        recognize(tiny_model(), x)
