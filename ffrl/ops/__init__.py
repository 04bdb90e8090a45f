"""The potential op and its backends."""

from ffrl.ops.backends import available_backends
from ffrl.ops.determinant import log_abs_det, potential_hessian
from ffrl.ops.potential_derivatives import potential_derivatives
from ffrl.records import PotentialDerivatives

__all__ = ["PotentialDerivatives", "available_backends", "log_abs_det", "potential_derivatives", "potential_hessian"]
