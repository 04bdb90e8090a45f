"""The methods that FFRL is compared with, behind one interface."""

from ffrl.baseline_config import Method
from ffrl.config import TrainConfig
from ffrl.errors import ArgumentError
from ffrl.models.baselines.baseline import Baseline, WithoutOperator
from ffrl.models.baselines.factor_vae import FactorVAE
from ffrl.models.baselines.poflow import PoFlow
from ffrl.models.baselines.slow_vae import SlowVAE
from ffrl.models.baselines.tvae import TVAE
from ffrl.models.baselines.vae import VAE, BetaVAE

BASELINES: dict[Method, type[Baseline]] = {
    "vae": VAE,
    "beta-vae": BetaVAE,
    "factor-vae": FactorVAE,
    "slow-vae": SlowVAE,
    "tvae": TVAE,
    "poflow": PoFlow,
}


def build_baseline(config: TrainConfig) -> Baseline:
    """The model of a method other than "ffrl", on the CPU, from torch's random number generator."""
    if config.method not in BASELINES:
        raise ArgumentError("method", repr(config.method), f"one of {tuple(BASELINES)}")
    sequence = config.sequence
    sizes = (len(sequence.transformations), sequence.num_steps)
    model = BASELINES[config.method](config.model, *sizes, config.loss, config.baseline)
    model.use_backend(config.backend, config.precision)
    return model


__all__ = ["BASELINES", "Baseline", "WithoutOperator", "build_baseline"]
