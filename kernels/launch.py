"""What the host functions share: sizes and options of a call, grids, and where kernels run."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl.kernels.row_plan import max_blocks
from ffrl.kernels.tiling import CUBIC_KINDS, OLDEST_WITH_TENSOR_CORES, ROWS, Tile, shape_class, tile_of

FORMS = ("none", "gram", "jacobian")  # of the Laplacian, by the number that the operators take
PRECISIONS = ("ieee", "tf32x3", "tf32")  # of the cubic products, likewise

# Programs that keep a GPU busy. More chunks of a product cost memory for their sums and time to add them up.
ENOUGH_PROGRAMS = 264
MAX_CHUNKS = 16
MAX_SLOTS = 2**26  # offsets of a few units within (H2, P) are 32-bit numbers
MAX_GRID = 65_535  # programs along the second and third dimension of a grid; potentials are along the third
LONGEST_SUM = 64  # steps that a program adds up one after another, while the number of chunks allows it
FORWARD_CHUNKS, UNITS_OF_A_CHUNK = 8, 32
UNITS = 2  # of the second layer, side by side in the Gram form
ALIGNED = 16  # numbers: to a multiple of it rows are padded where loads of four pay


def cdiv(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def chunks_of_sum(programs: int, steps: int, most: int) -> int:
    """Into how many chunks sums of about so many steps are cut, each of which one of so many programs would take."""
    return max(1, min(max(cdiv(ENOUGH_PROGRAMS, programs), cdiv(steps, LONGEST_SUM)), most))


def padded(rows: Tensor) -> Tensor:
    """(..., n) with zeros behind the last column, to a multiple of ALIGNED columns; where it is one, itself."""
    missing = -rows.shape[-1] % ALIGNED
    return torch.nn.functional.pad(rows, (0, missing)) if missing else rows


class Call(NamedTuple):
    """Sizes and options of one call of the op."""

    rows: int
    features: int
    potentials: int
    latent: int
    hidden1: int
    hidden2: int
    mixed: bool
    sharing: str  # how rows share feature rows: "shared", "own" or "table"
    tanh_output: bool
    second: bool  # ∂²u/∂t², too
    form: str
    precision: str
    capability: int | None  # compute capability, 10·major + minor; None in the interpreter

    @property
    def blocks(self) -> int:
        return max_blocks(self.rows, self.potentials, ROWS, mixed=self.mixed)

    @property
    def slots(self) -> int:
        """Of ``kept`` as the operators hand it out; a launch has the slots of its RowPlan."""
        return self.blocks * ROWS

    @property
    def width(self) -> int:
        """Numbers that a slot keeps for the backward."""
        return kept_width(self.latent, self.hidden1, self.hidden2, self.form)

    @property
    def quadratic_precision(self) -> str:
        """Of all products but the cubic ones: never below near-float32, which costs little where they are."""
        return "ieee" if self.precision == "ieee" else "tf32x3"

    def tile(self, kind: str) -> Tile:
        """The tile for a kind of product, of tiling.KINDS."""
        precision = self.precision if kind in CUBIC_KINDS else self.quadratic_precision
        return tile_of(self.capability, precision, shape_class(self.latent, self.hidden1, self.hidden2), kind)

    @property
    def forward_chunks(self) -> int:
        """Into how many chunks the units of the second layer are cut for e: by H2 alone, and so the bits of a row."""
        return max(1, min(FORWARD_CHUNKS, self.hidden2 // UNITS_OF_A_CHUNK))

    def backward_chunks(self, programs: int) -> int:
        """Likewise for the sums over rows of the Gram form, where there are so many programs without."""
        return max(1, min(cdiv(ENOUGH_PROGRAMS, max(programs, 1)), MAX_CHUNKS, self.hidden2 // 8))


def kept_width(latent: int, hidden1: int, hidden2: int, form: str) -> int:
    """h1, q, h2, v, four scalars, S, and e in the Gram form."""
    return 2 * hidden1 + hidden2 + latent + 4 + (hidden2 if form != "none" else 0) + (hidden1 if form == "gram" else 0)


class Operands(NamedTuple):
    """What both directions of the op take."""

    z: Tensor  # (N, D)
    tau: Tensor  # (M, H1)
    dtau_dt: Tensor  # (M, H1)
    d2tau_dt2: Tensor | None  # (M, H1)
    weight1: Tensor  # (K, H1, D)
    bias1: Tensor  # (K, H1)
    weight2: Tensor  # (K, H2, H1)
    bias2: Tensor  # (K, H2)
    weight3: Tensor  # (K, H2)
    bias3: Tensor  # (K,)
    k: Tensor | None  # (N,) int64
    k_all: int  # the potential of all rows, where k is None
    feature_row: Tensor | None  # (N,) int64

    @property
    def read_d2tau_dt2(self) -> Tensor:
        """A pointer for the kernels, which do not read it where it is not given."""
        return self.tau if self.d2tau_dt2 is None else self.d2tau_dt2


def describe(operands: Operands, *, tanh_output: bool, form: int, precision: int) -> Call:
    """The call for these operands. Below compute capability 8.0, without TF32, every product is in float32."""
    z, tau, weight1 = operands.z, operands.tau, operands.weight1
    if z.is_cuda:
        major, minor = torch.cuda.get_device_capability(z.device)
        capability = 10 * major + minor
    else:
        capability = None
    sharing = "table" if operands.feature_row is not None else "shared" if tau.shape[0] == 1 else "own"
    return Call(
        rows=z.shape[0],
        features=tau.shape[0],
        potentials=weight1.shape[0],
        latent=weight1.shape[2],
        hidden1=weight1.shape[1],
        hidden2=operands.weight2.shape[1],
        mixed=operands.k is not None,
        sharing=sharing,
        tanh_output=tanh_output,
        second=operands.d2tau_dt2 is not None,
        form=FORMS[form],
        precision=PRECISIONS[precision] if (capability or 0) >= OLDEST_WITH_TENSOR_CORES else "ieee",
        capability=capability,
    )


def check_operands(call: Call, operands: Operands, kept: Tensor | None = None) -> None:
    """Raise RuntimeError unless every tensor has the dtype, device and shape that the call says, and k_all is in range.

    The Python function has checked, and named, what a user can get wrong; this is for those who call the operators.
    """
    potentials, features, hidden1, hidden2 = call.potentials, call.features, call.hidden1, call.hidden2
    if call.slots > MAX_SLOTS:
        raise RuntimeError(f"ffrl: {call.rows} rows in one call, at most about {MAX_SLOTS}; divide them")
    if call.capability is not None and call.mixed and potentials > MAX_GRID:
        raise RuntimeError(f"ffrl: {potentials} potentials, but the grid of a launch has at most {MAX_GRID} on a GPU")
    shapes = {
        "z": (call.rows, call.latent),
        **dict.fromkeys(("tau", "dtau_dt", "d2tau_dt2"), (features, hidden1)),
        "weight1": (potentials, hidden1, call.latent),
        "bias1": (potentials, hidden1),
        "weight2": (potentials, hidden2, hidden1),
        **dict.fromkeys(("bias2", "weight3"), (potentials, hidden2)),
        "bias3": (potentials,),
        **dict.fromkeys(("k", "feature_row"), (call.rows,)),
        "kept": (call.slots, call.width),
    }
    for name, value in {**operands._asdict(), "kept": kept}.items():
        if not isinstance(value, Tensor):
            continue
        dtype = torch.int64 if name in ("k", "feature_row") else torch.float32
        expected = dtype, operands.z.device, shapes[name]
        given = value.dtype, value.device, tuple(value.shape)
        if given != expected:
            raise RuntimeError(f"ffrl: {name} is {given}, expected {expected}")
    if call.sharing == "own" and features != call.rows:
        raise RuntimeError(f"ffrl: {features} feature rows for {call.rows} rows need feature_row")
    if operands.k is None and not 0 <= operands.k_all < potentials:
        raise RuntimeError(f"ffrl: k_all = {operands.k_all} is outside 0 <= k < {potentials}")


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device: make it that of the tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def tiled(tile: Tile) -> dict[str, int]:
    """Keyword arguments of a launch with that tile."""
    return {
        "ROWS": ROWS,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
        "enable_fp_fusion": True,  # whatever Triton's default
    }
