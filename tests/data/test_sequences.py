"""Sequences: exact first frame, one factor at a time, determinism, balance, and the copy baseline on MNIST."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from ffrl.config import SequenceConfig
from ffrl.data import TransformedImages, load_images, scale_rotate
from ffrl.errors import ArgumentError

SCALE, ROTATION, HUE = 0, 1, 2
PINNED = [167, 148, 129, 125, 244, 98, 106, 189]


def random_bytes(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, size, size), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def data() -> TransformedImages:
    return TransformedImages(random_bytes(40, 28), SequenceConfig())


@pytest.fixture(scope="module")
def numbered() -> TransformedImages:
    """256 images; image i is i everywhere, so that frames tell which image was drawn."""
    images = torch.arange(256, dtype=torch.uint8)[:, None, None].expand(256, 2, 2)
    return TransformedImages(images, SequenceConfig())


def drawn(x: torch.Tensor) -> torch.Tensor:
    """Numbers (B,) of the images that a batch of the numbered data set shows."""
    return (x[:, 0, 0, 0, 0] * 255).round().long()


def test_shape_type_range_and_first_frame(data: TransformedImages) -> None:
    indices = torch.tensor([3, 0, 39, 3, 7])
    for k in range(3):
        batch = data.sequence(indices, k)
        assert batch.x.shape == (5, 9, 3, 28, 28) and batch.x.dtype == torch.float32 and batch.x.is_contiguous()
        assert batch.k.tolist() == [k] * 5 and batch.k.dtype == torch.int64
        assert float(batch.x.min()) >= 0 and float(batch.x.max()) <= 1
        assert torch.equal(batch.x[:, 0, 0], data.images[indices].float() / 255)
        assert int(batch.x[:, 0, 1:].count_nonzero()) == 0
        assert all(not torch.equal(batch.x[:, t], batch.x[:, t - 1]) for t in range(1, 9))


def test_white_images_stay_within_one() -> None:
    white = TransformedImages(torch.full((1, 28, 28), 255, dtype=torch.uint8), SequenceConfig())
    x = torch.cat([white.sequence(torch.tensor([0]), k).x for k in range(3)])
    assert float(x.max()) == 1


def test_scale_frames_only_scale(data: TransformedImages) -> None:
    x = data.sequence(torch.arange(6), SCALE).x
    for t in range(9):
        expected = scale_rotate(x[:, 0, 0], torch.full((6,), 1 + 0.8 * t / 8, dtype=torch.float64), torch.zeros(6))
        assert (x[:, t, 0] - expected).abs().max() < 1e-6
    assert int(x[:, :, 1:].count_nonzero()) == 0


def test_rotation_frames_only_rotate(data: TransformedImages) -> None:
    x = data.sequence(torch.arange(6), ROTATION).x
    for t in range(9):
        expected = scale_rotate(x[:, 0, 0], torch.ones(6), torch.full((6,), 10.0 * t))
        assert (x[:, t, 0] - expected).abs().max() < 1e-6
    assert int(x[:, :, 1:].count_nonzero()) == 0


def test_hue_frames_only_change_hue(data: TransformedImages) -> None:
    x = data.sequence(torch.arange(6), HUE).x
    for t in range(9):
        colour = torch.tensor(colorsys.hsv_to_rgb(20 * t / 360, 1, 1))
        assert (x[:, t] - x[:, 0, :1] * colour[:, None, None]).abs().max() < 1e-6
        assert torch.equal(x[:, t].amax(1), x[:, 0, 0])  # the value, and with it the shape, stays


def test_configuration_sets_steps_ranges_and_the_meaning_of_k() -> None:
    config = SequenceConfig(("hue", "rotation"), num_steps=4, max_rotation=-360.0, max_hue=240.0)
    data = TransformedImages(random_bytes(3, 8), config)
    assert (len(data), data.num_steps, data.num_transformations) == (3, 4, 2)
    hue, rotation = data.sequence(torch.arange(3), 0).x, data.sequence(torch.arange(3), 1).x
    assert hue.shape == (3, 5, 3, 8, 8)
    assert torch.equal(hue[:, 2, 1], hue[:, 0, 0]) and torch.equal(hue[:, 4, 2], hue[:, 0, 0])  # 120 and 240 degrees
    for t in range(5):
        assert torch.equal(rotation[:, t, 0], torch.rot90(rotation[:, 0, 0], -t, (1, 2)))


def test_k_for_each_row_equals_k_for_all(data: TransformedImages) -> None:
    indices, k = torch.tensor([5, 1, 30, 5, 8, 2, 2]), torch.tensor([2, 0, 1, 0, 2, 1, 2])
    batch = data.sequence(indices, k)
    assert torch.equal(batch.k, k)
    for row in range(7):
        assert torch.equal(batch.x[row], data.sequence(indices[row : row + 1], int(k[row])).x[0])
    assert data.sequence(torch.empty(0, dtype=torch.int64), 1).x.shape == (0, 9, 3, 28, 28)
    assert data.sequence(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)).k.shape == (0,)


def test_the_images_stay_bytes_and_unchanged() -> None:
    images = random_bytes(5, 28)
    data = TransformedImages(images, SequenceConfig())
    before = images.clone()
    data.training_batch(0, 1, 9, True)
    assert data.images.dtype == torch.uint8 and torch.equal(data.images, before)


@pytest.mark.parametrize("mixed", [True, False])
def test_batch_is_a_function_of_seed_and_iteration_alone(data: TransformedImages, mixed: bool) -> None:
    first = {(s, i): data.training_batch(s, i, 6, mixed) for s in (0, 1, 2**40) for i in (1, 2, 3)}
    torch.manual_seed(99)
    np.random.seed(99)
    state = torch.get_rng_state()
    for key in reversed(list(first)):
        again = data.training_batch(*key, 6, mixed)
        assert torch.equal(again.x, first[key].x) and torch.equal(again.k, first[key].k)
    assert torch.equal(torch.get_rng_state(), state)
    values = [batch.x for batch in first.values()]
    assert all(not torch.equal(values[i], values[j]) for i in range(9) for j in range(i))


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize(("num_ranks", "batch_size"), [(1, 5), (2, 1), (2, 6), (3, 4), (4, 5), (7, 1), (5, 13)])
def test_rows_of_all_ranks_are_the_joint_batch(
    numbered: TransformedImages, num_ranks: int, batch_size: int, mixed: bool
) -> None:
    for iteration in (1, 2, 3):
        joint = numbered.training_batch(3, iteration, num_ranks * batch_size, mixed)
        for rank in range(num_ranks):
            own = numbered.training_batch(3, iteration, batch_size, mixed, rank=rank, num_ranks=num_ranks)
            assert own.x.shape[0] == own.k.shape[0] == batch_size
            assert torch.equal(own.x, joint.x[rank::num_ranks]) and torch.equal(own.k, joint.k[rank::num_ranks])


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_mixed_batches_of_ranks_are_balanced_together(kinds: int) -> None:
    data = TransformedImages(random_bytes(4, 2), SequenceConfig(("scale", "rotation", "hue")[:kinds]))
    for iteration in range(5, 5 + kinds):
        own = [data.training_batch(0, iteration, 7, True, rank=rank, num_ranks=4).k for rank in range(4)]
        counts = torch.bincount(torch.cat(own), minlength=kinds)
        assert int(counts.max() - counts.min()) <= 1
        for k in own:
            counts = torch.bincount(k, minlength=kinds)
            assert k.shape == (7,) and int(counts.max() - counts.min()) <= 1


def test_draws_of_a_batch_are_pinned(numbered: TransformedImages) -> None:
    # A change here breaks the continuation of every saved run.
    assert drawn(numbered.training_batch(0, 1, 8, True).x).tolist() == PINNED
    assert drawn(numbered.training_batch(0, 1, 8, False).x).tolist() == PINNED
    assert drawn(numbered.training_batch(0, 1, 5, False).x).tolist() == PINNED[:5]


def test_images_and_single_k_are_drawn_uniformly(numbered: TransformedImages) -> None:
    batches = [numbered.training_batch(7, i, 32, False) for i in range(1, 1201)]
    assert all(len(set(batch.k.tolist())) == 1 for batch in batches)
    images = torch.cat([drawn(batch.x) for batch in batches])
    assert stats.chisquare(torch.bincount(images, minlength=256).numpy()).pvalue > 1e-3
    k = torch.stack([batch.k[0] for batch in batches])
    assert stats.chisquare(torch.bincount(k, minlength=3).numpy()).pvalue > 1e-3
    following = torch.bincount(k[:-1] * 3 + k[1:], minlength=9)
    assert stats.chisquare(following.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 3, 12, 64, 128])
@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_mixed_batches_are_balanced(batch_size: int, kinds: int) -> None:
    data = TransformedImages(random_bytes(4, 2), SequenceConfig(("scale", "rotation", "hue")[:kinds]))
    total = torch.zeros(kinds, dtype=torch.int64)
    for iteration in range(5, 5 + kinds):
        k = data.training_batch(0, iteration, batch_size, True).k
        assert k.shape == (batch_size,) and bool((k[1:] >= k[:-1]).all())
        counts = torch.bincount(k, minlength=kinds)
        assert int(counts.max() - counts.min()) <= 1
        total += counts
    assert total.tolist() == [batch_size] * kinds  # the remainder goes round


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda data: TransformedImages(torch.zeros(3, 4, 5, dtype=torch.uint8), SequenceConfig()),
            "images = (3, 4, 5)",
        ),
        (
            lambda data: TransformedImages(torch.zeros(0, 4, 4, dtype=torch.uint8), SequenceConfig()),
            "images = (0, 4, 4)",
        ),
        (lambda data: TransformedImages(torch.zeros(2, 4, 4), SequenceConfig()), "images.dtype = torch.float32"),
        (lambda data: data.sequence(torch.tensor([0, 40]), 0), "indices = 40"),
        (lambda data: data.sequence(torch.tensor([-1]), 0), "indices = -1"),
        (lambda data: data.sequence(torch.tensor([1.0]), 0), "indices = torch.float32 (1,)"),
        (lambda data: data.sequence(torch.tensor(1), 0), "indices = torch.int64 ()"),
        (lambda data: data.sequence([0], 0), "indices = [0]"),
        (lambda data: data.sequence(torch.tensor([0]), 3), "k = 3"),
        (lambda data: data.sequence(torch.tensor([0]), -1), "k = -1"),
        (lambda data: data.sequence(torch.tensor([0]), 1.0), "k = 1.0"),
        (lambda data: data.sequence(torch.tensor([0]), torch.tensor([3])), "k = 3"),
        (lambda data: data.sequence(torch.tensor([0]), torch.tensor([0, 1])), "k = (2,)"),
        (lambda data: data.training_batch(0, 1, 0, True), "batch_size = 0"),
        (lambda data: data.training_batch(-1, 1, 4, True), "seed = -1"),
        (lambda data: data.training_batch(0, 1, 4, 1), "mixed = 1"),
        (lambda data: data.training_batch(0, 1, 4, True, rank=1), "rank = 1"),
        (lambda data: data.training_batch(0, 1, 4, True, rank=2, num_ranks=2), "rank = 2"),
        (lambda data: data.training_batch(0, 1, 4, True, rank=-1, num_ranks=2), "rank = -1"),
        (lambda data: data.training_batch(0, 1, 4, True, rank=0.0, num_ranks=2), "rank = 0.0"),
        (lambda data: data.training_batch(0, 1, 4, True, num_ranks=0), "num_ranks = 0"),
        (lambda data: data.training_batch(0, 1, 4, True, num_ranks=True), "num_ranks = True"),
    ],
)
def test_bad_arguments_are_named(data: TransformedImages, call, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call(data)
    assert words in str(caught.value)


# Over all 10,000 test digits, by scipy.ndimage.affine_transform in float64; hue: 12 times the mean ink of a digit, as
# the parts of a full channel that change add up to 12 over the eight frames.
@pytest.mark.parametrize(("k", "expected"), [(SCALE, 1339.46104), (ROTATION, 891.25682), (HUE, 1246.69741)])
def test_copy_baseline_on_mnist(mnist_dir: Path, k: int, expected: float) -> None:
    data = TransformedImages(load_images("mnist", "test", mnist_dir).images, SequenceConfig())
    total = 0.0
    for indices in torch.arange(len(data)).split(100):
        x = data.sequence(indices, k).x
        total += float(x[:, 1:].sub_(x[:, :1]).abs_().sum())
    assert abs(total / len(data) / expected - 1) < 1e-5
