"""The table of log-determinants: known answers for a flow whose Hessian is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bench.log_dets import log_dets, main, markdown, summary
from ffrl.command_line import run_command
from ffrl.config import SequenceConfig
from ffrl.data import TransformedImages
from ffrl.models import LatentFlow
from tests.models.reference import FieldPotential, tiny_model


def test_a_quadratic_potential_has_the_log_determinants_of_its_matrix():
    """u = ½ zᵀ diag(a) z: exact Σ log(1 + a_i), trace log(1 + Σ a_i); of a diagonal Hessian Hutchinson is exact."""
    slopes = torch.tensor([0.5, -0.2, 0.1])
    model = tiny_model(dtype=torch.float32)

    def field(z, time, k):
        return 0.5 * (z.square() * slopes).sum(1)

    model.flow = LatentFlow(FieldPotential(field), backend="oracle")  # type: ignore[arg-type]
    data = TransformedImages(torch.randint(0, 256, (4, 8, 8), dtype=torch.uint8), SequenceConfig(num_steps=3))
    found = log_dets(model, data, 1, num_images=3, num_probes=2)
    assert all(value.shape == (3, 3) for value in found.values())
    exact, trace = math.log(1.5 * 0.8 * 1.1), math.log(1.4)
    means = summary(found)
    assert means["exact"] == pytest.approx(exact, rel=1e-5)
    assert means["trace"] == pytest.approx(trace, rel=1e-5)
    assert means["hutchinson"] == pytest.approx(trace, rel=1e-5)
    assert means["|trace - exact|"] == pytest.approx(trace - exact, rel=1e-4)
    assert means["|hutchinson - trace|"] == pytest.approx(0, abs=1e-6)
    assert means["Δu"] == pytest.approx(0.4, rel=1e-5)
    assert markdown({"scale": means}).splitlines()[2].startswith("| scale | 0.400 | 0.278 | 0.336 | 0.059 |")


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2)])
def test_the_command_tells_its_argument(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr()
    assert end.value.code == code
    assert "python -m bench.log_dets" in printed.out + printed.err and "RUN" in printed.out + printed.err


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command(main, [str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "config.json" in error
