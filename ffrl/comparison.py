"""What the comparison of the methods measures of a run, and the columns of its table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ffrl.catalogue import DATA_SETS
from ffrl.config import EvaluationConfig
from ffrl.run_folder import SUMMARY_FILE
from ffrl.vp_config import VPConfig

if TYPE_CHECKING:
    from ffrl.config import TrainConfig
    from ffrl.trained_run import TrainedRun

EXAMPLE = 0  # the test image of the picture

REMARK = (
    " Errors are E_k, summed over t, channels and pixels; copy, black and autoencoding are those of answering x_0, "
    "nothing and decode(encode(x_t)). Nats per image are means over k and t: those of FFRL from codes that have seen "
    "x_0 alone, those of all others from codes that have seen x_t, so that they do not compare. VP in %, where there "
    "are enough test images. Times are of the cells' own processes, one CPU thread each."
)
LIKELIHOODS = {"E log p": "log_likelihood", "ELBO": "elbo", "IW bound": "importance_weighted_bound"}


def evaluate(trained: TrainedRun, num_images: int | None) -> dict[str, Any]:
    """Evaluation on the test set, and what was chosen before it: which potential is which transformation, or which
    dimension is traversed."""
    from ffrl.evaluation import evaluate_model

    evaluation = EvaluationConfig(num_images=num_images, likelihood_images=100, importance_samples=4)
    return {
        "matching": trained.matching,
        "traversal": trained.traversal,
        **evaluate_model(trained.model, trained.data, evaluation),
    }


def compare(trained: TrainedRun, num_images: int | None, vp: VPConfig) -> dict[str, Any]:
    """Evaluation on the test set, the VP score where that has ``vp.num_pairs`` images, time and size of a run."""
    from ffrl.vp_score import vp_score

    summary = json.loads((trained.config.out / SUMMARY_FILE).read_text())
    return {
        **evaluate(trained, num_images),
        "vp": vp_score(trained.model, trained.data, vp) if len(trained.data) >= vp.num_pairs else None,
        "seconds_per_iteration": summary["seconds"] / summary["iteration"],
        "parameters": summary["parameters"],
    }


def comparison_numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a cell that the table shows, by column; E_k comes first."""
    rows = result["transformations"]
    found = {name: row["equivariance_error"] for name, row in rows.items()}
    for baseline, label in (("copy", "copy"), ("zero", "black"), ("autoencoding", "autoencoding")):
        found |= {f"{name}: {label}": row[baseline] for name, row in rows.items()}
    for label, metric in LIKELIHOODS.items():
        found[label] = statistics.fmean(row[metric] for row in rows.values())
    if result["vp"] is not None:
        found["VP"] = 100 * result["vp"]["generated"]["last"]
        if "still" in result["vp"]:
            found["VP of x_0 alone"] = 100 * result["vp"]["still"]["last"]
    found["ms/iteration"] = 1000 * result["seconds_per_iteration"]
    found["parameters, thousands"] = result["parameters"] / 1000
    return found


def traversal_picture(title: str, runs: Sequence[tuple[str, TrainConfig, Mapping[str, Any]]]) -> bytes:
    """A PNG of what every method makes of one test image, from the noise-free code of x_0 alone.

    Args:
        title: first line.
        runs: label, up to the comma shown, configuration and result of ``compare`` of each.
    """
    import torch

    from ffrl.data import load_sequences
    from ffrl.figures.strips import Strip, strips
    from ffrl.models.baselines import WithoutOperator
    from ffrl.trainer import load_model
    from ffrl.traversals import decode

    config = runs[0][1]
    _, data = load_sequences(config, "test")
    names = config.sequence.transformations
    truth = torch.cat([data.sequence(torch.tensor([EXAMPLE]), k).x for k in range(len(names))])  # (K, T+1, C, I, I)
    shown = []
    for label, config, result in runs:
        model, _, _ = load_model(config.out, device="cpu")
        if isinstance(model, WithoutOperator) and result["traversal"] is not None:
            chosen = [result["traversal"]["transformations"][name] for name in names]
            dimensions, ends = ([row[field] for row in chosen] for field in ("dimension", "end_value"))
            model.move_along(torch.tensor(dimensions), torch.tensor(ends))
        with torch.no_grad():
            z = model.carry(model.code(truth[:, 0]), torch.arange(len(names)), truth.shape[1] - 1)
            shown.append(Strip(label.partition(",")[0], decode(model, z)))
    note = f"{DATA_SETS[config.data].title}, test image {EXAMPLE}, seed {config.seed}; only x_0 is shown to the model"
    return strips(title, note, truth, shown, names)
