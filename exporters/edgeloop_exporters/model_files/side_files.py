"""Metadata in files beside a model: labels, and the configuration files of Hugging Face's libraries. Read only when asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_contract.errors import DataError
from edgeloop_exporters.model_files.description import InputMetadata, Metadata, Normalization, Tensor
from edgeloop_exporters.model_files.text import clean, label_lines, labels_in, parsed

__all__ = ["read_labels", "with_side_files"]

MAX_BYTES = 16 << 20
LABEL_FILES = ("{stem}.txt", "{stem}_labels.txt", "{stem}.labels.txt", "labels.txt", "labels.json", "classes.txt")
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels of a file: one a line, `number label` lines, or JSON. Raises DataError."""
    labels = label_lines(_text(path, required=True))
    if not labels:
        raise DataError(f"{path} has no labels: write one label a line")
    return labels


def with_side_files(metadata: Metadata, path: Path, inputs: Sequence[Tensor]) -> Metadata:
    """The metadata with what the folder of the model at `path` says besides; the file's own words count first.

    Raises DataError for a side file that cannot be read.
    """
    folder = path.parent
    config, processor = _json(folder / "config.json"), _json(folder / "preprocessor_config.json")
    changed: dict[str, Any] = {}
    sources = dict(metadata.sources)
    if not metadata.labels:
        labels, source = _labels(folder, path.stem, config)
        if labels:
            changed["labels"], sources["labels"] = labels, source
    if not metadata.inputs and inputs and (found := _processor(processor, inputs[0].name)):
        changed["inputs"], sources["inputs"] = (found,), "preprocessor_config.json"
    for field, key in (("task", "problem_type"), ("name", "_name_or_path")):
        if not getattr(metadata, field) and isinstance(text := config.get(key), str) and clean(text):
            changed[field], sources[field] = clean(text), "config.json"
    return msgspec.structs.replace(metadata, **changed, sources=sources) if changed else metadata


def _labels(folder: Path, stem: str, config: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    for pattern in LABEL_FILES:
        file = folder / pattern.format(stem=stem)
        if file.is_file():
            return read_labels(file), file.name
    labels = labels_in(config.get("id2label"))
    # "LABEL_0" is what the library writes where nobody gave names.
    invented = all(label == f"LABEL_{i}" for i, label in enumerate(labels))
    return ((), "") if invented else (labels, "config.json id2label")


def _processor(config: dict[str, Any], name: str) -> InputMetadata | None:
    """What an image or sound processor does, with mean and deviation in raw counts."""
    mean, std = (_numbers(config.get(key)) for key in ("image_mean", "image_std"))
    factor = config.get("rescale_factor", 1 / 255)
    scales = config.get("do_rescale", True) and isinstance(factor, (int, float)) and math.isfinite(factor) and factor > 0
    unit = float(factor) if scales else 1.0
    normalization = None
    if config.get("do_normalize", True) and mean and std and 0 not in std:
        normalization = Normalization(tuple(m / unit for m in mean), tuple(s / unit for s in std))
    elif scales and "rescale_factor" in config:
        normalization = Normalization((0.0,), (1 / unit,))
    size = _size(config.get("size")) if config.get("do_resize", True) else None
    crop = _size(config.get("crop_size")) if config.get("do_center_crop", False) else None
    rate = config.get("sampling_rate")
    if not (normalization or size or crop or isinstance(rate, int)):
        return None
    resample = config.get("resample")
    return InputMetadata(
        name=name, normalization=normalization, size=size, crop=crop, colour="rgb" if normalization and len(mean) == 3 else None,
        resample=RESAMPLING.get(resample, "") if isinstance(resample, int) else "",
        rate_hz=rate if isinstance(rate, int) and 0 < rate < 10**7 else None,
    )  # fmt: skip


def _size(value: Any) -> tuple[int, int] | None:
    """(height, width) of a number, of {height, width}, or of {shortest_edge}."""
    if isinstance(value, dict):
        edge = value.get("shortest_edge")
        value = (value.get("height", edge), value.get("width", edge))
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else ()
    good = len(pair) == 2 and all(isinstance(v, int) and not isinstance(v, bool) and 0 < v < 100_000 for v in pair)
    return (pair[0], pair[1]) if good else None


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) and len(value) <= 4096 else [value]
    good = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    return tuple(float(v) for v in values) if good else ()


def _json(path: Path) -> dict[str, Any]:
    text = _text(path, required=False)
    if not text:
        return {}
    value = parsed(text)
    if not isinstance(value, dict):
        raise DataError(f"{path} is no JSON object: correct it, or read the model without the files beside it")
    return value


def _text(path: Path, required: bool) -> str:
    try:
        if path.is_file() or required:
            if path.stat().st_size > MAX_BYTES:
                raise DataError(f"{path} has more than {MAX_BYTES >> 20} MB: that is no file of labels or settings")
            return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return ""
