"""Samples and labels as files: CSV, COCO, Label Studio's JSON.

Media files are named DEVICE-KEY, because some tools keep no other field: by that name a label finds its sample again.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.sample_messages import LabelAssignment, SampleSummary

COLUMNS = ("file", "device", "key", "recording", "window", "guess", "confidence", "label")


@dataclass(frozen=True)
class Item:
    """A sample of the hub, and its values (*sample): of a model with several inputs the first one, called `input`, and `others`."""

    sample: SampleSummary
    values: Array
    input: str = ""
    others: Mapping[str, Array] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        return self.values.ndim == 3

    @property
    def file(self) -> str:
        return f"media/{self.sample.device}-{self.sample.key}.{'png' if self.is_image else 'csv'}"

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


def to_csv(items: list[Item], names: list[str]) -> dict[str, str]:
    """One line a sample; fill in its last column."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(item) for item in items)
    return {"labels.csv": out.getvalue()}


def _csv_row(item: Item) -> dict[str, Any]:
    sample = item.sample
    return {
        "file": item.file, "device": sample.device, "key": sample.key, "recording": sample.recording, "window": sample.window,
        "guess": sample.prediction, "confidence": sample.confidence, "label": sample.label or "",
    }  # fmt: skip


def to_coco(items: list[Item], names: list[str]) -> dict[str, str]:
    """Categories, images, and an annotation of the whole image for each label there is. Raises DataError for a series."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate(items, 1):
        if not item.is_image:
            raise DataError("coco: it holds images only, and these samples are series; use csv or label-studio")
        height, width = item.values.shape[:2]
        images.append({"id": number, "file_name": item.file, "width": width, "height": height})
        if item.sample.label:
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": names.index(item.sample.label) + 1,
                    "bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0,
                }
            )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"coco.json": json.dumps({"images": images, "annotations": annotations, "categories": categories}, indent=1)}


def to_label_studio(items: list[Item], names: list[str]) -> dict[str, str]:
    """Tasks with the model's prediction, and the labelling interface that fits them."""
    tasks = []
    for item in items:
        kind = "image" if item.is_image else "csv"
        data = {kind: item.file, **{k: getattr(item.sample, k) for k in ("device", "key", "recording", "window")}}
        task: dict[str, Any] = {"data": data}
        if item.sample.prediction:
            result = [_choice(item.sample.prediction)]
            task["predictions"] = [{"model_version": item.sample.model, "score": item.sample.confidence, "result": result}]
        if item.sample.label:
            task["annotations"] = [{"result": [_choice(item.sample.label)]}]
        tasks.append(task)
    return {"label-studio.json": json.dumps(tasks, indent=1), "label-studio.xml": _interface(items, names)}


def _choice(name: str) -> dict[str, Any]:
    return {"from_name": "label", "to_name": "sample", "type": "choices", "value": {"choices": [name]}}


def _interface(items: list[Item], names: list[str]) -> str:
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
    if not items or items[0].is_image:
        shown = '  <Image name="sample" value="$image"/>\n'
    else:
        channels = items[0].values.reshape(len(items[0].values), -1).shape[1]
        columns = "".join(f'    <Channel column="channel_{c}"/>\n' for c in range(channels))
        shown = f'  <TimeSeries name="sample" valueType="url" value="$csv" timeColumn="step">\n{columns}  </TimeSeries>\n'
    return f'<View>\n{shown}  <Choices name="label" toName="sample" choice="single">\n{choices}  </Choices>\n</View>\n'


def read(path: Path) -> Iterator[LabelAssignment]:
    """The label of each labelled sample in a file of any of the formats. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if path.suffix == ".csv":
        yield from _of_csv(path, text)
        return
    try:
        found = json.loads(text)
        if isinstance(found, dict) and "annotations" in found and "images" in found:
            yield from _of_coco(found)
        elif isinstance(found, list):
            yield from _of_label_studio(found)
        else:
            raise DataError("neither COCO's form nor Label Studio's")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, DataError, RecursionError) as error:
        raise DataError(f"{path}: no labels can be read from it ({type(error).__name__}: {error})") from error


def _of_csv(path: Path, text: str) -> Iterator[LabelAssignment]:
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
        if not row.get("label"):
            continue
        if row.get("device") and row.get("key"):
            yield LabelAssignment(row["device"], row["key"], row["label"])
        elif row.get("file"):
            yield LabelAssignment(*_named(row["file"]), row["label"])
        else:
            raise DataError(f"{path}:{number}: a label without device and key, or file")


def _of_coco(found: dict[str, Any]) -> Iterator[LabelAssignment]:
    names = {c["id"]: c["name"] for c in found["categories"]}
    files = {i["id"]: i["file_name"] for i in found["images"]}
    for annotation in found["annotations"]:
        yield LabelAssignment(*_named(files[annotation["image_id"]]), names[annotation["category_id"]])


def _of_label_studio(tasks: list[dict[str, Any]]) -> Iterator[LabelAssignment]:
    """From Label Studio's whole export, or from the short one (JSON-MIN)."""
    for task in tasks:
        data = task.get("data", task)
        device, key = (
            (data["device"], data["key"]) if "device" in data and "key" in data else _named(data.get("image") or data["csv"])
        )
        if "data" not in task:
            short = task.get("label") or task.get("choice")
            if short:
                yield LabelAssignment(device, key, short if isinstance(short, str) else short["choices"][0])
            continue
        for annotation in task.get("annotations", []):
            chosen = [r["value"]["choices"][0] for r in annotation["result"] if r.get("type") == "choices"]
            if chosen and not annotation.get("was_cancelled"):
                yield LabelAssignment(device, key, chosen[0])


def _named(file: str) -> tuple[str, str]:
    """Device and key, from a media file's name; tools put addresses and prefixes of their own before it. Raises DataError."""
    stem = PurePosixPath(file.replace("\\", "/")).stem
    device, dash, key = stem.rpartition("-")
    if not dash or not device:
        raise DataError(f"{file!r} is not named DEVICE-KEY")
    return device, key


FORMATS: dict[str, Callable[[list[Item], list[str]], dict[str, str]]] = {
    "csv": to_csv, "coco": to_coco, "label-studio": to_label_studio,
}  # fmt: skip
