"""The potential op and its backends."""

from ffrl.ops.backends import available_backends
from ffrl.ops.determinant import log_abs_det, potential_hessian
from ffrl.ops.potential_derivatives import potential_derivatives
from ffrl.ops.rollout import flow_rollout
from ffrl.records import FlowRollout, PotentialDerivatives

__all__ = [
    "FlowRollout",
    "PotentialDerivatives",
    "available_backends",
    "flow_rollout",
    "log_abs_det",
    "potential_derivatives",
    "potential_hessian",
]
