"""Metadata in properties, key → text, as ONNX files hold them and ultralytics' TFLite files do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from edgeloop_contract.preprocessing import Step
from edgeloop_exporters.model_files.description import InputMetadata, Metadata, Normalization
from edgeloop_exporters.model_files.text import clean, label_lines, labels_in

__all__ = ["detector_input", "from_properties", "is_detr", "steps_in"]

MAX_POINTS = 256  # of a box
LETTERBOXED = ("detect", "segment", "pose", "obb")  # ultralytics' tasks
PREPROCESSING = "preprocessing"  # our own key: the steps as the manifest writes them, in JSON
# Field → keys, the first that is there counts: ours, the ONNX standard's (model_author …), ultralytics'.
TEXTS = {
    "name": ("name", "model_name"), "version": ("version", "model_version"), "description": ("description", "comment"),
    "author": ("model_author", "author"), "licence": ("model_license", "license"), "task": ("task",),
}  # fmt: skip
# ours · ultralytics' · Hugging Face's · others' · text recognition (PaddleOCR, RapidOCR): one character a line
LABELS = ("labels", "names", "id2label", "classes", "class_names", "label_names", "character", "characters")


def from_properties(props: Mapping[str, str], place: str) -> Metadata:
    """The metadata in known keys; the rest in `more`. `place`: where the properties were found, in words."""
    fields: dict[str, Any] = {}
    sources: dict[str, str] = {}
    used: set[str] = set()
    for field, keys in TEXTS.items():
        for key in keys:
            if key in props and field not in fields and (text := clean(props[key])):
                fields[field], sources[field] = text, f"{place} {key}"
                used.add(key)
    labels, key = _labels(props)
    if labels:
        fields["labels"], sources["labels"] = labels, f"{place} {key}"
        used |= {*LABELS}
    points = [int(text) for text in re.findall(r"\d{1,3}", props.get("kpt_shape", "")[:100])]
    if len(points) == 2 and 0 < points[0] <= MAX_POINTS and points[1] in (2, 3):
        fields["points"], sources["points"] = tuple(points), f"{place} kpt_shape"
        fields["point_names"] = _point_names(props.get("kpt_names", ""), points[0])
        used |= {"kpt_shape", "kpt_names"}
    if PREPROCESSING in props and (steps := steps_in(props[PREPROCESSING])) is not None:
        fields["preprocessing"], sources["preprocessing"] = steps, f"{place} {PREPROCESSING}"
        used.add(PREPROCESSING)
    more = {clean(key, 100): clean(text, 300) for key, text in props.items() if key not in used}
    return Metadata(**fields, sources=sources, more={key: text for key, text in more.items() if key and text})


def detector_input(props: Mapping[str, str], name: str) -> InputMetadata | None:
    """The pictures of an ultralytics export: their size, in a letterbox (RT-DETR's are stretched), from 0 to 1. None for none."""
    if not {"stride", "imgsz", "names", "task"} <= props.keys() or props["task"] not in LETTERBOXED:
        return None
    numbers = [int(text) for text in re.findall(r"\d{1,5}", props["imgsz"][:100])]
    size = (numbers[0], numbers[-1]) if 1 <= len(numbers) <= 2 and min(numbers) > 0 else None
    return InputMetadata(
        name=name, normalization=Normalization((0.0,), (255.0,)), colour="rgb", size=size,
        letterbox=not _says_detr(props.get("description", ""), props.get("head", "")),
    )  # fmt: skip


def is_detr(metadata: Metadata) -> bool:
    """Whether an ultralytics export is of the DETR family."""
    return _says_detr(metadata.description, metadata.more.get("head", ""))


def _says_detr(description: str, head: str) -> bool:
    """By its decoder, or in earlier versions by the description "Ultralytics rtdetr-l model"."""
    return "detr" in f"{description[:200]} {head[:100]}".lower()


def _point_names(text: str, count: int) -> tuple[str, ...]:
    """The names of the first label's points, as ultralytics writes them for each label; () without different ones."""
    names = tuple(clean(name) for name in re.findall(r"['\"]([^'\"]{1,100})['\"]", text[:20_000])[:count])
    return names if len({*names}) == count and "" not in names else ()


def _labels(props: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """The labels and their key."""
    for key in LABELS:
        text = props.get(key, "")
        if found := labels_in(text) or (label_lines(text) if "\n" in text else ()):
            return found, key
    return (), ""


def steps_in(text: str) -> tuple[Step, ...] | None:
    """Preprocessing steps as edgeloop writes them; None where it is another program's text, or a later edgeloop's."""
    try:
        return tuple(msgspec.json.decode(text.encode("utf-8", "replace"), type=list[Step]))
    except (msgspec.MsgspecError, RecursionError):
        return None
