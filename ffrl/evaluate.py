"""Evaluate a run on its test set: python -m ffrl.evaluate RUN."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from ffrl.command_line import percentage, run_command
from ffrl.config import EvaluationConfig
from ffrl.run_folder import check_writable, write_json

EVALUATION_FILE = "evaluation.json"


def print_tables(result: dict[str, Any]) -> None:
    """Print the errors with their baselines, and the likelihoods with their ceiling."""
    from rich.console import Console  # here, so that a missing package is reported as run_command does
    from rich.table import Table

    console = Console(width=120)
    errors = Table(
        title=f"Equivariance error: Σ over t=1..{result['num_steps']} of |x_t - decode(z_t)|₁, mean over "
        f"{result['num_images']} test images"
    )
    columns = ("transformation", "E_k", "copy x_0", "E_k/copy", "black", "autoencoding", "t=0", "latent")
    for column in columns:
        errors.add_column(column, justify="left" if column == "transformation" else "right")
    likelihoods = Table(
        title=f"Nats per image under N(x | decode(z), I), mean over t=0..{result['num_steps']} and "
        f"{result['likelihood_images']} images; ceiling {result['log_prob_ceiling']:.2f}"
    )
    samples = result["importance_samples"]
    columns = (
        "transformation",
        "E log p(x|z)",
        "ELBO",
        f"IW bound, n={samples}",
        "folding",
        "HJ²",
        "|∇u(z_0,0)|²",
        "D_k",
    )
    for column in columns:
        likelihoods.add_column(column, justify="left" if column == "transformation" else "right")
    for i, (name, row) in enumerate(result["transformations"].items()):
        mark = "" if row["is_bound"] else " *"
        diffusivity = result["diffusivity"][i] if "diffusivity" in result else None
        of_flow = (row.get("hj_residual"), row.get("initial_condition"), diffusivity)
        errors.add_row(
            name,
            f"{row['equivariance_error']:.1f} ± {row['equivariance_error_standard_error']:.1f}",
            f"{row['copy']:.1f}",
            percentage(row["equivariance_error"], row["copy"]),
            f"{row['zero']:.1f}",
            f"{row['autoencoding']:.1f}",
            f"{row['reconstruction_0']:.1f}",
            f"{row['latent_equivariance_error']:.1f}",
        )
        likelihoods.add_row(
            name,
            f"{row['log_likelihood']:.2f}",
            f"{row['elbo']:.2f}{mark}",
            f"{row['importance_weighted_bound']:.2f}{mark}",
            "-" if "folding_steps" not in row else f"{100 * row['folding_steps']:.2f} %",
            *("-" if value is None else f"{value:.4f}" for value in of_flow),
        )
    console.print(errors)
    seen = "x_0 alone, so for t > 0\nthis shows how it generalises and is no lower bound."
    if "diffusivity" not in result:
        seen = "every frame."
    console.print(
        f"autoencoding: decode(encode(x_t)) in place of the flow; the encoder is trained on {seen} "
        "t=0: error of the one\nframe that needs no flow.",
        style="dim",
    )
    if (moved := how_codes_move(result)) is not None:
        console.print(moved, style="dim")
    if result["matching"] is not None:
        matching = result["matching"]
        potentials = ", ".join(f"{name}: potential {k}" for name, k in matching["potential_of"].items())
        console.print(
            f"k recognized from the frames in {100 * matching['accuracy']:.2f} % of {matching['num_images']} images "
            f"under each transformation; {potentials}"
        )
        rows = result["transformations"].items()
        inferred = ", ".join(f"{name} {row['recognized_equivariance_error']:.1f}" for name, row in rows)
        console.print(f"E_k along the potential recognized in each sequence: {inferred}")
    console.print(likelihoods)
    if not all(row["is_bound"] for row in result["transformations"].values()):
        console.print(
            "* no bound: the log-determinant is the trace form, or some steps fold (I + ∇²u has a negative eigenvalue\n"
            "in the share shown): the flow is not one-to-one, and log q(z_t) counts one of several preimages.",
            style="dim",
        )
    if "diffusivity" in result:
        console.print("HJ²: squared residual of the equation asked of the potentials (loss.pde).", style="dim")
    else:
        console.print(
            "E log p, ELBO and IW bound: of frames, each with a posterior of its own that has seen x_t; those\n"
            "of method ffrl are of codes that have seen x_0 alone, so that the two kinds do not compare.",
            style="dim",
        )


def how_codes_move(result: dict[str, Any]) -> str | None:
    """Of a method without a flow: what takes its place."""
    method, traversal = result["method"], result["traversal"]
    if method in ("ffrl", "poflow"):
        return None
    if method == "tvae":
        return "tvae moves codes by rolling capsules."
    if traversal is None:
        return (
            f"{method} moves codes along a dimension chosen on validation images, of which the run has none: they stay."
        )
    rows = traversal["transformations"].items()
    chosen = ", ".join(f"{name}: dimension {row['dimension']} to {row['end_value']:.1f}" for name, row in rows)
    return f"{method} moves a dimension of the code, chosen on {traversal['num_images']} validation images: {chosen}."


@dataclasses.dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a run on its test set, print the tables and write evaluation.json into the run folder."""

    run: Path
    """Run folder written by python -m ffrl.train."""
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


def main(argv: list[str]) -> int:
    import tyro

    config = (tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes)
    command = tyro.cli(EvaluateCommand, args=argv, prog="python -m ffrl.evaluate", config=config)
    from ffrl.evaluation import evaluate_model  # load torch: not before --help has been answered
    from ffrl.trained_run import load_trained_run

    config = command.evaluation
    start = time.perf_counter()
    trained = load_trained_run(
        command.run,
        device=config.device,
        backend=config.backend,
        data_dir=config.data_dir,
        match_images=config.num_images,
    )
    check_writable(command.run)
    result = {
        "run": str(command.run),
        "iteration": trained.iteration,
        "data": trained.config.data,
        "data_source": trained.images.source,
        "split": "test",
        "supervision": trained.config.supervision.mode,
        "matching": trained.matching,
        "method": trained.config.method,
        "traversal": trained.traversal,
        **evaluate_model(trained.model, trained.data, config),
    }
    print(f"data: {trained.images.source}")
    print_tables(result)
    path = command.run / EVALUATION_FILE
    write_json(path, result)
    print(f"evaluated in {time.perf_counter() - start:.0f} s; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
