"""The potential op by the operators of a compiled library, for rows of mixed potentials in one call.

An operator pair does equations (1) to (11) and (13) to (20) of docs/derivation.md: ``torch.ops.ffrl`` in C++ on the
CPU, ``torch.ops.ffrl_triton`` and ``torch.ops.ffrl_cuda`` on the GPU. fused_function.py gives them derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl.ops.backends import CPP_REASON, CUDA_REASON, TRITON_REASON
from ffrl.ops.functions import apply_function
from ffrl.ops.fused_function import Function, potential_functions
from ffrl.ops.gpu_operators import PRECISIONS
from ffrl.ops.laplacian_forms import LaplacianForm
from ffrl.ops.registration import (
    FORMS,
    KEPT_JACOBIAN_DIMS,
    backward_shapes,
    forward_shapes,
    register_operator,
)
from ffrl.records import PotentialDerivatives, PotentialWeights, TimeFeatures

# (of the op, of its backward) for each of PRECISIONS, by the name of the backend.
GPU_FUNCTIONS: dict[str, list[tuple[Function, Function]]] = {}

if CPP_REASON is None:
    _Potential, _PotentialVjp = potential_functions(torch.ops.ffrl.potential_forward, torch.ops.ffrl.potential_backward)
    register_operator("potential_forward", forward_shapes, _Potential)
    register_operator("potential_backward", backward_shapes, _PotentialVjp)
if TRITON_REASON is None:
    from ffrl.ops.triton_operators import FUNCTIONS as TRITON_FUNCTIONS

    GPU_FUNCTIONS["triton"] = TRITON_FUNCTIONS
if CUDA_REASON is None:
    from ffrl.ops.cuda_operators import FUNCTIONS as CUDA_FUNCTIONS

    GPU_FUNCTIONS["cuda"] = CUDA_FUNCTIONS


def cpu_laplacian_form(latent_dim: int, hidden1: int, *, backward: bool) -> LaplacianForm:
    """The cheaper exact form of the Laplacian in the C++ kernels, by multiply-adds for a row and a second-layer unit.

    In units of H1/2. Gram form: H1 for the value alone; 2·H1 where a backward follows, and H1 in it. Jacobian form: 2·D
    forward, and backward 4·D where the Jacobian was kept, 6·D where it is formed again. docs/derivation.md, section 6.
    """
    gram = hidden1 * (3 if backward else 1)
    again = 2 if latent_dim > KEPT_JACOBIAN_DIMS else 0
    jacobian = latent_dim * (6 + again if backward else 2)
    return "gram" if gram <= jacobian else "jacobian"


def gpu_laplacian_form(latent_dim: int, hidden1: int, *, backward: bool) -> LaplacianForm:
    """The cheaper exact form in the Triton and in the CUDA kernels, by the same count.

    Gram form: 2·H1 forward, with or without a backward, and H1 in it. Jacobian form: 2·D forward, and 6·D backward.
    """
    gram = hidden1 * (3 if backward else 2)
    return "gram" if gram <= latent_dim * (8 if backward else 2) else "jacobian"


def potential_derivatives_fused(
    z: Tensor,
    features: TimeFeatures,
    weights: PotentialWeights,
    *,
    k: int | Tensor,
    feature_row: Tensor | None,
    tanh_output: bool,
    laplacian: bool = True,
    form: LaplacianForm | None = None,
    backend: str = "cpp",
    precision: str = "tf32x3",
) -> PotentialDerivatives:
    """One call of the compiled operator for N rows of mixed potentials.

    Args:
        z: (N, D).
        features: (M, H1) each; ∂²u/∂t² is computed iff the third member is given.
        weights: of all K potentials, (K, ...) each.
        k: potential of each row, (N,) int64, or an int for all of them.
        feature_row: (N,) int64, the feature row of each row. None where row n has feature row n, or where M is 1. A
            feature row belongs to rows of one potential.
        tanh_output: output activation tanh (True) or identity (False).
        laplacian: compute Δu.
        form: force the "gram" or the "jacobian" form of the Laplacian; None chooses by the cost model of the backend.
        backend: "cpp", "triton" or "cuda".
        precision: one of PRECISIONS, on the GPU in float32; all else computes in the dtype of z.

    Returns:
        PotentialDerivatives with first-order gradients in every argument. Kept for the backward: O(N·(H1+H2)).
    """
    tracked = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (z, *features, *weights))
    if laplacian and form is None:
        choose = cpu_laplacian_form if backend == "cpp" else gpu_laplacian_form
        form = choose(z.shape[1], weights.weight1.shape[1], backward=tracked)
    k_all, k_rows = (k, None) if isinstance(k, int) else (0, k)
    form_code = FORMS[form if laplacian else None]
    arguments = (z, *features, *weights, k_rows, k_all, feature_row, tanh_output, form_code, tracked)
    # In torch.compile the operator is called, which comes to the same Function: dynamo does not look into it.
    if backend != "cpp":
        number = PRECISIONS.index(precision)
        if torch.compiler.is_compiling():
            operators = torch.ops.ffrl_triton if backend == "triton" else torch.ops.ffrl_cuda
            outputs = operators.potential_forward(*arguments, number)
        else:
            outputs = apply_function(GPU_FUNCTIONS[backend][number][0], *arguments)
    elif torch.compiler.is_compiling():
        outputs = torch.ops.ffrl.potential_forward(*arguments)
    else:
        outputs = apply_function(_Potential, *arguments)
    u, du_dz, du_dt, d2u_dt2, lap_u, _ = outputs
    return PotentialDerivatives(
        u, du_dz, du_dt, None if features.d2tau_dt2 is None else d2u_dt2, lap_u if laplacian else None
    )
