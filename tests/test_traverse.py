"""Use of a trained model: paths in latent space, their ground truth, the pictures, and the command that draws them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ffrl.command_line import run_command
from ffrl.config import LossConfig, SequenceConfig
from ffrl.data import TransformedImages, load_images, load_sequences
from ffrl.data.sequences import transformation_parameter
from ffrl.errors import ArgumentError, BackendError
from ffrl.evaluation import sequence_errors
from ffrl.figures import album as album_module
from ffrl.figures import animation
from ffrl.figures import grid as grid_module
from ffrl.figures.album import Album
from ffrl.figures.canvas import Canvas, gif, to_bytes
from ffrl.figures.curves import training_curves
from ffrl.figures.grid import captions
from ffrl.models import PotentialMLP, SequenceVAE
from ffrl.ops import potential_derivatives
from ffrl.presets import preset_config
from ffrl.run_folder import load_config
from ffrl.trainer import Trainer, load_model
from ffrl.traversals import (
    composed_frames,
    composition_errors,
    decode,
    follow,
    progress_of,
    schedule_steps,
    superpose,
    superposition_steps,
    switch_schedule,
    traverse,
    traverse_schedule,
)
from ffrl.traverse import TraverseCommand, choose_digits, main, read_evaluation, shown_of
from tests.potentials import QuadraticField
from tests.training.runs import tiny_run

STEPS = 4
PICTURES = {
    "overview.png",
    "traverse_scale.png",
    "traverse_rotation.png",
    "traverse_hue.png",
    "traverse.gif",
    "backward.png",
    "backward.gif",
    "switch.png",
    "switch.gif",
    "superposition.gif",
    "superposition.png",
    "training_curves.png",
}


@pytest.fixture
def pot() -> PotentialMLP:
    return PotentialMLP(latent_dim=5, hidden_dims=(7, 6), num_potentials=3, output_activation="identity").double()


@pytest.fixture
def z0() -> torch.Tensor:
    return torch.randn(4, 5, dtype=torch.float64)


def random_images(count: int = 6, size: int = 28) -> torch.Tensor:
    """Blobs (N, I, I) uint8 that no transformation leaves as they are."""
    generator = torch.Generator().manual_seed(3)
    small = torch.randint(0, 256, (count, 1, 7, 7), generator=generator).float()
    large = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear")
    return large[:, 0].round().byte()


def tiny_model(num_potentials: int = 3) -> SequenceVAE:
    return SequenceVAE(preset_config("tiny").model, num_potentials).eval()


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("clock", ["own", "shared"])
@pytest.mark.parametrize("k", [0, 2])
def test_constant_schedule_is_the_plain_traverse(pot, z0, k, clock, direction):
    expected = traverse(pot, z0, k, STEPS, direction=direction)
    z = traverse_schedule(pot, z0, [k] * STEPS, clock=clock, direction=direction)
    assert z.shape == (4, STEPS + 1, 5)
    assert (expected[:, -1] - z0).abs().max() > 1e-2
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-12)


def test_forward_and_backward_leave_the_start_in_opposite_directions(pot, z0):
    forward, backward = (traverse(pot, z0, 1, 1, direction=sign) for sign in (1, -1))
    torch.testing.assert_close(forward[:, 1] - z0, z0 - backward[:, 1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("at", [0, STEPS])
def test_switch_at_an_end_is_a_plain_traverse(pot, z0, at):
    schedule = switch_schedule(2, 1, STEPS, at)
    expected = traverse(pot, z0, 2 if at else 1, STEPS)
    torch.testing.assert_close(traverse_schedule(pot, z0, schedule), expected, rtol=0, atol=1e-12)


def test_switch_continues_the_code_and_restarts_the_time(pot, z0):
    first = traverse(pot, z0, 0, 2)
    second = traverse(pot, first[:, -1], 2, 2)  # a fresh flow, with t = 1, 2, from where the first one ended
    z = traverse_schedule(pot, z0, switch_schedule(0, 2, 4))
    torch.testing.assert_close(z, torch.cat([first, second[:, 1:]], dim=1), rtol=0, atol=1e-12)


def test_shared_clock_runs_on(pot, z0):
    z = traverse_schedule(pot, z0, [0, 0, 2, 2], clock="shared")
    for number in (3, 4):
        velocity = potential_derivatives(pot, z[:, number - 1], float(number), 2, laplacian=None).du_dz
        torch.testing.assert_close(z[:, number] - z[:, number - 1], velocity, rtol=0, atol=1e-12)
    own = traverse_schedule(pot, z0, [0, 0, 2, 2])
    assert (own - z)[:, :3].abs().max() == 0
    assert (own - z)[:, 3:].abs().max() > 1e-4


def test_own_clock_counts_each_potential_by_itself():
    assert schedule_steps([2, 0, 2, 2, 0]) == [{2: 1.0}, {0: 1.0}, {2: 2.0}, {2: 3.0}, {0: 2.0}]
    assert schedule_steps([2, 0, 2], "shared") == [{2: 1.0}, {0: 2.0}, {2: 3.0}]


def test_superposition_of_one_is_the_plain_traverse(pot, z0):
    torch.testing.assert_close(superpose(pot, z0, [1], STEPS), traverse(pot, z0, 1, STEPS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", [1, -1])
def test_superposition_adds_the_velocities_of_the_same_state(pot, z0, direction):
    expected = z0
    for t in range(1, STEPS + 1):
        rows = [potential_derivatives(pot, expected, float(t), k, laplacian=None, backend="oracle") for k in (0, 2)]
        expected = expected + direction * (rows[0].du_dz + rows[1].du_dz)
    for ks in ([0, 2], [2, 0]):
        z = superpose(pot, z0, ks, STEPS, direction=direction)
        torch.testing.assert_close(z[:, -1], expected, rtol=0, atol=1e-12)


def test_superposition_of_quadratic_potentials_adds_their_matrices(z0):
    symmetric = torch.randn(3, 5, 5, dtype=torch.float64) / 5
    symmetric = symmetric + symmetric.mT
    zero = torch.zeros_like(symmetric)
    field = QuadraticField(symmetric, zero, zero)
    z = superpose(field, z0, [0, 1], STEPS)
    step = torch.eye(5, dtype=torch.float64) + symmetric[0] + symmetric[1]
    torch.testing.assert_close(z[:, -1], z0 @ torch.linalg.matrix_power(step, STEPS), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda pot, z0: traverse(pot, z0, 3, 2), "k"),
        (lambda pot, z0: traverse(pot, z0, 0, 0), "num_steps"),
        (lambda pot, z0: traverse(pot, z0, 0, 2, direction=2), "direction"),
        (lambda pot, z0: traverse_schedule(pot, z0, []), "schedule"),
        (lambda pot, z0: traverse_schedule(pot, z0, [0, 3]), "k"),
        (lambda pot, z0: traverse_schedule(pot, z0, [0, -1]), "schedule[1]"),
        (lambda pot, z0: traverse_schedule(pot, z0, [0.0]), "schedule[0]"),
        (lambda pot, z0: traverse_schedule(pot, z0, [True]), "schedule[0]"),
        (lambda pot, z0: traverse_schedule(pot, z0, [0], clock="wall"), "clock"),
        (lambda pot, z0: traverse_schedule(pot, z0, [0], direction=0), "direction"),
        (lambda pot, z0: superpose(pot, z0, [], 2), "ks"),
        (lambda pot, z0: superpose(pot, z0, [1, 1], 2), "ks"),
        (lambda pot, z0: superpose(pot, z0, [0, 7], 2), "k"),
        (lambda pot, z0: superpose(pot, z0, [0], 0), "num_steps"),
        (lambda pot, z0: superpose(pot, z0[:, :4], [0], 2), "z.shape"),
        (lambda pot, z0: switch_schedule(0, 1, 4, 5), "at"),
        (lambda pot, z0: switch_schedule(0, 1, 4, -1), "at"),
        (lambda pot, z0: follow(pot, z0, []), "steps"),
    ],
)
def test_bad_arguments_raise_typed_errors(pot, z0, call, argument):
    with pytest.raises(ArgumentError) as error:
        call(pot, z0)
    assert error.value.name == argument


def test_a_backend_that_is_not_usable_is_an_error(pot, z0):
    with pytest.raises(BackendError, match="cuda"):
        superpose(pot, z0, [0, 1], 2, backend="cuda")


@pytest.mark.parametrize("k", [0, 1, 2])
def test_truth_along_one_transformation_is_the_sequence_of_the_data_set(k):
    data = TransformedImages(random_images(), SequenceConfig())
    indices = torch.tensor([4, 0, 2])
    progress = progress_of(schedule_steps([k] * data.num_steps), 3)
    assert torch.equal(composed_frames(data, indices, progress), data.sequence(indices, k).x)


def test_truth_composes_rotation_and_hue_exactly():
    config = SequenceConfig(num_steps=1, max_rotation=90.0, max_hue=120.0)
    data = TransformedImages(random_images(), config)
    indices = torch.arange(3)
    grey = data.images[:3].float() / 255
    forward = composed_frames(data, indices, progress_of(superposition_steps([1, 2], 1), 3))
    assert torch.equal(forward[:, 0, 0], grey)
    assert torch.equal(forward[:, 1, 1], torch.rot90(grey, 1, (1, 2)))  # counter-clockwise, red turned green
    assert forward[:, 1, [0, 2]].abs().max() == 0
    backward = composed_frames(data, indices, progress_of(superposition_steps([1, 2], 1), 3, direction=-1))
    assert torch.equal(backward[:, 1, 2], torch.rot90(grey, -1, (1, 2)))  # clockwise, red turned blue
    assert backward[:, 1, :2].abs().max() == 0


def test_progress_counts_what_has_acted():
    progress = progress_of(schedule_steps(switch_schedule(1, 0, 4)), 3)
    assert progress.tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 0], [1, 2, 0], [2, 2, 0]]
    assert progress_of(superposition_steps([0, 2], 2), 3, direction=-1).tolist() == [
        [0, 0, 0],
        [-1, 0, -1],
        [-2, 0, -2],
    ]


def test_negative_progress_is_the_inverse_transform():
    config = SequenceConfig()
    for name, forward, backward in (("scale", 1.4, 1 / 1.4), ("rotation", 40.0, -40.0), ("hue", 80.0, -80.0)):
        assert transformation_parameter(config, name, 4) == pytest.approx(forward, rel=1e-15)
        assert transformation_parameter(config, name, -4) == pytest.approx(backward, rel=1e-15)


def test_captions_name_the_transformations_that_act():
    progress = progress_of(schedule_steps(switch_schedule(0, 1, 8)), 3)
    assert captions(SequenceConfig(), progress)[::4] == ["×1 ↺0°", "×1.4 ↺0°", "×1.4 ↺40°"]
    progress = progress_of(superposition_steps([0], 8), 3, direction=-1)
    assert captions(SequenceConfig(), progress)[-1] == "÷1.8"


@pytest.mark.parametrize(
    ("indices", "columns", "argument"),
    [([0], 2, "progress.shape"), ([6], 3, "indices"), ([-1], 3, "indices")],
)
def test_truth_refuses_what_does_not_fit(indices, columns, argument):
    data = TransformedImages(random_images(6), SequenceConfig())
    with pytest.raises(ArgumentError) as error:
        composed_frames(data, torch.tensor(indices), torch.zeros(3, columns, dtype=torch.int64))
    assert error.value.name == argument


def test_composition_errors_are_means_over_images():
    model = tiny_model()
    data = TransformedImages(random_images(6), SequenceConfig(num_steps=STEPS))
    result = composition_errors(model, data, num_images=5, batch_size=2)
    assert result["num_images"] == 5 and result["switch_at"] == 2
    assert [row["transformations"] for row in result["superposition"]] == [
        ["scale", "rotation"],
        ["scale", "hue"],
        ["rotation", "hue"],
        ["scale", "rotation", "hue"],
    ]
    assert len(result["switch"]) == 2 * 6 and len(result["backward"]) == 3
    row = next(r for r in result["switch"] if r["transformations"] == ["hue", "scale"] and r["clock"] == "own")
    steps = [{2: 1.0}, {2: 2.0}, {0: 1.0}, {0: 2.0}]
    errors, copies, zeros = [], [], []
    for index in range(5):
        x = composed_frames(data, torch.tensor([index]), progress_of(steps, 3))
        with torch.no_grad():
            decoded = decode(model, follow(model.potential, model.encoder(x[:, 0])[0], steps))
        errors.append((x - decoded)[:, 1:].abs().sum().item())
        copies.append((x - x[:, :1])[:, 1:].abs().sum().item())
        zeros.append(x[:, 1:].sum().item())
    assert row["equivariance_error"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert row["copy"] == pytest.approx(np.mean(copies), rel=1e-5)
    assert row["zero"] == pytest.approx(np.mean(zeros), rel=1e-5)
    assert row["equivariance_error_standard_error"] == pytest.approx(np.std(errors, ddof=1) / 5**0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "names", "clock", "steps", "direction"),
    [
        ("switch", ["hue", "scale"], "own", [{2: 1.0}, {2: 2.0}, {0: 1.0}, {0: 2.0}], 1),
        ("switch", ["hue", "scale"], "shared", [{2: 1.0}, {2: 2.0}, {0: 3.0}, {0: 4.0}], 1),
        ("superposition", ["scale", "hue"], None, [{0: t, 2: t} for t in (1.0, 2.0, 3.0, 4.0)], 1),
        ("backward", ["rotation"], None, [{1: t} for t in (1.0, 2.0, 3.0, 4.0)], -1),
    ],
)
def test_every_kind_of_composition_is_scored_along_its_own_path(kind, names, clock, steps, direction):
    """The flow and the truth of a row go the same way: the other way has another error."""
    model = tiny_model()
    with torch.no_grad():
        for weight in (model.potential.weight3, *(p for p in model.decoder.parameters() if p.dim() > 1)):
            weight.mul_(4)
    data = TransformedImages(random_images(3), SequenceConfig(num_steps=STEPS))
    rows = composition_errors(model, data)[kind]
    (row,) = (r for r in rows if r["transformations"] == names and r.get("clock") == clock)
    x = composed_frames(data, torch.arange(3), progress_of(steps, 3, direction=direction))
    with torch.no_grad():
        start = model.encoder(x[:, 0])[0]
        right, wrong = (
            (x - decode(model, follow(model.potential, start, steps, direction=way)))[:, 1:].abs().sum().item() / 3
            for way in (direction, -direction)
        )
    assert row["equivariance_error"] == pytest.approx(right, rel=1e-5)
    assert abs(wrong / right - 1) > 1e-3


def test_one_transformation_has_no_compositions():
    data = TransformedImages(random_images(2), SequenceConfig(transformations=("rotation",), num_steps=2))
    result = composition_errors(tiny_model(1), data)
    assert result["switch"] == result["superposition"] == []
    assert [row["transformations"] for row in result["backward"]] == [["rotation"]]
    album = Album(tiny_model(1), data, torch.tensor([0]), "", None, result)
    assert set(album.draw([])) == {
        "overview.png",
        "traverse_rotation.png",
        "traverse.gif",
        "backward.png",
        "backward.gif",
    }


def decoded(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def test_image_pixels_become_squares_of_their_own_colour():
    canvas = Canvas(70, 50, zoom=2)
    pixels = torch.rand(3, 7, 7)
    canvas.image(11, 5, pixels, scale=4)
    page = decoded(canvas.png())
    assert page.shape == (100, 140, 3)
    side = 8  # 4 units of 2 pixels
    region = page[10 : 10 + 7 * side, 22 : 22 + 7 * side]
    assert np.array_equal(region, to_bytes(pixels).repeat(side, 0).repeat(side, 1))
    page[10 : 10 + 7 * side, 22 : 22 + 7 * side] = 255
    assert (page == 255).all()  # and nothing beside them
    assert np.array_equal(decoded(canvas.png()), canvas.rgb())


def test_gif_keeps_colours_times_and_order():
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64) * torch.tensor([1.0, 0.4, 0.0])[:, None, None]
    pages = [np.full((64, 64, 3), 255, dtype=np.uint8), to_bytes(ramp), to_bytes(ramp.flip(2))]
    image = Image.open(io.BytesIO(gif(pages, [0, 1, 2, 1], [300, 100, 100, 100])))
    assert (image.n_frames, image.info["loop"]) == (4, 0)
    for number, page in enumerate((0, 1, 2, 1)):
        image.seek(number)
        assert image.info["duration"] == (300 if number == 0 else 100)
        difference = np.asarray(image.convert("RGB")).astype(int) - pages[page].astype(int)
        assert np.abs(difference).max() <= (0 if page == 0 else 2)
    with pytest.raises(ArgumentError, match="milliseconds"):
        gif(pages, [0, 1], [100])


def test_pictures_show_the_frames_of_the_data_set_exactly():
    data = TransformedImages(random_images(6), SequenceConfig(num_steps=2))
    indices = torch.tensor([5, 1])
    model = tiny_model()
    album = Album(model, data, indices, "", None, composition_errors(model, data, num_images=2))
    frames, _ = album.along(1)
    x = data.sequence(indices, 1).x
    assert torch.equal(frames.truth, x)
    page = decoded(album.traverse_grid(1))
    side = 2 * grid_module.SCALE
    for t in range(3):
        patch = to_bytes(x[1, t]).repeat(side, 0).repeat(side, 1)
        left = 2 * (grid_module.LEFT + t * (28 * grid_module.SCALE + grid_module.SEPARATOR))
        strip = page[:, left : left + patch.shape[1]]
        tops = [y for y in range(len(strip) - len(patch)) if np.array_equal(strip[y : y + len(patch)], patch)]
        assert len(tops) == 1


def test_a_grid_with_few_images_for_a_composition_shows_as_many_different_ones():
    config = preset_config("tiny", "dsprites-generated")
    _, data = load_sequences(config, "test")
    indices = torch.tensor([100, 142, 1700])
    model = SequenceVAE(config.model, data.num_transformations).eval()
    album = Album(model, data, indices, "", None, {})
    assert torch.equal(album.numbers([0]), indices)
    count = data.num_composed([0, 2])
    assert 142 < count < 1700
    assert album.numbers([0, 2]).tolist() == [0, count // 3, 2 * count // 3]
    steps = superposition_steps([0, 2], data.num_steps)
    label, frames, progress = album.path(steps, 2)
    assert label == f"image {2 * count // 3}"
    assert torch.equal(frames.truth, data.composed(torch.tensor([2 * count // 3]), progress))


def test_choice_of_digits():
    labels = torch.arange(50) % 10
    chosen = choose_digits(labels, 10, seed=0)
    assert sorted(labels[chosen].tolist()) == list(range(10))
    assert choose_digits(labels, 4, seed=0) == chosen[:4]
    assert choose_digits(labels, 10, seed=1) != chosen
    assert len(set(choose_digits(torch.zeros(5, dtype=torch.int64), 3, seed=0))) == 3


def record(iteration: int) -> dict:
    names = ("reconstruction", "kl_0", "kl_t", "hj", "loss", "gradient_norm", "learning_rate")
    return {"iteration": iteration, **dict.fromkeys(names, 100.0 / iteration), "diffusivity": [0.1, 0.2]}


@pytest.mark.parametrize("count", [1, 40])
def test_training_curves_draw_every_quantity(count):
    page = decoded(training_curves([record(5 * (i + 1)) for i in range(count)], ("scale", "hue")))
    assert page.shape[1] > 1500
    for colour in ((0, 114, 178), (213, 94, 0)):  # the first two lines of a panel
        assert (np.abs(page.astype(int) - colour).max(-1) < 8).sum() > 20
    with pytest.raises(ArgumentError, match="records"):
        training_curves([], ("scale", "hue"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight iterations on scikit-learn's digits."""
    out = tmp_path_factory.mktemp("runs") / "run"
    sequence, loss = SequenceConfig(num_steps=STEPS), LossConfig(noise_scale=0.2)
    assert Trainer(tiny_run(out, iterations=8, log_every=2, sequence=sequence, loss=loss)).run()
    return out


ARGUMENTS = ["--num-digits", "2", "--num-images", "12", "--device", "cpu"]


@pytest.fixture(scope="module")
def figures(run: Path) -> Path:
    assert run_command(main, [str(run), *ARGUMENTS]) == 0
    return run / "figures"


def test_command_writes_every_picture_and_nothing_else(figures):
    assert {path.name for path in figures.iterdir()} == PICTURES | {"composition.json"}
    composition = json.loads((figures / "composition.json").read_text())
    assert composition["iteration"] == 8 and composition["num_images"] == 12
    assert all(row["equivariance_error"] > 0 and row["copy"] > 0 for row in composition["superposition"])


@pytest.mark.parametrize("name", sorted(name for name in PICTURES if name.endswith(".png")))
def test_png_is_a_page_with_something_on_it(figures, name):
    page = decoded((figures / name).read_bytes()).astype(float)
    assert 300 < page.shape[0] < 6000 and 700 < page.shape[1] < 2200
    assert page.std() > 20
    if name == "overview.png":
        assert page.shape[1] == pytest.approx(1800, abs=100)  # twice 900: sharp on a screen of either kind
    if name != "training_curves.png":
        red = (page[..., 0] > 120) & (page[..., 1] < 40)
        assert red.sum() > 2000


@pytest.mark.parametrize(("name", "width"), [("traverse.gif", 290), ("switch.gif", 424)])
def test_gif_goes_forth_and_back(figures, name, width):
    content = (figures / name).read_bytes()
    assert len(content) < 1_500_000
    image = Image.open(io.BytesIO(content))
    assert image.info["loop"] == 0 and image.n_frames == 2 * STEPS and image.size[0] == width
    pages, milliseconds = [], []
    for number in range(image.n_frames):
        image.seek(number)
        milliseconds.append(image.info["duration"])
        pages.append(np.asarray(image.convert("RGB")).astype(float))
    assert milliseconds == [800, 160, 160, 160, 800, 160, 160, 160]  # it rests at both ends
    assert min(page.std() for page in pages) > 20
    for t in range(1, STEPS):
        assert np.array_equal(pages[t], pages[-t])
        assert np.abs(pages[t] - pages[t - 1]).mean() > 0.5


def test_truth_of_the_animation_is_that_of_the_data_set(run, figures):
    config = load_config(run)
    image = Image.open(figures / "traverse.gif")
    image.seek(STEPS)
    page = np.asarray(image.convert("RGB")).astype(int)
    images = load_images("digits", "test")
    index = choose_digits(images.labels, 2, 0)[0]
    truth = to_bytes(TransformedImages(images.images, config.sequence).sequence(torch.tensor([index]), 0).x[0, STEPS])
    top = animation.TITLE_LINE + animation.LABEL_LINE + animation.CAPTION_LINE
    side = 28 * animation.SCALE
    shown = page[top : top + side : animation.SCALE, animation.LEFT : animation.LEFT + side : animation.SCALE]
    assert np.abs(shown - truth.astype(int)).max() <= 16  # 256 colours for the whole page
    assert np.abs(shown - truth.astype(int)).mean() < 2


def test_second_run_writes_the_same_bytes(run, figures, capsys):
    before = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert run_command(main, [str(run), *ARGUMENTS]) == 0
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == before
    out = capsys.readouterr().out
    assert all(f"wrote {figures / name}" in out for name in before)
    assert "scale → rotation" in out and "rotation + hue" in out and "hue backward" in out
    assert "there is no" in out  # the run has not been evaluated


def test_evaluation_of_this_iteration_enters_the_pictures(run, tmp_path):
    row = {"equivariance_error": 123.4, "copy": 1000.0}
    evaluation = {
        "iteration": 8,
        "num_images": 360,
        "transformations": dict.fromkeys(("scale", "rotation", "hue"), row),
    }
    path = tmp_path / "evaluation.json"
    assert read_evaluation(tmp_path, 8)[0] is None
    path.write_text(json.dumps({**evaluation, "iteration": 7}))
    found, remark = read_evaluation(tmp_path, 8)
    assert found is None and "iteration 7, not 8" in remark
    path.write_text("{")
    with pytest.raises(ArgumentError, match=r"evaluation\.json"):
        read_evaluation(tmp_path, 8)
    path.write_text(json.dumps(evaluation))
    assert read_evaluation(tmp_path, 8) == (evaluation, "")

    model, config, _ = load_model(run, device="cpu")
    data = TransformedImages(random_images(4), config.sequence)
    without, with_it = (Album(model, data, torch.tensor([1]), "", given, {}) for given in (None, evaluation))
    frames, _ = without.along(2)
    assert with_it.score(2, frames) == (123.4, 1000.0, "360 test images")
    assert without.score(2, frames) == (frames.equivariance_error, frames.copy, "the image shown")
    expected = sequence_errors(model, *data.sequence(torch.tensor([1]), 2))
    assert frames.equivariance_error == pytest.approx(expected["equivariance_error"].item(), rel=1e-5)
    assert frames.copy == pytest.approx(expected["copy"].item(), rel=1e-6)
    assert with_it.overview() != without.overview()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mnist", "handwritten digits"),
        ("digits", "handwritten digits"),
        ("shapes", "squares, ellipses and hearts"),
        ("dsprites", "dSprites"),
    ],
)
def test_the_overview_names_what_is_shown(name, kind, monkeypatch):
    assert shown_of(name) == kind
    titles = []
    monkeypatch.setattr(album_module, "overview", lambda title, *_: titles.append(title) or b"")
    data = TransformedImages(random_images(2), SequenceConfig(num_steps=2))
    Album(tiny_model(), data, torch.tensor([1]), "", None, {}, shown_of(name)).overview()
    assert titles == [f"Three transformations of {kind}, each the flow of one learned potential"]


def test_out_that_cannot_be_written_is_an_error(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "file" / "figures"]
    if os.geteuid() != 0:  # no folder is closed to root
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(tmp_path / "closed")
    for out in places:
        assert run_command(main, [str(run), *ARGUMENTS, "--out", str(out)]) == 2
        assert f"out = {out}" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"file", "closed"}
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--indices", "3", "360"], "indices[1] = 360"),
        (["--backend", "abacus"], "backend = 'abacus'"),
        (["--device", "abacus"], "device = 'abacus'"),
    ],
)
def test_bad_options_are_errors_and_write_nothing(run, tmp_path, capsys, arguments, message):
    assert run_command(main, [str(run), "--out", str(tmp_path / "new"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--num-digits", "0"], ["--num-digits", "11"], ["--num-images", "0"], ["--indices", "-1"], ["--seed", "-1"]],
)
def test_values_out_of_range_end_with_code_two(run, tmp_path, arguments):
    try:
        code = run_command(main, [str(run), "--out", str(tmp_path / "new"), *arguments])
    except SystemExit as error:  # refused while the command line was read
        code = error.code
    assert code == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "name"),
    [({"indices": (1, 2, 1)}, "indices[2]"), ({"indices": (1,), "num_digits": 4}, "num_digits")],
)
def test_images_chosen_by_number_are_distinct_and_count_themselves(options, name):
    with pytest.raises(ArgumentError) as error:
        TraverseCommand(Path("run"), **options)
    assert error.value.name == name


def test_a_folder_that_is_no_run_is_an_error(tmp_path, capsys):
    assert run_command(main, [str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
