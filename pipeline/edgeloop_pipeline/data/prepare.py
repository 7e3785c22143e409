"""Makes samples from raw recordings: checks, cleans and preprocesses them as on the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import MAX_POINTS, Placement, placement
from edgeloop_contract.cleaning import Step as CleaningStep
from edgeloop_contract.cleaning import clean
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import Prepared, prepare
from edgeloop_contract.preprocessing.base import StepBase
from edgeloop_contract.resampling import to_model_rate
from edgeloop_contract.tasks import MAX_MASKS
from edgeloop_pipeline.data.boxes import WITH_BOXES, boxes_of, moved, padded
from edgeloop_pipeline.data.label_checks import checked_labels
from edgeloop_pipeline.data.label_names import classes_of, names_of
from edgeloop_pipeline.data.masks import checked_mask, mask_in_sample, unlearnt
from edgeloop_pipeline.data.several_inputs import PreparedInput, prepared_together
from edgeloop_pipeline.data.several_labels import label_rows, unlearnt_labels
from edgeloop_pipeline.data.spill_array import SpillArray
from edgeloop_pipeline.data.types import NAMES, PreparedSplits, Samples, Split, Splits

MAX_PROBLEMS = 20  # named one by one


def checked(loaded: Any, task: str = "classification", truths: bool = False) -> Splits:
    """The data of a data.py, with names as texts and labels as numbers (for classes int64 indices). Raises DataError."""
    lacking = [name for name in ("labels", *NAMES) if not hasattr(loaded, name)]
    if lacking:
        raise DataError(f"load() returned {type(loaded).__name__} without {lacking[0]}; return edgeloop_pipeline.data.Splits")
    for name in NAMES:
        _check_counts(getattr(loaded, name), name)
    names = names_of(loaded.labels)
    parts: dict[str, Split] = {name: getattr(loaded, name) for name in NAMES}
    if task == "tensors" and not truths:  # an imported model's own answers follow
        labels = {name: np.zeros(len(part.labels), np.int64) for name, part in parts.items()}
    elif task in WITH_BOXES:
        labels = _boxes(parts, len(names.texts), _points(loaded, task))
    elif task == "multilabel":
        labels = {name: label_rows(part.labels, names.texts, name) for name, part in parts.items()}
    elif task == "segmentation":  # masks are read one by one, beside their pictures
        if not 2 <= len(names.texts) <= MAX_MASKS:
            raise DataError(f"labels: {len(names.texts)} for pixels; there must be 2 to {MAX_MASKS}, the background among them")
        labels = {name: part.labels for name, part in parts.items()}
    elif task == "regression":
        labels = {name: _quantities(part.labels, name) for name, part in parts.items()}
    else:
        if len(names.texts) < 2:
            raise DataError(f"labels: only {names.texts[0]!r}; there must be two classes or more")
        labels = classes_of(names, {name: part.labels for name, part in parts.items()})
    made = {name: replace(part, labels=labels[name], groups=_groups(part)) for name, part in parts.items()}
    found: Splits = replace(loaded, labels=names.texts, **made)
    return found


def _points(loaded: Any, task: str) -> int:
    """How many points a box has. Raises DataError where the task needs some and the data name none."""
    if task != "keypoints":
        return 0
    points = tuple(getattr(loaded, "points", ()))
    if not points or len(set(points)) != len(points) or "" in points or len(points) > MAX_POINTS:
        raise DataError(f"points: {len(points)} names; Splits(..., points=(…)) names each point of a box, up to {MAX_POINTS}")
    return len(points)


def _boxes(parts: dict[str, Split], labels: int, points: int = 0) -> dict[str, Array]:
    """The boxes of every picture in pixels of its recording, padded to the same number in all splits: (N, boxes, values)."""
    rows = {}
    for name, part in parts.items():
        names = part.names or [f"recording {i}" for i in range(len(part.labels))]
        rows[name] = [boxes_of(part.labels[i], f"{name}: {names[i]}", labels, points) for i in range(len(part.labels))]
    most = max(1, max(len(row) for some in rows.values() for row in some))
    return {name: padded(some, most) for name, some in rows.items()}


def _quantities(labels: Any, name: str) -> Array:
    try:
        found = np.asarray(labels)
        return found.astype(np.float64) if found.dtype.kind in "Obiu" else found
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: labels are not regular numbers ({error}); give one per recording for each quantity") from error


def _check_counts(split: Any, name: str) -> None:
    for part in ("recordings", "labels"):
        if not hasattr(getattr(split, part, None), "__len__"):
            raise DataError(f"{name}: its {part} have no length; give a Split with a list or an array of them")
    if len(split.recordings) == 0 or len(split.recordings) != len(split.labels):
        raise DataError(f"{name}: {len(split.recordings)} recordings and {len(split.labels)} labels; give each recording one label")
    groups = getattr(split, "groups", None)
    if groups is not None and len(groups) != len(split.labels):
        raise DataError(f"{name}: {len(groups)} groups and {len(split.labels)} labels; give each recording its group")


def _groups(split: Split) -> Array | None:
    """The groups as an array of numbers or texts; other types become texts."""
    if split.groups is None:
        return None
    found = np.asarray(split.groups)
    return found if found.dtype.kind in "biufU" and found.ndim == 1 else np.array([str(group) for group in split.groups])


def prepare_splits(
    splits: Splits, steps: Sequence[StepBase], task: str = "classification", cleaning: Sequence[CleaningStep] = (),
    inputs: Sequence[PreparedInput] = (), truths: bool = False,
) -> PreparedSplits:  # fmt: skip
    """Run the shared cleaning and preprocessing over all splits. Raises DataError that names the split and the recording.

    A recording that cleaning refuses is left out, because the device would refuse it too; `notes` has the count. `inputs`: of a
    model with several, each with its own steps. `truths`: the recordings' labels are classes although the task is tensors.
    """
    splits, notes = checked(splits, task, truths), []
    made = {}
    for name in NAMES:
        maker = _Maker(name, getattr(splits, name), steps, cleaning, splits.rate_hz, task, inputs)
        given = getattr(splits, name).labels
        try:
            if task == "segmentation":
                made[name] = maker.samples(given, len(splits.labels))
            else:
                made[name] = maker.samples(checked_labels(task, name, np.asarray(given), splits.labels))
        except _Unreadable as error:
            problems = _unreadable(splits)
            if len(problems) < 2:
                raise DataError(str(error)) from error
            more = [f"… and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
            listed = "\n  ".join([*problems[:MAX_PROBLEMS], *more])
            raise DataError(f"{len(problems)} recordings cannot be read:\n  {listed}") from error
        notes += maker.notes()
    if task == "segmentation":
        unlearnt(made["train"].labels, splits.labels)
    if task == "multilabel":
        notes += unlearnt_labels({name: samples.labels for name, samples in made.items()}, splits.labels)
    shapes = {(m.values.shape[1:], m.values.dtype) for m in made.values()}
    if len(shapes) > 1:
        raise DataError(f"the splits give samples of different shapes: {shapes}; add a resize or window step")
    return PreparedSplits(
        splits.labels,
        made["train"],
        made["validation"],
        made["test"],
        task,
        channels=tuple(splits.channels),
        points=tuple(splits.points) if task == "keypoints" else (),
        notes=(*splits.notes, *notes),
        inputs=tuple(given.entry for given in inputs),
    )


class _Unreadable(DataError):
    """A recording's file cannot be read."""


def _unreadable(splits: Splits) -> list[str]:
    """What is wrong with each file that cannot be read: a folder is repaired in one go, not by one run for each file."""
    found = []
    for name in NAMES:
        recordings = getattr(splits, name).recordings
        for i in range(len(recordings)):
            try:
                recordings[i]
            except DataError as error:
                found.append(str(error))
    return found


class _Maker:
    """Makes the samples of one split."""

    def __init__(
        self,
        name: str,
        split: Split,
        steps: Sequence[StepBase],
        cleaning: Sequence[CleaningStep],
        rate_hz: int,
        task: str = "classification",
        inputs: Sequence[PreparedInput] = (),
    ) -> None:
        """Labels that are boxes or masks in pixels of the recording become such in pixels of the sample."""
        self.boxes, self.masks = task in WITH_BOXES, SpillArray() if task == "segmentation" else None
        self.name, self.split, self.steps, self.cleaning, self.rate_hz = name, split, steps, cleaning, rate_hz or None
        self.inputs = inputs
        self.refused: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()

    def samples(self, labels: Any, count: int = 0) -> Samples:
        """`labels`: of each recording. `count`: of the labels that pixels have."""
        stack, origin = SpillArray(), []
        labels = labels.copy() if self.boxes else labels
        for i in range(len(self.split.recordings)):
            recording = self._recording(i)
            prepared = self._prepared(i, recording)
            if prepared is not None and len(prepared.values):
                try:
                    stack.append(prepared.values)
                except DataError as error:
                    raise DataError(f"{self._where(i)}: {error}") from error
                size = np.shape(recording)[:2]
                if self.boxes:
                    labels[i] = moved(labels[i], self._place(i, size, prepared), *prepared.values.shape[1:3])
                if self.masks is not None:
                    mask = checked_mask(labels[i], size, count, self._where(i))
                    self.masks.append(mask_in_sample(mask, self._place(i, size, prepared), *prepared.values.shape[1:3])[None])
                origin += [i] * len(prepared.indices)
        if not origin:
            why = "; ".join(f"{count} for {reason}" for reason, count in self.refused.items())
            raise DataError(f"{self.name}: no samples: {sum(self.refused.values())} recordings are refused ({why})")
        stacked = stack.all()
        tokens = stacked.dtype == np.int32 and stacked.ndim == 2
        if not tokens and (stacked.dtype not in (np.uint8, np.int16, np.float32) or stacked.ndim < 3):
            raise DataError(
                f"{self.name}: samples are {stacked.dtype} of shape {stacked.shape[1:]}; a model takes uint8, int16 or float32"
                " with channels last"
            )
        rows = np.asarray(origin)
        groups = np.asarray(self.split.groups)[rows] if self.split.groups is not None else rows
        placed = labels[rows] if self.masks is None else self.masks.all()
        return Samples(stacked, placed, rows, groups)

    def _recording(self, i: int) -> Any:
        try:
            return self.split.recordings[i]
        except DataError as error:
            raise _Unreadable(str(error)) from error

    def _place(self, i: int, size: tuple[int, ...], prepared: Prepared) -> Placement:
        """Where preprocessing puts a recording of this height and width."""
        if len(size) != 2 or prepared.values.ndim != 4 or len(prepared.values) != 1:
            raise DataError(f"{self._where(i)}: boxes and masks need pictures (height, width, channels), one sample each")
        try:
            return placement(self.steps, size[0], size[1])
        except DataError as error:
            raise DataError(f"{self._where(i)}: {error}") from error

    def _prepared(self, i: int, recording: Any) -> Prepared | None:
        """The samples of a recording; None if cleaning refuses it."""
        try:
            if self.inputs:
                prepared = prepared_together(recording, self.inputs, self.rate_hz)
            else:
                values = to_model_rate(self.steps, np.asarray(recording), self.rate_hz)
                cleaned = clean(self.cleaning, values)
                self.repaired.update(cleaned.repaired)
                if cleaned.refused:
                    self.refused[f"{cleaned.reason}: {cleaned.refused}"[:120]] += 1
                    return None
                prepared = prepare(self.steps, cleaned.values)
        except DataError as error:
            raise DataError(f"{self._where(i)}: {error}") from error
        if prepared.refused:
            window, reason = next(iter(prepared.refused.items()))
            remedy = "add cleaning: [{step: fill_missing, max_gap: 5}] to the recipe, or clean the data first"
            raise DataError(f"{self._where(i)}, window {window}: {reason}; {remedy}")
        return prepared

    def _where(self, i: int) -> str:
        names = self.split.names
        return f"{self.name} recording {i}" + (f" ({names[i]})" if names is not None and i < len(names) else "")

    def notes(self) -> list[str]:
        found = [f"{self.name}: {count} values repaired by {step}" for step, count in self.repaired.items()]
        left = sum(self.refused.values())
        if left:
            reason, count = self.refused.most_common(1)[0]
            found.append(f"{self.name}: {left} of {len(self.split.labels)} recordings left out, {count} by {reason}")
        return found
