"""The C++ extension as the package sees it: the reason where it does not load, the instruction set where it does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from ffrl.errors import ArgumentError, BackendError
from ffrl.ops import extension
from tests.builds import COMPILER, needs_compiler

NOT_LOADED = extension.load_extension()
needs_extension = pytest.mark.skipif(NOT_LOADED is not None, reason=f"no extension here: {NOT_LOADED}")


def reason_for(module: str, package: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What load_extension says of another module."""
    monkeypatch.setattr(extension, "MODULE", module)
    monkeypatch.setattr(extension, "PACKAGE", package)
    reason = extension.load_extension.__wrapped__()
    assert "run `pip install --no-build-isolation .`" in reason
    return reason


@needs_compiler
def test_an_extension_that_does_not_load_is_named_with_the_torch_that_runs(tmp_path: Path, monkeypatch):
    source = tmp_path / "source.cpp"
    source.write_text('extern "C" void* torch_of_tomorrow();\nextern "C" void* f() { return torch_of_tomorrow(); }')
    command = [str(COMPILER), "-shared", "-fPIC", "-o", tmp_path / "ffrl_of_tomorrow.abi3.so", source]
    subprocess.run(command, check=True, timeout=60)
    monkeypatch.syspath_prepend(tmp_path)
    reason = reason_for("ffrl_of_tomorrow", tmp_path, monkeypatch)
    assert "ffrl_of_tomorrow does not load: it is built for torch 2.10 and later" in reason
    assert f"torch {torch.__version__} is running" in reason and "undefined symbol: torch_of_tomorrow" in reason


def test_a_package_in_which_nothing_was_built_says_so(tmp_path: Path, monkeypatch):
    reason = reason_for("ffrl._not_built", tmp_path, monkeypatch)
    assert reason.startswith(
        f"the extension ffrl._not_built is not in this installation (nothing was built in {tmp_path})"
    )


def test_the_reason_that_the_build_left_is_the_one_that_is_given(tmp_path: Path, monkeypatch):
    (tmp_path / "_C_missing.txt").write_text("run `pip install --no-build-isolation .` on the day ∇u = 0\n", "utf-8")
    assert reason_for("ffrl._C", tmp_path, monkeypatch).endswith("on the day ∇u = 0")


def test_without_the_extension_its_functions_are_errors_with_the_reason(monkeypatch):
    monkeypatch.setattr(extension, "load_extension", lambda: "made so by this test")
    for call in (extension.cpu_capability, lambda: extension.set_cpu_capability("auto")):
        with pytest.raises(BackendError, match="the C\\+\\+ kernels cannot be used here: made so by this test"):
            call()


@needs_extension
def test_every_operator_has_a_fake_and_a_derivative_and_is_known_to_torch_func():
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("ffrl::")}
    expected = {
        "ffrl::potential_forward",
        "ffrl::potential_backward",
        "ffrl::time_features",
        "ffrl::time_features_backward",
    }
    assert names >= expected
    for name in names:
        assert torch._library.simple_registry.singleton.find(name).fake_impl.kernel is not None, name
        for key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key), f"{name}, {key}"


@needs_extension
def test_the_instruction_set_can_be_chosen_and_given_back():
    before = extension.cpu_capability()
    assert before in extension.CPU_CAPABILITIES[1:]
    try:
        extension.set_cpu_capability("portable")
        assert extension.cpu_capability() == "portable"
    finally:
        extension.set_cpu_capability(before)
    assert extension.cpu_capability() == before


@needs_extension
@pytest.mark.parametrize("name", ["sse", "", "AVX2", "avx2\0", "\ud800", None, 2])
def test_an_instruction_set_that_is_not_known_is_an_error_and_changes_nothing(name: object):
    before = extension.cpu_capability()
    with pytest.raises(ArgumentError) as failure:
        extension.set_cpu_capability(name)  # type: ignore[arg-type]
    assert str(failure.value).startswith(f"name = {name!r} is not allowed; expected one of 'auto', 'avx512'")
    assert extension.cpu_capability() == before
