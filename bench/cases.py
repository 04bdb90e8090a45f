"""Shapes that the op is measured at, and what the operation costs there."""

from __future__ import annotations

from typing import NamedTuple


class Flops(NamedTuple):
    """Two FLOPs a multiply-add; ``cubic`` is the exact Laplacian's part of ``whole``."""

    cubic: int
    whole: int


class Case(NamedTuple):
    """N rows of one potential with latent size D and both hidden widths H."""

    name: str
    num_rows: int
    latent_dim: int
    hidden: int

    @property
    def shape(self) -> str:
        return f"{self.num_rows} x {self.latent_dim} x {self.hidden}"

    def flops(self, *, backward: bool) -> Flops:
        """The limit for the operation, by the cheaper exact Laplacian: docs/derivation.md, section 6.

        Forward and backward: Gram form 3·N·H³ (one of the two backward products is symmetric), Jacobian form 6·N·H²·D,
        and 12·N·H·(H + D) for the quadratic rest. Forward alone: N·H³ (a triangular product with a factor of the Gram
        matrix), 2·N·H²·D, and 4·N·H·(H + D).
        """
        gram, jacobian, quadratic = (3, 6, 12) if backward else (1, 2, 4)
        cubic = min(gram * self.hidden**3, jacobian * self.hidden**2 * self.latent_dim)
        whole = cubic + quadratic * self.hidden * (self.hidden + self.latent_dim)
        return Flops(self.num_rows * cubic, self.num_rows * whole)


# The papers' widths (MNIST and 3-D scenes 324, Shapes3D 226; one step of a batch, and all steps of an iteration), the
# small preset's, and a field in few dimensions such as a physics-informed network has.
CASES = (
    Case("paper324-n128", 128, 324, 324),
    Case("paper324-n1024", 1024, 324, 324),
    Case("paper226-n128", 128, 226, 226),
    Case("paper226-n1024", 1024, 226, 226),
    Case("small64-n128", 128, 32, 64),
    Case("small64-n512", 512, 32, 64),
    Case("small128-n128", 128, 32, 128),
    Case("small128-n512", 512, 32, 128),
    Case("pinn256-n1024", 1024, 3, 256),
)
CASE_OF = {case.name: case for case in CASES}
