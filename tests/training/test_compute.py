"""How the machine is used changes rounding and nothing else: every switch gives the same learning curve."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ffrl.config import ComputeConfig, LossConfig, SupervisionConfig, TrainConfig
from ffrl.objective import TrainingObjective
from ffrl.ops import mlp_field, rollout
from ffrl.presets import preset_config
from ffrl.run_folder import METRICS_FILE, read_metrics
from ffrl.trainer import Trainer, load_model
from tests.cpp_cases import needs_cpp
from tests.training.runs import MODEL, differing, newest, run_differences, short_run, training_state
from tests.waiting import WAITING


def gpu(test: Any) -> Any:
    without = not torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(without, reason="needs a CUDA device")(test))


def curve(out: Path, compute: ComputeConfig, **changes: Any) -> list[float]:
    """Loss of every iteration."""
    Trainer(short_run(out, **{"log_every": 1, "checkpoint_every": 1000, **changes}, compute=compute)).run()
    return [line["loss"] for line in read_metrics(out)]


def largest_difference(one: list[float], other: list[float]) -> float:
    assert len(one) == len(other) > 0
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def products_of(config: TrainConfig) -> dict[str, set[torch.dtype]]:
    """The dtypes of the outputs of every layer in one iteration, by network, and of what the losses get."""
    trainer = Trainer(config)
    seen: dict[str, set[torch.dtype]] = {}
    model = trainer.model
    for name in ("encoder", "decoder", "transformation"):
        for layer in getattr(model, name).modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):

                def note(module: Any, inputs: Any, output: Tensor, name: str = name) -> None:
                    seen.setdefault(name, set()).add(output.dtype)

                layer.register_forward_hook(note)
    batch = trainer.data.training_batch(0, 1, config.batch_size, True)
    outputs = model(batch.x, batch.k)
    found = (outputs.mu, outputs.log_var, outputs.trajectory.z, outputs.trajectory.lap_u, outputs.logits)
    seen["outputs"] = {value.dtype for value in found if value is not None}
    trainer.step()
    seen["gradients"] = {p.grad.dtype for p in model.parameters() if p.grad is not None}
    return seen


WEAK = SupervisionConfig("weak")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_networks_compute_in_the_precision_asked_for(precision: Any, tmp_path: Path):
    compute = ComputeConfig(vae_precision=precision)
    seen = products_of(short_run(tmp_path / "run", compute=compute, supervision=WEAK))
    inside = {torch.bfloat16} if precision == "bfloat16" else {torch.float32}
    assert seen["encoder"] == seen["decoder"] == seen["transformation"] == inside
    assert seen["outputs"] == seen["gradients"] == {torch.float32}


def test_bfloat16_learns_the_same(tmp_path: Path):
    """Within 2 % of what the loss falls by; it is 6,484 nats above zero with a perfect model."""
    exact = curve(tmp_path / "float32", ComputeConfig(vae_precision="float32"), iterations=100)
    rounded = curve(tmp_path / "bfloat16", ComputeConfig(vae_precision="bfloat16"), iterations=100)
    fall = exact[0] - exact[-1]
    assert fall > 40
    assert 0 < max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) < 0.02 * fall


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bfloat16_learns_the_same_in_500_iterations_of_small(tmp_path: Path):
    """Within 2 % of what the loss falls by, in means of 20 iterations."""
    curves = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        compute = ComputeConfig(vae_precision=precision)  # type: ignore[arg-type]
        small = preset_config("small")
        changes = {"out": out, "iterations": 500, "log_every": 20, "tensorboard": False, "device": "cpu"}
        Trainer(dataclasses.replace(small, **changes, compute=compute)).run()
        curves[precision] = [line["loss"] for line in read_metrics(out)]
    exact, rounded = curves["float32"], curves["bfloat16"]
    fall = exact[0] - exact[-1]
    assert len(exact) == 25 and fall > 0
    assert max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) < 0.02 * fall


def test_evaluation_is_not_in_bfloat16(tmp_path: Path):
    curve(tmp_path / "run", ComputeConfig(vae_precision="bfloat16"), iterations=2)
    assert load_model(tmp_path / "run", device="cpu")[0].vae_dtype is None


def test_channels_last_learns_the_same(tmp_path: Path):
    plain = curve(tmp_path / "plain", ComputeConfig(channels_last="off"), iterations=50)
    last = curve(tmp_path / "last", ComputeConfig(channels_last="on"), iterations=50)
    assert largest_difference(last, plain) < 1e-5
    trainer = Trainer(short_run(tmp_path / "run", compute=ComputeConfig(channels_last="on")))
    weights = [p for p in trainer.model.encoder.parameters() if p.dim() == 4 and min(p.shape[:2]) > 1]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


@pytest.mark.parametrize(("before", "after"), [("off", "on"), ("on", "off")])
def test_the_memory_format_may_change_in_a_continuation(before: Any, after: Any, tmp_path: Path):
    """Adam's state is stored with the strides of its parameters, which then are others."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = curve(whole, ComputeConfig(channels_last=before), iterations=20)
    curve(parts, ComputeConfig(channels_last=before), iterations=10)
    found = curve(parts, ComputeConfig(channels_last=after), iterations=20, resume=True)
    assert largest_difference(found, expected) < 1e-5
    one, other = newest(parts).weights, newest(whole).weights
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-4
    for state in newest(parts).state["optimizer"]["state"].values():
        assert float(state["step"]) == 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_networks_learn_the_same(tmp_path: Path):
    plain = curve(tmp_path / "plain", ComputeConfig(), iterations=30)
    compiled = curve(tmp_path / "compiled", ComputeConfig(compile_vae=True), iterations=30)
    assert largest_difference(compiled, plain) < 1e-5
    assert differing(*({name: value.shape for name, value in newest(tmp_path / out).weights.items()}
                       for out in ("plain", "compiled"))) == []  # fmt: skip
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 0


@pytest.mark.parametrize("check_every", [1, 3, 1000])
def test_looking_rarely_changes_nothing(check_every: int, uninterrupted: Path, tmp_path: Path):
    out = tmp_path / "run"
    Trainer(short_run(out, compute=ComputeConfig(check_every=check_every))).run()
    assert run_differences(out, uninterrupted) == []


def test_all_at_once_learns_the_same(tmp_path: Path):
    everything = ComputeConfig("bfloat16", "on", False, 7, True)
    plain = curve(tmp_path / "plain", ComputeConfig(), iterations=50, supervision=WEAK)
    fast = curve(tmp_path / "fast", everything, iterations=50, supervision=WEAK)
    assert largest_difference(fast[:10], plain[:10]) < 2e-3
    assert training_state(newest(tmp_path / "fast"))["iteration"] == 50
    assert (tmp_path / "fast" / METRICS_FILE).read_bytes().count(b"\n") == 50


NO_WAIT: dict[str, dict[str, Any]] = {
    "supervised": {},
    "weak": {"supervision": WEAK},
    "semi": {"supervision": SupervisionConfig("semi", labelled_fraction=0.5)},
    "one k a batch": {"mixed_batches": False},
    "hutchinson": {"loss": LossConfig(log_det="hutchinson", num_probes=2)},
    "mixture": {"model": dataclasses.replace(MODEL, prior="mixture"), "loss": LossConfig(pde="wave")},
    "vamp": {"model": dataclasses.replace(MODEL, prior="vamp", pseudo_inputs=4), "loss": LossConfig(pde="heat")},
}


def noted(function: Any, name: str, calls: list[str]) -> Any:
    """The function, with a list of the calls of it."""

    def called(*given: Any, **more: Any) -> Any:
        calls.append(name)
        return function(*given, **more)

    return called


@needs_cpp
@pytest.mark.parametrize("name", NO_WAIT)
def test_no_step_would_wait_for_a_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No GPU is needed: a patch says that one is, and the host may not look at a value."""
    config = short_run(tmp_path / "run", backend="cpp", **NO_WAIT[name])
    usual, trainer = Trainer(config), Trainer(dataclasses.replace(config, out=tmp_path / "patched"))
    torch.manual_seed(0)
    usual.step()
    usual.step()
    torch.manual_seed(0)
    waited: list[str] = []
    monkeypatch.setattr(mlp_field, "is_asynchronous", lambda device: True)
    for owner, function in WAITING:
        monkeypatch.setattr(owner, function, noted(getattr(owner, function), function, waited))
    group = rollout.RowGroups.__init__

    def unnoted_group(self: Any, *given: Any) -> None:  # of the CPU's rollout; those for GPUs are fused
        before = len(waited)
        group(self, *given)
        del waited[before:]

    monkeypatch.setattr(rollout.RowGroups, "__init__", unnoted_group)
    trainer.step()
    trainer.step()
    assert waited == []
    trainer.check()
    assert waited == ["__bool__"] * 2
    monkeypatch.undo()
    for one, other in zip(usual.ledger.last().values(), trainer.ledger.last().values(), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-3)


@gpu
def test_nothing_waits_for_the_gpu_between_looks(tmp_path: Path):
    trainer = Trainer(short_run(tmp_path / "run", device="cuda"))
    trainer.step()  # what is done once
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.check()


@gpu
def test_bfloat16_on_the_gpu(tmp_path: Path):
    exact = curve(tmp_path / "float32", ComputeConfig(vae_precision="float32"), iterations=100, device="cuda")
    rounded = curve(tmp_path / "auto", ComputeConfig(), iterations=100, device="cuda")
    assert 1e-7 < largest_difference(rounded, exact) < 2e-3
    trainer = Trainer(short_run(tmp_path / "run", device="cuda"))
    assert trainer.model.vae_dtype is torch.bfloat16
    assert isinstance(trainer.objective, TrainingObjective)
