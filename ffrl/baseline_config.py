"""What is trained, and the settings of what FFRL is compared with. Imports neither torch nor numpy."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, get_args

from ffrl.checks import check_types, require, require_integer, require_number

if TYPE_CHECKING:  # it imports this module
    from ffrl.config import TrainConfig

Method = Literal["ffrl", "poflow", "vae", "beta-vae", "factor-vae", "slow-vae", "tvae"]


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """Settings of the methods other than "ffrl"; one that the method does not have must keep its default."""

    beta: float | None = None
    """Weight of the KL of "beta-vae" (default 4), "factor-vae" and "slow-vae" (default 1)."""
    gamma: float | None = None
    """Weight of the density ratio of "factor-vae" (default 6.4) or of the transition of "slow-vae" (default 10)."""
    match_weight: float = 1.0
    """Of the latent matching of "poflow"."""
    rate: float = 6.0
    """Rate of the Laplace transition of "slow-vae"."""
    discriminator_width: int = 1000
    """Units in each of the five layers of the discriminator of "factor-vae"."""
    discriminator_rate: float = 1e-4
    """Learning rate of that discriminator, without a schedule."""
    capsules: int | None = None
    """Capsules that the code of "tvae" holds, one transformation each in turn; default as many, alike for all K
    transformations, as leave each a dimension of T+1, and at least K."""
    initial_mu: float = 30.0
    """Of the learned mean of "tvae" before training."""
    time_window: int = 3
    """Frames on either side whose energy "tvae" sums."""
    capsule_window: int = 1
    """Neighbours on either side in the capsule whose energy "tvae" sums."""

    def __post_init__(self) -> None:
        check_types(self, "baseline.")
        for name in ("beta", "gamma"):
            if getattr(self, name) is not None:
                require_number(f"baseline.{name}", getattr(self, name), 0.0)
        require_number("baseline.match_weight", self.match_weight, 0.0)
        for name in ("rate", "discriminator_rate", "initial_mu"):
            require_number(f"baseline.{name}", getattr(self, name), 0.0, above=True)
        for name, lowest in (("discriminator_width", 1), ("time_window", 0), ("capsule_window", 0)):
            require_integer(f"baseline.{name}", getattr(self, name), lowest)
        if self.capsules is not None:
            require_integer("baseline.capsules", self.capsules, 1)


# Field of BaselineConfig -> the methods that have it.
USED_BY: dict[str, tuple[Method, ...]] = {
    "beta": ("beta-vae", "factor-vae", "slow-vae"),
    "gamma": ("factor-vae", "slow-vae"),
    "match_weight": ("poflow",),
    "rate": ("slow-vae",),
    "discriminator_width": ("factor-vae",),
    "discriminator_rate": ("factor-vae",),
    "capsules": ("tvae",),
    "initial_mu": ("tvae",),
    "time_window": ("tvae",),
    "capsule_window": ("tvae",),
}

# Dotted field of TrainConfig that only "ffrl" has.
OF_FFRL = ("supervision.mode", "model.prior", "loss.pde", "loss.log_det", "loss.kl_weight", "loss.decoded_frames")


def check_method(config: TrainConfig) -> None:
    """Raise ArgumentError for a setting that the method does not have and that is not at its default."""
    method = config.method
    for name, default in ((field.name, field.default) for field in dataclasses.fields(BaselineConfig)):
        allowed = f"{default!r} with method {method!r}: it is of {USED_BY[name]}"
        given = getattr(config.baseline, name)
        require(method in USED_BY[name] or given == default, f"baseline.{name}", given, allowed)
    if method == "ffrl":
        return
    for dotted in OF_FFRL:
        part, _, name = dotted.partition(".")
        target = getattr(config, part)
        default = {field.name: field.default for field in dataclasses.fields(target)}[name]
        require(getattr(target, name) == default, dotted, getattr(target, name), f"{default!r} with method {method!r}")
    capsules, names = config.baseline.capsules, config.sequence.transformations
    if capsules is not None:
        allowed = f"an integer in {len(names)}..{config.model.latent_dim}, from K to D"
        require(len(names) <= capsules <= config.model.latent_dim, "baseline.capsules", capsules, allowed)
    if method == "tvae":
        allowed = f"at least {len(names)}, one for each transformation"
        require(config.model.latent_dim >= len(names), "model.latent_dim", config.model.latent_dim, allowed)


METHOD_NAMES = get_args(Method)
