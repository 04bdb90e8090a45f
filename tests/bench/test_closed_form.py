"""The closed form that is compiled as a baseline agrees with the oracle, in both of its forms."""

from __future__ import annotations

import pytest
import torch

from bench import contenders
from bench.cases import Case
from bench.closed_form import FORMS, closed_form_at, closed_form_derivatives
from ffrl.errors import ArgumentError
from ffrl.models import PotentialMLP
from ffrl.ops import potential_derivatives
from ffrl.ops.laplacian_forms import LaplacianForm
from tests.tolerances import FLOAT64, assert_matches


@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", [(5, 7, 4), (1, 1, 1), (3, 9, 17)], ids=str)
def test_outputs_and_gradients_are_those_of_the_oracle(
    form: LaplacianForm, activation: str, sizes: tuple[int, int, int]
):
    latent_dim, *hidden = sizes
    pot = PotentialMLP(latent_dim, (hidden[0], hidden[1]), output_activation=activation).double()
    z = torch.randn(6, latent_dim, dtype=torch.float64, requires_grad=True)
    given = contenders.forward_backward(closed_form_at(pot, 0.7, form), pot, z)
    wanted = contenders.forward_backward(
        lambda rows: potential_derivatives(pot, rows, 0.7, 0, backend="oracle"), pot, z
    )
    assert_matches(given, wanted, FLOAT64, f"{form}, {activation}")


def test_every_row_may_have_a_time_of_its_own():
    pot = PotentialMLP(3, (5, 4)).double()
    z, time = torch.randn(6, 3, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    tau, dtau_dt, _ = pot.time_features(time, 0, order=1)
    given = closed_form_derivatives(z, tau, dtau_dt, pot.weights(0), tanh_output=True, form="gram")
    wanted = potential_derivatives(pot, z, time, 0, backend="oracle")
    assert_matches(given._asdict(), wanted._asdict(), FLOAT64)


def test_an_unknown_form_is_refused():
    pot, z = contenders.problem(Case("small", 2, 3, 5))
    with pytest.raises(ArgumentError, match="form = 'hessian' is not allowed"):
        closed_form_at(pot, 1.0, "hessian")(z)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_compiled_closed_form_is_right(form: LaplacianForm):
    pot, z = contenders.problem(Case("small", 9, 3, 5))
    contenders.check_parity("compiled", contenders.derivatives_of("compiled", pot, form), pot, z)
