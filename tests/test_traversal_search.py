"""The search finds the dimension and end value that a synthetic decoder was made with."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from torch import Tensor

from ffrl.config import SequenceConfig
from ffrl.data import TransformedImages, load_images
from ffrl.models.baselines import WithoutOperator
from ffrl.records import SequenceBatch
from ffrl.trained_run import load_trained_run
from ffrl.trainer import Trainer
from ffrl.traversal_search import choose_traversals, end_values, search_traversals
from tests.models.baselines.models import STEPS, baseline
from tests.training.runs import MODEL, short_run

# Dimension and end value of each transformation.
TRUTH = {"scale": (2, 3.4), "rotation": (0, -4.1), "hue": (3, 5.0)}
CODE = (0.7, -1.2, 0.4, 1.5)  # of every x_0
SIZE = 8


def pixels(z: Tensor) -> Tensor:
    """Logits (M, 3, 8, 8), all zero but the pixel of each of the four variables, which shows it."""
    logits = torch.zeros(len(z), 3, SIZE, SIZE, dtype=z.dtype)
    logits[:, 0, 0, :4] = z
    return logits


def synthetic() -> WithoutOperator:
    """A model whose code is always CODE and whose decoder is ``pixels``."""
    model = baseline("vae", 4)
    with torch.no_grad():
        model.encoder.mu.weight.zero_()
        model.encoder.mu.bias.copy_(torch.tensor(CODE))
    model.decoder.logits = pixels
    return model


class Rendered:
    """Sequences that are the decoded traversals of TRUTH, with image i's fourth row at i/10 in all its frames."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.config = SequenceConfig(transformations=tuple(TRUTH), num_steps=STEPS)  # type: ignore[arg-type]
        self.num_steps, self.num_transformations = STEPS, 3

    def __len__(self) -> int:
        return self.count

    def sequence(self, indices: Tensor, k: int) -> SequenceBatch:
        dimension, end = list(TRUTH.values())[k]
        z = torch.tensor(CODE, dtype=torch.float64).repeat(len(indices), STEPS + 1, 1)
        z[:, :, dimension] += (end - CODE[dimension]) * torch.arange(STEPS + 1) / STEPS
        x = torch.sigmoid(pixels(z.flatten(0, 1))).unflatten(0, z.shape[:2])
        x[:, :, 1, 4] = indices[:, None, None] / 10
        return SequenceBatch(x, torch.full_like(indices, k))


def test_end_values_are_101_steps_of_a_tenth():
    values = end_values()
    assert (len(values), values[0].item(), values[-1].item()) == (101, -5.0, 5.0)
    torch.testing.assert_close(values.diff(), torch.full((100,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("pixels", [1, 500 * SIZE * SIZE, 100_000 * SIZE * SIZE])
def test_the_search_finds_what_the_sequences_were_made_with(pixels: int):
    model, data = synthetic(), Rendered(3)
    found = search_traversals(model, data, pixels=pixels)  # type: ignore[arg-type]
    assert found.dimension.tolist() == [dimension for dimension, _ in TRUTH.values()]
    assert found.end_value.tolist() == pytest.approx([end for _, end in TRUTH.values()])
    # What is left is the fourth row: |i/10 - ½| of 8 pixels in STEPS frames, mean over i = 0, 1, 2.
    assert found.error.tolist() == pytest.approx([8 * STEPS * 0.4] * 3)
    assert model.dimension is None


def test_the_images_of_the_search_are_the_first_ones_and_the_model_moves_as_found():
    model = synthetic()
    result = choose_traversals(model, Rendered(5), num_images=2)  # type: ignore[arg-type]
    assert result["num_images"] == 2
    assert list(result["transformations"]) == list(TRUTH)
    for k, (name, (dimension, end)) in enumerate(TRUTH.items()):
        row = result["transformations"][name]
        assert (row["dimension"], row["end_value"]) == (dimension, pytest.approx(end))
        assert row["validation_error"] == pytest.approx(8 * STEPS * 0.45)
        z = model.carry(torch.tensor([CODE], dtype=torch.float64), k, STEPS)
        assert z[0, -1, dimension].item() == pytest.approx(end)
        x = Rendered(1).sequence(torch.tensor([0]), k).x
        torch.testing.assert_close(torch.sigmoid(model.decode_sequence(z))[:, :, 0], x[:, :, 0])


class RenderedGrid(Rendered):
    """As ``Rendered``, but each transformation begins with images of its own, that show their codes."""

    def sequence(self, indices: Tensor, k: int) -> SequenceBatch:
        dimension, end = list(TRUTH.values())[k]
        start = (torch.tensor(CODE, dtype=torch.float64) + k + 0.1 * indices[:, None])[:, None]  # (n, 1, 4)
        z = start.repeat(1, STEPS + 1, 1)
        z[:, :, dimension] += (end - start[:, :, dimension]) * torch.arange(STEPS + 1) / STEPS
        x = torch.sigmoid(pixels(z.flatten(0, 1))).unflatten(0, z.shape[:2])
        return SequenceBatch(x, torch.full_like(indices, k))


def test_transformations_that_begin_with_images_of_their_own_are_searched_from_these():
    model = synthetic()
    model.code = lambda x: torch.logit(x[:, 0, 0, :4])  # type: ignore[method-assign, assignment]
    found = search_traversals(model, RenderedGrid(3))  # type: ignore[arg-type]
    assert found.dimension.tolist() == [dimension for dimension, _ in TRUTH.values()]
    assert found.end_value.tolist() == pytest.approx([end for _, end in TRUTH.values()])
    assert found.error.tolist() == pytest.approx([0.0] * 3, abs=1e-9)


@pytest.mark.parametrize(("kind", "searches"), [(Rendered, 1), (RenderedGrid, 3)])
def test_the_progress_of_a_search_ends_at_its_total(kind: type[Rendered], searches: int, monkeypatch):
    totals, advances = [], []

    @contextlib.contextmanager
    def counted(title: str, count: int, *, stays: bool):
        assert not stays
        totals.append(count)
        yield advances.append

    monkeypatch.setattr("ffrl.traversal_search.counted", counted)
    model = synthetic()
    model.code = lambda x: torch.logit(x[:, 0, 0, :4])  # type: ignore[method-assign, assignment]
    search_traversals(model, kind(2), pixels=100 * STEPS * SIZE * SIZE)  # type: ignore[arg-type]
    assert totals == [sum(advances)] == [searches * 2 * 4 * 101] and max(advances) == 100


def test_a_run_is_searched_on_its_own_validation_images_and_scored_on_the_test_set(tmp_path):
    model = dataclasses.replace(MODEL, latent_dim=3)
    config = short_run(tmp_path / "run", method="vae", validation_images=6, iterations=3, model=model)
    Trainer(config).run()
    trained = load_trained_run(config.out, device="cpu", search_images=4)
    assert isinstance(trained.model, WithoutOperator) and trained.traversal is not None
    images = load_images("digits", "train").images
    validation = TransformedImages(images[-6:], config.sequence)
    again = search_traversals(trained.model, validation, num_images=4)
    assert trained.model.dimension is not None and trained.model.end_value is not None
    assert torch.equal(again.dimension, trained.model.dimension)
    assert torch.equal(again.end_value, trained.model.end_value)
    errors = [row["validation_error"] for row in trained.traversal["transformations"].values()]
    assert errors == pytest.approx(again.error.tolist())
    assert torch.equal(trained.data.images, load_images("digits", "test").images)
    none = short_run(tmp_path / "none", method="vae", iterations=1, model=model)
    Trainer(none).run()
    assert load_trained_run(none.out, device="cpu").traversal is None
