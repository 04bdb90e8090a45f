"""Where k comes from in training, the loss of its recognition, and the matching of learned potentials."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ffrl.config import PDEName, SequenceConfig, SupervisionConfig, TrainConfig
from ffrl.data import TransformedImages
from ffrl.errors import ArgumentError
from ffrl.evaluation import sequence_errors
from ffrl.matching import best_assignment, confusion, match_potentials, reorder_potentials
from ffrl.models import SequenceVAE
from ffrl.models.choice import draw_choice, draw_gumbel
from ffrl.records import SequenceBatch
from ffrl.supervision import (
    BALANCE_WEIGHT,
    balance_kl,
    gumbel_temperature,
    index_prior_kl,
    is_labelled,
    recognize,
    recognized,
    supervise,
)
from tests.models.reference import TINY, random_batch, tiny_model
from tests.tolerances import ROUNDING, relative_error

WEAK = SupervisionConfig("weak")


def recognizing_model(num_frames: int = 4, pde: PDEName = "hj_force") -> SequenceVAE:
    torch.manual_seed(0)
    return SequenceVAE(TINY, 3, pde=pde, recognized_frames=num_frames).double()


def test_temperature_is_the_papers():
    assert gumbel_temperature(WEAK, 0) == 1.0
    assert gumbel_temperature(WEAK, 10_000) == pytest.approx(math.exp(-0.3), rel=1e-15)
    assert gumbel_temperature(WEAK, 99_858) == pytest.approx(0.05, rel=1e-4)
    assert gumbel_temperature(WEAK, 1_000_000) == 0.05


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1 / 3, 0.5, 0.75, 1.0])
def test_labelled_batches_are_spread_evenly(fraction: float):
    config = SupervisionConfig("semi", labelled_fraction=fraction)
    labelled = [is_labelled(config, iteration) for iteration in range(1, 1001)]
    for n in range(1, 1001):
        assert sum(labelled[:n]) == math.floor(n * fraction)


def test_only_semi_looks_at_the_fraction():
    assert is_labelled(SupervisionConfig("supervised", labelled_fraction=0.0), 1)
    assert not is_labelled(SupervisionConfig("weak", labelled_fraction=1.0), 1)


def test_kl_to_the_uniform_prior_has_its_known_values():
    q = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    expected = [0.5 * math.log(1.5) + 0.5 * math.log(0.75), 0.0]
    assert index_prior_kl(q.log()).tolist() == pytest.approx(expected, abs=1e-15)
    certain = index_prior_kl(torch.tensor([[500.0, 0.0, -500.0]], dtype=torch.float64))
    assert certain.item() == pytest.approx(math.log(3), rel=1e-12)
    logits = torch.randn(7, 3, dtype=torch.float64)
    uniform = torch.distributions.Categorical(logits=torch.zeros(7, 3, dtype=torch.float64))
    reference = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=logits), uniform)
    assert relative_error(index_prior_kl(logits), reference) <= ROUNDING


def test_balance_has_its_known_values():
    one = torch.full((6, 3), -60.0, dtype=torch.float64)
    one[:, 1] = 60.0
    assert balance_kl(one).item() == pytest.approx(math.log(3), rel=1e-12)
    shared = 120 * torch.eye(3, dtype=torch.float64).repeat(2, 1)  # certain of each, and each as often as the others
    assert balance_kl(shared).item() == pytest.approx(0.0, abs=1e-12)
    assert index_prior_kl(shared).mean().item() == pytest.approx(math.log(3), rel=1e-12)
    logits = torch.randn(50, 3, dtype=torch.float64)
    q = logits.softmax(1)
    mutual_information = (q * (q / q.mean(0)).log()).sum(1).mean()
    assert relative_error(balance_kl(logits) + mutual_information, index_prior_kl(logits).mean()) <= 1e-10
    certain = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64)
    assert balance_kl(certain).item() == pytest.approx(math.log(3))


def config_of(supervision: SupervisionConfig, **changes: Any) -> TrainConfig:
    return TrainConfig(supervision=supervision, **changes)


def test_supervised_takes_the_k_of_the_batch_and_has_no_terms():
    batch = random_batch(6, 3)
    choice, terms = supervise(tiny_model(), batch, TrainConfig(), 1)
    assert choice.k is batch.k and choice.weights is None and terms == {}


def test_weak_never_looks_at_the_k_of_the_batch():
    model, batch = recognizing_model(), random_batch(6, 3)
    outcomes = []
    for k in (batch.k, torch.zeros_like(batch.k)):
        torch.manual_seed(4)
        outcomes.append(supervise(model, SequenceBatch(batch.x, k), config_of(WEAK), 1))
    (one, terms), (other, other_terms) = outcomes
    assert torch.equal(one.k, other.k) and one.k.unique().numel() > 1
    logits = recognize(model, batch.x)
    assert terms["index"].item() == other_terms["index"].item() == index_prior_kl(logits).mean().item()
    assert terms["balance"].item() == other_terms["balance"].item()
    assert relative_error(terms["balance"], BALANCE_WEIGHT * balance_kl(logits)) <= ROUNDING
    assert one.weights is not None and one.weights.requires_grad


@pytest.mark.parametrize(("weight", "mixed", "expected"), [(None, False, 0.0), (0.0, True, 0.0), (7.0, True, 7.0)])
def test_balance_is_weighed_and_left_out_of_batches_of_one_transformation(weight: Any, mixed: bool, expected: float):
    model, batch = recognizing_model(), random_batch(6, 3)
    config = config_of(SupervisionConfig("weak", balance_weight=weight), mixed_batches=mixed)
    balance = supervise(model, batch, config, 1).terms["balance"]
    assert balance.item() == pytest.approx(expected * balance_kl(recognize(model, batch.x)).item(), rel=1e-12)
    with pytest.raises(ArgumentError, match="balance_weight"):
        config_of(SupervisionConfig("weak", balance_weight=1.0), mixed_batches=False)


def test_the_label_loss_is_the_cross_entropy_beside_a_drawn_k():
    model, batch = recognizing_model(), random_batch(6, 3)
    choice, terms = supervise(model, batch, config_of(SupervisionConfig("weak", "label")), 1)
    assert choice.weights is not None
    expected = -F.log_softmax(recognize(model, batch.x), dim=1)[torch.arange(6), batch.k].mean()
    assert relative_error(terms["index"], expected) <= ROUNDING
    assert terms["balance"].item() == 0  # the label keeps the potentials apart


@pytest.mark.parametrize(("iteration", "temperature"), [(1, math.exp(-1e-3)), (500, math.exp(-0.5)), (90_000, 0.25)])
def test_the_drawing_is_at_the_temperature_of_its_iteration(iteration: int, temperature: float):
    model, batch, gumbel = recognizing_model(), random_batch(6, 3), draw_gumbel(6, 3).double()
    how = SupervisionConfig("weak", temperature_decay=1e-3, min_temperature=0.25)
    choice = supervise(model, batch, config_of(how), iteration, gumbel).choice
    expected = draw_choice(recognize(model, batch.x), temperature, gumbel)
    v_weights, parameter = torch.randn(6, 3, dtype=torch.float64), model.transformation.logits.weight  # type: ignore[union-attr]
    found, wanted = (torch.autograd.grad(one.weights, parameter, v_weights)[0] for one in (choice, expected))  # type: ignore[arg-type]
    assert torch.equal(choice.k, expected.k) and wanted.norm() > 1e-6
    assert relative_error(found, wanted) <= 1e-10


def test_semi_alternates_between_the_label_and_a_draw():
    model, batch = recognizing_model(), random_batch(6, 3)
    config = config_of(SupervisionConfig("semi", labelled_fraction=0.5))
    drawn, unlabelled = supervise(model, batch, config, 1)
    given, labelled = supervise(model, batch, config, 2)
    assert drawn.weights is not None and given.weights is None and given.k is batch.k
    logits = recognize(model, batch.x)
    assert torch.equal(unlabelled["index"], index_prior_kl(logits).mean()) and unlabelled["balance"] > 0
    assert torch.equal(labelled["index"], F.cross_entropy(logits, batch.k)) and labelled["balance"] == 0


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"mode": "none"}, "supervision.mode"),
        ({"index_loss": "label"}, "supervision.index_loss"),
        ({"mode": "semi", "index_loss": "label"}, "supervision.index_loss"),
        ({"labelled_fraction": 1.5}, "supervision.labelled_fraction"),
        ({"labelled_fraction": float("nan")}, "supervision.labelled_fraction"),
        ({"temperature_decay": -1e-5}, "supervision.temperature_decay"),
        ({"min_temperature": 0.0}, "supervision.min_temperature"),
        ({"balance_weight": -1.0}, "supervision.balance_weight"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict, name: str):
    with pytest.raises(ArgumentError) as refused:
        SupervisionConfig(**values)
    assert refused.value.name == name


def test_assignment_uses_every_potential_once():
    """The greedy choice, potential 0 for both, would leave one without."""
    counts = torch.tensor([[50, 45, 5], [60, 10, 30], [0, 1, 99]])
    assert best_assignment(counts) == [1, 0, 2]


def images(count: int = 5) -> TransformedImages:
    pixels = torch.randint(0, 256, (count, 8, 8), dtype=torch.uint8)
    return TransformedImages(pixels, SequenceConfig(num_steps=3))


def test_confusion_counts_every_image_under_every_transformation():
    model, data = recognizing_model().float(), images()
    counts = confusion(model, data, num_images=4, batch_size=3)
    for k in range(3):
        found = recognized(model, data.sequence(torch.arange(4), k).x)
        assert counts[k].tolist() == torch.bincount(found, minlength=3).tolist()


@pytest.mark.parametrize("pde", ["hj_force", "wave"])
def test_reordering_renames_the_potentials_and_changes_nothing_else(pde: PDEName):
    model, batch, order = recognizing_model(pde=pde), random_batch(6, 3), [2, 0, 1]
    with torch.no_grad():
        model.prior.diffusivity.copy_(torch.tensor([0.1, 0.2, 0.3]))
        for speeds in model.pde.parameters():
            speeds.copy_(torch.tensor([0.5, 1.0, 2.0]))
    renamed = torch.tensor(order)
    before = sequence_errors(model, batch.x, renamed[batch.k])
    logits = recognize(model, batch.x)
    log_p = model.prior.log_prob(batch.x[:, 0].flatten(1), torch.tensor(2.0), renamed[batch.k])
    reorder_potentials(model, order)
    after = sequence_errors(model, batch.x, batch.k)
    for name, value in before.items():
        assert relative_error(after[name], value) <= ROUNDING, name
    assert torch.equal(recognize(model, batch.x), logits[:, order])
    assert torch.equal(model.prior.log_prob(batch.x[:, 0].flatten(1), torch.tensor(2.0), batch.k), log_p)
    with pytest.raises(ArgumentError, match="order"):
        reorder_potentials(model, [0, 0, 1])


class Known(torch.nn.Module):
    """Recognizes the transformation from the colour and the change of the frames, under wrong names."""

    num_frames = 4

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Linear(3, 3)
        with torch.no_grad():
            self.logits.weight.copy_(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
            self.logits.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        coloured = x[:, -1, 1:].flatten(1).amax(1) > 0
        grown = x[:, -1].flatten(1).sum(1) > 1.3 * x[:, 0].flatten(1).sum(1)
        k = torch.where(coloured, 2, torch.where(grown, 0, 1))
        return self.logits(F.one_hot(k, 3).to(x.dtype))


def test_a_perfect_recognizer_with_names_of_its_own_is_matched_perfectly():
    model = tiny_model(dtype=torch.float32)
    model.transformation = Known()  # type: ignore[assignment]
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels[:, 2:6, 2:6] = 255
    data = TransformedImages(pixels, SequenceConfig(num_steps=3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    named = match_potentials(model, data, reorder=False)  # labels have named them: that they are wrong is an error
    assert named is not None and named["accuracy"] == 0.0
    assert named["potential_of"] == {"scale": 0, "rotation": 1, "hue": 2}
    assert named["confusion"] == [[0, 3, 0], [0, 0, 3], [3, 0, 0]]
    batch = data.sequence(torch.arange(3), torch.tensor([0, 1, 2]))
    along_given = sequence_errors(model, batch.x, batch.k)
    along_recognized = sequence_errors(model, batch.x, torch.tensor([1, 2, 0]))["equivariance_error"]
    assert torch.equal(along_given["recognized_equivariance_error"], along_recognized)
    assert (along_recognized - along_given["equivariance_error"]).abs().min() > 1e-4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    matching = match_potentials(model, data)
    assert matching == {
        "potential_of": {"scale": 1, "rotation": 2, "hue": 0},
        "accuracy": 1.0,
        "confusion": [[3, 0, 0], [0, 3, 0], [0, 0, 3]],
        "num_images": 3,
    }
    assert model.training
    again = match_potentials(model.eval(), data)
    assert not model.training
    assert again is not None and again["potential_of"] == {"scale": 0, "rotation": 1, "hue": 2}
    errors = sequence_errors(model, batch.x, batch.k)
    assert torch.equal(errors["recognized_equivariance_error"], errors["equivariance_error"])


def test_a_model_trained_with_k_given_is_left_alone():
    model = tiny_model(dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert match_potentials(model, images()) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
