"""Networks and the sequence VAE."""

from ffrl.models.flow import LatentFlow, flow_rollout
from ffrl.models.potential import PotentialMLP
from ffrl.models.prior import DiffusionPrior
from ffrl.models.sequence_vae import SequenceOutputs, SequenceVAE

__all__ = ["DiffusionPrior", "LatentFlow", "PotentialMLP", "SequenceOutputs", "SequenceVAE", "flow_rollout"]
