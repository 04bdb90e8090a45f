"""All pictures of a run, as file name -> content."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ffrl.command_line import percentage
from ffrl.data import SequenceData, TransformedImages
from ffrl.figures.animation import Scene, animation
from ffrl.figures.curves import training_curves
from ffrl.figures.grid import Block, Frames, captions, describe, grid
from ffrl.figures.overview import Panel, overview
from ffrl.models import SequenceVAE
from ffrl.traversals import (
    Step,
    composed_frames,
    decode,
    follow,
    num_composed,
    progress_of,
    schedule_steps,
    superposition_steps,
    superpositions,
    switch_schedule,
    traverse,
)

STEP = r"$z_t = z_{t-1} + \nabla u^k(z_{t-1}, t)$"
HOW_TO_READ = (
    "error: L1 distance of flow and truth, summed over pixels and channels.  E: its sum over t ≥ 1.  "
    "copying, black: E of the first frame repeated, and of black frames."
)
BACKWARD = "Backward flow: the sign of the velocity reversed"
SWITCH = "Switching the potential half-way"
SUPERPOSITION = "Superposition: the sum of several flows"
OVERVIEW_DIGITS = 3
MOST_PATHS = 12  # compositions in one picture; the errors of all are in composition.json
ONE_LINE = 8


class Album:
    """Draws a trained model on a few test images.

    Args:
        model: in evaluation mode, on the device of ``data``.
        data: the test set.
        indices: (B,) int64, the images that are shown.
        source: what the images are, for the captions.
        evaluation: the content of evaluation.json, or None where there is none of this model.
        composition: what ``ffrl.traversals.composition_errors`` returned.
        kind: what the images show, for the title of the overview.
    """

    def __init__(
        self,
        model: SequenceVAE,
        data: SequenceData,
        indices: Tensor,
        source: str,
        evaluation: Mapping[str, Any] | None,
        composition: Mapping[str, Any],
        kind: str = "images",
    ) -> None:
        self.model, self.data, self.indices, self.source = model, data, indices, source
        self.evaluation, self.composition, self.kind = evaluation, composition, kind
        self.names, self.num_steps = data.config.transformations, data.num_steps
        self.z0: Tensor | None = None
        if isinstance(data, TransformedImages):  # of a grid, x_0 depends on what acts
            with torch.no_grad():
                self.z0 = model.encoder(data.sequence(indices, 0).x[:, 0])[0]  # (B, D) posterior mean

    def draw(self, records: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
        """Every picture that this model and these records of metrics.jsonl allow."""
        pictures = {"overview.png": self.overview()}
        for k, name in enumerate(self.names):
            pictures[f"traverse_{name}.png"] = self.traverse_grid(k)
        pictures["traverse.gif"] = self.traverse_animation()
        pictures["backward.png"] = self.backward_grid()
        pictures["backward.gif"] = self.path_animation(BACKWARD, self.backwards())
        if len(self.names) > 1:
            if self.num_steps > 1 and self.composition["switch"]:
                pictures["switch.png"] = self.switch_grid()
                pictures["switch.gif"] = self.path_animation(SWITCH, self.switches())
            if self.composition["superposition"]:
                pictures["superposition.png"] = self.superposition_grid()
                pictures["superposition.gif"] = self.path_animation(SUPERPOSITION, self.superposed())
        if records:
            pictures["training_curves.png"] = training_curves(records, self.names)
        return pictures

    @torch.no_grad()
    def along(self, k: int, direction: int = 1) -> tuple[Frames, Tensor]:
        """Frames of all images along transformation k, and the progress (T+1, K) that the truth shows."""
        backend = self.model.flow.backend
        progress = progress_of(schedule_steps([k] * self.num_steps), len(self.names), direction=direction)
        truth = composed_frames(self.data, self.numbers([k]), progress)
        z0 = self.encoded(truth) if self.z0 is None else self.z0
        z = traverse(self.model.potential, z0, k, self.num_steps, direction=direction, backend=backend)
        return Frames(truth, decode(self.model, z)), progress

    def numbers(self, acting: Iterable[int]) -> Tensor:
        """The images shown, (B,): of a grid on which these transformations have too few, others spread over those."""
        count, shown = num_composed(self.data, acting), len(self.indices)
        if int(self.indices.max()) < count:
            return self.indices
        return torch.arange(shown, device=self.indices.device) * count // shown

    def encoded(self, truth: Tensor) -> Tensor:
        return self.model.encoder(truth[:, 0])[0]

    @torch.no_grad()
    def path(self, steps: Sequence[Step], digit: int) -> tuple[str, Frames, Tensor]:
        """Label of one image, its frames along a path, and their progress (S+1, K)."""
        progress = progress_of(steps, len(self.names))
        indices = self.numbers({k for step in steps for k in step})[digit : digit + 1]
        truth = composed_frames(self.data, indices, progress)
        z0 = self.encoded(truth) if self.z0 is None else self.z0[digit : digit + 1]
        z = follow(self.model.potential, z0, steps, backend=self.model.flow.backend)
        return image_label(indices), Frames(truth, decode(self.model, z)), progress

    def heads(self, progress: Tensor) -> list[str]:
        """Captions that begin with the time; on a line of its own where several transformations follow."""
        values = captions(self.data.config, progress)
        joint = ":  " if max(map(len, values)) <= ONE_LINE else "\n"
        return [f"t = {t}{joint}{value}" for t, value in enumerate(values)]

    def range_of(self, k: int) -> str:
        """What transformation k does in T steps: "scale ×1 → ×1.8"."""
        ends = (describe(self.data.config, self.names[k], t) for t in (0, self.num_steps))
        first, last = (end.removeprefix(self.names[k]).strip() for end in ends)
        return f"{self.names[k]} {first} → {last}"

    def score(self, k: int, frames: Frames) -> tuple[float, float, str]:
        """E_k, that of copying, and on what: the whole evaluation where there is one, else the images shown."""
        if self.evaluation is None:
            return frames.equivariance_error, frames.copy, images_shown(len(frames.truth))
        row = self.evaluation["transformations"][self.names[k]]
        return row["equivariance_error"], row["copy"], f"{self.evaluation['num_images']:,} test images"

    def traverse_grid(self, k: int) -> bytes:
        frames, progress = self.along(k)
        heads = self.heads(progress)
        blocks = [Block(frames.digit(i), image_label(self.indices[i]), heads) for i in range(len(self.indices))]
        score, copy = frames.equivariance_error, frames.copy
        shown = images_shown(len(blocks))
        footer = [f"E over {shown}: {score:.1f}, {percentage(score, copy)} of copying ({copy:.1f})"]
        if self.evaluation is not None:
            score, copy, source = self.score(k, frames)
            footer.append(f"E over {source}: {score:.1f}, {percentage(score, copy)} of copying ({copy:.1f})")
        notes = [
            "truth: the image transformed.  flow: decoded from " + STEP + ", starting from the first frame alone.",
            HOW_TO_READ,
            self.source,
        ]
        return grid(f"Along the flow of one potential: {self.range_of(k)}", notes, blocks, footer)

    def path_animation(self, title: str, paths: Sequence[tuple[str, Frames, Tensor]]) -> bytes:
        """Paths of one image each, as ``switches`` returns them."""
        scenes = [
            Scene(
                frames,
                label.split(",")[0],
                [caption.replace("\n", " ") for caption in captions(self.data.config, progress)],
            )
            for label, frames, progress in paths
        ]
        return animation(title.split(":")[0], scenes, scenes_per_row=min(3, len(scenes)))

    def backwards(self) -> list[tuple[str, Frames, Tensor]]:
        """Label, frames and progress of every transformation run backward; the images take turns."""
        found = []
        for k, name in enumerate(self.names):
            frames, progress = self.along(k, direction=-1)
            digit = k % len(self.indices)
            found.append((f"{name}, {image_label(self.indices[digit])}", frames.digit(digit), progress))
        return found

    def backward_grid(self) -> bytes:
        blocks = [Block(frames, label, self.heads(progress)) for label, frames, progress in self.backwards()]
        notes = [
            r"flow: decoded from $z_t = z_{t-1} - \nabla u^k(z_{t-1}, t)$, against the direction of training, which "
            "has shown no such image.",
            "truth: the inverse of the transform of step t, applied to the image.",
            HOW_TO_READ,
            self.source,
        ]
        footer = self.composition_lines(self.composition["backward"], "")
        return grid(BACKWARD, notes, blocks, footer)

    def switches(self) -> list[tuple[str, Frames, Tensor]]:
        """Label, frames and progress of every ordered pair, switched half-way; the images take turns."""
        found = []
        pairs = [pair for pair in itertools.permutations(range(len(self.names)), 2) if num_composed(self.data, pair)]
        for number, (first, second) in enumerate(pairs[:MOST_PATHS]):
            steps = schedule_steps(switch_schedule(first, second, self.num_steps))
            label, frames, progress = self.path(steps, number % len(self.indices))
            found.append((f"{self.names[first]} → {self.names[second]}, {label}", frames, progress))
        return found

    def switch_grid(self) -> bytes:
        at = self.num_steps // 2
        blocks = [
            Block(frames, label, self.heads(progress), switch_after=at) for label, frames, progress in self.switches()
        ]
        rows = [row for row in self.composition["switch"] if row["clock"] == "own"]
        notes = [
            f"The code follows the first potential for {at} steps, then continues from where it is along the second, "
            "whose time starts at 1.",
            "truth: both transforms, each as far as its potential has acted. Training has shown no such pair.",
            HOW_TO_READ,
            self.source,
        ]
        return grid(SWITCH, notes, blocks, self.composition_lines(rows, " → "))

    def superposed(self) -> list[tuple[str, Frames, Tensor]]:
        """Label, frames and progress of every superposition; the images take turns."""
        found = []
        known = [ks for ks in superpositions(len(self.names)) if num_composed(self.data, ks)]
        for number, ks in enumerate(known[:MOST_PATHS]):
            steps = superposition_steps(ks, self.num_steps)
            label, frames, progress = self.path(steps, number % len(self.indices))
            found.append((f"{' + '.join(self.names[k] for k in ks)}, {label}", frames, progress))
        return found

    def superposition_grid(self) -> bytes:
        blocks = [Block(frames, label, self.heads(progress)) for label, frames, progress in self.superposed()]
        notes = [
            r"flow: decoded from $z_t = z_{t-1} + \Sigma_k \nabla u^k(z_{t-1}, t)$.  truth: all transforms at once. "
            "Training has shown them one at a time only.",
            HOW_TO_READ,
            self.source,
        ]
        footer = self.composition_lines(self.composition["superposition"], " + ")
        return grid(SUPERPOSITION, notes, blocks, footer)

    def composition_lines(self, rows: Sequence[Mapping[str, Any]], joint: str) -> list[str]:
        """E of every composition over many images, two to a line."""
        words = []
        counts = {row["num_images"] for row in rows}
        for row in rows:
            score, copy, zero = row["equivariance_error"], row["copy"], row["zero"]
            name = joint.join(row["transformations"])
            images = f", {row['num_images']:,} images" if len(counts) > 1 else ""
            words.append(
                f"{name} {score:.0f} ({percentage(score, copy)} of copying {copy:.0f}, black {zero:.0f}{images})"
            )
        lines = ["     ".join(words[i : i + 2]) for i in range(0, len(words), 2)]
        images = f"{counts.pop():,} test images" if len(counts) == 1 else "the test images that these can start from"
        return [f"E over {images}:", *lines]

    def traverse_animation(self) -> bytes:
        scenes = []
        for k in range(len(self.names)):
            frames, progress = self.along(k)
            scenes.append(Scene(frames, self.range_of(k), captions(self.data.config, progress)))
        return animation("Decoded along the flow of one potential", scenes, scenes_per_row=1)

    def overview(self) -> bytes:
        panels = []
        source = ""
        for k, name in enumerate(self.names):
            frames, progress = self.along(k)
            shown = Frames(frames.truth[:OVERVIEW_DIGITS], frames.decoded[:OVERVIEW_DIGITS])
            score, copy, source = self.score(k, shown)
            values = [text.removeprefix(name).strip() for text in captions(self.data.config, progress)]
            panels.append(Panel(shown, name, values, score, copy))
        many = {2: "Two", 3: "Three", 4: "Four"}.get(len(panels), str(len(panels)))
        title = f"{many} transformations" if len(panels) > 1 else "A transformation"
        title += f" of {self.kind}" + (", each" if len(panels) > 1 else ":") + " the flow of one learned potential"
        note = "truth: the image transformed.  flow: decoded from " + STEP + ", starting from the first frame alone."
        error = f"error: Σ over t = 1..{self.num_steps} of |truth − flow|, summed over pixels, mean over {source}."
        return overview(title, note, panels, f"{error}  {self.source}.")


def image_label(index: Tensor) -> str:
    return f"image {int(index)}"


def images_shown(count: int) -> str:
    return f"the {count} images shown" if count > 1 else "the image shown"
