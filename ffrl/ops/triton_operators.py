"""The operators ``torch.ops.ffrl_triton.*``: the Triton kernels, their shapes and their derivatives.

Imported where Triton can be used (``ffrl.ops.backends``). Arguments are those of the C++ operators, and last the number
of the precision in ``ffrl.kernels.launch.PRECISIONS``.
"""

# pyright: reportMissingImports=false
# ffrl.kernels is the folder kernels/, mapped by setup.py.

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ffrl.kernels.launch import FORMS, PRECISIONS, kept_width
from ffrl.kernels.potential_backward import potential_backward
from ffrl.kernels.potential_forward import potential_forward
from ffrl.kernels.row_plan import max_blocks
from ffrl.kernels.tiling import ROWS
from ffrl.ops.functions import apply_function
from ffrl.ops.fused_function import potential_functions
from ffrl.ops.registration import backward_shapes

OPERANDS = (
    "Tensor z, Tensor tau, Tensor dtau_dt, Tensor? d2tau_dt2, Tensor weight1, Tensor bias1, Tensor weight2, "
    "Tensor bias2, Tensor weight3, Tensor bias3, Tensor? k, int k_all, Tensor? feature_row, bool tanh_output, int form"
)
LIBRARY = torch.library.Library("ffrl_triton", "DEF")  # what is registered through it lives as long as this object
LIBRARY.define(
    f"potential_forward({OPERANDS}, bool keep, int precision) "
    "-> (Tensor u, Tensor du_dz, Tensor du_dt, Tensor d2u_dt2, Tensor lap_u, Tensor kept)"
)
LIBRARY.define(
    f"potential_backward(Tensor kept, {OPERANDS}, Tensor? v_u, Tensor? v_du_dz, Tensor? v_du_dt, Tensor? v_d2u_dt2, "
    "Tensor? v_lap_u, bool needs_z, bool needs_features, bool needs_weights, int precision) -> (Tensor v_z, "
    "Tensor v_tau, Tensor v_dtau_dt, Tensor v_d2tau_dt2, Tensor v_weight1, Tensor v_bias1, Tensor v_weight2, "
    "Tensor v_bias2, Tensor v_weight3, Tensor v_bias3)"
)


def contiguous(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in arguments)


def run_forward(*arguments: Any) -> tuple[Tensor, ...]:
    return potential_forward(*contiguous(arguments))


def run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    return potential_backward(*contiguous(arguments))


def forward_shapes(z: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    _, _, d2tau_dt2, _, _, weight2, _, _, _, k, _, _, _, form, keep, _ = arguments
    num_rows, latent = z.shape
    potentials, hidden2, hidden1 = weight2.shape
    slots = max_blocks(num_rows, potentials, ROWS, mixed=k is not None) * ROWS
    width = kept_width(latent, hidden1, hidden2, FORMS[form])
    return (
        z.new_empty(num_rows),
        z.new_empty(num_rows, latent),
        z.new_empty(num_rows),
        z.new_empty(0 if d2tau_dt2 is None else num_rows),
        z.new_empty(num_rows if form else 0),
        z.new_empty((slots, width) if keep else 0),
    )


# (of the op, of its backward) for each precision
FUNCTIONS = [
    potential_functions(
        partial(torch.ops.ffrl_triton.potential_forward, precision=number),
        partial(torch.ops.ffrl_triton.potential_backward, precision=number),
    )
    for number in range(len(PRECISIONS))
]


def differentiable(which: int, *arguments: Any) -> Any:
    """What an operator is under autograd and in the transforms of torch.func: the Function of its precision."""
    *others, precision = arguments
    return apply_function(FUNCTIONS[precision][which], *others)


for which, (name, kernel, shapes) in enumerate(
    (
        ("potential_forward", run_forward, forward_shapes),
        ("potential_backward", run_backward, lambda *arguments: backward_shapes(*arguments[:-1])),
    )
):
    for key in ("CUDA", "CPU"):  # on the CPU in Triton's interpreter
        LIBRARY.impl(name, kernel, key)
    torch.library.register_fake(f"ffrl_triton::{name}", shapes)
    for key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
        LIBRARY.impl(name, partial(differentiable, which), key)
