"""The public op: a potential's value, gradient, time derivatives and Laplacian in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor

from ffrl.config import Precision
from ffrl.errors import ArgumentError
from ffrl.ops.analytic import potential_derivatives_analytic
from ffrl.ops.autocast import outside_autocast, raised_precision
from ffrl.ops.backends import FUSED_BACKENDS, resolve_backend
from ffrl.ops.fused import potential_derivatives_fused
from ffrl.ops.gpu_operators import PRECISIONS
from ffrl.ops.hutchinson import draw_probes, hutchinson_rows
from ffrl.ops.mlp_field import MLPField, can_read_values, distinct_time_features, feature_table, has_closed_form
from ffrl.ops.oracle import Field, potential_derivatives_oracle
from ffrl.records import PotentialDerivatives

Laplacian = Literal["exact", "hutchinson"] | None
FLOATS = (torch.float32, torch.float64)


def potential_derivatives(
    pot: MLPField | Field,
    z: Tensor,
    t: float | Tensor,
    k: int | Tensor,
    d2u_dt2: bool = False,
    laplacian: Laplacian = "exact",
    backend: str = "auto",
    *,
    num_probes: int = 1,
    generator: torch.Generator | None = None,
    precision: Precision = "tf32x3",
) -> PotentialDerivatives:
    r"""Evaluate u, ∇u, ∂u/∂t and optionally ∂²u/∂t² and Δu = tr ∇²u for N rows.

    Equations (1) to (11) of docs/derivation.md; they are needed by the flow z_t = z_{t-1} + ∇u(z_{t-1}, t), by its
    log-determinant (FFRL eq. 10) and by the Hamilton-Jacobi residual (FFRL eq. 6).

    Args:
        pot: a ``PotentialMLP``; or, with the oracle backend, any callable field ``pot(z, time, k) -> (N,)``.
        z: (N, D), float32 or float64, any strides; N may be 0.
        t: float, 0-d or (N,). A float or 0-d time is shared by all rows. Integer tensors are refused.
        k: index of the potential, int or (N,) int64 on the device of z.
        d2u_dt2: also compute ∂²u/∂t².
        laplacian: "exact"; "hutchinson" for an unbiased estimate from random signs (docs/derivation.md, section 3.4),
            O(num_probes·N·H²) where the exact one is cubic; or None to leave it out.
        backend: "auto" | "oracle" | "analytic" | "cpp" | ...; see ``available_backends``. "auto" takes the fastest one
            usable here and logs its choice once. A backend that is named and not usable raises BackendError.
        num_probes: sign vectors for each row, with "hutchinson".
        generator: where the signs are drawn from, with "hutchinson"; None: torch's default generator.
        precision: of the cubic products of the exact Laplacian in the GPU kernels, which do not look at torch's own
            TF32 switch: "ieee" for float32 arithmetic, "tf32x3" for three TF32 products on the tensor cores, nearly
            float32, "tf32" for one, about three digits. Their other products are in "ieee" or "tf32x3". All else,
            and all of it in float64, computes in the dtype of z.

    Returns:
        PotentialDerivatives(u (N,), du_dz (N, D), du_dt (N,), d2u_dt2 (N,) or None, lap_u (N,) or None) in the dtype
        of z. First-order gradients flow to z, t and every parameter; except in the oracle, and in a "hutchinson"
        Laplacian, a second derivative through the result, and forward mode, raise DerivativeOrderError.

    Under torch.autocast the operation stays in the dtype of the potential's parameters: z and t of lower precision are
    cast up, and nothing in it is cast down. ``torch.compile(fullgraph=True)`` takes the compiled backends. In it,
    under torch.func transforms, and while a CUDA graph is captured, the range of a tensor k is left to the backend,
    which raises RuntimeError on the CPU and fails an assertion of the device on a GPU.

    Raises:
        ArgumentError: wrong rank, dtype, device or range; the message names the argument.
        BackendError: the named backend cannot be used here.

    >>> import torch
    >>> from ffrl.models import PotentialMLP
    >>> pot = PotentialMLP(latent_dim=4, hidden_dims=8)
    >>> out = potential_derivatives(pot, torch.zeros(5, 4), t=1.0, k=0)
    >>> out.du_dz.shape, out.lap_u.shape, out.d2u_dt2
    (torch.Size([5, 4]), torch.Size([5]), None)
    """
    fused = has_closed_form(pot)
    check_precision(precision)
    z, t = raised_precision(z, t)
    device, dtype = (z.device, z.dtype) if isinstance(z, Tensor) else (None, None)
    name = resolve_backend(backend, device, fused=fused, dtype=dtype if dtype in FLOATS else None)
    check_rows(pot if fused else None, z, t, k)
    if laplacian not in ("exact", "hutchinson", None):
        raise ArgumentError("laplacian", repr(laplacian), "'exact', 'hutchinson' or None")
    if laplacian != "hutchinson" and (generator is not None or num_probes != 1):
        given, value = ("num_probes", num_probes) if generator is None else ("generator", generator)
        raise ArgumentError(given, repr(value), f"nothing with laplacian={laplacian!r}; it belongs to 'hutchinson'")
    probes = draw_probes(z, num_probes, generator) if laplacian == "hutchinson" else None
    time = time_tensor(t, z)
    with outside_autocast(z.device.type):
        out = evaluate(pot, z, time, k, d2u_dt2=d2u_dt2, laplacian=laplacian == "exact", name=name, precision=precision)
        if probes is None:
            return out
        return out._replace(lap_u=hutchinson_rows(pot, z, time, k, probes, fused=name != "oracle"))


def time_tensor(t: float | Tensor, z: Tensor) -> Tensor:
    """t as a tensor () or (N,) of the dtype and on the device of z."""
    if isinstance(t, Tensor):
        return t.to(device=z.device, dtype=z.dtype)
    if torch.compiler.is_compiling():  # a sum keeps t a variable: as a constant it would be compiled anew for each t
        return torch.zeros((), dtype=z.dtype, device=z.device) + t
    return torch.full((), t, dtype=z.dtype, device=z.device)


def evaluate(
    pot: MLPField | Field,
    z: Tensor,
    time: Tensor,
    k: int | Tensor,
    *,
    d2u_dt2: bool,
    laplacian: bool,
    name: str,
    precision: Precision = "tf32x3",
) -> PotentialDerivatives:
    """The op by the backend of that name; time is () or (N,)."""
    if name == "oracle":
        return potential_derivatives_oracle(pot, z, time.expand(z.shape[0]), k, d2u_dt2=d2u_dt2, laplacian=laplacian)
    field = cast(MLPField, pot)
    order = 2 if d2u_dt2 else 1
    tanh_output = field.output_activation == "tanh"
    if name in FUSED_BACKENDS:
        features, feature_row = feature_table(field, time, k, order=order)
        return potential_derivatives_fused(
            z,
            features,
            field.weights(None),
            k=k,
            feature_row=feature_row,
            tanh_output=tanh_output,
            laplacian=laplacian,
            backend=name,
            precision=precision,
        )

    def of_one(rows: Tensor, row_time: Tensor, k_one: int) -> PotentialDerivatives:
        return potential_derivatives_analytic(
            rows,
            distinct_time_features(field, row_time, k_one, order=order),
            field.weights(k_one),
            tanh_output=tanh_output,
            laplacian=laplacian,
        )

    return of_one(z, time, k) if isinstance(k, int) else map_potentials(of_one, field, z, time, k)


def map_potentials(
    evaluate: Callable[[Tensor, Tensor, int], PotentialDerivatives],
    pot: MLPField,
    z: Tensor,
    time: Tensor,
    k: Tensor,
) -> PotentialDerivatives:
    """Call ``evaluate(z, time, k)`` once for each potential that occurs in k, and put the rows back in order."""
    order = torch.argsort(k, stable=True)
    counts = torch.bincount(k, minlength=pot.num_potentials).tolist()
    parts: list[PotentialDerivatives] = []
    for k_one, rows in enumerate(order.split(counts)):
        if rows.numel() or (not parts and k_one == pot.num_potentials - 1):
            parts.append(evaluate(z[rows], time[rows] if time.dim() else time, k_one))
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0], device=order.device)

    def gather(values: tuple[Tensor | None, ...]) -> Tensor | None:
        tensors = [value for value in values if value is not None]
        return torch.cat(tensors)[inverse] if tensors else None

    return PotentialDerivatives(*(gather(values) for values in zip(*parts, strict=True)))  # type: ignore[arg-type]


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ArgumentError("precision", repr(precision), f"one of {', '.join(map(repr, PRECISIONS))}")


def check_rows(pot: MLPField | None, z: Tensor, t: float | Tensor, k: int | Tensor) -> None:
    """Raise ArgumentError unless z, t and k fit each other and, where given, the potential."""
    if not isinstance(z, Tensor):
        raise ArgumentError("z", type(z).__name__, "a torch.Tensor (N, D)")
    if z.dim() != 2:
        raise ArgumentError("z.shape", tuple(z.shape), "two dimensions (N, D)")
    if z.dtype not in FLOATS:
        raise ArgumentError("z.dtype", z.dtype, "torch.float32 or torch.float64")
    if isinstance(t, Tensor):
        if not t.is_floating_point():
            raise ArgumentError("t.dtype", t.dtype, f"a floating point dtype such as {z.dtype}")
        if t.device != z.device and t.dim():
            raise ArgumentError("t.device", t.device, f"the device of z, {z.device}")
        if t.dim() and t.shape != z.shape[:1]:
            raise ArgumentError("t.shape", tuple(t.shape), f"() or ({z.shape[0]},)")
    elif isinstance(t, bool) or not isinstance(t, int | float):
        raise ArgumentError("t", repr(t), "a float, a 0-d tensor or a tensor (N,)")
    if isinstance(k, Tensor):
        if k.dtype != torch.int64:
            raise ArgumentError("k.dtype", k.dtype, "torch.int64")
        if k.device != z.device:
            raise ArgumentError("k.device", k.device, f"the device of z, {z.device}")
        if k.shape != z.shape[:1]:
            raise ArgumentError("k.shape", tuple(k.shape), f"({z.shape[0]},), or an int")
    elif isinstance(k, bool) or not isinstance(k, int):
        raise ArgumentError("k", repr(k), "an int or an int64 tensor (N,)")
    if pot is None:
        return
    if z.shape[1] != pot.latent_dim:
        raise ArgumentError("z.shape", tuple(z.shape), f"(N, {pot.latent_dim}) for this potential")
    weight = pot.weights(None).weight1
    if z.dtype != weight.dtype:
        raise ArgumentError("z.dtype", z.dtype, f"the dtype of the potential, {weight.dtype}")
    if z.device != weight.device:
        raise ArgumentError("z.device", z.device, f"the device of the potential, {weight.device}")
    if isinstance(k, int):
        lowest = highest = k
    elif not can_read_values(k) or not k.numel():  # what the values are, the backend will see
        return
    else:
        lowest, highest = (int(bound) for bound in torch.aminmax(k))
    if lowest < 0 or highest >= pot.num_potentials:
        given = lowest if lowest < 0 else highest
        raise ArgumentError("k", given, f"0 <= k < {pot.num_potentials}")
