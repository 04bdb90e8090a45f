"""One pass of the sequence VAE over a batch: what is encoded, what is decoded, and at which time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.models import SequenceVAE
from ffrl.presets import preset_config
from tests.models.reference import naive_trajectory, random_batch, tiny_model
from tests.tolerances import FLOAT64, ROUNDING, assert_matches, relative_error


def calls_of(module: torch.nn.Module) -> list[int]:
    """The batch size of every call of a module from now on."""
    sizes: list[int] = []
    module.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    return sizes


def test_all_frames_are_decoded_in_one_call_and_one_frame_is_encoded():
    model, (x, k) = tiny_model(), random_batch(5, 4)
    decoded, encoded = calls_of(model.decoder.body), calls_of(model.encoder)
    outputs = model(x, k)
    assert decoded == [5 * 5]
    assert encoded == [5]
    assert outputs.logits.shape == x.shape


def test_shapes():
    model, (x, k) = tiny_model(), random_batch(5, 4)
    outputs = model(x, k)
    trajectory = outputs.trajectory
    assert outputs.mu.shape == outputs.log_var.shape == outputs.initial_velocity.shape == (5, 3)
    assert trajectory.z.shape == (5, 5, 3)
    assert trajectory.du_dz.shape == (5, 4, 3)
    assert trajectory.du_dt.shape == trajectory.lap_u.shape == outputs.force.shape == (5, 4)


def test_frames_keep_their_place_in_the_batch_and_in_time():
    model, (x, k) = tiny_model(), random_batch(3, 4)
    outputs = model(x, k)
    for b in range(3):
        for t in range(5):
            alone = model.decoder.logits(outputs.trajectory.z[b, t][None])[0]
            assert relative_error(outputs.logits[b, t], alone) < ROUNDING
    assert outputs.logits.std((0, 1)).max() > 1e-2


def test_only_the_first_frame_is_encoded():
    model, (x, k) = tiny_model(), random_batch(3, 4)
    noise = torch.randn(3, 3, dtype=torch.float64)
    outputs = model(x, k, noise)
    others = torch.cat([x[:, :1], torch.rand_like(x[:, 1:])], dim=1)
    assert torch.equal(model(others, k, noise).logits, outputs.logits)
    mu, log_var = model.encoder(x[:, 0])
    assert torch.equal(outputs.mu, mu)
    assert torch.equal(outputs.log_var, log_var)


def test_noise_enters_with_the_standard_deviation():
    model, (x, k) = tiny_model(), random_batch(4, 2)
    noise = torch.randn(4, 3, dtype=torch.float64)
    outputs = model(x, k, noise)
    assert relative_error(outputs.trajectory.z[:, 0], outputs.mu + outputs.log_var.exp().sqrt() * noise) < ROUNDING
    assert torch.equal(model(x, k, torch.zeros_like(noise)).trajectory.z[:, 0], outputs.mu)


def test_noise_that_is_not_given_is_standard_normal_from_the_generator_of_torch():
    model, (x, k) = tiny_model(), random_batch(4, 2)
    torch.manual_seed(5)
    drawn = torch.randn(4, 3, dtype=torch.float64)
    torch.manual_seed(5)
    outputs = model(x, k)
    assert torch.equal(outputs.trajectory.z, model(x, k, drawn).trajectory.z)
    assert not torch.equal(outputs.trajectory.z, model(x, k).trajectory.z)


def test_states_and_force_and_initial_velocity_are_at_their_times():
    model, (x, k) = tiny_model(), random_batch(4, 3)
    outputs = model(x, k)
    z = outputs.trajectory.z
    expected = naive_trajectory(model.potential, z[:, 0].detach(), k, 3)
    found = {name: value for name, value in outputs.trajectory._asdict().items() if name != "d2u_dt2"}
    assert_matches(found, {name: getattr(expected, name) for name in found}, FLOAT64)
    drift = []
    for b, k_row in enumerate(k.tolist()):
        for t in (1, 2, 3):
            time = torch.tensor([float(t)], dtype=torch.float64)
            force = -(model.force(z[b, t - 1][None], time, k_row)[0] ** 2)
            assert outputs.force[b, t - 1].item() == pytest.approx(force.item(), abs=1e-12)
        z0 = z[b, :1].detach().requires_grad_()
        (velocity,) = torch.autograd.grad(model.potential(z0, 0.0, k_row).sum(), z0)
        (at_one,) = torch.autograd.grad(model.potential(z0, 1.0, k_row).sum(), z0)
        drift.append((velocity - at_one).norm().item())
        assert relative_error(outputs.initial_velocity[b], velocity[0]) < ROUNDING
    assert max(drift) > 1e-4  # the time of the initial condition matters
    assert outputs.force.max() < 0
    assert outputs.force.std() > 1e-4


def test_force_has_weights_of_its_own_for_every_k():
    model = tiny_model()
    potentials, forces = dict(model.potential.named_parameters()), dict(model.force.named_parameters())
    assert {name: p.shape for name, p in potentials.items()} == {name: p.shape for name, p in forces.items()}
    assert all(p.shape[0] == 3 for p in forces.values())
    assert not {p.data_ptr() for p in potentials.values()} & {p.data_ptr() for p in forces.values()}
    assert model.force.output_activation == model.potential.output_activation == "tanh"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evaluation_mode_repeats_itself(dtype: torch.dtype):
    model, (x, k) = tiny_model(dtype=dtype), random_batch(3, 4, dtype=dtype)
    noise = torch.zeros(3, 3, dtype=dtype)
    trained = model.train()(x, k, noise)
    first, second = model.eval()(x, k, noise), model(x, k, noise)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.logits, trained.logits)
    assert first.logits.dtype == dtype


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_sample_does_not_depend_on_its_batch(batch: int, num_steps: int):
    model, (x, k) = tiny_model(), random_batch(batch, num_steps)
    noise = torch.randn(batch, 3, dtype=torch.float64)
    outputs = model(x, k, noise)

    def plain(values: tuple) -> dict[str, Tensor]:
        flat = {**values._asdict(), **values.trajectory._asdict()}  # type: ignore[attr-defined]
        return {name: value for name, value in flat.items() if isinstance(value, Tensor)}

    for b in range(batch):
        alone = plain(model(x[b : b + 1], k[b : b + 1], noise[b : b + 1]))
        assert_matches({name: value[b : b + 1] for name, value in plain(outputs).items()}, alone, ROUNDING, f"row {b}")


@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_backends_agree(activation: str):
    model, (x, k) = tiny_model(output_activation=activation), random_batch(4, 3)
    noise = torch.randn(4, 3, dtype=torch.float64)
    results = {}
    for backend in ("oracle", "analytic"):
        model.flow.backend = backend
        outputs = model(x, k, noise)
        results[backend] = {
            "logits": outputs.logits,
            "lap_u": outputs.trajectory.lap_u,
            "initial_velocity": outputs.initial_velocity,
        }
    assert_matches(results["analytic"], results["oracle"], FLOAT64)


def test_backend_of_the_constructor_is_the_one_used():
    assert SequenceVAE(preset_config("tiny").model, 2, backend="oracle").flow.backend == "oracle"
    model = SequenceVAE(preset_config("tiny").model, 2, backend="nonsense")
    with pytest.raises(ArgumentError, match="nonsense"):
        model(torch.rand(1, 2, 3, 28, 28), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 8), (2, 1, 3, 8, 8), (3, 8, 8), (2, 3, 1, 8, 8), (2, 3, 3, 8, 12), (2, 3, 3, 12, 12)]
)
def test_sequences_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ArgumentError, match=r"^x\.shape"):
        tiny_model()(torch.rand(shape, dtype=torch.float64), torch.zeros(shape[0], dtype=torch.int64))


def test_arguments_that_do_not_fit_the_sequences_are_refused():
    model, (x, k) = tiny_model(), random_batch(2, 2)
    for name, arguments in {
        r"x\.dtype": (x.float(), k),
        "k =": (x, 0),
        r"k\.shape": (x, k[:1]),
        r"k\.dtype": (x, k.int()),
        r"noise\.shape": (x, k, torch.zeros(3, dtype=torch.float64)),
    }.items():
        with pytest.raises(ArgumentError, match=f"^{name}"):
            model(*arguments)
    with pytest.raises(ArgumentError, match=r"^noise\.shape"):
        model(x, k, torch.zeros(2, 1, dtype=torch.float64))


def test_transformation_that_the_model_does_not_have_is_refused():
    model, (x, _) = tiny_model(num_potentials=2), random_batch(2, 2)
    with pytest.raises(ArgumentError, match=r"^k"):
        model(x, torch.tensor([0, 2]))


def test_weights_are_saved_once_and_restore_the_outputs():
    model, other = tiny_model(), tiny_model()
    with torch.no_grad():
        model.prior.diffusivity.fill_(0.4)
    state = model.state_dict()
    assert "prior.diffusivity" in state
    assert sum(value.numel() for value in state.values()) == sum(p.numel() for p in model.parameters())
    other.load_state_dict(state)
    (x, k), noise = random_batch(2, 2), torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(model(x, k, noise).logits, other(x, k, noise).logits)
    assert other.prior.diffusivity.tolist() == [0.4] * 3


def test_projection_reaches_the_prior():
    model = tiny_model()
    with torch.no_grad():
        model.prior.diffusivity.copy_(torch.tensor([-1.0, 0.5, -0.1]))
    model.project_()
    assert model.prior.diffusivity.tolist() == [0, 0.5, 0]
    assert model.num_potentials == 3
