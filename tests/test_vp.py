"""The VP score: pairs whose classes are known to be separable or not, the split, the seeds, and the command."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

import ffrl.vp
from ffrl.command_line import run_command
from ffrl.config import SequenceConfig
from ffrl.data import TransformedImages
from ffrl.errors import ArgumentError
from ffrl.models import SequenceVAE
from ffrl.presets import preset_config
from ffrl.trained_run import load_trained_run
from ffrl.trainer import Trainer
from ffrl.vp_config import VPConfig
from ffrl.vp_score import (
    PairClassifier,
    Pairs,
    VPAccuracy,
    accuracy,
    choose_pairs,
    classify_pairs,
    make_pairs,
    permutation,
    split_pairs,
    summarize_seeds,
    train_batches,
    vp_score,
)
from tests.training.runs import tiny_run

SMALL = VPConfig(num_pairs=300, train_fraction=0.2, widths=(8, 8, 8, 8), epochs=6, seeds=(0, 1))


def noise_pairs(k: torch.Tensor, size: int = 16) -> Pairs:
    return Pairs(torch.randint(0, 100, (len(k), 6, size, size), dtype=torch.uint8), k)


def separable_pairs(count: int = 300, kinds: int = 3) -> Pairs:
    """Noise, and a bright channel of x_T that is another one for each k."""
    pairs = noise_pairs(torch.arange(count) % kinds)
    pairs.x[torch.arange(count), 3 + pairs.k] += 155
    return pairs


def sequences(count: int = 7) -> TransformedImages:
    images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8)
    return TransformedImages(images, SequenceConfig(num_steps=2))


def tiny_model() -> SequenceVAE:
    return SequenceVAE(preset_config("tiny").model, 3).eval()


def test_separable_pairs_are_told_apart():
    found = classify_pairs(separable_pairs(), 3, SMALL, seed=0)
    assert (found.last, found.best) == (1.0, 1.0)
    assert (found.num_train, found.num_test) == (60, 240)


def test_labels_without_a_reason_are_guessed():
    """Test labels that are independent of the images and balanced: 1/K, within four standard deviations."""
    config = dataclasses.replace(SMALL, num_pairs=3000, train_fraction=0.05, epochs=2)
    found = classify_pairs(noise_pairs(permutation(5, 0, 3000) % 3, size=8), 3, config, seed=1)
    assert found.last == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / 2850))
    assert found.best >= found.last


@pytest.mark.parametrize("fraction", [0.1, 0.01, 0.123])
def test_parts_are_disjoint_and_complete(fraction: float):
    config = VPConfig(train_fraction=fraction)
    assert config.num_train == {0.1: 1000, 0.01: 100, 0.123: 1230}[fraction]
    train, test = split_pairs(config.num_pairs, config.num_train, seed=3)
    assert len(train) == config.num_train and len(test) == 10_000 - config.num_train
    assert torch.cat([train, test]).sort().values.tolist() == list(range(10_000))
    other, _ = split_pairs(config.num_pairs, config.num_train, seed=4)
    assert set(other.tolist()) != set(train.tolist())


def test_only_the_training_pairs_are_learned_from():
    """Test pairs with wrong labels change what is measured, and nothing that is learned."""
    pairs = separable_pairs()
    _, test = split_pairs(300, 60, seed=0)
    wrong = pairs.k.clone()
    wrong[test] = (wrong[test] + 1) % 3
    assert classify_pairs(Pairs(pairs.x, wrong), 3, SMALL, seed=0).last == 0.0


def test_best_is_the_first_maximum_of_the_tested_epochs(monkeypatch: pytest.MonkeyPatch):
    tested = iter([0.25, 0.75, 0.5, 0.75, 0.5])
    monkeypatch.setattr("ffrl.vp_score.accuracy", lambda *_: next(tested))
    config = dataclasses.replace(SMALL, epochs=9, evaluate_every=2)  # epochs 2, 4, 6, 8 and, the last, 9
    found = classify_pairs(separable_pairs(), 3, config, seed=0)
    assert (found.last, found.best, found.best_epoch) == (0.5, 0.75, 4)
    assert next(tested, None) is None


def test_the_seed_decides_everything_and_nothing_else_does():
    pairs = noise_pairs(torch.arange(300) % 3)
    before = torch.get_rng_state()
    first = classify_pairs(pairs, 3, SMALL, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert classify_pairs(pairs, 3, SMALL, seed=0) == first
    assert classify_pairs(pairs, 3, SMALL, seed=1) != first


def test_choice_of_pairs():
    images, k = choose_pairs(10, 12, 3, seed=0)
    assert len(set(images.tolist())) == 10 and set(images.tolist()) < set(range(12))  # none is trained and tested on
    assert sorted(torch.bincount(k).tolist()) == [3, 3, 4]
    again = choose_pairs(10, 12, 3, seed=0)
    assert torch.equal(images, again[0]) and torch.equal(k, again[1])
    other = choose_pairs(10, 12, 3, seed=1)
    assert not torch.equal(k, other[1]) and set(images.tolist()) != set(other[0].tolist())
    with pytest.raises(ArgumentError, match="num_pairs = 13"):
        choose_pairs(13, 12, 3, seed=0)


def test_true_pairs_are_the_first_and_the_last_frame():
    data = sequences()
    indices, k = torch.tensor([5, 0, 5, 2]), torch.tensor([2, 0, 1, 1])
    pairs = make_pairs(None, data, indices, k)
    x = data.sequence(indices, k).x
    assert pairs.x.shape == (4, 6, 28, 28) and pairs.x.dtype == torch.uint8 and torch.equal(pairs.k, k)
    assert torch.equal(pairs.x[:, 0], data.images[indices])  # x_0 in red, byte for byte
    assert (pairs.x[:, 3:] / 255 - x[:, -1]).abs().max() <= 0.5 / 255 + 1e-6


def test_generated_pairs_are_decoded_along_the_flow():
    data, model = sequences(), tiny_model()
    indices, k = torch.tensor([1, 6, 3]), torch.tensor([0, 2, 1])
    with torch.no_grad():
        z0 = model.encoder(data.sequence(indices, k).x[:, 0])[0]
        z = model.flow.roll(z0, k, 2).z
        first, last = model.decoder(z0), model.decoder(z[:, 2])
    for start, expected in (("decoded", first), ("truth", data.sequence(indices, k).x[:, 0])):
        pairs = make_pairs(model, data, indices, k, start)
        assert (pairs.x[:, :3] / 255 - expected).abs().max() <= 0.5 / 255 + 1e-5
        assert (pairs.x[:, 3:] / 255 - last).abs().max() <= 0.5 / 255 + 1e-5


def test_accuracy_by_hand():
    class Brightest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, 0, 0]

    x = torch.zeros(5, 3, 2, 2, dtype=torch.uint8)
    x[torch.arange(5), torch.tensor([0, 1, 2, 2, 1])] = 9
    assert accuracy(Brightest(), x, torch.tensor([0, 1, 2, 0, 0])) == 3 / 5


def test_every_epoch_takes_every_training_pair_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch):
    orders: list[list[int]] = []

    def spy(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
        orders.append(order.tolist())
        return train_batches(order, batch_size)

    monkeypatch.setattr("ffrl.vp_score.train_batches", spy)
    for seed in (0, 1):
        classify_pairs(separable_pairs(), 3, SMALL, seed)
    assert len(orders) == 12 and all(sorted(order) == list(range(60)) for order in orders)
    assert all(order not in orders[:i] for i, order in enumerate(orders))


def test_testing_teaches_nothing_and_a_pair_counts_alike_in_any_batch():
    """With the statistics of its own batch, a test batch would move those of training, and a single pair be nothing."""
    network, x = PairClassifier(6, (4, 4), 3).train(), noise_pairs(torch.zeros(20).long()).x
    network(x.float() / 255 + 0.3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    k = network.eval()(x.float() / 255).argmax(1)
    assert accuracy(network.train(), x, k) == 1.0
    assert all(accuracy(network.train(), x[i : i + 1], k[i : i + 1]) == 1.0 for i in range(20))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_means_and_deviations_over_seeds_by_hand():
    found = [VPAccuracy(0.5, 0.75, 3, 10, 90), VPAccuracy(0.75, 1.0, 2, 10, 90), VPAccuracy(1.0, 1.0, 1, 10, 90)]
    summary = summarize_seeds(found)
    assert (summary["last"], summary["last_standard_deviation"]) == (0.75, 0.25)
    assert summary["best"] == pytest.approx(11 / 12)
    assert summary["best_standard_deviation"] == pytest.approx(math.sqrt(1 / 48))
    assert summary["seeds"][1] == {"last": 0.75, "best": 1.0, "best_epoch": 2, "num_train": 10, "num_test": 90}
    assert summarize_seeds(found[:1])["best_standard_deviation"] == 0.0


def test_score_of_a_model_beside_its_ceiling(monkeypatch: pytest.MonkeyPatch):
    """Every classifier sees the pairs of its own seed, generated and true ones with the same k."""
    config = dataclasses.replace(SMALL, num_pairs=20, epochs=1)
    seen: list[Pairs] = []

    def fake(pairs: Pairs, kinds: int, _: VPConfig, seed: int, device: Any) -> VPAccuracy:
        seen.append(pairs)
        return VPAccuracy(0.5 + seed / 4, 0.75, 1, 4, 16)

    monkeypatch.setattr("ffrl.vp_score.classify_pairs", fake)
    result = vp_score(tiny_model(), sequences(25), config)
    assert (result["chance"], result["num_train"], result["num_test"]) == (1 / 3, 4, 16)
    assert result["generated"]["last"] == result["truth"]["last"] == 0.625
    assert torch.equal(seen[0].k, seen[1].k) and torch.equal(seen[2].k, seen[3].k)
    assert not torch.equal(seen[0].x, seen[1].x) and not torch.equal(seen[0].k, seen[2].k)


def test_network_and_its_batches():
    network = PairClassifier(6, VPConfig().widths, 3)
    kinds = [type(layer).__name__ for layer in network.body]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 4
    assert network(torch.rand(2, 6, 28, 28)).shape == (2, 3)
    assert [len(batch) for batch in train_batches(torch.arange(33), 32)] == [33]
    assert [len(batch) for batch in train_batches(torch.arange(66), 32)] == [32, 32, 2]
    assert torch.cat(train_batches(torch.arange(65), 32)).tolist() == list(range(65))


def test_the_defaults_are_those_of_the_paper():
    config = VPConfig()
    assert (config.num_pairs, config.train_fraction, config.num_train) == (10_000, 0.1, 1000)
    assert (config.learning_rate, config.batch_size, config.epochs) == (5e-3, 32, 300)
    assert len(config.seeds) == 5 and len(config.widths) == 4


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"train_fraction": 0.0}, "train_fraction"),
        ({"train_fraction": 1.0}, "num_pairs, train_fraction"),
        ({"train_fraction": 0.0001}, "num_pairs, train_fraction"),
        ({"num_pairs": 3}, "num_pairs, train_fraction"),
        ({"num_pairs": 1}, "num_pairs"),
        ({"start": "prior"}, "start"),
        ({"widths": ()}, "widths"),
        ({"widths": (8, 0)}, r"widths\[1\]"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch_size": 1}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": (0, -1)}, r"seeds\[1\]"),
    ],
)
def test_refused_values(changes: dict[str, Any], name: str):
    with pytest.raises(ArgumentError, match=f"^{name} = "):
        VPConfig(**changes)


def test_pairs_that_do_not_fit_are_refused():
    pairs = separable_pairs(30)
    with pytest.raises(ArgumentError, match="num_pairs = 300"):
        classify_pairs(pairs, 3, SMALL, seed=0)
    with pytest.raises(ArgumentError, match=r"pairs\.k = \[0, 1, 2\]"):
        classify_pairs(separable_pairs(), 2, SMALL, seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert Trainer(tiny_run(out, iterations=2, sequence=SequenceConfig(num_steps=2))).run()
    return out


FLAGS = "--num-pairs 60 --train-fraction 0.2 --epochs 2 --widths 4 4 --seeds 0 3 --device cpu"


def test_command_writes_what_it_prints(run: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command(ffrl.vp.main, [str(run), *FLAGS.split()]) == 0
    printed = capsys.readouterr().out
    result = json.loads((run / "vp.json").read_text())
    assert (result["iteration"], result["split"], result["num_train"], result["num_test"]) == (2, "test", 12, 48)
    assert result["config"]["seeds"] == [0, 3] and result["config"]["start"] == "decoded"
    for name in ("generated", "truth"):
        row = result[name]
        values = [found["last"] for found in row["seeds"]]
        assert row["last"] == pytest.approx(statistics.fmean(values)) and row["best"] >= row["last"]
        assert f"{100 * row['last']:.2f} ± {100 * statistics.stdev(values):.2f} %" in printed
    assert run_command(ffrl.vp.main, [str(run), *FLAGS.split()]) == 0
    assert json.loads((run / "vp.json").read_text()) == result


def test_one_seed_has_no_deviation_printed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = shutil.copytree(run, tmp_path / "run")
    assert run_command(ffrl.vp.main, [str(copy), *FLAGS.replace("0 3", "3").split()]) == 0
    printed = capsys.readouterr().out
    row = json.loads((copy / "vp.json").read_text())["generated"]
    assert f"{100 * row['last']:.2f} %" in printed
    assert "one seed" in " ".join(printed.split()) and "±" not in printed and "seeds" not in printed


def test_bad_options_end_with_code_two(run: Path, tmp_path: Path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("vp.json"))
    try:
        code = run_command(ffrl.vp.main, [str(copy), "--train-fraction", "2"])
    except SystemExit as error:  # refused while the command line was read
        code = error.code
    assert code == 2 and not (copy / "vp.json").exists()


def test_in_a_grid_x_0_alone_gives_k_away_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The beginning of a sequence of k has factor k at 0, so that pairs in which nothing moves are told apart."""
    grid = preset_config("tiny", "shapes3d-generated")
    config = dataclasses.replace(grid, out=tmp_path / "run", iterations=1, device="cpu", tensorboard=False)
    Trainer(config).run()
    trained = load_trained_run(config.out, device="cpu")
    found = vp_score(trained.model, trained.data, dataclasses.replace(SMALL, num_pairs=600, epochs=12, seeds=(0,)))
    assert found["chance"] == 0.25
    assert found["still"]["last"] > 0.4
    assert "still" not in vp_score(tiny_model(), sequences(60), dataclasses.replace(SMALL, num_pairs=60, epochs=1))
    given: list[Pairs] = []
    nothing = VPAccuracy(0.0, 0.0, 1, 1, 1)
    monkeypatch.setattr("ffrl.vp_score.classify_pairs", lambda pairs, *_: given.append(pairs) or nothing)
    vp_score(trained.model, trained.data, dataclasses.replace(SMALL, num_pairs=20, seeds=(0,)))
    _, truth, still = given
    assert torch.equal(still.x[:, :3], truth.x[:, :3]) and torch.equal(still.x[:, 3:], truth.x[:, :3])
    assert torch.equal(still.k, truth.k)
