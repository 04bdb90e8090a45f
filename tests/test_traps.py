"""One regression test for every mistake of published code for these models; each docstring names the mistake.

Where the mistake would yield a number, the test computes that number, too, and sees that it is another one. What the
areas' own tests say in more detail is named in parentheses.
"""

from __future__ import annotations

import ast
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ffrl.evaluate
import ffrl.generalisation
import ffrl.traverse
import ffrl.vp
from ffrl.command_line import run_command
from ffrl.config import EvaluationConfig, LossConfig, SequenceConfig
from ffrl.data import TransformedImages, registry
from ffrl.evaluation import evaluate_model, sequence_errors, sequence_likelihoods
from ffrl.losses import gaussian_log_prob, sequence_losses
from ffrl.metrics import equivariance_error, log_prob_ceiling
from ffrl.models import SequenceVAE
from ffrl.models.pde import hj_residual
from ffrl.ops import available_backends, potential_derivatives
from ffrl.records import SequenceBatch
from ffrl.trainer import Trainer, load_model
from tests.models.reference import TINY, potential, random_batch, tiny_model
from tests.tolerances import FLOAT64, ROUNDING, relative_error
from tests.training.runs import short_run

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "ffrl").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
BACKENDS = [name for name, why_not in available_backends().items() if why_not is None]
ON_THE_CPU = [name for name in BACKENDS if name in ("oracle", "analytic", "cpp")]


def trainer_of(out: Path) -> Trainer:
    return Trainer(short_run(out, iterations=3, batch_size=6))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert trainer_of(out).run()
    return out


def hessians(z: Tensor, k: Tensor, pot: Any) -> Tensor:
    """(N, D, D) by nested autograd, row by row."""
    rows = [
        torch.autograd.functional.hessian(lambda v, row=row: pot(v[None], 2.0, int(k[row])).sum(), z[row])
        for row in range(z.shape[0])
    ]
    return torch.stack(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ON_THE_CPU)
def test_the_laplacian_is_the_trace_of_the_hessian(backend: str):
    """Row sums of the Hessian, grad(grad(u).sum()), taken for the Laplacian or its diagonal (tests/ops/)."""
    pot, z, k = potential(), torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    hessian = hessians(z, k, pot)
    trace, row_sums = hessian.diagonal(dim1=1, dim2=2).sum(1), hessian.sum((1, 2))
    lap_u = potential_derivatives(pot, z, 2.0, k, backend=backend).lap_u
    assert lap_u is not None and relative_error(lap_u, trace) < FLOAT64
    assert relative_error(row_sums, trace) > 1e-2


@pytest.mark.parametrize("backend", ON_THE_CPU)
def test_the_time_derivative_is_one_of_each_row(backend: str):
    """∂u/∂t summed over the batch because t has shape (1,1) (tests/ops/test_oracle.py)."""
    pot, z, k = potential(), torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    together = potential_derivatives(pot, z, 2.0, k, backend=backend).du_dt
    alone = torch.cat([potential_derivatives(pot, z[i : i + 1], 2.0, k[i : i + 1]).du_dt for i in range(4)])
    assert together.shape == (4,) and relative_error(together, alone) < FLOAT64
    assert (together - alone.sum()).abs().min() > 1e-3


def test_the_residual_has_the_squared_norm_of_each_sample():
    """|∇u|² averaged over batch and dimensions inside the residual (tests/test_losses.py)."""
    du_dz = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]])  # (B, T, D) = (2, 1, 2)
    zero = torch.zeros(2, 1)
    assert hj_residual(du_dz, zero, zero).flatten().tolist() == [12.5, 0.5]  # the mean over all four is 6.5
    batch = random_batch(4, 3)
    model, noise = tiny_model(), torch.zeros(4, 3, dtype=torch.float64)
    residual = sequence_losses(model, batch, LossConfig(), noise).hj_residual
    trajectory, force = model(batch.x, batch.k, noise).trajectory, model(batch.x, batch.k, noise).force
    assert relative_error(residual, trajectory.du_dt + 0.5 * (trajectory.du_dz**2).sum(2) - force) < ROUNDING
    assert relative_error(residual, trajectory.du_dt + 0.5 * (trajectory.du_dz**2).mean() - force) > 1e-3


def test_densities_are_densities():
    """Softmax over latent dimensions taken for a density (tests/models/test_prior.py, tests/test_science.py)."""
    model = tiny_model(latent_dim=1)
    z = torch.linspace(-30, 30, 20_001, dtype=torch.float64)[:, None]
    q = gaussian_log_prob(z, torch.full_like(z, 0.7), torch.full_like(z, -0.4))
    for log_density in (q, model.prior.log_prob(z, torch.tensor(3.0), 1)):
        assert torch.trapezoid(log_density.exp(), z[:, 0]).item() == pytest.approx(1, abs=1e-6)
    wide = torch.randn(5, 3, dtype=torch.float64)  # a softmax does not see a shift of all dimensions
    shift = gaussian_log_prob(wide + 2, 0 * wide, 0 * wide) - gaussian_log_prob(wide, 0 * wide, 0 * wide)
    assert relative_error(shift, -0.5 * (4 * wide + 4).sum(1)) < ROUNDING


def test_the_diffusivity_is_trained_and_saved(tmp_path: Path):
    """D_k a plain tensor and so neither trained nor saved (tests/training/test_learning.py)."""
    trainer = trainer_of(tmp_path / "run")
    assert trainer.model.prior.diffusivity.tolist() == [0.0, 0.0, 0.0]
    trainer.run()
    final = trainer.model.prior.diffusivity
    assert any(final is p for group in trainer.optimizer.param_groups for p in group["params"])
    assert float(final.detach().max()) > 0
    assert torch.equal(load_model(tmp_path / "run", device="cpu")[0].prior.diffusivity, final)


def test_every_gradient_is_that_of_one_iteration(tmp_path: Path):
    """The prior's gradients never zeroed."""
    trainer = trainer_of(tmp_path / "run")
    trainer.step()
    parameters = dict(trainer.model.named_parameters())
    first = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    state, config = torch.get_rng_state(), trainer.config
    batch = trainer.data.training_batch(config.seed, 2, config.batch_size, config.mixed_batches)
    loss = torch.stack(list(sequence_losses(trainer.model, batch, config.loss).terms(config.loss).values())).sum()
    names = list(first)
    expected = torch.autograd.grad(loss, [parameters[name] for name in names])
    torch.set_rng_state(state)
    trainer.step()
    assert "prior.diffusivity" in names
    for name, gradient in zip(names, expected, strict=True):
        found = parameters[name].grad
        assert found is not None and relative_error(found, gradient) < 1e-5, name
    k = names.index("prior.diffusivity")
    assert relative_error(first["prior.diffusivity"] + expected[k], expected[k]) > 0.1


def test_the_initial_condition_of_every_k_is_in_the_loss():
    """Only the last k's initial-condition loss kept (tests/test_loss_gradients.py)."""
    model, batch = tiny_model(), random_batch(6, 2)
    config = LossConfig(kl_weight=0.0, hj_weight=1.0)
    losses = sequence_losses(model, batch, config)
    by_hand = torch.stack([model.initial_velocity(model(batch.x, batch.k).trajectory.z[:, 0], k) for k in (0, 1, 2)])
    assert bool((by_hand.square().sum(-1) > 0).all())
    alone = losses._replace(hj_residual=torch.zeros_like(losses.hj_residual)).terms(config)["hj"]
    (gradient,) = torch.autograd.grad(alone, model.potential.weight1)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


class Clock(torch.nn.Module):
    """A decoder of sequences whose frame t is exactly 0.2 + 0.1 t, whatever the code."""

    def __init__(self, model: SequenceVAE) -> None:
        super().__init__()
        self.model = model

    def frames(self, z: Tensor) -> Tensor:
        t = torch.arange(z.shape[1], dtype=z.dtype)
        return torch.logit(0.2 + 0.1 * t)[None, :, None, None, None].expand(z.shape[0], -1, 3, 8, 8)


def clock_model() -> SequenceVAE:
    model = tiny_model()
    model.decode_sequence = Clock(model).frames  # type: ignore[method-assign]
    return model


def clock_frames(num_steps: int) -> Tensor:
    t = torch.arange(num_steps + 1, dtype=torch.float64)
    return (0.2 + 0.1 * t)[None, :, None, None, None].expand(2, -1, 3, 8, 8).clone()


def test_frame_t_is_compared_with_state_t():
    """x_t off by one."""
    model, x, k = clock_model(), clock_frames(3), torch.tensor([0, 2])
    errors = sequence_errors(model, x, k)
    assert errors["equivariance_error"].abs().max() < 1e-9
    nll = sequence_losses(model, SequenceBatch(x, k), LossConfig()).reconstruction
    assert relative_error(nll, torch.full_like(nll, -log_prob_ceiling(3, 8))) < ROUNDING
    late = torch.cat([x[:, 1:], x[:, -1:]], dim=1)
    assert sequence_errors(model, late, k)["equivariance_error"].min() > 30
    images = torch.zeros(1, 8, 8, dtype=torch.uint8)
    images[0, 4:, 4:] = 255
    data = TransformedImages(images, SequenceConfig(("rotation",), num_steps=4, max_rotation=360.0))
    frames = data.sequence(torch.tensor([0]), 0).x[0, :, 0]
    for t in range(5):  # frame t is at t/T of the range: frame 0 the image, frame T a whole turn
        assert torch.equal(frames[t], torch.rot90(frames[0], t, (0, 1)))


@pytest.mark.parametrize("t", [1, 2, 3])
def test_every_step_counts_in_the_evaluation(t: int):
    """The last step left out of the evaluation; the first frame counts in none."""
    model, x, k = clock_model(), clock_frames(3), torch.tensor([0, 2])
    x[:, t] += 0.05
    assert sequence_errors(model, x, k)["equivariance_error"].tolist() == pytest.approx([192 * 0.05] * 2)
    x = clock_frames(3)
    x[:, 0] += 0.05
    assert sequence_errors(model, x, k)["equivariance_error"].abs().max() < 1e-9


def test_the_error_of_a_transformation_is_its_own():
    """Running means over k printed as per-k values (tests/test_evaluation.py)."""
    model = tiny_model(dtype=torch.float32)
    data = TransformedImages(torch.randint(0, 256, (6, 8, 8), dtype=torch.uint8), SequenceConfig(num_steps=2))
    config = EvaluationConfig(batch_size=4, likelihood_images=2, importance_samples=1)
    rows = evaluate_model(model, data, config)["transformations"]
    own = {}
    for k, name in enumerate(data.config.transformations):
        errors = sequence_errors(model, *data.sequence(torch.arange(6), k))
        own[name] = errors["equivariance_error"].mean().item()
        assert rows[name]["equivariance_error"] == pytest.approx(own[name], rel=1e-5)
    scale, rotation, hue = own.values()
    assert abs((scale + rotation) / 2 - rotation) > 1e-3 * rotation
    assert abs((scale + rotation + hue) / 3 - hue) > 1e-3 * hue


def test_the_kl_is_subtracted_from_the_log_likelihood():
    """The KL added with the wrong sign to a log-likelihood (tests/test_likelihoods.py).

    The prior is N(0, I) and the posterior N(μ, I) of a model that decodes to the image: E log p(x|z) is the ceiling,
    and the ELBO of frame 0 lies ½ |μ|² below it, not above.
    """
    model = tiny_model(num_potentials=1)
    with torch.no_grad():
        for parameter in [*model.encoder.parameters(), *model.decoder.parameters(), *model.potential.parameters()]:
            parameter.zero_()
        model.encoder.mu.bias.copy_(torch.tensor([1.0, -2.0, 0.5]))
    x, k = torch.full((50, 3, 3, 8, 8), 0.5, dtype=torch.float64), torch.zeros(50, dtype=torch.int64)
    config = EvaluationConfig(importance_samples=200)
    found = sequence_likelihoods(model, x, k, config, torch.Generator().manual_seed(0))
    ceiling, kl = log_prob_ceiling(3, 8), 0.5 * (1 + 4 + 0.25)
    assert found["log_likelihood"].mean().item() == pytest.approx(ceiling, abs=1e-9)
    error = math.sqrt(2 * kl / (50 * 200))  # log p - log q is -kl - μ·ε
    assert found["elbo"].mean().item() == pytest.approx(ceiling - kl, abs=4 * error)


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        (ffrl.evaluate, "--num-images 4 --likelihood-images 2 --importance-samples 1"),
        (ffrl.traverse, "--num-images 4 --num-digits 1"),
        (ffrl.generalisation, "--num-images 4"),
        (ffrl.vp, "--num-pairs 12 --train-fraction 0.5 --epochs 1 --widths 4 --seeds 0"),
    ],
    ids=lambda value: value.__name__ if hasattr(value, "__name__") else "",
)
def test_what_is_reported_is_of_the_test_set(module: Any, flags: str, run: Path, monkeypatch: pytest.MonkeyPatch):
    """Evaluation on the training set."""
    splits: list[str] = []
    for name, loader in registry.LOADERS.items():

        def load(split: str, data_dir: Path | None, loader: Any = loader) -> Any:
            splits.append(split)
            return loader(split, data_dir)

        monkeypatch.setitem(registry.LOADERS, name, load)
    assert run_command(module.main, [str(run), "--device", "cpu", *flags.split()]) == 0
    assert splits and set(splits) == {"test"}


def test_there_is_no_noise_in_the_errors():
    """Gumbel noise and sampled z_0 left on in evaluation (tests/test_evaluation.py)."""
    model, (x, k) = SequenceVAE(TINY, 3, recognized_frames=4).double().train(), random_batch(4, 3)
    with torch.no_grad():
        model.encoder.log_var.bias.fill_(3.0)
    first = sequence_errors(model, x, k)
    torch.manual_seed(1)
    again = sequence_errors(model, x, k)
    assert "recognized_equivariance_error" in first  # of the k that the model recognizes
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
    sampled = torch.sigmoid(model(x, k).logits)
    assert relative_error(equivariance_error(x, sampled), first["equivariance_error"]) > 1e-5


def test_nothing_but_the_chosen_factor_moves():
    """Sequence loaders in which a second factor moves (tests/data/test_sequences.py).

    The frames of a transformation do not depend on the ranges of the others, and each keeps what it must: hue the
    brightness of every pixel, rotation and scale the colour, rotation the size, scale the orientation.
    """
    images = torch.zeros(2, 29, 29, dtype=torch.uint8)
    images[0, 8:21, 12:17] = 200  # an upright bar
    images[1, 10:19, 10:19] = 120
    one = TransformedImages(images, SequenceConfig())
    for k, name in enumerate(one.config.transformations):
        ranges = {"scale": {"max_scale": 1.2}, "rotation": {"max_rotation": -30.0}, "hue": {"max_hue": 300.0}}
        others: dict[str, Any] = {key: v for other in ranges for key, v in ranges[other].items() if other != name}
        x = one.sequence(torch.arange(2), k).x
        assert torch.equal(x, TransformedImages(images, SequenceConfig(**others)).sequence(torch.arange(2), k).x)
        assert bool((x[:, 1:] != x[:, :1]).flatten(2).any(2).all())
        if name == "hue":
            assert relative_error(x.amax(2), x[:, :1].amax(2).expand(-1, 9, -1, -1)) < 1e-6
            continue
        assert x[:, :, 1:].abs().max() == 0
        mass = x[:, :, 0].sum((2, 3))
        growth = mass / mass[:, :1]
        scale = 1 + 0.8 * torch.arange(9) / 8 if name == "scale" else torch.ones(9)
        assert relative_error(growth, (scale**2).expand(2, -1)) < 0.02  # bilinear sampling
        if name == "scale":  # the bar stays upright: its mirror images
            assert relative_error(x.flip(-1), x) < 1e-5 and relative_error(x.flip(-2), x) < 1e-5


def test_no_device_is_written_into_the_code():
    """Hard-coded .cuda(): a tensor goes to the device of its model, or to one that was asked for."""
    calls = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                words = [
                    a.value for a in [*node.args, *(w.value for w in node.keywords)] if isinstance(a, ast.Constant)
                ]
                moved = node.func.attr == "to" and any(str(word).startswith("cuda") for word in words)
                if node.func.attr == "cuda" or moved:
                    calls.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert calls == []


def test_anomaly_detection_is_off(tmp_path: Path):
    """Autograd anomaly mode left on."""
    seen: list[bool] = []
    trainer = trainer_of(tmp_path / "run")
    trainer.model.encoder.mu.bias.register_hook(lambda _: seen.append(torch.is_anomaly_enabled()))
    trainer.step()
    assert seen == [False] and not torch.is_anomaly_enabled()
    named = [path for path in SOURCES if "anomaly" in path.read_text(encoding="utf-8")]
    assert named == []


def body_of(node: ast.FunctionDef) -> str:
    """What a function does, without its docstring, comments and layout."""
    statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return "\n".join(ast.dump(statement) for statement in statements)


def test_no_function_is_written_twice():
    """A class per variant copied instead of a switch: then methods of several statements occur more than once."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and sum(isinstance(n, ast.stmt) for n in ast.walk(node)) > 4:
                places[body_of(node)].append(f"{path.relative_to(ROOT)}:{node.name}")
    assert len(places) > 100
    assert [found for found in places.values() if len(found) > 1] == []
