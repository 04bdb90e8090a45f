"""Shapes that the op is measured at."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """N rows of one potential with latent size D and both hidden widths H."""

    name: str
    num_rows: int
    latent_dim: int
    hidden: int

    @property
    def flops(self) -> float:
        """What the cheaper exact Laplacian costs, forward and backward: docs/derivation.md, section 6.

        Gram form 3·N·H³ (one of the two backward products is symmetric), Jacobian form 6·N·H²·D; and 12·N·H·(H + D) for
        the quadratic rest. Two FLOPs a multiply-add.
        """
        cubic = min(3 * self.hidden**3, 6 * self.hidden**2 * self.latent_dim)
        return self.num_rows * (cubic + 12 * self.hidden * (self.hidden + self.latent_dim))


CASES = (
    Case("paper, one step", 128, 324, 324),
    Case("small, one step", 64, 32, 128),
    Case("small, one iteration", 512, 32, 128),
    Case("narrow", 128, 32, 64),
    Case("few dimensions, wide", 1024, 3, 256),
)
