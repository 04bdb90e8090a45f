"""The backend "cuda" without a GPU: when it can be used, what is said where it cannot, what is around its kernels."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ffrl.errors import BackendError
from ffrl.models import PotentialMLP
from ffrl.ops import available_backends, backends, cuda_devices, cuda_operators, flow_rollout, fused
from ffrl.ops import potential_derivatives as public
from ffrl.ops.cuda_devices import device_reason, is_compiled_for
from ffrl.ops.registration import FORMS
from tests.builds import COMPILER, ROOT
from tests.cases import Case, build, cotangents_of, outputs_of
from tests.tolerances import ROUNDING, assert_matches

ARCHITECTURES = ("8.0", "9.0a", "10.0+PTX")
FLOATS = (torch.float32, torch.float64)
GPU = torch.device("cuda:0")


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 0), ("8.0",), True),
        ((8, 9), ("8.0",), True),
        ((9, 0), ("8.0",), False),
        ((8, 0), ("8.6",), False),
        ((9, 0), ("8.0+PTX",), True),
        ((9, 0), ("9.0a",), True),
        ((10, 0), ("9.0a+PTX",), False),
        ((10, 3), ("10.0f",), True),
        ((10, 3), ("10.0a",), False),
        ((12, 0), ("10.0f",), False),
        *[(capability, ARCHITECTURES, True) for capability in ((8, 0), (8, 6), (9, 0), (10, 0), (10, 3), (12, 1))],
    ],
)
def test_where_compiled_code_runs(capability: tuple[int, int], architectures: tuple[str, ...], expected: bool):
    assert is_compiled_for(capability, architectures) is expected


def test_an_unknown_architecture_is_no_code_for_anything():
    with pytest.raises(ValueError, match="'sm_80' is not an architecture"):
        is_compiled_for((8, 0), ["sm_80"])


def test_a_gpu_that_the_kernels_do_not_run_on_is_named():
    assert device_reason((9, 0), ARCHITECTURES) is None
    old = str(device_reason((7, 5), ARCHITECTURES))
    assert "the GPU is of compute capability 7.5, and the CUDA kernels need 8.0 or later" in old
    other = str(device_reason((9, 0), ["8.0"]))
    assert "compiled for 8.0, not for this GPU of compute capability 9.0" in other
    assert "`TORCH_CUDA_ARCH_LIST=9.0 FFRL_CUDA=1 pip install --no-build-isolation .`" in other


def loaded(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> tuple[str | None, list[str | None]]:
    """What the extension says on a machine with these GPUs."""
    module: Any = types.ModuleType("ffrl._C_cuda")
    module.architectures, module.capabilities = (lambda: "8.0_9.0a"), (lambda: list(capabilities))
    monkeypatch.setitem(sys.modules, "ffrl._C_cuda", module)
    monkeypatch.setattr(cuda_devices, "import_reason", lambda _: None)
    return cuda_devices.load_cuda_extension()


def test_the_extension_is_usable_where_one_gpu_is(monkeypatch: pytest.MonkeyPatch):
    assert loaded(monkeypatch, (9, 0)) == (None, [None])
    reason, of_each = loaded(monkeypatch, (7, 5), (8, 6))
    assert reason is None and of_each[1] is None and "need 8.0 or later" in str(of_each[0])
    reason, of_each = loaded(monkeypatch, (7, 5), (10, 0))
    assert "need 8.0 or later" in str(reason) and of_each == []
    reason, of_each = loaded(monkeypatch)
    assert "CUDA finds no device here; run on a machine with a GPU" in str(reason) and of_each == []


def test_without_the_extension_the_reason_is_that_of_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from ffrl.ops import extension

    monkeypatch.setattr(extension, "PACKAGE", tmp_path)
    assert (tmp_path / "_C_cuda_missing.txt").write_text("as the build left it\n")
    assert cuda_devices.load_cuda_extension() == ("as the build left it", [])
    (tmp_path / "_C_cuda_missing.txt").unlink()
    monkeypatch.setattr(extension.importlib.util, "find_spec", lambda _: None)
    assert "the extension ffrl._C_cuda is not in this installation" in str(cuda_devices.load_cuda_extension()[0])


IMPORTED = """
import importlib.machinery, pathlib, sys, types
import torch

def refuse(*_):
    raise AssertionError("this initialises CUDA")

torch.cuda.device_count = lambda: 1
for name in ("is_available", "init", "_lazy_init", "current_device", "get_device_capability", "get_device_properties"):
    setattr(torch.cuda, name, refuse)
for name in ("_cuda_getDeviceCount", "_cuda_init"):
    if hasattr(torch._C, name):
        setattr(torch._C, name, refuse)
module = types.ModuleType("ffrl._C_cuda")
module.__spec__ = importlib.machinery.ModuleSpec("ffrl._C_cuda", None)
module.architectures, module.capabilities = (lambda: "8.0"), refuse
sys.modules["ffrl._C_cuda"] = module
is_file = pathlib.Path.is_file
pathlib.Path.is_file = lambda path: path.name != "_C_cuda_missing.txt" and is_file(path)

import ffrl
from ffrl.models import PotentialMLP
from ffrl.ops import available_backends, backends, potential_derivatives

assert available_backends()["cuda"] is None and "torch._dynamo" not in sys.modules
potential_derivatives(PotentialMLP(2, 3), torch.zeros(1, 2), 0.5, 0)
try:
    backends.tensor_reason("cuda", torch.device("cuda:0"))
except AssertionError as error:
    print(error)
"""


def test_an_import_does_not_initialise_cuda():
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "this initialises CUDA\n"), done.stderr


def test_which_gpu_it_is_is_asked_once_and_by_the_first_call(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def load() -> tuple[str | None, list[str | None]]:
        asked.append(1)
        return answer

    monkeypatch.setattr(backends, "load_cuda_extension", load)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(backends, "CUDA_REASON", None)
    for answer in ((None, [None, "too old"]), ("both too old", [])):
        monkeypatch.setattr(backends, "CUDA_DEVICE_REASONS", None)
        asked.clear()
        backends.resolve_backend("auto", torch.device("cpu"), fused=True, dtype=torch.float32)
        assert not asked
        said = [backends.tensor_reason("cuda", torch.device("cuda", index)) for index in (0, 1, 0)]
        assert said == ([None, "too old", None] if answer[0] is None else ["both too old"] * 3) and asked == [1]


def test_compiled_code_asks_while_it_is_traced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "CUDA_DEVICE_REASONS", None)
    monkeypatch.setattr(backends, "load_cuda_extension", lambda: (None, [None, "too old"]))

    def of(x: Tensor) -> Tensor:
        devices = (torch.device("cuda:0"), torch.device("cuda:1"))
        good, old = (backends.tensor_reason("cuda", device) is None for device in devices)
        return x + 1 if good and not old else x

    compiled = torch.compile(of, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.skipif(available_backends()["cuda"] is None, reason="the backend can be used here")
def test_where_it_cannot_be_used_its_name_is_an_error_that_says_what_to_do():
    pot, z = PotentialMLP(3, 4), torch.zeros(2, 3)
    for call in (
        lambda: public(pot, z, 0.5, 0, backend="cuda"),
        lambda: flow_rollout(pot, z, 0, 2, backend="cuda"),
    ):
        with pytest.raises(BackendError) as failure:
            call()
        message = str(failure.value)
        assert message.startswith(f"backend 'cuda' cannot be used here: {available_backends()['cuda']}")
        assert "; usable: oracle, analytic" in message and ("install" in message or "run" in message)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the kernels run on, and an old one."""
    for name, value in {"CUDA_REASON": None, "CUDA_DEVICE_REASONS": [None, "too old"], "TRITON_REASON": None}.items():
        monkeypatch.setattr(backends, name, value)
    monkeypatch.setattr(backends, "is_interpreting", lambda: False)


@pytest.mark.usefixtures("two_gpus")
def test_auto_takes_it_first_where_it_can_be_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    assert next(backends.usable_on(GPU, torch.float32)) == "cuda"
    assert next(backends.usable_on(GPU, torch.float64)) == "cuda", "unlike Triton's, its kernels take float64"
    assert next(backends.usable_on(torch.device("cuda:1"), torch.float32)) == "triton"
    assert next(backends.usable_on(torch.device("cuda:1"), torch.float64)) == "analytic"
    assert "cuda" not in list(backends.usable_on(torch.device("cpu"), torch.float32))
    backends.log_choice.cache_clear()
    with caplog.at_level("INFO", logger="ffrl"):
        for _ in range(2):
            assert backends.resolve_backend("auto", GPU, fused=True, dtype=torch.float32) == "cuda"
    assert [one.getMessage() for one in caplog.records] == ["potential op: backend 'cuda' chosen on cuda:0"]
    monkeypatch.setattr(backends, "CUDA_REASON", "not built")
    assert next(backends.usable_on(GPU, torch.float32)) == "triton"
    assert next(backends.usable_on(GPU, torch.float64)) == "analytic"


@pytest.mark.usefixtures("two_gpus")
def test_named_for_tensors_that_it_cannot_take_it_is_an_error():
    with pytest.raises(BackendError, match="'cuda' cannot be used here: its kernels take tensors on 'cuda', not on 'c"):
        backends.resolve_backend("cuda", torch.device("cpu"), fused=True, dtype=torch.float32)
    with pytest.raises(BackendError, match="backend 'cuda' cannot be used here: too old"):
        backends.resolve_backend("cuda", torch.device("cuda:1"), fused=True, dtype=torch.float32)
    for dtype in FLOATS:
        assert backends.resolve_backend("cuda", GPU, fused=True, dtype=dtype) == "cuda"


OPERANDS = {"rows": 130, "latent": 5, "potentials": 3, "hidden1": 9, "hidden2": 7}


def operands(*, mixed: bool, second: bool, form: str | None) -> tuple[Any, ...]:
    rows, latent, potentials, hidden1, hidden2 = OPERANDS.values()
    rates = torch.randn(3, hidden1), torch.randn(3, hidden1), torch.randn(3, hidden1) if second else None
    shapes = ((potentials, hidden1, latent), (potentials, hidden1), (potentials, hidden2, hidden1))
    shapes += ((potentials, hidden2), (potentials, hidden2), (potentials,))
    k = torch.arange(rows) % potentials if mixed else None
    feature_row = torch.arange(rows) % potentials
    weights = map(torch.randn, shapes)
    return (torch.randn(rows, latent), *rates, *weights, k, 1, feature_row, True, FORMS[form])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_shapes_without_a_kernel(form: str | None, mixed: bool, second: bool):
    with FakeTensorMode() as mode:
        given = tuple(
            mode.from_tensor(value) if isinstance(value, Tensor) else value
            for value in operands(mixed=mixed, second=second, form=form)
        )
        *outputs, kept = torch.ops.ffrl_cuda.potential_forward(*given, True, 1)
        gradients = torch.ops.ffrl_cuda.potential_backward(kept, *given, *outputs, True, True, False, 1)
        nothing_kept = torch.ops.ffrl_cuda.potential_forward(*given, False, 1)[-1]
    assert [tuple(value.shape) for value in outputs] == [
        (130,), (130, 5), (130,), (130 if second else 0,), (130 if form else 0,)
    ]  # fmt: skip
    slots = 64 * (130 // 64 + 3 if mixed else 3)
    assert tuple(kept.shape) == (slots, 2 * 9 + 7 + 5 + 4 + (7 if form else 0) + (9 if form == "gram" else 0))
    assert nothing_kept.shape == (0,)
    assert [tuple(value.shape) for value in gradients] == [
        (130, 5), (3, 9), (3, 9), (3, 9) if second else (0,), *[(0,)] * 6
    ]  # fmt: skip


KEPT = """
#include <cstdio>
#include "cuda/potential_cuda.h"
int main() {
    for (int form = 0; form < 3; ++form)
        for (int mixed = 0; mixed < 2; ++mixed) {
            const ffrl::PotentialShape shape{130, 3, 3, 5, 9, 7, true, static_cast<ffrl::LaplacianForm>(form), false};
            std::printf("%d %d\\n", int(ffrl::cuda::max_blocks(shape, mixed) * ffrl::cuda::kRows),
                        int(ffrl::cuda::kept_width(shape)));
        }
}
"""


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_what_is_kept_has_the_shape_that_the_kernels_fill(tmp_path: Path):
    (tmp_path / "kept.cpp").write_text(KEPT)
    command = [
        str(COMPILER),
        "-std=c++17",
        f"-I{ROOT / 'csrc'}",
        "-o",
        str(tmp_path / "kept"),
        str(tmp_path / "kept.cpp"),
    ]
    subprocess.run(command, check=True, timeout=60)
    said = subprocess.run([tmp_path / "kept"], capture_output=True, text=True, check=True, timeout=60).stdout
    expected = [cuda_operators.kept_shape(130, 5, 3, 9, 7, mixed, form) for form in range(3) for mixed in (False, True)]
    assert [tuple(map(int, line.split())) for line in said.splitlines()] == expected


def test_the_precisions_have_the_numbers_of_the_kernels():
    header = (ROOT / "csrc" / "cuda" / "potential_cuda.h").read_text(encoding="utf-8")
    numbers = re.search(r"enum class Precision : int64_t \{(.*?)\}", header)
    assert numbers is not None
    named = dict(re.findall(r"(\w+) = (\d+)", numbers[1]))
    assert named == {name: str(number) for number, name in enumerate(fused.PRECISIONS)}


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The C++ kernels for the CPU in the place of the CUDA kernels; gives the precisions that they were called with."""
    asked: list[int] = []

    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        *given, keep, precision = arguments
        asked.append(precision)
        *outputs, _ = torch.ops.ffrl.potential_forward(*given, False)
        z, weight2, k, form = given[0], given[6], given[10], given[14]
        shape = cuda_operators.kept_shape(*z.shape, *weight2.shape[:1], *weight2.shape[:0:-1], k is not None, form)
        return (*outputs, z.new_zeros(shape if keep else 0))

    def backward(kept: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *given, precision = arguments
        asked.append(precision)
        kept = torch.ops.ffrl.potential_forward(*given[:15], True)[-1]
        return torch.ops.ffrl.potential_backward(kept, *given)

    library = torch.library.Library("ffrl_cuda", "IMPL")
    library.impl("potential_forward", forward, "CPU")
    library.impl("potential_backward", backward, "CPU")
    monkeypatch.setitem(fused.GPU_FUNCTIONS, "cuda", cuda_operators.FUNCTIONS)
    monkeypatch.setattr(backends, "CUDA_REASON", None)
    monkeypatch.setitem(backends.FUSED_BACKENDS, "cuda", "cpu")
    torch._dynamo.reset()
    yield asked
    library._destroy()
    torch._dynamo.reset()


CASES = [Case(70, 5, 17, 9, 3, "mixed", d2u_dt2=True), Case(7, 3, 8, 4, time="scalar")]
needs_cpp = pytest.mark.skipif(
    available_backends()["cpp"] is not None, reason=f"no C++ kernels here: {available_backends()['cpp']}"
)


@needs_cpp
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_come_through(case: Case, dtype: torch.dtype, on_the_cpu: list[int]):
    inputs = build(case, dtype)
    bound = ROUNDING if dtype == torch.float64 else 1e-5
    values = {}
    for backend in ("cpp", "cuda"):
        outputs = outputs_of(inputs, backend)
        values[backend] = outputs | cotangents_of(inputs, outputs)
    assert on_the_cpu == [fused.PRECISIONS.index("tf32x3")] * 2
    assert_matches(values["cuda"], values["cpp"], bound)


@needs_cpp
def test_the_precision_reaches_the_kernels_and_compiled_code_calls_the_operator(on_the_cpu: list[int]):
    pot, z = PotentialMLP(3, (9, 7), 2), torch.randn(6, 3)

    def of(z: Tensor) -> Tensor:
        return public(pot, z, 0.5, 1, backend="cuda", precision="tf32").lap_u  # type: ignore[return-value]

    expected = of(z)
    assert on_the_cpu == [2]
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), expected, rtol=1e-5, atol=1e-6)
    assert on_the_cpu == [2, 2]
    mapped = torch.func.vmap(of)(z.expand(2, 6, 3))
    torch.testing.assert_close(mapped, expected.expand(2, 6), rtol=1e-5, atol=1e-6)


@needs_cpp
@pytest.mark.usefixtures("on_the_cpu")
def test_a_rollout_gives_the_numbers_of_the_closed_form():
    pot, z0 = PotentialMLP(3, 8, 2).double(), torch.randn(6, 3, dtype=torch.float64)
    k = torch.arange(6) % 2
    rolled, expected = (flow_rollout(pot, z0, k, 3, backend=name) for name in ("cuda", "analytic"))
    assert_matches(rolled._asdict(), expected._asdict(), ROUNDING)
