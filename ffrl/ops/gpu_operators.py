"""Operators of the potential op on the GPU: schemas, shapes and derivatives, whoever implements them.

Arguments are those of the C++ operators ``torch.ops.ffrl``, and last the number of the precision in ``PRECISIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from ffrl.config import Precision
from ffrl.ops.functions import apply_function
from ffrl.ops.fused_function import Function, potential_functions
from ffrl.ops.registration import backward_shapes

# How the cubic products are computed, by the number that the operators take.
PRECISIONS = get_args(Precision)

OPERANDS = (
    "Tensor z, Tensor tau, Tensor dtau_dt, Tensor? d2tau_dt2, Tensor weight1, Tensor bias1, Tensor weight2, "
    "Tensor bias2, Tensor weight3, Tensor bias3, Tensor? k, int k_all, Tensor? feature_row, bool tanh_output, int form"
)
FORWARD = (
    f"potential_forward({OPERANDS}, bool keep, int precision) "
    "-> (Tensor u, Tensor du_dz, Tensor du_dt, Tensor d2u_dt2, Tensor lap_u, Tensor kept)"
)
BACKWARD = (
    f"potential_backward(Tensor kept, {OPERANDS}, Tensor? v_u, Tensor? v_du_dz, Tensor? v_du_dt, Tensor? v_d2u_dt2, "
    "Tensor? v_lap_u, bool needs_z, bool needs_features, bool needs_weights, int precision) -> (Tensor v_z, "
    "Tensor v_tau, Tensor v_dtau_dt, Tensor v_d2tau_dt2, Tensor v_weight1, Tensor v_bias1, Tensor v_weight2, "
    "Tensor v_bias2, Tensor v_weight3, Tensor v_bias3)"
)
# (N, D, K, H1, H2, mixed, form) -> shape of what the forward keeps for the backward
KeptShape = Callable[[int, int, int, int, int, bool, int], tuple[int, ...]]


def potential_operators(
    namespace: str, kept_shape: KeptShape
) -> tuple[torch.library.Library, list[tuple[Function, Function]]]:
    """Define ``torch.ops.<namespace>.potential_forward`` and ``potential_backward``, without kernels.

    Returns:
        the library, as long as which the definitions live; (Function of the op, of its backward) for each precision.
    """
    library = torch.library.Library(namespace, "DEF")
    library.define(FORWARD)
    library.define(BACKWARD)
    operators = getattr(torch.ops, namespace)
    functions = [
        potential_functions(
            partial(operators.potential_forward, precision=number),
            partial(operators.potential_backward, precision=number),
        )
        for number in range(len(PRECISIONS))
    ]

    def forward_shapes(z: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        _, _, d2tau_dt2, _, _, weight2, _, _, _, k, _, _, _, form, keep, _ = arguments
        num_rows, latent = z.shape
        potentials, hidden2, hidden1 = weight2.shape
        return (
            z.new_empty(num_rows),
            z.new_empty(num_rows, latent),
            z.new_empty(num_rows),
            z.new_empty(0 if d2tau_dt2 is None else num_rows),
            z.new_empty(num_rows if form else 0),
            z.new_empty(kept_shape(num_rows, latent, potentials, hidden1, hidden2, k is not None, form) if keep else 0),
        )

    def differentiable(which: int, *arguments: Any) -> Any:
        """What an operator is under autograd and in the transforms of torch.func: the Function of its precision."""
        *others, precision = arguments
        return apply_function(functions[precision][which], *others)

    shapes = (forward_shapes, lambda *arguments: backward_shapes(*arguments[:-1]))
    for which, name in enumerate(("potential_forward", "potential_backward")):
        torch.library.register_fake(f"{namespace}::{name}", shapes[which])
        for key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
            library.impl(name, partial(differentiable, which), key)
    return library, functions
