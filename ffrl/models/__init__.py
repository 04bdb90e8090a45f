"""Networks and the sequence VAE."""

from ffrl.models.autoencoder import Autoencoder
from ffrl.models.build import build_model
from ffrl.models.flow import LatentFlow
from ffrl.models.potential import PotentialMLP
from ffrl.models.prior import DiffusionPrior, MixturePrior, Prior, StandardNormalPrior, VampPrior
from ffrl.models.sequence_vae import SequenceOutputs, SequenceVAE
from ffrl.ops import flow_rollout

__all__ = [
    "Autoencoder",
    "DiffusionPrior",
    "LatentFlow",
    "MixturePrior",
    "PotentialMLP",
    "Prior",
    "SequenceOutputs",
    "SequenceVAE",
    "StandardNormalPrior",
    "VampPrior",
    "build_model",
    "flow_rollout",
]
