"""Configuration: presets, the way to JSON and back, and what may differ in a continuation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ffrl.config import (
    PRESET_NAMES,
    BaselineConfig,
    ComputeConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SequenceConfig,
    SplitConfig,
    SupervisionConfig,
    TrainConfig,
)
from ffrl.errors import ArgumentError
from ffrl.presets import preset_config
from ffrl.saved_config import ADDED_LATER, RESUMABLE_FIELDS, differences, from_dict, to_dict


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    """A copy with dotted fields replaced; the dot is written as two underscores."""
    for name, value in values.items():
        part, _, field = name.partition("__")
        new = dataclasses.replace(getattr(config, part), **{field: value}) if field else value
        config = dataclasses.replace(config, **{part: new})
    return config


PARTS = ("sequence", "split", "model", "loss", "supervision", "baseline", "optimizer")

EVERYTHING_CHANGED = TrainConfig(
    out=Path("/tmp/elsewhere"),
    preset="paper",
    data="digits",
    data_dir=Path("/data"),
    held_out_classes=(3, 8),
    backend="oracle",
    precision="ieee",
    device="cpu",
    threads=2,
    seed=7,
    iterations=11,
    batch_size=5,
    mixed_batches=False,
    checkpoint_every=3,
    keep_checkpoints=4,
    validation_images=20,
    log_every=6,
    tensorboard=False,
    resume=True,
    sequence=SequenceConfig(("hue",), num_steps=2, max_scale=2.0, max_rotation=-30.0, max_hue=340.0),
    split=SplitConfig(3, 0.05, 0.2),
    model=ModelConfig(3, 28, 5, (4,), True, (6,), (7, 8), False, 0.5, -3.0, "he", (9, 10), "tanh", 12, "vamp", 3, 5),
    loss=LossConfig("laplace", 0.5, 0.25, 2.0, "exact", 1e-4, "wave", 3),
    supervision=SupervisionConfig("weak", "label", 0.3, 1e-4, 0.2, 0.0),
    optimizer=OptimizerConfig(1e-2, "cosine", 10),
    compute=ComputeConfig("bfloat16", "on", True, 3, False),
)

# No method has all settings: these are those that EVERYTHING_CHANGED cannot change, of one method and of others.
SLOW_VAE = TrainConfig(method="slow-vae", baseline=BaselineConfig(beta=2.0, gamma=5.0, rate=3.0))
OTHERS: tuple[tuple[Any, BaselineConfig], ...] = (
    ("tvae", BaselineConfig(capsules=4, initial_mu=3.0, time_window=1, capsule_window=2)),
    ("factor-vae", BaselineConfig(discriminator_width=9, discriminator_rate=1e-3)),
    ("poflow", BaselineConfig(match_weight=3.0)),
)
FRAMES_CHANGED = dataclasses.replace(TrainConfig(), loss=LossConfig(decoded_frames=2))  # supervised only
METHODS_CHANGED = [SLOW_VAE, *(dataclasses.replace(TrainConfig(), method=name, baseline=one) for name, one in OTHERS)]


@pytest.mark.parametrize(
    "config", [*map(preset_config, PRESET_NAMES), EVERYTHING_CHANGED, FRAMES_CHANGED, *METHODS_CHANGED]
)
def test_round_trip_through_json(config: TrainConfig):
    data = to_dict(config)
    back = from_dict(json.loads(json.dumps(data)))
    assert back == config
    assert to_dict(back) == data
    assert isinstance(back.out, Path)
    assert isinstance(back.sequence.transformations, tuple) and isinstance(back.model.conv_widths, tuple)


def test_the_changed_configuration_differs_from_the_defaults_in_every_field():
    one, other = to_dict(TrainConfig()), to_dict(EVERYTHING_CHANGED)
    same = [name for name in one if one[name] == other[name]]
    same += [
        f"{part}.{name}"
        for part in ("sequence", "loss", "optimizer", "compute")
        for name in one[part]
        if one[part][name] == other[part][name]
    ]
    assert same == ["method", "baseline", "loss.decoded_frames", "compute.loader_workers"]
    for config in METHODS_CHANGED:
        assert config.method != "ffrl" and config.baseline != BaselineConfig()


def test_paper_preset():
    config = preset_config("paper")
    model = config.model
    assert (config.iterations, config.batch_size, config.mixed_batches) == (90_000, 128, False)
    assert (config.optimizer.learning_rate, config.optimizer.schedule) == (1e-4, "constant")
    assert (model.latent_dim, model.potential_widths, model.output_activation) == (324, (324, 324), "tanh")
    assert (model.conv_widths, model.encoder_widths, model.decoder_widths) == (
        (324, 648),
        (972, 648, 648),
        (324, 648, 972),
    )
    assert config.loss == LossConfig("gaussian", 1.0, 1.0, 1.0, "trace", 1e-3)
    sequence = config.sequence
    assert (sequence.transformations, sequence.num_steps) == (("scale", "rotation", "hue"), 8)
    assert (sequence.max_scale, sequence.max_rotation, sequence.max_hue) == (1.8, 80.0, 160.0)


def test_small_and_tiny_presets():
    for name in ("small", "tiny"):
        config = preset_config(name)
        assert config.preset == name
        assert config.model.output_activation == "identity"
        assert config.mixed_batches
    assert preset_config("tiny").iterations <= 100


@pytest.mark.parametrize("name", ["large", "", "SMALL", None])
def test_unknown_preset(name: Any):
    with pytest.raises(ArgumentError, match=r"^preset = .*'tiny', 'small', 'paper'"):
        preset_config(name)


@pytest.mark.parametrize(
    ("part", "field"), [(None, "iterations"), (None, "model"), ("model", "latent_dim"), ("loss", "log_det_floor")]
)
def test_unknown_and_missing_fields_are_named(part: str | None, field: str):
    for change in ("missing", "unknown"):
        data = to_dict(TrainConfig())
        target = data[part] if part else data
        name = field if change == "missing" else "momentum"
        if change == "missing":
            del target[field]
        else:
            target["momentum"] = 0.9
        with pytest.raises(ArgumentError, match=change) as caught:
            from_dict(data)
        assert caught.value.name == (f"{part}.{name}" if part else name)


@pytest.mark.parametrize("data", [None, 5, "config", [1, 2]])
def test_what_is_not_an_object_is_refused(data: Any):
    with pytest.raises(ArgumentError, match="a JSON object"):
        from_dict(data)
    with pytest.raises(ArgumentError, match=r"^loss\.? = "):
        from_dict({**to_dict(TrainConfig()), "loss": data})


def test_configurations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().model.latent_dim = 1  # type: ignore[misc]


def test_differences_name_both_values():
    base = preset_config("tiny")
    assert differences(base, base) == {}
    other = changed(base, seed=3, model__latent_dim=16, loss__kl_weight=0.0, sequence__transformations=("hue",))
    assert differences(base, other) == {
        "seed": (0, 3),
        "model.latent_dim": (8, 16),
        "loss.kl_weight": (1.0, 0.0),
        "sequence.transformations": (["scale", "rotation", "hue"], ["hue"]),
    }


def test_differences_that_a_continuation_may_have():
    other = EVERYTHING_CHANGED
    base = dataclasses.replace(other, **{name: getattr(TrainConfig(), name) for name in RESUMABLE_FIELDS})
    assert all(getattr(base, name) != getattr(other, name) for name in RESUMABLE_FIELDS)
    assert differences(base, other) == {}


def test_every_other_field_is_a_difference():
    base = TrainConfig()
    expected = {name for name in to_dict(base) if name not in {*RESUMABLE_FIELDS, *PARTS}}
    for part in PARTS:
        expected |= {f"{part}.{name}" for name in to_dict(base)[part]}
    found = set().union(
        *(differences(base, changed) for changed in (EVERYTHING_CHANGED, FRAMES_CHANGED, *METHODS_CHANGED))
    )
    assert expected - found == {
        "iterations",
        "model.image_channels",
        "model.image_size",
    }


@pytest.mark.parametrize(("schedule", "counts"), [("constant", False), ("cosine", True)])
def test_a_longer_run_continues_a_shorter_one_where_the_schedule_does_not_depend_on_its_length(
    schedule: Any, counts: bool
):
    base = changed(preset_config("tiny"), optimizer__schedule=schedule)
    longer = changed(base, iterations=500)
    assert differences(base, longer) == ({"iterations": (100, 500)} if counts else {})


def version_0_1_0() -> dict[str, Any]:
    """The defaults as version 0.1.0 wrote them."""
    data = to_dict(TrainConfig())
    for name in ADDED_LATER:
        part, _, field = name.rpartition(".")
        del (data[part] if part else data)[field]
    return data


def test_a_configuration_of_version_0_1_0_is_read():
    data = version_0_1_0()
    assert "precision" not in data and not {"prior", "prior_components", "pseudo_inputs"} & set(data["model"])
    assert not {"pde", "num_probes"} & set(data["loss"])
    before = json.dumps(data)
    assert from_dict(data) == changed(TrainConfig(), compute__vae_precision="float32")
    assert json.dumps(data) == before


def test_fields_added_later_are_read_where_they_are_there():
    data = version_0_1_0()
    data["model"] |= {"prior": "mixture", "prior_components": 3}
    read = changed(from_dict(data), compute=ComputeConfig())
    assert read == changed(TrainConfig(), model__prior="mixture", model__prior_components=3)
    del data["model"]
    with pytest.raises(ArgumentError, match=r"^model = missing"):
        from_dict(data)
