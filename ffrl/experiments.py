"""The paper's experiments as rows of tables: what each row changes in a preset, and the numbers printed in the paper.

Numbers are those of FFRL (NeurIPS 2023), on MNIST unless it is said: equivariance errors of its full-size models after
90,000 iterations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ffrl.baseline_config import Method
from ffrl.config import DataName, TrainConfig
from ffrl.errors import ArgumentError

Measure = Literal["errors", "vp", "generalisation", "comparison"]
TableName = Literal[
    "table1",
    "supervision",
    "priors",
    "pdes",
    "num_k",
    "seq_len",
    "vp",
    "generalisation",
    "shapes3d",
    "falcor3d",
    "isaac3d",
]


class Row(NamedTuple):
    """A configuration of a table."""

    key: str  # names the runs; rows of several tables with one key share them
    label: str
    changes: Mapping[str, Any]  # dotted field of TrainConfig -> value
    paper: Mapping[str, float] = {}  # column -> value in the paper


class Experiment(NamedTuple):
    """A table: its rows are trained alike but for their changes, with every seed."""

    title: str
    measure: Measure
    rows: tuple[Row, ...]
    data: tuple[DataName, ...] = ()  # what it is of, the published set first; still images where it does not say


def in_paper(*errors: float) -> dict[str, float]:
    return dict(zip(("scale", "rotation", "hue"), errors, strict=False))


BASE = Row("base", "supervised", {}, in_paper(185.42, 153.54, 158.57))
WEAK = Row("weak", "weakly supervised", {"supervision.mode": "weak"}, in_paper(193.84, 157.16, 165.19))
HELD_OUT = (5, 9)
PAPER_VP = {0.1: 95.7, 0.01: 92.7}  # share of the pairs to train on -> VP score of the supervised model


COMPARED: dict[Method, str] = {
    "vae": "VAE, unsupervised",
    "beta-vae": "beta-VAE, unsupervised",
    "factor-vae": "FactorVAE, unsupervised",
    "slow-vae": "SlowVAE, sequences",
    "tvae": "TVAE, supervised",
    "poflow": "PoFlow, supervised",
    "ffrl": "FFRL, supervised",
}


def compared(method: Method, *errors: float) -> Row:
    """A row of table 1: all rows train on the same images, without those on which some choose their traversals."""
    changes = {"method": method, "validation_images": 100}
    return Row(f"table1_{method}", COMPARED[method], changes, in_paper(*errors))


def compared_on_grid(ffrl: Mapping[str, float] | None = None) -> tuple[Row, ...]:
    """The rows of a table of a grid of factors, whose validation part is that of ``split``."""
    papers, alike = {"ffrl": ffrl or {}}, {"loss.decoded_frames": None}  # most methods need all frames: all get them
    rows = [
        Row(f"compared_{name}", label, {**alike, "method": name}, papers.get(name, {}))
        for name, label in COMPARED.items()
    ]
    weak = {**alike, **WEAK.changes}
    return (*rows, WEAK._replace(key="compared_weak", label="FFRL, weakly supervised", changes=weak, paper={}))


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment(
        "FFRL and what it is compared with",
        "comparison",
        (
            compared("vae", 1275, 1311, 1369),
            compared("beta-vae", 742, 751, 808),
            compared("factor-vae", 660, 632, 662),
            compared("slow-vae", 462, 447, 398),
            compared("tvae", 505, 493, 451),
            compared("poflow", 234.78, 231.42, 240.57),
            compared("ffrl", 185.42, 153.54, 158.57),
        ),
    ),
    "supervision": Experiment(
        "Supervision: where k comes from",
        "errors",
        (
            BASE,
            WEAK,
            Row(
                "weak_label",
                "weakly supervised, index loss with the label",
                {"supervision.mode": "weak", "supervision.index_loss": "label"},
            ),
            Row(
                "semi",
                "semi-supervised, 10 % of the batches",
                {"supervision.mode": "semi"},
                in_paper(186.07, 152.87, 160.13),
            ),
        ),
    ),
    "priors": Experiment(
        "Prior p_t(z)",
        "errors",
        (
            BASE._replace(label="diffusion, D_k learned", paper=in_paper(185.4)),
            Row("prior_normal", "standard Gaussian", {"model.prior": "standard_normal"}, in_paper(190.2)),
            Row("prior_mixture", "mixture of Gaussians", {"model.prior": "mixture"}, in_paper(188.2)),
            Row("prior_vamp", "VampPrior", {"model.prior": "vamp"}, in_paper(192.8)),
        ),
    ),
    "pdes": Experiment(
        "Equation asked of the potentials",
        "errors",
        (
            BASE._replace(label="generalised Hamilton-Jacobi", paper=in_paper(185.4)),
            Row("pde_hj", "Hamilton-Jacobi, f = 0", {"loss.pde": "hj"}, in_paper(190.4)),
            Row("pde_fokker_planck", "Fokker-Planck", {"loss.pde": "fokker_planck"}, in_paper(211.5)),
            Row("pde_heat", "heat", {"loss.pde": "heat"}, in_paper(224.0)),
            Row("pde_wave", "wave (PoFlow)", {"loss.pde": "wave"}),
        ),
    ),
    "num_k": Experiment(
        "Number of transformations learned together",
        "errors",
        (
            Row("k1", "K = 1", {"sequence.transformations": ("scale",)}),
            Row("k2", "K = 2", {"sequence.transformations": ("scale", "rotation")}),
            BASE._replace(label="K = 3"),
        ),
    ),
    "seq_len": Experiment(
        "Number of steps that the same range is divided into; errors are sums over the steps",
        "errors",
        (BASE._replace(label="T = 8"), Row("t11", "T = 11", {"sequence.num_steps": 11})),
    ),
    "vp": Experiment(
        "VP score: accuracy in % of a classifier of k from generated pairs, last epoch",
        "vp",
        (BASE._replace(paper={}), WEAK._replace(paper={})),
    ),
    "generalisation": Experiment(
        "Equivariance error over that of copying, in %, where the model was not trained",
        "generalisation",
        (
            BASE._replace(paper={}),
            WEAK._replace(paper={}),
            Row("held_out", f"supervised, digits {HELD_OUT} held out", {"held_out_classes": HELD_OUT}),
        ),
    ),
    "shapes3d": Experiment(
        "FFRL and what it is compared with",
        "comparison",
        compared_on_grid({"floor_hue": 613.0, "wall_hue": 653.0, "object_hue": 606.0, "scale": 600.0}),
        ("shapes3d", "shapes3d-generated"),
    ),
    "falcor3d": Experiment(
        "FFRL and what it is compared with",
        "comparison",
        compared_on_grid(),
        ("falcor3d", "rooms-generated"),
    ),
    "isaac3d": Experiment(
        "FFRL and what it is compared with",
        "comparison",
        compared_on_grid(),
        ("isaac3d", "rooms-generated"),
    ),
}


def replaced(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """A copy of a configuration with dotted fields replaced.

    >>> replaced(TrainConfig(), {"loss.kl_weight": 0.5, "seed": 3}).loss.kl_weight
    0.5
    """
    for name, value in changes.items():
        part, _, field = name.rpartition(".")
        target = getattr(config, part, None) if part else config
        if not dataclasses.is_dataclass(target) or field not in {f.name for f in dataclasses.fields(target)}:
            raise ArgumentError("changes", repr(name), "dotted names of fields of TrainConfig")
        new = dataclasses.replace(target, **{field: value})  # type: ignore[type-var]
        config = dataclasses.replace(config, **{part: new}) if part else new  # type: ignore[arg-type, assignment]
    return config
