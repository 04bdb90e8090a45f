"""What the methods have of the configuration: each refuses what it would not look at."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ffrl.baseline_config import METHOD_NAMES, OF_FFRL, USED_BY, BaselineConfig
from ffrl.config import LossConfig, ModelConfig, SupervisionConfig, TrainConfig
from ffrl.errors import ArgumentError
from ffrl.saved_config import from_dict, to_dict

OTHER_VALUE: dict[str, Any] = {
    "beta": 2.0,
    "gamma": 3.0,
    "match_weight": 0.5,
    "rate": 2.0,
    "discriminator_width": 7,
    "discriminator_rate": 1e-3,
    "capsules": 4,
    "initial_mu": 1.0,
    "time_window": 2,
    "capsule_window": 0,
}
FFRL_ONLY: dict[str, Any] = {
    "supervision": SupervisionConfig("weak"),
    "model": ModelConfig(prior="vamp"),
    "loss": LossConfig(pde="wave"),
}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"beta": -1.0}, "baseline.beta"),
    ({"gamma": float("nan")}, "baseline.gamma"),
    ({"match_weight": -0.1}, "baseline.match_weight"),
    ({"rate": 0.0}, "baseline.rate"),
    ({"discriminator_width": 0}, "baseline.discriminator_width"),
    ({"discriminator_rate": 0.0}, "baseline.discriminator_rate"),
    ({"capsules": 0}, "baseline.capsules"),
    ({"capsules": 2.0}, "baseline.capsules"),
    ({"initial_mu": 0.0}, "baseline.initial_mu"),
    ({"time_window": -1}, "baseline.time_window"),
    ({"capsule_window": True}, "baseline.capsule_window"),
]


@pytest.mark.parametrize(("fields", "name"), REFUSED, ids=str)
def test_refused_values(fields: dict[str, Any], name: str):
    with pytest.raises(ArgumentError, match=f"^{name} = "):
        BaselineConfig(**fields)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_method_takes_its_own_settings_and_no_others(method: Any):
    assert set(OTHER_VALUE) == set(USED_BY) == {field.name for field in dataclasses.fields(BaselineConfig)}
    for name, value in OTHER_VALUE.items():
        settings = BaselineConfig(**{name: value})
        if method in USED_BY[name]:
            assert from_dict(to_dict(TrainConfig(method=method, baseline=settings))).baseline == settings
        else:
            with pytest.raises(ArgumentError, match=rf"^baseline\.{name} = .*'{USED_BY[name][0]}'"):
                TrainConfig(method=method, baseline=settings)


@pytest.mark.parametrize("method", METHOD_NAMES[1:])
def test_what_only_ffrl_has_is_refused(method: Any):
    for part, value in FFRL_ONLY.items():
        with pytest.raises(ArgumentError, match=rf"^{part}\.\w+ = .*'{method}'"):
            TrainConfig(method=method, **{part: value})
    for loss, name in (
        (LossConfig(log_det="exact"), "log_det"),
        (LossConfig(kl_weight=0.5), "kl_weight"),
        (LossConfig(decoded_frames=3), "decoded_frames"),
    ):
        with pytest.raises(ArgumentError, match=rf"^loss\.{name} = "):
            TrainConfig(method=method, loss=loss)
    assert {name.partition(".")[0] for name in OF_FFRL} == set(FFRL_ONLY)


def test_an_unknown_method_and_too_few_or_many_capsules_are_refused():
    with pytest.raises(ArgumentError, match=r"^method = 'gan'"):
        TrainConfig(method="gan")  # type: ignore[arg-type]
    for count in (2, 33):
        with pytest.raises(ArgumentError, match=r"^baseline\.capsules = \d+ .* in 3\.\.32"):
            TrainConfig(method="tvae", baseline=BaselineConfig(capsules=count))
    with pytest.raises(ArgumentError, match=r"^model\.latent_dim = 2 "):
        TrainConfig(method="tvae", model=ModelConfig(latent_dim=2))
    with pytest.raises(ArgumentError, match=r"^validation_images = -1"):
        TrainConfig(validation_images=-1)
