"""Use of a trained model: follow one potential either way, switch between potentials, superpose them, and score it.

A path is a sequence of steps. A step maps each potential k that acts in it to the time at which it acts:

    z_s = z_{s-1} ± Σ_{k in step s} ∇u^k(z_{s-1}, time of k in step s).

The latent code always continues where the step before left it. Shapes: B batch, S steps, K transformations, D latent.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ffrl.checks import require_integer
from ffrl.data import FactorSequences, SequenceData, hue_of_red
from ffrl.data.sequences import transformation_parameter
from ffrl.data.transforms import sampling_grid, scale_rotate_frames
from ffrl.errors import ArgumentError
from ffrl.evaluation import summarize
from ffrl.metrics import copy_baseline, equivariance_error, zero_baseline
from ffrl.models import Autoencoder, PotentialMLP, SequenceVAE, flow_rollout
from ffrl.ops import potential_derivatives

Step = Mapping[int, float]
Potential = PotentialMLP | Callable[..., Tensor]

Clock = Literal["own", "shared"]
"""The time argument of u^k in a schedule that mixes potentials.

"own": the n-th step in which k acts has t = n, whatever acted before, so that u^k(·, n) meets codes on which k has
acted n-1 times, as in training. "shared": step s has t = s, the index of the state, as in the generative model; but a
potential that takes over in step s has in training met, at that time, only codes that it had itself moved s-1 times.
Both are t = 1..T where one potential acts throughout. The default is "own"; ``composition_errors`` measures both.
"""


def traverse(
    pot: Potential, z0: Tensor, k: int | Tensor, num_steps: int, *, direction: int = 1, backend: str = "auto"
) -> Tensor:
    """States z_0 .. z_T along potential k, (B, T+1, D): z_t = z_{t-1} + direction ∇u^k(z_{t-1}, t), t = 1..T.

    With direction -1 this leaves z_0 the other way, through the same times; it does not walk a trajectory back to its
    start, for which each step would have to be solved for the state it began in. Arguments and errors are those of
    ``ffrl.models.flow_rollout``.
    """
    return flow_rollout(pot, z0, k, num_steps, direction=direction, backend=backend).z


def traverse_schedule(
    pot: Potential,
    z0: Tensor,
    schedule: Sequence[int],
    *,
    clock: Clock = "own",
    direction: int = 1,
    backend: str = "auto",
) -> Tensor:
    """States z_0 .. z_S, (B, S+1, D), where step s follows potential schedule[s-1]; see ``Clock`` for its time."""
    return follow(pot, z0, schedule_steps(schedule, clock), direction=direction, backend=backend)


def superpose(
    pot: Potential, z0: Tensor, ks: Sequence[int], num_steps: int, *, direction: int = 1, backend: str = "auto"
) -> Tensor:
    """States z_0 .. z_T, (B, T+1, D), of the summed flows: z_t = z_{t-1} + direction Σ_{k in ks} ∇u^k(z_{t-1}, t)."""
    return follow(pot, z0, superposition_steps(ks, num_steps), direction=direction, backend=backend)


def switch_schedule(first: int, second: int, num_steps: int, at: int | None = None) -> list[int]:
    """Potential ``first`` for the steps 1..at, then ``second`` up to step T; ``at`` in 0..T, default T // 2."""
    require_integer("num_steps", num_steps, 1)
    at = num_steps // 2 if at is None else at
    if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at <= num_steps:
        raise ArgumentError("at", repr(at), f"an integer in 0..{num_steps}")
    return [first] * at + [second] * (num_steps - at)


def schedule_steps(schedule: Sequence[int], clock: Clock = "own") -> list[Step]:
    """The steps of a schedule with one potential a step; raises ArgumentError for an empty one or an unknown clock."""
    if len(schedule) == 0:
        raise ArgumentError("schedule", list(schedule), "at least one step")
    if clock not in get_args(Clock):
        raise ArgumentError("clock", repr(clock), f"one of {get_args(Clock)}")
    acted: Counter[int] = Counter()
    steps: list[Step] = []
    for number, k in enumerate(schedule, start=1):
        require_integer(f"schedule[{number - 1}]", k, 0)
        acted[k] += 1
        steps.append({k: float(acted[k] if clock == "own" else number)})
    return steps


def superposition_steps(ks: Sequence[int], num_steps: int) -> list[Step]:
    """Steps t = 1..T in which all of ``ks`` act; raises ArgumentError for none or for one that is named twice."""
    require_integer("num_steps", num_steps, 1)
    for i, k in enumerate(ks):
        require_integer(f"ks[{i}]", k, 0)
    if len(ks) == 0 or len(set(ks)) != len(ks):
        raise ArgumentError("ks", list(ks), "at least one potential, and none twice")
    return [{k: float(t) for k in ks} for t in range(1, num_steps + 1)]


def follow(pot: Potential, z0: Tensor, steps: Sequence[Step], *, direction: int = 1, backend: str = "auto") -> Tensor:
    """States along a path, (B, S+1, D), from z0 (B, D); all velocities of a step are taken at the same state.

    Raises:
        ArgumentError: no step, another direction, a potential that is not there, or a z0 that does not fit.
    """
    if len(steps) == 0:
        raise ArgumentError("steps", "[]", "at least one step")
    if direction not in (1, -1):
        raise ArgumentError("direction", direction, "1 or -1")
    states = [z0]
    for step in steps:
        velocity = torch.zeros_like(z0)
        for k, time in step.items():
            velocity = velocity + potential_derivatives(pot, states[-1], time, k, laplacian=None, backend=backend).du_dz
        states.append(states[-1] + direction * velocity)
    return torch.stack(states, dim=1)


def progress_of(steps: Sequence[Step], num_transformations: int, *, direction: int = 1) -> Tensor:
    """How often each transformation has acted by each state of a path, (S+1, K) int64, negative where backward."""
    progress = torch.zeros(len(steps) + 1, num_transformations, dtype=torch.int64)
    for number, step in enumerate(steps, start=1):
        for k in step:
            progress[number:, k] += direction
    return progress


def num_composed(data: SequenceData, ks: Iterable[int]) -> int:
    """How many images there are of which the truth under all of these transformations is known."""
    return data.num_composed(list(ks)) if isinstance(data, FactorSequences) else len(data)


def composed_frames(data: SequenceData, indices: Tensor, progress: Tensor) -> Tensor:
    """Ground truth of a path: every frame shows all transformations, each at its own progress, applied to the original.

    Magnification and rotation share the centre and commute, and hue commutes with both, so that the order in which they
    acted does not matter; scale and angle go into one bilinear sampling. A negative progress is the inverse transform:
    1/scale, clockwise, hue the other way round. Along one transformation the frames are those of ``data.sequence``.
    Of a grid of factors, see ``FactorSequences.composed``: there x_0 depends on what acts.

    Args:
        data: images and the range of each transformation.
        indices: (B,) int64, below ``num_composed``.
        progress: (S+1, K) int64, in steps; T steps are the whole range.

    Returns:
        (B, S+1, C, I, I) float32 in [0, 1].
    """
    if isinstance(data, FactorSequences):
        return data.composed(indices, progress)
    if progress.dim() != 2 or progress.shape[1] != data.num_transformations:
        raise ArgumentError("progress.shape", tuple(progress.shape), f"(S+1, {data.num_transformations})")
    lowest, highest = (int(indices.min()), int(indices.max())) if indices.numel() else (0, 0)
    if lowest < 0 or highest >= len(data):
        raise ArgumentError("indices", lowest if lowest < 0 else highest, f"integers in 0..{len(data) - 1}")
    originals = data.images[indices].float().div_(255)  # (B, I, I)
    scale, angle, hue = (torch.zeros(progress.shape[0], dtype=torch.float64) for _ in range(3))
    scale += 1
    for column, name in enumerate(data.config.transformations):
        values = torch.tensor(
            [transformation_parameter(data.config, name, int(p)) for p in progress[:, column]], dtype=torch.float64
        )
        if name == "scale":
            scale = values
        elif name == "rotation":
            angle = values
        elif name == "hue":
            hue = values
        else:
            raise ArgumentError("transformations", repr(name), "'scale', 'rotation' or 'hue'")
    grid = sampling_grid(scale, angle, originals.shape[-1], originals.dtype).to(originals.device)
    grey = scale_rotate_frames(originals, grid).clamp_(0, 1)  # (B, S+1, I, I)
    colour = hue_of_red(hue).to(originals)  # (S+1, 3)
    return grey[:, :, None] * colour[None, :, :, None, None]


@torch.no_grad()
def decode(model: Autoencoder, z: Tensor) -> Tensor:
    """Mean images (B, S+1, C, I, I) in [0, 1] of states (B, S+1, D)."""
    return torch.sigmoid(model.decode_sequence(z))


@torch.no_grad()
def composition_errors(
    model: SequenceVAE, data: SequenceData, *, num_images: int = 1000, batch_size: int = 250
) -> dict[str, Any]:
    """Equivariance error of what was never trained: switches, superpositions and backward flows.

    E = Σ_{t=1..T} |x_t - decode(z_t)|_1 with x_t from ``composed_frames`` and z_0 the posterior mean, beside the
    baselines |x_t - x_0| and |x_t|, over the first ``num_images`` images. Every ordered pair is switched at T // 2,
    with either clock; every pair is superposed, and all at once; every transformation is run backward. What no test
    image of a grid allows is left out.

    Returns:
        {"num_images": ..., "num_steps": T, "switch_at": T // 2} and the rows of "switch", "superposition" and
        "backward". A row names its "transformations", a switch also its "clock", and holds "num_images", of a grid no
        more than all of them can start from, and what ``ffrl.evaluation.summarize`` makes of the three errors.
    """
    require_integer("num_images", num_images, 1)
    require_integer("batch_size", batch_size, 1)
    names, num_steps = data.config.transformations, data.num_steps
    kinds, count = range(data.num_transformations), min(num_images, len(data))
    device, backend = next(model.parameters()).device, model.flow.backend

    def row(steps: Sequence[Step], direction: int = 1, **labels: str) -> dict[str, Any]:
        values: dict[str, list[Tensor]] = defaultdict(list)
        progress = progress_of(steps, len(kinds), direction=direction)
        acting = dict.fromkeys(k for step in steps for k in step)  # in order of appearance
        images = min(count, num_composed(data, acting))
        for indices in torch.arange(images, device=device).split(batch_size):
            x = composed_frames(data, indices, progress)
            z = follow(model.potential, model.encoder(x[:, 0])[0], steps, direction=direction, backend=backend)
            values["equivariance_error"].append(equivariance_error(x, decode(model, z)))
            values["copy"].append(copy_baseline(x))
            values["zero"].append(zero_baseline(x))
        return {"transformations": [names[k] for k in acting], **labels, "num_images": images, **summarize(values)}

    def known(ks: Sequence[int]) -> bool:
        return num_composed(data, ks) > 0

    pairs = [pair for pair in itertools.permutations(kinds, 2) if num_steps > 1 and known(pair)]
    return {
        "num_images": count,
        "num_steps": num_steps,
        "switch_at": num_steps // 2,
        "switch": [
            row(schedule_steps(switch_schedule(*pair, num_steps), clock), clock=clock)
            for clock in get_args(Clock)
            for pair in pairs
        ],
        "superposition": [row(superposition_steps(ks, num_steps)) for ks in superpositions(len(kinds)) if known(ks)],
        "backward": [row(superposition_steps([k], num_steps), direction=-1) for k in kinds],
    }


def superpositions(num_transformations: int) -> list[tuple[int, ...]]:
    """Every pair of transformations, and all of them at once."""
    kinds = range(num_transformations)
    sizes = sorted({2, num_transformations} - {1})
    return [ks for size in sizes for ks in itertools.combinations(kinds, size)]
