"""The canary of a bundle: golden samples with the scores that a device must reproduce. One builder for every bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array, evenly_spaced_rows
from edgeloop_contract.manifest import INPUT, SCORES, Canary, GoldenTensor
from edgeloop_exporters.named_outputs import Output, separate
from edgeloop_pipeline.bundling.contents import npy_of
from edgeloop_pipeline.bundling.file_names import GOLDEN
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.tasks.kept_boxes import KeptBoxes

GOLDEN_STEPS = 10  # of a float file on another device: its kernels sum in another order, and a GPU's keep 11 bits
REFERENCE = "scores"
FEWEST_MASKS, MASK_SCORES = 4, 1_000_000  # pictures and golden scores in a canary of masks: a bundle goes over the air


@dataclass(frozen=True)
class CanarySet:
    """The canary's description for the manifest, and its files: path in the bundle → content."""

    description: Canary
    files: dict[str, bytes]


def canary_set(
    inputs: Array | Mapping[str, Array],
    scores: Array,
    labels: Array | None,
    *,
    steps: Sequence[float],
    max_steps: int,
    outputs: Sequence[Output] = (),
    golden: Mapping[str, Array | None] | None = None,
    own_steps: Mapping[str, Sequence[float]] | None = None,
) -> CanarySet:
    """Build a canary of N samples, by input if several. `scores`: (N, ...) of the reference, those of several `outputs`
    joined; `labels`: None: unknown.

    `steps`: by output, the unit in which its scores are held. `golden`: variant → scores of its own, for float files; None: the
    reference's scores are the variant's own. `own_steps`: variant → steps, of int8 files with scales of their own.
    """
    own = own_steps or {}
    given = {INPUT: inputs} if isinstance(inputs, np.ndarray) else inputs
    places = {name: "inputs" if len(given) == 1 else f"input-{number}" for number, name in enumerate(given)}
    arrays = {**{places[name]: values for name, values in given.items()}, **({} if labels is None else {"labels": labels})}

    def tensors(file: str, values: Array, steps: Sequence[float] | None, max_steps: int) -> dict[str, GoldenTensor]:
        """Of one set of scores, whose files are added. No `steps`: those of float scores."""
        found = {}
        parts = separate(values, outputs) if outputs else {SCORES: values}
        for number, (name, part) in enumerate(parts.items()):
            place = f"{file}-{number}" if outputs else file
            arrays[place] = part
            step = golden_step(part) if steps is None else steps[number]
            found[name] = GoldenTensor(file=_path(place), step=step, max_steps=max_steps)
        return found

    reference = tensors(REFERENCE, scores, steps, max_steps)
    variants = {
        name: tensors(
            REFERENCE if values is None else f"{GOLDEN}{name}",
            scores if values is None else values,
            own.get(name),
            max_steps if name in own else GOLDEN_STEPS,
        )
        for name, values in (golden or {}).items()
    }
    description = Canary(
        inputs={name: _path(place) for name, place in places.items()},
        labels="" if labels is None else _path("labels"),
        variants=variants,
        golden=reference,
    )
    return CanarySet(description, {_path(name): npy_of(values) for name, values in arrays.items()})


def canary_rows(splits: PreparedSplits, count: int) -> Array:
    """Rows of validation, evenly spread; of a detector, those with boxes first, because an empty picture shows little.

    Of a segmentation fewer, because each has scores for every label and pixel.
    """
    validation = splits.validation
    if splits.task == "segmentation":
        each = len(splits.labels) * validation.labels[0].size
        count = min(count, max(FEWEST_MASKS, MASK_SCORES // each))
    rows = evenly_spaced_rows(len(validation), count)
    if any(entry.output for entry in splits.inputs):  # a device begins each of them without a past
        first = np.flatnonzero(np.r_[True, np.diff(validation.recording) != 0])
        return first[evenly_spaced_rows(len(first), count)]
    if splits.boxes is None:
        return rows
    kept = KeptBoxes(splits.boxes, splits.outputs, splits.shape[0], splits.shape[1])
    full = np.flatnonzero([len(found.boxes) > 0 for found in kept.found(np.asarray(validation.labels))])
    chosen = full[evenly_spaced_rows(len(full), count)] if len(full) else full
    return np.concatenate([chosen, np.setdiff1d(rows, chosen)])[: len(rows)]


def golden_step(scores: Array) -> float:
    """One step of float scores: a thousandth of the largest."""
    return max(float(np.abs(scores).max()), 1e-6) / 1000


def _path(name: str) -> str:
    return f"canary/{name}.npy"
