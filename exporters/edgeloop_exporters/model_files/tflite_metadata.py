"""What people wrote into a TFLite file: its metadata, and the label files in the zip at its end.

Source: metadata_schema.fbs of TensorFlow Lite Support (the numbers of fields), and LiteRT's documentation of metadata.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from edgeloop_exporters.model_files.description import InputMetadata, Metadata, Normalization, Tensor
from edgeloop_exporters.model_files.flat_table import DamagedTable, Table, root
from edgeloop_exporters.model_files.properties import from_properties, steps_in
from edgeloop_exporters.model_files.text import clean, label_lines, parsed

__all__ = ["METADATA", "OURS", "tflite_metadata"]

METADATA = b"TFLITE_METADATA"
OURS = "edgeloop"  # the name of our custom metadata: JSON of task and preprocessing
IDENTIFIER = b"M001"
AXIS_LABELS, VALUE_LABELS = 2, 3  # kinds of files
NORMALIZATION, IMAGE, AUDIO = 1, 2, 4  # kinds of process units, and of content
MAX_LABEL_BYTES = 16 << 20
BAD_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, ValueError, OSError, LookupError, EOFError,
)  # fmt: skip
ULTRALYTICS = ("metadata.json", "temp_meta.txt")  # files of its exporter with its properties, newer and older


def tflite_metadata(metadata: bytes, content: bytes, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Metadata:
    """The metadata in a file. Metadata that are damaged count as absent: the model itself is sound."""
    files = _text_files(content)
    for name in ULTRALYTICS:
        if isinstance(props := parsed(files.get(name, b"").decode("utf-8", "replace")), dict) and "names" in props:
            return from_properties({str(key): str(value) for key, value in props.items()}, name)
    try:
        return _metadata(root(metadata, IDENTIFIER), files, inputs, outputs) if metadata else _labels_alone(files)
    except DamagedTable as error:
        return Metadata(more={"metadata": clean(f"damaged: {error}")})


def _metadata(model: Table, files: dict[str, bytes], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Metadata:
    graph = next(iter(model.tables(3)), None)
    written: dict[str, str] = {
        "name": model.text(0),
        "description": model.text(1),
        "version": model.text(2),
        "author": model.text(4),
        "licence": model.text(5),
    }
    texts: dict[str, Any] = {field: clean(text) for field, text in written.items() if text}
    sources = dict.fromkeys(texts, "TFLite metadata")
    described = graph.tables(2) if graph else []
    found = [_input(table, tensor.name) for table, tensor in zip(described, inputs, strict=False)]
    ours = _ours(graph) if graph else {}
    labels, file, output = _labels(model, graph, files, outputs, bool(ours))
    if labels:
        sources["labels"] = f"file {file} in the TFLite file"
    sources |= {key: "TFLite metadata edgeloop" for key in ("task", "preprocessing") if key in ours}
    steps = steps_in(json.dumps(ours.pop("preprocessing"))) if "preprocessing" in ours else None
    if any(found):
        sources["inputs"] = "TFLite metadata"
    return Metadata(
        **texts, labels=labels, labels_output=output, inputs=tuple(metadata for metadata in found if metadata),
        task=clean(str(ours.pop("task", ""))), preprocessing=steps, sources=sources,
        more={clean(str(k), 100): clean(str(v), 300) for k, v in list(ours.items())[:100]},
    )  # fmt: skip


def _input(table: Table, name: str) -> InputMetadata | None:
    normalization = colour = size = rate = channels = None
    for unit in table.tables(4):
        options = unit.table(1) if unit.byte(0) == NORMALIZATION else None
        if options is not None:
            mean, std = options.floats(0), options.floats(1)
            if mean and std and 0 not in std and all(map(math.isfinite, (*mean, *std))):
                normalization = Normalization(mean, std)
    content = table.table(3)
    properties = content.table(1) if content else None
    if content and properties and content.byte(0) == IMAGE:
        colour = {1: "rgb", 2: "grey"}.get(properties.byte(0))
        default = properties.table(1)
        size = (default.count(1), default.count(0)) if default and default.count(0) and default.count(1) else None
    if content and properties and content.byte(0) == AUDIO:
        rate, channels = properties.count(0) or None, properties.count(1) or None
    if not (normalization or colour or size or rate or channels):
        return None
    return InputMetadata(name=name, normalization=normalization, colour=colour, size=size, rate_hz=rate, channels=channels)  # type: ignore[arg-type]


def _labels(
    model: Table, graph: Table | None, files: dict[str, bytes], outputs: Sequence[Tensor], plain: bool
) -> tuple[tuple[str, ...], str, str]:
    """(labels, their file, their output): those of an axis before those of values; files without a language first."""
    tables = [(table, output.name) for table, output in zip(graph.tables(3) if graph else [], outputs, strict=False)]
    known = [(file, name) for table, name in tables for file in table.tables(6)]
    known += [(file, "") for table in (graph.tables(4) if graph else [], model.tables(6)) for file in table]
    wanted = [
        (file.byte(2), file.text(3), file.text(0), name) for file, name in known if file.byte(2) in (AXIS_LABELS, VALUE_LABELS)
    ]
    for _, _, file, name in sorted(wanted, key=lambda w: (w[0], w[1] not in ("", "en"), w[1])):
        if labels := label_lines(files.get(file, b"").decode("utf-8", "replace"), plain):
            return labels, clean(file, 100), name
    return (), "", ""


def _labels_alone(files: dict[str, bytes]) -> Metadata:
    """A file without metadata that has one label file at its end."""
    texts = [name for name in files if "label" in name.lower() and name.lower().endswith(".txt")]
    labels = label_lines(files[texts[0]].decode("utf-8", "replace")) if len(texts) == 1 else ()
    return Metadata(labels=labels, sources={"labels": f"file {clean(texts[0], 100)} in the TFLite file"}) if labels else Metadata()


def _ours(graph: Table) -> dict[str, Any]:
    for custom in graph.tables(9, most=100):
        if custom.text(0) == OURS and isinstance(found := parsed(custom.data(1).decode("utf-8", "replace")), dict):
            return found
    return {}


def _text_files(content: bytes) -> dict[str, bytes]:
    """Name → content of the files in the zip at the file's end that are no larger than label files are."""
    if b"PK\x05\x06" not in content[-(1 << 16) - 22 :]:
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            small = [e for e in archive.infolist()[:100] if e.file_size <= MAX_LABEL_BYTES]
            return {
                e.filename: _bounded(archive, e) for e in small if e.filename.lower().endswith((".txt", ".json", ".csv", ".names"))
            }
    except BAD_ZIP:
        return {}


def _bounded(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        return file.read(MAX_LABEL_BYTES)
