"""Sums over rows in the Triton kernels: exact by their chunks, and no memory for what is not asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cases import Case, build, cotangents_of, outputs_of
from tests.kernels.devices import DEVICE, REASON, needs_triton, on_device
from tests.tolerances import FLOAT32_COTANGENT_RATIO, relative_error

pytestmark = needs_triton

if REASON is None:
    from ffrl.kernels import launch, row_sums
    from ffrl.kernels.cubic_backward import jacobian_weight2
    from ffrl.kernels.launch import Operands, tiled
    from ffrl.kernels.potential_backward import Backward, Cotangents
    from ffrl.kernels.potential_forward import WEIGHTS, plan_of, potential_forward
    from ffrl.kernels.row_plan import RowPlan, plan_rows
    from ffrl.kernels.row_sums import add_parts, grid_of_sum, sum_by_potential, sum_segments
    from ffrl.kernels.tiling import ROWS

EPS = torch.finfo(torch.float32).eps
MANY = 20_000  # rows, positive numbers: one running sum of 313 blocks is off by several EPS, and not at random


@dataclass
class Setting:
    """Operands and a pass backward of so many rows, all of one potential or of mixed ones."""

    rows: int
    latent: int
    hidden1: int
    hidden2: int
    potentials: int = 1
    mixed: bool = False
    form: int = 0
    table: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator(DEVICE).manual_seed(self.seed)
        rows, latent, hidden1, hidden2, potentials = (
            self.rows, self.latent, self.hidden1, self.hidden2, self.potentials,
        )  # fmt: skip
        k = torch.arange(rows, device=DEVICE) * 7 // 3 % potentials if self.mixed else None
        features = 3 if self.table else 1
        feature_row = torch.arange(rows, device=DEVICE) % features if self.table else None
        self.operands = Operands(
            self.draw(rows, latent), *(self.draw(features, hidden1) for _ in range(3)),
            self.draw(potentials, hidden1, latent), self.draw(potentials, hidden1),
            self.draw(potentials, hidden2, hidden1), *(self.draw(potentials, hidden2) for _ in range(2)),
            self.draw(potentials), k, potentials - 1, feature_row,
        )  # fmt: skip
        self.call = launch.describe(self.operands, tanh_output=True, form=self.form, precision=0)
        self.plan = plan_of(self.operands)

    def draw(self, *shape: int) -> Tensor:
        """Positive numbers."""
        return torch.rand(*shape, generator=self.generator, device=DEVICE)

    def backward(self, kept: Tensor) -> Backward:
        return Backward(self.call, self.plan, self.operands, kept)

    def kept(self) -> Tensor:
        return potential_forward(*self.operands, True, self.form, True, 0)[-1]

    def cotangents(self) -> Cotangents:
        rows = self.rows
        laplacian = self.draw(rows) if self.form else None
        return Cotangents(self.draw(rows), self.draw(rows, self.latent), self.draw(rows), self.draw(rows), laplacian)


def errors_of_weights(monkeypatch: pytest.MonkeyPatch, chunks: int) -> Iterator[tuple[str, float, float]]:
    """Sum, error, and error of plain torch, where sums are cut into so many chunks at most."""
    monkeypatch.setattr(row_sums, "MAX_CHUNKS", chunks)
    setting = Setting(MANY, 2, 3, 4)
    call, plan = setting.call, setting.plan
    backward = setting.backward(setting.draw(plan.slots, call.width))
    backward.form, backward.has_v, backward.time, backward.second = "none", False, False, False
    v_a1, v_a2 = setting.draw(plan.slots, 3), setting.draw(plan.slots, 4)

    def compared(name: str, value: Tensor, left: Tensor, right: Tensor) -> tuple[str, float, float]:
        left, right = left[:MANY], right[:MANY]
        exact = left.double().mT @ right.double()
        return name, relative_error(value, exact), relative_error(left.mT @ right, exact)

    v_weight1 = backward.gradient_of_weight1(v_a1, v_a1)[0]
    yield compared("weight1", v_weight1, v_a1, setting.operands.z)
    h1 = backward.kept[:, :3]
    v_weight2 = backward.gradient_of_weight2(v_a1, v_a2, v_a2, v_a2)[0]
    yield compared("weight2", v_weight2, v_a2, h1 + setting.operands.tau)

    tile = call.tile("jacobian_weights")
    grid = grid_of_sum(call, plan, 4, 3, tile)
    parts, ones = h1.new_zeros(grid[1], 1, 4, 3), h1.new_ones(1, 3, 2)
    jacobian_weight2[grid](
        ones, plan.slot_row, plan.first_block, v_a1, v_a2, parts, 0, 1, 2, 3, 4, plan.slots,
        PRECISION="ieee", **tiled(tile),
    )  # fmt: skip
    yield compared("jacobian", add_parts(parts, 0)[0], v_a2, v_a1)


def test_sums_of_many_rows_for_weights_are_exact_to_rounding(monkeypatch: pytest.MonkeyPatch):
    for name, error, plain in errors_of_weights(monkeypatch, launch.MAX_CHUNKS):
        assert error < (EPS if DEVICE.type == "cpu" else FLOAT32_COTANGENT_RATIO * max(plain, EPS)), name


@pytest.mark.skipif(DEVICE.type == "cuda", reason="on a GPU the order within a product is another")
def test_it_is_the_chunks_that_make_them_so(monkeypatch: pytest.MonkeyPatch):
    assert all(error > 1.2 * EPS for _, error, _ in errors_of_weights(monkeypatch, 1))


def test_sums_by_segment_are_those_of_float64_and_leave_out_the_rest():
    setting = Setting(MANY, 1, 1, 1)
    rows = setting.draw(MANY, 3, 2)
    first = torch.tensor([0, 0, 15_001, 15_064, 15_064, MANY - 9], device=DEVICE)
    rows[MANY - 9 :] = torch.nan  # memory that nothing was written to
    exact = torch.stack([rows[i:j].double().sum(0) for i, j in itertools.pairwise(first)])
    for given, order in ((rows, None), (rows.flip(0), torch.arange(MANY, device=DEVICE).flip(0))):
        sums = sum_segments(given, first, order)
        assert sums.shape == (5, 3, 2) and not sums[0].any() and not sums[3].any()
        assert relative_error(sums, exact) < EPS
    one = sum_segments(rows[: MANY - 9], first[[0, -1]])
    assert relative_error(one[0], exact.sum(0)) < EPS


def test_the_number_of_chunks_is_bounded():
    for programs in (1, 36, 263, 264, 10**6):
        for steps in (1, 5, 64, 10**5):
            chunks = launch.chunks_of_sum(programs, steps, min(steps, launch.MAX_CHUNKS))
            assert 1 <= chunks <= min(steps, launch.MAX_CHUNKS)
            assert steps > 64 or chunks == 1 or (chunks - 1) * programs < launch.ENOUGH_PROGRAMS
    assert launch.chunks_of_sum(1, 10**5, 16) == launch.chunks_of_sum(264, 10**5, 16) == 16
    assert launch.chunks_of_sum(264, 64, 16) == 1


def halved(plan: RowPlan, kept: Tensor) -> tuple[RowPlan, Tensor]:
    """Each block as two, with half of its rows each and the rest padding; what is kept for padding is NaN."""
    half = ROWS // 2
    slot_row = torch.full((plan.blocks, 2, ROWS), -1, device=DEVICE)
    slot_row[:, :, :half] = plan.slot_row.view(plan.blocks, 2, half)
    rows = torch.full((plan.blocks, 2, ROWS, kept.shape[1]), torch.nan, device=DEVICE)
    rows[:, :, :half] = kept.view(plan.blocks, 2, half, -1)
    block_k = plan.block_k.repeat_interleave(2)
    return RowPlan(2 * plan.blocks, slot_row.flatten(), block_k, 2 * plan.first_block), rows.flatten(0, 2)


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_plan_of_other_blocks_gives_the_same_gradients(form: int, mixed: bool):
    setting = Setting(130, 3, 5, 6, potentials=3, mixed=mixed, form=form, table=True)
    kept, v = setting.kept(), setting.cotangents()
    expected = setting.backward(kept).run(v, True, True, True)
    setting.plan, kept = halved(setting.plan, kept)
    for value, reference in zip(setting.backward(kept).run(v, True, True, True), expected, strict=True):
        assert value.shape == reference.shape and relative_error(value, reference) < 4 * EPS


@pytest.mark.parametrize("form", [0, 1, 2])
def test_the_potential_of_all_rows_is_the_only_one_that_is_looked_at(form: int):
    setting = Setting(70, 3, 5, 6, potentials=4, form=form)
    kept, v = setting.kept(), setting.cotangents()
    for name in WEIGHTS:
        getattr(setting.operands, name)[:3] = torch.nan
    gradients = setting.backward(kept).run(v, False, False, True)[4:]
    for value, name in zip(gradients, WEIGHTS, strict=True):
        assert value.shape == getattr(setting.operands, name).shape and value.isfinite().all(), name
        assert not value[:3].any() and value[3].any(), name


class Shapes(TorchDispatchMode):
    """The shapes of all tensors that are made."""

    def __enter__(self):
        self.made: list[tuple[int, ...]] = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.made.append(tuple(out.shape))
        return out


@pytest.mark.parametrize("needs_weights", [False, True])
def test_parts_of_weights_take_memory_only_where_they_are_wanted(needs_weights: bool):
    setting = Setting(130, 3, 5, 6, form=2)
    kept, v = setting.kept(), setting.cotangents()
    with Shapes() as shapes:
        setting.backward(kept).run(v, True, False, needs_weights)
    of_weights = {(setting.plan.blocks, 5, 3), (3, 1, 6, 5)}  # (blocks, H1, D), (chunks, K, H2, H1)
    assert of_weights <= set(shapes.made) if needs_weights else not of_weights & set(shapes.made)


def test_many_potentials_take_no_memory_for_each_with_each_row_or_block():
    rows, potentials = 300, 500
    k = torch.arange(rows, device=DEVICE) * 11 % potentials
    with Shapes() as shapes:
        plan = plan_rows(rows, potentials, k, 0, ROWS, DEVICE)
        sums = sum_by_potential(torch.ones(plan.blocks, 2, device=DEVICE), plan)
    assert max(torch.Size(shape).numel() for shape in shapes.made) <= plan.slots
    counts = torch.bincount(k, minlength=potentials)
    assert torch.equal(sums[:, 0], (counts > 0).float())
    for block in range(int(plan.first_block[-1])):
        of_block = plan.slot_row[block * ROWS : (block + 1) * ROWS]
        assert (k[of_block[of_block >= 0]] == plan.block_k[block]).all()
    assert torch.equal(plan.slot_row[plan.slot_row >= 0].sort().values, torch.arange(rows, device=DEVICE))


def test_more_potentials_than_a_grid_can_have_are_refused_on_a_gpu():
    setting = Setting(2, 1, 1, 1)
    given = setting.operands._asdict()
    weights = {name: given[name].repeat(65_536, *[1] * (given[name].dim() - 1)) for name in WEIGHTS}
    operands = setting.operands._replace(**weights, k=torch.zeros(2, dtype=torch.int64, device=DEVICE))
    call = launch.describe(operands, tanh_output=True, form=0, precision=1)
    with pytest.raises(RuntimeError, match="65536 potentials, but the grid of a launch has at most 65535"):
        launch.check_operands(call._replace(capability=90), operands)
    launch.check_operands(call._replace(capability=None), operands)
    of_one = operands._replace(k=None)  # the others do not come into the grid
    launch.check_operands(
        launch.describe(of_one, tanh_output=True, form=0, precision=1)._replace(capability=90), of_one
    )


def test_more_rows_than_offsets_reach_are_refused():
    setting = Setting(2, 1, 1, 1)
    call = launch.describe(setting.operands, tanh_output=True, form=0, precision=1)
    with pytest.raises(RuntimeError, match="67108865 rows in one call, at most about 67108864"):
        launch.check_operands(call._replace(rows=2**26 + 1), setting.operands)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device: nothing can be captured")
def test_a_cuda_graph_holds_the_operation_and_its_backward():
    inputs = on_device(build(Case(200, 5, 17, 16, 3, "mixed", time="repeated"), torch.float32))

    def step() -> dict[str, Tensor | None]:
        outputs = outputs_of(inputs, "triton")
        return {**outputs, **cotangents_of(inputs, outputs)}

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # compiles the kernels, which cannot be done while a graph is captured
        step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        inputs.z.mul_(0.5)
    graph.replay()
    for name, expected in step().items():
        assert relative_error(captured[name], expected) < 1e-5, name  # type: ignore[arg-type]
