"""What a model does where it was not trained: commutators, longer flows, unseen classes, other images, the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ffrl.generalisation
from ffrl.command_line import run_command
from ffrl.config import SequenceConfig
from ffrl.data import TransformedImages, load_images, split_classes
from ffrl.errors import ArgumentError
from ffrl.evaluation import sequence_errors
from ffrl.generalisation_errors import (
    commutator,
    commutator_errors,
    equivariance_errors,
    extrapolation_errors,
    meaningful_steps,
)
from ffrl.models import LatentFlow, SequenceVAE
from ffrl.presets import preset_config
from ffrl.run_folder import load_config
from ffrl.trainer import Trainer
from ffrl.traversals import composed_frames, decode, follow
from tests.potentials import QuadraticField
from tests.training.runs import tiny_run

NAMES = ("scale", "rotation", "hue")
STEPS = 4


def random_images(count: int = 5) -> Tensor:
    """Blobs (N, 28, 28) uint8."""
    small = torch.randint(0, 256, (count, 1, 7, 7)).float()
    return nn.functional.interpolate(small, size=(28, 28), mode="bilinear")[:, 0].round().byte()


def sequences(count: int = 5, **changes: Any) -> TransformedImages:
    return TransformedImages(random_images(count), SequenceConfig(num_steps=STEPS, **changes))


def tiny_model(num_potentials: int = 3) -> SequenceVAE:
    return SequenceVAE(preset_config("tiny").model, num_potentials).eval()


class LinearModel(nn.Module):
    """z_0 = (1, 1) for every image, quadratic flows z += A_k z, and an image whose pixels are all ½ + z_1 / 100."""

    def __init__(self, *matrices: list[list[float]]) -> None:
        super().__init__()
        a = torch.tensor(matrices)
        self.potential = QuadraticField(a, 0 * a, 0 * a)
        self.flow = LatentFlow(self.potential)  # type: ignore[arg-type]
        self.anchor = nn.Parameter(torch.zeros(()))

    def encoder(self, x_0: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(x_0.shape[0], 2), torch.zeros(x_0.shape[0], 2)

    def decode_sequence(self, z: Tensor) -> Tensor:
        grey = 0.5 + z[..., 0] / 100
        return torch.logit(grey)[..., None, None, None].expand(*z.shape[:2], 3, 28, 28)


def test_commutator_by_hand():
    start = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])
    one = torch.tensor([[[3.0, 1.0]], [[1.0, 1.0]]])
    other = torch.tensor([[[1.0, -1.0]], [[1.0, 1.0]]])
    apart, step = commutator(one, other, start)
    assert apart.tolist() == [2 + 2, 0]
    assert step.tolist() == [(4 + 2) / 2, 0]
    for wrong in ("other", "start"):
        arguments = {"one": one, "other": other, "start": start, wrong: start[:1]}
        with pytest.raises(ArgumentError, match=rf"^{wrong}\.shape"):
            commutator(**arguments)


def test_commutator_of_matrices_that_do_not_commute():
    """(I + B)²(I + A)² z_0 against (I + A)²(I + B)² z_0, with A = diag(1, 0), B the reflection times ½."""
    a, b = [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.5], [0.5, 0.0]]
    model: Any = LinearModel(a, b)
    data = sequences(transformations=("scale", "rotation"))
    (row,) = commutator_errors(model, data, batch_size=2)
    # (I+A)² = diag(4, 1), (I+B)² = [[1.25, 1], [1, 1.25]]
    # A then B: (4, 1) -> (6, 5.25). B then A: (2.25, 2.25) -> (9, 2.25).
    assert row["transformations"] == ["scale", "rotation"] and row["num_steps"] == 2
    assert row["latent_commutator"] == pytest.approx(3 + 3, rel=1e-5)
    assert row["latent_step"] == pytest.approx(((5 + 4.25) + (8 + 1.25)) / 2, rel=1e-5)
    assert row["latent_commutator_over_step"] == pytest.approx(6 / 9.25, rel=1e-5)
    pixels = 3 * 28 * 28 / 100
    assert row["commutator"] == pytest.approx(3 * pixels, rel=1e-4)
    assert row["step"] == pytest.approx((5 + 8) / 2 * pixels, rel=1e-4)
    assert row["commutator_over_step"] == pytest.approx(3 / 6.5, rel=1e-4)
    assert row["commutator_standard_error"] == pytest.approx(0, abs=1e-3)
    progress = torch.tensor([[0, 0], [2, 2]])
    x = composed_frames(data, torch.arange(5), progress)
    for name, grey in (("error_forward", 0.56), ("error_reversed", 0.59)):
        assert row[name] == pytest.approx((x[:, 1] - grey).abs().sum((1, 2, 3)).mean().item(), rel=1e-5)
    assert row["copy"] == pytest.approx((x[:, 1] - x[:, 0]).abs().sum((1, 2, 3)).mean().item(), rel=1e-5)


def test_flows_that_commute_have_no_commutator():
    model: Any = LinearModel([[0.5, 0.0], [0.0, 0.1]], [[0.2, 0.0], [0.0, -0.3]])
    (row,) = commutator_errors(model, sequences(transformations=("hue", "scale")))
    assert row["latent_commutator"] == pytest.approx(0, abs=1e-5) and row["latent_step"] > 1
    assert row["commutator_over_step"] == pytest.approx(0, abs=1e-4)
    still: Any = LinearModel([[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]])
    (row,) = commutator_errors(still, sequences(transformations=("hue", "scale")))
    assert row["commutator_over_step"] is None and row["latent_commutator_over_step"] is None


def test_commutators_of_every_pair_and_of_one_transformation():
    rows = commutator_errors(tiny_model(), sequences(), num_images=3, batch_size=2)
    assert [row["transformations"] for row in rows] == [
        ["scale", "rotation"],
        ["scale", "hue"],
        ["rotation", "hue"],
    ]
    assert all(0 < row["commutator"] <= 2 * row["step"] for row in rows)
    assert commutator_errors(tiny_model(1), sequences(transformations=("hue",))) == []


def test_steps_beyond_the_trained_ones_by_hand():
    """A still model that decodes to 0.51: the error of step s is that of a constant to the continued truth."""
    model: Any = LinearModel([[0.0, 0.0], [0.0, 0.0]])
    data = sequences(transformations=("scale",))
    row = extrapolation_errors(model, data, num_images=4, batch_size=3)["scale"]
    assert (row["trained_steps"], row["num_steps"]) == (STEPS, 2 * STEPS)
    # A flow of 2T steps to twice the range is the same sequence: scale 1 + 0.8 s/4 = 1 + 1.6 s/8.
    longer = TransformedImages(data.images, SequenceConfig(("scale",), num_steps=2 * STEPS, max_scale=2.6))
    x = longer.sequence(torch.arange(4), 0).x
    errors = (x - 0.51).abs().sum((2, 3, 4)).mean(0)[1:]
    assert row["error_per_step"] == pytest.approx(errors.tolist(), rel=1e-5)
    assert row["copy_per_step"] == pytest.approx((x - x[:, :1]).abs().sum((2, 3, 4)).mean(0)[1:].tolist(), rel=1e-5)
    assert row["zero_per_step"] == pytest.approx(x.sum((2, 3, 4)).mean(0)[1:].tolist(), rel=1e-5)
    for part, steps in (("trained", slice(STEPS)), ("extrapolated", slice(STEPS, None))):
        assert row[part]["equivariance_error"] == pytest.approx(errors[steps].sum().item(), rel=1e-5)
        assert row[part]["copy"] == pytest.approx(sum(row["copy_per_step"][steps]), rel=1e-12)
        assert row[part]["zero"] == pytest.approx(sum(row["zero_per_step"][steps]), rel=1e-12)


def test_the_trained_steps_are_those_of_the_evaluation():
    model, data = tiny_model(), sequences()
    found = extrapolation_errors(model, data, batch_size=2)
    for k, name in enumerate(NAMES):
        x, index = data.sequence(torch.arange(5), k)
        errors = sequence_errors(model, x, index)
        row = found[name]
        assert row["error_per_step"][:STEPS] == pytest.approx(errors["error_per_step"].mean(0).tolist(), rel=1e-4)
        assert row["trained"]["equivariance_error"] == pytest.approx(
            errors["equivariance_error"].mean().item(), rel=1e-4
        )
        steps = [{k: float(t)} for t in range(1, 2 * STEPS + 1)]  # the times run on
        with torch.no_grad():
            last = decode(model, follow(model.potential, model.encoder(x[:, 0])[0], steps))[:, -1]
        progress = torch.zeros(2, 3, dtype=torch.int64)
        progress[1, k] = 2 * STEPS
        truth = composed_frames(data, torch.arange(5), progress)[:, 1]
        assert row["error_per_step"][-1] == pytest.approx((truth - last).abs().sum((1, 2, 3)).mean().item(), rel=1e-4)
    assert extrapolation_errors(model, data, factor=1)["hue"]["extrapolated"] is None


def test_a_truth_that_has_no_meaning_is_left_out():
    shrinking = SequenceConfig(num_steps=STEPS, max_scale=0.4)  # 1 - 0.15 s is 0.1 at s = 6
    assert [meaningful_steps(shrinking, name, 8) for name in NAMES] == [6, 8, 8]
    assert meaningful_steps(shrinking, "scale", 5) == 5
    row = extrapolation_errors(tiny_model(), sequences(max_scale=0.4), num_images=2)["scale"]
    assert row["num_steps"] == len(row["error_per_step"]) == 6


def test_errors_of_other_images_are_those_of_the_evaluation():
    model, data = tiny_model(), sequences(6)
    found = equivariance_errors(model, data, num_images=5, batch_size=2)
    for k, name in enumerate(NAMES):
        expected = sequence_errors(model, *data.sequence(torch.arange(5), k))
        assert found[name]["num_images"] == 5
        for metric in ("equivariance_error", "copy", "zero", "autoencoding", "latent_equivariance_error"):
            assert found[name][metric] == pytest.approx(expected[metric].mean().item(), rel=1e-4)
    with pytest.raises(ArgumentError, match=r"num_transformations = 3 .* 2"):
        equivariance_errors(tiny_model(2), data)


@pytest.mark.parametrize("call", [commutator_errors, extrapolation_errors, equivariance_errors])
@pytest.mark.parametrize("name", ["num_images", "batch_size"])
def test_sizes_below_one_are_refused(call: Any, name: str):
    with pytest.raises(ArgumentError, match=f"^{name} = 0"):
        call(tiny_model(), sequences(), **{name: 0})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four iterations on scikit-learn's digits without 3 and 8."""
    out, sequence = tmp_path_factory.mktemp("runs") / "run", SequenceConfig(num_steps=2)
    config = tiny_run(out, held_out_classes=(8, 3), iterations=4, sequence=sequence)
    trainer = Trainer(config)
    kept = {label for label in range(10) if label not in (3, 8)}
    assert set(trainer.images.labels.tolist()) == kept and len(trainer.data) == len(trainer.images.labels)
    assert trainer.run()
    return config.out


ARGUMENTS = ["--num-images", "6", "--batch-size", "4", "--device", "cpu"]


def test_command_scores_seen_and_unseen_classes_and_other_images(run: Path, capsys: pytest.CaptureFixture[str]):
    assert load_config(run).held_out_classes == (8, 3)
    assert "without the classes 3, 8" in json.loads((run / "summary.json").read_text())["data_source"]
    assert run_command(ffrl.generalisation.main, [str(run), *ARGUMENTS]) == 0
    printed = capsys.readouterr().out
    result = json.loads((run / "generalisation.json").read_text())
    assert (result["iteration"], result["split"], result["held_out_classes"]) == (4, "test", [8, 3])
    assert (result["num_images"], result["factor"]) == (6, 2)
    assert list(result["images"]) == ["digits, seen", "digits, unseen", "shapes", "dsprites-generated"]
    test = load_images("digits", "test")
    config = load_config(run).sequence
    for images, name in zip(split_classes(test, (3, 8)), ("digits, seen", "digits, unseen"), strict=True):
        x = TransformedImages(images.images, config).sequence(torch.arange(6), 1).x
        copy = (x - x[:, :1]).abs().sum((1, 2, 3, 4))
        row = result["images"][name]["rotation"]
        assert row["copy"] == pytest.approx(copy.mean().item(), rel=1e-5)
        assert f"{row['equivariance_error']:.1f}" in printed and row["num_images"] == 6
    assert len(result["commutator"]) == 3 and set(result["extrapolation"]) == set(NAMES)
    assert result["composition"]["num_images"] == 6
    first = result["extrapolation"]["hue"]
    assert sum(first["error_per_step"][:2]) == pytest.approx(
        result["images"]["digits, seen"]["hue"]["equivariance_error"], rel=1e-5
    )
    assert run_command(ffrl.generalisation.main, [str(run), *ARGUMENTS]) == 0
    assert json.loads((run / "generalisation.json").read_text()) == result


def test_a_run_of_version_0_1_0_is_scored_on_all_classes(run: Path, tmp_path: Path):
    """A run folder without the field."""
    old = shutil.copytree(run, tmp_path / "old")
    saved = json.loads((old / "config.json").read_text())
    del saved["held_out_classes"]
    (old / "config.json").write_text(json.dumps(saved))
    assert run_command(ffrl.generalisation.main, [str(old), *ARGUMENTS, "--other-data", "shapes"]) == 0
    assert list(json.loads((old / "generalisation.json").read_text())["images"]) == ["digits", "shapes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out_classes": (10,)}, r"held_out_classes\[0\] = 10"),
        ({"held_out_classes": tuple(range(10))}, "leaves a class"),
    ],
)
def test_classes_that_cannot_be_held_out_leave_no_folder(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ArgumentError, match=message):
        Trainer(tiny_run(tmp_path / "run", **changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [["--num-images", "0"], ["--factor", "0"], ["--other-data", "auto"]])
def test_bad_options_end_with_code_two(run: Path, tmp_path: Path, flags: list[str]):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("generalisation.json"))
    try:
        code = run_command(ffrl.generalisation.main, [str(copy), *flags])
    except SystemExit as error:  # refused while the command line was read
        code = error.code
    assert code == 2
    assert not (copy / "generalisation.json").exists()


def test_a_class_that_is_not_there_is_refused_by_its_option(run: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command(ffrl.generalisation.main, [str(run), *ARGUMENTS, "--classes", "77"]) == 2
    assert "error: classes[0] = 77 is not allowed; expected one of the classes [0, 1," in capsys.readouterr().err


def test_numbers_are_numbers(run: Path):
    """JSON has no NaN: nothing that is written may be one."""
    assert run_command(ffrl.generalisation.main, [str(run), *ARGUMENTS]) == 0
    text = (run / "generalisation.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert np.isfinite(json.loads(text)["commutator"][0]["commutator"])
