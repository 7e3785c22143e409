"""A sample of the hub as other tools take it: a medium that people can look at, and what is known of it."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from edgeloop_contract.annotations import Annotation
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.sample_messages import SampleAnnotations, SampleSummary

MEDIA = "media"
# A device chooses its samples' keys: dashes would move to the device's name, and slashes lead to other folders.
PLAIN, WRITTEN = re.compile(r"[^A-Za-z0-9_]"), re.compile(r"~([0-9a-f]{1,5})~")


@dataclass(frozen=True)
class Item:
    """A sample of the hub, and its values (*sample): of a model with several inputs the first one, called `input`, and `others`.

    `known`: its annotations, where its model answers more than a label.
    """

    sample: SampleSummary
    values: Array
    input: str = ""
    others: Mapping[str, Array] = field(default_factory=dict)
    known: SampleAnnotations | None = None

    @property
    def is_image(self) -> bool:
        return self.values.ndim == 3

    @property
    def part(self) -> str:
        """What its annotations have: boxes, masks, values, labels; "": a single label."""
        return self.known.part if self.known else ""

    @property
    def settled(self) -> Annotation | None:
        return self.known.settled if self.known else None

    @property
    def answer(self) -> Annotation | None:
        """The model's answer."""
        return self.known.answer if self.known else None

    @property
    def prediction(self) -> Annotation | None:
        """The model's answer, where people begin with it: nothing is settled."""
        return None if self.settled else self.answer

    @property
    def stem(self) -> str:
        """By this name an annotation finds its sample again, because some tools keep no other field."""
        return f"{self.sample.device}-{PLAIN.sub(lambda found: f'~{ord(found[0]):x}~', self.sample.key)}"

    @property
    def file(self) -> str:
        return f"{MEDIA}/{self.stem}.{'png' if self.is_image else 'csv'}"

    def media(self) -> dict[str, bytes]:
        """By file name, what a person can look at: a file for each input, those beside the first with its name."""
        files = {self.file: self._medium()}
        for name, values in self.others.items():
            other = Item(self.sample, values)
            safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
            files[str(PurePosixPath(other.file).with_suffix(f".{safe}{PurePosixPath(other.file).suffix}"))] = other._medium()
        return files

    def _medium(self) -> bytes:
        """A PNG, or CSV with a column for each channel and one for the time step."""
        out = io.BytesIO()
        if self.is_image:
            from PIL import Image

            Image.fromarray(_bytes(self.values).squeeze()).save(out, "png")
            return out.getvalue()
        rows = self.values.reshape(len(self.values), -1)
        names = ",".join(["step", *(f"channel_{c}" for c in range(rows.shape[1]))])
        np.savetxt(out, np.column_stack([np.arange(len(rows)), rows]), delimiter=",", header=names, comments="", fmt="%g")
        return out.getvalue()


def arrays_of(content: bytes) -> dict[str, Array]:
    """A sample's values as the hub gives them, by input: .npy, or .npz of a model with several. Raises DataError."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        return {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"the hub's values of a sample cannot be read ({error})") from error


def _bytes(image: Array) -> Array:
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return np.rint((image - low) / ((high - low) or 1.0) * 255).astype(np.uint8)


def named(file: str) -> tuple[str, str]:
    """Device and key, from a media file's name; tools put addresses and prefixes of their own before it. Raises DataError."""
    stem = PurePosixPath(file.replace("\\", "/")).stem
    device, dash, key = stem.rpartition("-")
    if not dash or not device:
        raise DataError(f"{file!r} is not named DEVICE-KEY")
    return device, WRITTEN.sub(lambda found: chr(int(found[1], 16)), key)


class Row(NamedTuple):
    """One label of a sample, or one box; both empty where the sample has none."""

    label: str = ""
    box: tuple[float, float, float, float] | None = None
    score: float | None = None


def rows_of(annotation: Annotation | None) -> list[Row]:
    """The labels and boxes of an annotation."""
    if annotation is None:
        return []
    return [Row(box.label, box.box, box.score) for box in annotation.boxes or []] + [
        Row(label) for label in annotation.labels or []
    ]


def points_of(items: Sequence[Item]) -> list[str]:
    """The names of the points that their boxes have; [] of models without points."""
    return next((item.known.points for item in items if item.known and item.known.points), [])


def refuse_points(items: Sequence[Item], form: str) -> None:
    """Raises DataError where something is said of points, which this form does not hold: they would be lost without a word."""
    said = [one for item in items for one in (item.settled, item.answer) if one is not None]
    if any(box.points for one in said for box in one.boxes or []):
        raise DataError(f"{form}: it holds no points of boxes; use coco or yolo")


def with_unknown(names: list[str], labels: Iterable[str]) -> list[str]:
    """The model's labels, and those that earlier versions of it had."""
    return list(dict.fromkeys([*names, *labels]))
