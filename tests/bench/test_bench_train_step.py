"""Iterations of training are compared that compute the same, and the parts of ours are its parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import bench_train_step, frame_vae, timing, train_step_cases, train_step_profile
from bench.contenders import ParityError
from bench.frame_vae import FrameVAE, decoding_terms, vae_terms
from bench.operator_calls import operator_calls
from bench.plain_training import gradient, hessian_sum, laplacian, plain_terms, surrogate_terms
from bench.train_step_cases import CASE_OF, COMPARED, OBJECTIVES, TINY, TrainCase, iteration, problem_of, weak
from bench.train_step_flops import part_flops
from bench.train_step_parts import Part, parts_of
from bench.training_iteration import Problem, Terms, build_model, make_problem, sequence_terms
from ffrl.config import LossConfig, TrainConfig
from ffrl.errors import ArgumentError
from ffrl.models import PotentialMLP, SequenceVAE
from ffrl.objective import TrainingObjective
from ffrl.ops.oracle import potential_hessian_oracle
from ffrl.presets import preset_config
from ffrl.records import SequenceBatch

CPU = torch.device("cpu")
PARTS = (
    *("data", "encoder", "rollout", "derivatives", "force", "initial velocity"),
    *("decoder + reconstruction", "densities and terms", "gradient norm", "optimizer"),
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of one call."""
    monkeypatch.setattr(timing, "SAMPLE_MS", 0.0)
    monkeypatch.setattr(timing, "WARM_UP_MS", 0.0)
    monkeypatch.setattr(timing, "WARM_UP_CALLS", 1)
    monkeypatch.setattr(train_step_profile, "WARM_UP_ROUNDS", 1)


def double_problem(config: TrainConfig) -> tuple[SequenceVAE, Problem]:
    """In float64, with potentials steep enough for their Laplacian to weigh, and a diffusion."""
    problem = make_problem(config, CPU, parity_rows=7)
    model = build_model(config, "oracle").double()
    with torch.no_grad():
        for weight in (model.potential.weight1, model.potential.weight2, model.force.weight1):
            weight.mul_(3)
        model.prior.diffusivity.copy_(torch.tensor([0.1, 0.2, 0.3]))
    return model, problem._replace(
        batch=problem.batch._replace(x=problem.batch.x.double()), noise=problem.noise.double()
    )


def gradients(terms: Terms, model: SequenceVAE) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    loss = torch.stack([*terms.values()]).sum()
    found = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("activation", ["identity", "tanh"])
@pytest.mark.parametrize("mixed", [True, False], ids=["mixed", "one k"])
def test_plain_pytorch_computes_the_same(mixed: bool, activation: Any):
    config = preset_config("tiny")
    config = dataclasses.replace(
        config, mixed_batches=mixed, model=dataclasses.replace(config.model, output_activation=activation)
    )
    config = dataclasses.replace(config, loss=LossConfig(kl_weight=0.7, hj_weight=1.3))
    model, problem = double_problem(config)
    assert problem.batch.k.unique().numel() == (3 if mixed else 1)
    found, wanted = (
        objective(model, problem.batch, config, 1, problem.noise) for objective in (plain_terms, sequence_terms)
    )
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=0.0)
    given, right = gradients(found, model), gradients(wanted, model)
    for name, value in right.items():
        torch.testing.assert_close(given[name], value, rtol=1e-8, atol=1e-8 * float(value.norm()), msg=name)
    used = [name for name, value in right.items() if value.norm() > 0]
    assert {"flow.potential.weight2", "force.weight1", "prior.diffusivity", "encoder.mu.weight"} <= set(used)


def test_the_surrogate_is_the_sum_of_the_hessian_and_changes_kl_t_alone():
    torch.manual_seed(0)
    pot, z = PotentialMLP(5, 9).double(), torch.randn(4, 5).double().requires_grad_()
    time = torch.full((4,), 2.0).double()
    hessian = potential_hessian_oracle(pot, z, time, 0)
    (du_dz,) = gradient(pot(z, time, 0), z)
    torch.testing.assert_close(hessian_sum(du_dz, z), hessian.sum((1, 2)))
    torch.testing.assert_close(laplacian(du_dz, z), hessian.diagonal(dim1=1, dim2=2).sum(1))
    assert ((hessian_sum(du_dz, z) - laplacian(du_dz, z)).abs() > 1e-3).all()

    model, problem = double_problem(preset_config("tiny"))
    found, wanted = (
        objective(model, problem.batch, problem.config, 1, problem.noise)
        for objective in (surrogate_terms, plain_terms)
    )
    differing = {name for name in wanted if abs((found[name] - wanted[name]).item()) > 1e-9}
    assert found.keys() == wanted.keys() and differing == {"kl_t"} == COMPARED["surrogate"].excepted


@pytest.mark.parametrize(("field", "loss"), [("log_det", LossConfig(log_det="exact")), ("pde", LossConfig(pde="heat"))])
def test_what_is_not_written_out_plainly_is_refused(field: str, loss: LossConfig):
    config = dataclasses.replace(TINY.config, loss=loss)
    problem = make_problem(config, CPU, 3)
    with pytest.raises(ArgumentError, match=f"loss.{field}"):
        plain_terms(build_model(config, "oracle"), problem.batch, config, 1, problem.noise)
    with pytest.raises(ArgumentError, match=r"supervision\.mode"):
        plain_terms(build_model(TINY.config, "oracle"), problem.batch, weak(TINY.config), 1)


def test_the_vae_encodes_every_frame_and_the_floor_the_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frame_vae, "OFFSET", 1.0)
    problem = problem_of(TINY, CPU)
    x = problem.batch.x
    model = FrameVAE(build_model(problem.config, "oracle"))
    rows: list[int] = []
    model.encoder.register_forward_hook(lambda module, given, _: rows.append(given[0].shape[0]))
    noise = torch.randn(8 * 9, 8)
    found = vae_terms(model, problem.batch, problem.config, 1, noise)
    first = decoding_terms(model, problem.batch, problem.config, 1, noise[:8])
    assert rows == [72, 8]
    mu, log_var = model.encoder(x[:, 4])  # of frame 4 alone
    z = mu + (0.5 * log_var).exp() * noise.view(8, 9, 8)[:, 4]
    images = x[:, 4].clone()
    batch = SequenceBatch(images[:, None], problem.batch.k)
    alone = vae_terms(model, batch, problem.config, 1, noise.view(8, 9, 8)[:, 4])
    error = (model.decoder(z) - images).square().sum() / 8 / 2
    constant = 0.5 * 2352 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(alone["reconstruction"], error + constant)
    each = [
        vae_terms(model, SequenceBatch(x[:, t, None], problem.batch.k), problem.config, 1, noise.view(8, 9, 8)[:, t])
        for t in range(9)
    ]
    for name in ("reconstruction", "kl"):
        torch.testing.assert_close(found[name], torch.stack([terms[name] for terms in each]).sum())

    z0, kl = model.sample(x[:, 0], noise[:8])
    steps = torch.arange(9.0)[:, None]
    decoded = torch.stack([model.decoder(z + steps) for z in z0])
    wanted = (decoded - x).square().sum() / 8 / 2 + 9 * constant
    torch.testing.assert_close(first["reconstruction"], wanted)
    torch.testing.assert_close(first["kl_0"], kl.mean())


@pytest.mark.parametrize("name", ["vae", "decoding", "plain", "surrogate", "ffrl"])
def test_an_iteration_trains_what_its_contender_has(name: str):
    call = iteration(name, problem_of(TINY, CPU), "auto")
    before = {key: value.clone() for key, value in call.model.named_parameters()}
    call()
    moved = {key.split(".")[0] for key, value in call.model.named_parameters() if not torch.equal(value, before[key])}
    networks = {"encoder", "decoder"}
    assert moved - {"prior"} == (networks if name in ("vae", "decoding") else networks | {"flow", "force"})


def test_every_iteration_has_the_batch_that_the_trainer_gives_it():
    problem = problem_of(TINY, CPU)
    config, given = problem.config, []
    call = iteration("ffrl", problem, "auto")
    objective = call.objective
    call.objective = lambda model, batch, *more: given.append(batch) or objective(model, batch, *more)
    for _ in range(3):
        call()
    for number, batch in enumerate(given, 1):
        wanted = problem.data.training_batch(config.seed, number, config.batch_size, config.mixed_batches)
        assert torch.equal(batch.x, wanted.x) and torch.equal(batch.k, wanted.k)
    assert len(given) == 3 and not torch.equal(given[0].x, given[1].x)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("poflow", "flow"),
        ("tvae", "energy_encoder"),
        ("factor-vae", "discriminator"),
        ("slow-vae", ""),
        ("beta-vae", ""),
    ],
)
def test_the_other_methods_are_trained_as_the_trainer_does_it(name: str, part: str):
    problem = problem_of(TINY, CPU)
    call = iteration(name, problem, "auto")
    assert call.problem.config == dataclasses.replace(problem.config, method=name)
    before = {key: value.clone() for key, value in call.model.named_parameters()}
    torch.manual_seed(3)
    call()
    objective = TrainingObjective(iteration(name, problem, "auto").model, call.problem.config)
    torch.manual_seed(3)
    batch = problem.training_batch(1)
    terms = {key: float(value.detach()) for key, value in objective(*batch, objective.draw(1), 1).items()}
    assert call.values()[: len(terms)] == pytest.approx([*terms.values()], rel=1e-5)
    moved = {key.split(".")[0] for key, value in call.model.named_parameters() if not torch.equal(value, before[key])}
    assert {"encoder", "decoder"} <= moved and (not part or part in moved)


@pytest.mark.parametrize(("wrong", "term"), [("ffrl", "hj"), ("plain", "kl_t"), ("surrogate", "reconstruction")])
def test_nothing_is_printed_where_another_loss_is_computed(
    wrong: str, term: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    right = OBJECTIVES[wrong]

    def objective(*given: Any) -> Terms:
        terms = right(*given)
        return {**terms, term: 1.001 * terms[term]}

    monkeypatch.setitem(train_step_cases.OBJECTIVES, wrong, objective)
    path = tmp_path / "b.json"
    with pytest.raises(ParityError, match=f"{term} is"):
        bench_train_step.main(["--cases", "tiny", "--rounds", "1", "--json", str(path)])
    assert "| tiny |" not in capsys.readouterr().out and not path.exists()


def rows_of(text: str, case: str = "tiny") -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {case} ")
    ]


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_table_and_writes_the_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = tmp_path / "new" / "b.json"
    bench_train_step.main(["--cases", "tiny", "--rounds", "1", "--json", str(path)])
    shown = capsys.readouterr().out
    rows = rows_of(shown)
    names = ["ffrl", "bfloat16", "plain", "surrogate", "vae", "decoding"]
    assert [row[2] for row in rows] == names and all(len(row) == len(bench_train_step.COLUMNS) for row in rows)
    assert rows[0][3] == rows[0][5] == "1" and rows[0][1] == "12 x 9, 8 x 16, mixed"
    content = json.loads(path.read_text())
    assert content["command"].endswith(f"--json {path}") and content["machine"]["torch"] == torch.__version__
    assert [entry["contender"] for entry in content["figures"]] == names and content["profiles"] == []
    ours = content["figures"][0]["timing"]["median"]
    for entry in content["figures"]:
        assert entry["timing"]["median"] == pytest.approx(entry["ffrl_ratio"] * ours) and entry["case"] == "tiny"
        assert entry["iterations_per_second"] == pytest.approx(1e3 / entry["timing"]["median"])
        assert entry["sgemm_gflops"] > 0


@pytest.mark.usefixtures("quick")
def test_weak_supervision_is_compared_with_k_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    names = CASE_OF["small-weak"].contenders
    case = TrainCase("tiny-weak", weak(TINY.config), names)
    monkeypatch.setitem(train_step_cases.CASE_OF, case.name, case)
    bench_train_step.main(["--cases", case.name, "--rounds", "1"])
    assert [row[2] for row in rows_of(capsys.readouterr().out, case.name)] == [*names]
    problem = problem_of(case, CPU)
    drawn, given = (iteration(name, problem, "auto") for name in ("ffrl", "supervised"))
    assert drawn.model.transformation is not None and given.model.transformation is None
    drawn()
    given()
    assert len(drawn.values()) == len(given.values()) + 2  # the terms "index" and "balance"


def test_the_contender_in_bfloat16_computes_in_it():
    problem = problem_of(TINY, CPU)
    rounded, exact = (iteration(name, problem, "auto") for name in ("bfloat16", "ffrl"))
    for seed in (0, 0):
        for call in (rounded, exact):
            torch.manual_seed(seed)
            call()
    assert rounded.values() != exact.values()
    assert rounded.values() == pytest.approx(exact.values(), rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--rounds", "0"], "expected an integer >= 1"),
        (["--cases", "none"], "invalid choice: 'none'"),
        (["--contenders", "none"], "invalid choice: 'none'"),
        (["--json", "/proc/none/b.json"], "--json: "),
        (["--device", "tpu9"], "--device: "),
        (["--device", "meta"], "--device: expected cpu or cuda"),
        (["--backend", "none"], "--backend: "),
        (["--cases", "paper"], "paper is for --device cuda"),
        (["--cases", "small-weak", "--profile"], "small-weak draws k"),
        (["--cases", "small-methods", "--profile"], "small-methods compares other methods"),
        (["--cases", "tiny", "--contenders", "supervised"], "tiny has the contenders ffrl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_refused_before_anything_is_measured(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stop:
        bench_train_step.main(arguments)
    shown = capsys.readouterr()
    assert stop.value.code == 2 and shown.out == ""
    last = shown.err.splitlines()[-1]
    assert last.startswith("python -m bench.bench_train_step: error: ") and why in last


def test_default_cases_are_those_of_the_device():
    assert [case.name for case in bench_train_step.parse([]).cases] == [
        *("small", "small-methods", "small-weak", "paper-b8", "paper-b8-mixed")
    ]
    assert [case.name for case in bench_train_step.parse(["--profile"]).cases] == [
        *("small", "paper-b8", "paper-b8-mixed")
    ]
    assert CASE_OF["paper"].devices == ("cuda",) and CASE_OF["paper"].config.batch_size == 128


@pytest.mark.usefixtures("quick")
def test_the_profile_has_every_part(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = tmp_path / "b.json"
    bench_train_step.main(["--cases", "tiny", "--rounds", "2", "--profile", "--json", str(path)])
    shown = capsys.readouterr().out
    rows = rows_of(shown)
    assert tuple(row[1] for row in rows) == (*PARTS, "sum of the parts", "rest, not explained", "whole iteration")
    (profile,) = json.loads(path.read_text())["profiles"]
    whole, total = profile["whole"]["median"], 0.0
    for part in profile["parts"]:
        own = part["forward"]["median"] + (part["backward"]["median"] if part["backward"] else 0.0)
        assert part["forward"]["lower"] > 0 and part["share"] == pytest.approx(own / whole)
        assert (part["backward"] is None) == (part["part"] in ("data", "gradient norm", "optimizer"))
        assert part["backward"] is None or part["backward"]["lower"] > 0
        total += own
    assert float(rows[-3][2]) + float(rows[-3][3]) == pytest.approx(total, rel=1e-3)
    assert float(rows[-2][2]) == pytest.approx(whole - total, rel=1e-2, abs=2e-3 * total)
    shares = {part["part"]: part["share"] for part in profile["parts"]}
    wanted = shares["rollout"] + shares["derivatives"] + shares["initial velocity"]
    assert profile["potentials_share"] == pytest.approx(wanted)
    assert f"tiny, potentials: {100 * wanted:.3g} % of the iteration; with the force" in shown
    assert all(len(row) == len(bench_train_step.PROFILE_COLUMNS) for row in rows)
    counted = sum(part["calls"] for part in profile["parts"])
    assert rows[-3][7] == str(counted) and rows[-1][7] == str(profile["calls"]["ffrl"])
    assert profile["calls"]["ffrl"] == pytest.approx(counted, rel=0.15)
    assert 0 < profile["calls"]["ffrl"] < profile["calls"]["surrogate"] < profile["calls"]["plain"]
    assert f"ffrl {profile['calls']['ffrl']} (1x), plain" in shown


@pytest.mark.usefixtures("quick")
def test_without_the_device_of_the_case_the_profile_is_by_flops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(train_step_cases.CASE_OF, "tiny", TINY._replace(devices=("cuda",)))
    bench_train_step.main(["--cases", "tiny", "--profile"])
    shown = capsys.readouterr().out
    rows, flops = rows_of(shown), part_flops(TINY.config)
    assert tuple(row[1] for row in rows) == (*PARTS, "whole iteration")
    assert all(row[2:4] == ["-", "-"] and int(row[7]) > 0 for row in rows)
    total = sum(map(sum, flops.values()))
    assert rows[-1][5] == f"{total / 1e9:.4g}"
    share = 100 * sum(sum(flops[name]) for name in ("rollout", "derivatives", "initial velocity")) / total
    assert f"tiny, potentials: {share:.3g} % of the iteration's FLOPs, not timed on this device" in shown


def test_the_parts_are_those_of_the_iteration():
    """Each gives what it gives in the iteration, and together they reach every parameter that the loss reaches."""
    problem = problem_of(TINY, CPU)
    call = iteration("ffrl", problem, "analytic")
    torch.manual_seed(3)
    parts: dict[str, Part] = {part.name: part for part in parts_of(call)}
    assert tuple(parts) == PARTS
    torch.manual_seed(3)
    batch = problem.training_batch(1)
    wanted = sequence_terms(call.model, batch, problem.config, 1)
    torch.manual_seed(3)
    outputs = call.model(batch.x, batch.k)
    z = outputs.trajectory.z
    torch.testing.assert_close(parts["densities and terms"].forward()[1], sum(wanted.values()))
    torch.testing.assert_close(parts["encoder"].forward()[0], outputs.mu)
    torch.testing.assert_close(parts["rollout"].forward()[0], z)
    torch.testing.assert_close(parts["derivatives"].forward()[2], outputs.trajectory.lap_u)
    torch.testing.assert_close(parts["force"].forward()[0], outputs.force)
    torch.testing.assert_close(parts["initial velocity"].forward()[0], outputs.initial_velocity)
    (nll,) = parts["decoder + reconstruction"].forward()
    torch.testing.assert_close(nll.sum(1).mean(), wanted["reconstruction"])
    torch.stack([*wanted.values()]).sum().backward()
    every = [id(source) for part in parts.values() for source in part.sources]
    assert {id(p) for p in call.model.parameters() if p.grad is not None} <= set(every)
    for name in ("gradient norm", "optimizer"):
        parts[name].forward()
    assert all(p.grad is None for p in call.model.parameters())


def test_flops_of_the_papers_iteration():
    flops = part_flops(preset_config("paper"))
    networks = sum(flops["encoder"]) + sum(flops["decoder + reconstruction"])
    assert networks == pytest.approx(1.53e12, rel=0.01)
    assert sum(flops["decoder + reconstruction"]) / networks == pytest.approx(0.90, abs=0.005)
    case = CASE_OF["small"].config
    dense = 32 * 256 + 256 * 512 + 512 * 3 * 28 * 28  # every weight once a frame, and twice backward
    assert part_flops(case)["decoder + reconstruction"] == (2 * 64 * 9 * dense, 4 * 64 * 9 * dense)
    rows, velocity = 64 * 8, 4 * 128 * (128 + 32)
    assert part_flops(case)["rollout"] == (rows * velocity, 2 * rows * velocity)
    assert part_flops(case)["force"] == (rows * velocity // 2, rows * velocity)
    cubic = 6 * 128**2 * 32
    assert sum(part_flops(case)["derivatives"]) == rows * (cubic + 3 * velocity)


def test_operators_are_counted_with_their_backward_and_without_views():
    a = torch.ones(3, 4, requires_grad=True)
    assert operator_calls(lambda: a.detach().t().exp()) == 1
    assert operator_calls(lambda: a.exp().sum()) == 2
    assert operator_calls(lambda: torch.autograd.grad(a.exp().sum(), a)) == 4  # ones for the sum, and one product
