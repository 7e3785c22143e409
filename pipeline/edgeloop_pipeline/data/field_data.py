"""Field data: versions of a data set of labelled samples from devices; one file each, named by its content."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cache.store import write
from edgeloop_pipeline.data.boxes import WITH_BOXES
from edgeloop_pipeline.data.field_labels import numbered, stacked
from edgeloop_pipeline.data.types import PreparedSplits, Samples

SHARES = {"train": 0.45, "test": 0.45, "validation": 0.1}  # of each device's recordings; the test part judges, and never trains
SHARE_WITH_BOXES = 0.5  # of training samples, see `settings`
BLOCK_LINES, BLOCK_SECONDS = 100, 600.0
FIELD_OFFSET = 1 << 30  # added to recording numbers, so that they differ from those of the old data
LINE = re.compile(r"(.*\bline )(\d+)")


@dataclass(frozen=True)
class Field:
    """Field samples: values (N, *sample) as the model saw them, their labels and origin, and `parts`: train, validation, test.

    `labels`: names (N,); regression: values (N, quantities); multilabel: rows (N, names) of 0 and 1; detection: boxes
    (N, boxes, 5), as in `data.boxes`; segmentation: masks (N, height, width), as in `data.masks`. `names`: of their columns, or
    those that their numbers stand for.
    `said`: a person labelled this very sample, not a similar one; only these judge. `pseudo`: the label is the teacher's
    pseudo-label. `rest`: not a chosen sample, but one of a recording that has a label.
    """

    values: Array
    labels: Array
    devices: Array
    recordings: Array
    keys: Array
    taken: Array
    random: Array
    parts: Array
    said: Array
    pseudo: Array
    rest: Array
    names: Array = field(default_factory=lambda: np.zeros(0, "<U1"))

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, rows: Array) -> Field:
        return replace(self, **{name: getattr(self, name)[rows] for name in BY_ROW})

    @property
    def judging(self) -> Field:
        """Whether each sample judges: it never trains, and a person labelled it."""
        return self.of((self.parts == "test") & self.said & ~self.pseudo)

    @property
    def groups(self) -> Array:
        """The names (N,) of groups that stay together: a device's recording; for an endless stream, some lines or minutes."""
        found = np.array([f"{d}/{_block(r)}" for d, r in zip(self.devices, self.recordings, strict=True)], dtype=str)
        for name in np.unique(found):
            rows = np.flatnonzero(found == name)
            if np.ptp(self.taken[rows]) > BLOCK_SECONDS:
                found = found.astype(object)
                found[rows] = [f"{name}/{int(t // BLOCK_SECONDS)}" for t in self.taken[rows]]
                found = found.astype(str)
        return found

    def divided(self, sides: dict[str, str]) -> tuple[Field, dict[str, str]]:
        """The field data with their parts, and the sides of all groups. `sides`: those of earlier versions, which never change.

        Each device's new groups, in the order of recording, go to the part that lacks most of its share in `SHARES`.
        """
        known, groups = dict(sides), self.groups
        first = {str(g): i for i, g in reversed(list(enumerate(groups.tolist())))}
        for name in sorted(first, key=lambda g: (float(self.taken[first[g]]), g)):
            if name not in known:
                device = name.split("/", 1)[0]
                mine = [side for group, side in known.items() if group.split("/", 1)[0] == device]
                known[name] = max(SHARES, key=lambda side: SHARES[side] * (len(mine) + 1) - mine.count(side))
        return replace(self, parts=np.array([known[g] for g in groups.tolist()], dtype=str)), known

    def save(self, folder: Path) -> Path:
        """Write to FOLDER/DIGEST.npz; equal content gives the same file."""
        order = np.lexsort((self.keys, self.devices))
        file = io.BytesIO()
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays |= {name: arrays[name][order] for name in BY_ROW}
        np.savez(file, **arrays)
        parts = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
        path = folder / f"{hashlib.sha256(b''.join(parts)).hexdigest()[:32]}.npz"
        if not path.exists():
            write(path, file.getvalue())
        return path


def settings(file: Path, task: str) -> dict[str, Any]:
    """A recipe's `field` for this version; other tasks than those with boxes keep the default share of training samples.

    A picture with boxes costs a person minutes, so there are few. At a quarter, 30 pictures came once an epoch, and twice as many
    won 2.7 points more by coming oftener; at a half both take the same part (docs/benchmarks.md, corrected boxes).
    """
    return {"file": str(file)} | ({"share": SHARE_WITH_BOXES} if task in WITH_BOXES else {})


BY_ROW = tuple(f.name for f in fields(Field) if f.name != "names")


def _block(recording: str) -> str:
    found = LINE.fullmatch(recording)
    return f"{found[1]}{int(found[2]) // BLOCK_LINES}" if found else recording


def load(path: Path) -> Field:
    """Read a version. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {f.name: arrays[f.name] for f in fields(Field) if f.name in arrays}
            for name in {"said", "pseudo", "rest"} - set(found):  # an older version, without these fields
                found[name] = np.full(len(found["labels"]), name == "said")
            return Field(**found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a version of field data ({error})") from error


def joined(first: Field, second: Field) -> Field:
    return replace(first, **{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in BY_ROW})


def samples(field: Field, names: tuple[str, ...], task: str = "classification") -> Samples:
    """The field data as the pipeline's samples; labels that the model does not know are left out.

    Raises DataError for labels of another task.
    """
    truth, known = numbered(field.labels, field.names.tolist(), names, task)
    field = field.of(known)
    _, recording = np.unique(field.groups, return_inverse=True) if len(field) else (None, np.zeros(0, dtype=np.intp))
    return Samples(field.values, truth, recording + FIELD_OFFSET, np.array([f"device {d}" for d in field.devices], dtype=str))


def merged(splits: PreparedSplits, path: Path, share: float, max_repeats: int) -> PreparedSplits:
    """Merge old data and field data: field samples make up `share` of the training samples, if necessary by repeats.

    Pseudo-labelled samples are added once each, at most as many as there are samples with people's labels. The field's test part
    is left out: the gate judges by it. Of an anomaly task, anomalous samples validate: they teach nothing. Raises DataError.
    """
    field = load(path)
    if field.values.shape[1:] != splits.shape or field.values.dtype != splits.train.values.dtype:
        raise DataError(
            f"{path}: samples of shape {field.values.shape[1:]} and type {field.values.dtype}; the recipe's are {splits.shape},"
            f" {splits.dtype}: the field data belong to another model"
        )
    guessed = field.of(field.pseudo & (field.parts == "train"))
    field = field.of(~field.pseudo)
    try:
        train, validation = (samples(field.of(field.parts == name), splits.labels, splits.task) for name in ("train", "validation"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if splits.task == "anomaly":
        train, validation = train.of(train.labels == 0), _together(validation, train.of(train.labels == 1))
    wanted = share / max(1 - share, 1e-6) * len(splits.train)
    repeats = int(np.clip(round(wanted / max(1, len(train))), 1, max_repeats))
    most = min(len(guessed), repeats * len(train))
    chosen = np.sort(np.random.default_rng(0).permutation(len(guessed))[:most])
    beside = samples(guessed.of(chosen), splits.labels, splits.task)
    return replace(
        splits, train=_together(splits.train, *[train] * repeats, beside), validation=_together(splits.validation, validation)
    )


def _together(first: Samples, *more: Samples) -> Samples:
    every = [first, *(m for m in more if len(m))]
    if len(every) == 1:
        return first
    return Samples(
        np.concatenate([s.values for s in every]), stacked([s.labels for s in every]),
        np.concatenate([s.recording for s in every]), np.concatenate([np.asarray(s.groups).astype(str) for s in every]),
    )  # fmt: skip
