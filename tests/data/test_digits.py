"""The bundled digits: sizes, split, enlargement."""

from __future__ import annotations

import sys

import pytest
import torch

from ffrl.data.digits import enlarge, load_digits, split_indices
from ffrl.errors import ArgumentError, DataError


def test_parts_are_fixed_disjoint_and_complete() -> None:
    train, test = split_indices("train"), split_indices("test")
    assert (len(train), len(test)) == (1437, 360)
    assert torch.cat([train, test]).sort().values.tolist() == list(range(1797))
    assert test[:6].tolist() == [1437, 1786, 272, 1418, 1441, 386]  # every saved run on these digits relies on it


def test_loaded_parts() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    small, target = datasets.load_digits(return_X_y=True)
    for split, count in (("train", 1437), ("test", 360)):
        images, labels, source = load_digits(split)
        assert images.shape == (count, 28, 28) and images.dtype == torch.uint8
        assert labels.shape == (count,) and labels.dtype == torch.int64
        rows = split_indices(split)
        assert labels.tolist() == target[rows.numpy()].tolist()
        assert int(torch.bincount(labels, minlength=10).min()) > 0.07 * count
        assert "scikit-learn" in source and "28x28" in source
        # Cells of 2.5 pixels have the mean of their 8x8 pixel, but for the overshoot that is cut off.
        rough = torch.nn.functional.avg_pool2d(images[:, 4:24, 4:24].double()[:, None], 5)[:, 0] / 255
        coarse = torch.nn.functional.avg_pool2d(torch.tensor(small[rows.numpy()]).reshape(-1, 1, 8, 8), 2)[:, 0] / 16
        assert (rough - coarse).abs().mean() < 0.04
        assert 0.12 < float(images.double().mean()) / 255 < 0.17  # MNIST has 0.1307


def test_enlargement_is_centred_and_keeps_the_range() -> None:
    small = torch.zeros(2, 8, 8, dtype=torch.float64)
    small[0] = 16
    small[1, 3:5, 2:6] = 16
    large = enlarge(small)
    assert large.dtype == torch.uint8 and int(large[0, 8:20, 8:20].min()) == 255  # full pixels stay full
    assert torch.equal(large, large.flip(1)) and torch.equal(large, large.flip(2))
    assert int(large[0, :3, 8:20].max()) == 0  # nothing beyond the fading border
    assert int(large[1, 13:15, 10:18].min()) == 255 and int(large[1, :6].max()) == 0


def test_unknown_split_and_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="split = 'all'"):
        load_digits("all")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"scikit-learn.*pip install ffrl\[data\]"):
        load_digits("train")
