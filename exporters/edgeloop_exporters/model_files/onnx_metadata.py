"""What people wrote into an ONNX file: `metadata_props` of known exporters, and the labels of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from edgeloop_contract.preprocessing import Step
from edgeloop_exporters.model_files.description import InputMetadata, Metadata, Normalization
from edgeloop_exporters.model_files.graph import Graph
from edgeloop_exporters.model_files.text import clean, label_lines, labels_in

__all__ = ["PREPROCESSING", "onnx_metadata", "steps_in"]

PREPROCESSING = "preprocessing"  # our own key: the steps as the manifest writes them, in JSON
MAX_PROPERTIES = 200
# Field → keys of metadata_props, the first that is there counts: ours, the ONNX standard's (model_author …), ultralytics'.
TEXTS = {
    "name": ("name", "model_name"), "version": ("version", "model_version"), "description": ("description", "comment"),
    "author": ("model_author", "author"), "licence": ("model_license", "license"), "task": ("task",),
}  # fmt: skip
# ours · ultralytics' · Hugging Face's · others' · text recognition (PaddleOCR, RapidOCR): one character a line
LABELS = ("labels", "names", "id2label", "classes", "class_names", "label_names", "character", "characters")
CLASSIFIERS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")  # ai.onnx.ml's, as sklearn-onnx writes them
PIXELS: dict[str, Literal["rgb", "bgr", "grey"]] = {"Rgb8": "rgb", "Bgr8": "bgr", "Gray8": "grey", "Rgba8": "rgb", "Bgra8": "bgr"}
RANGES = {"NominalRange_0_255": (0.0, 1.0), "Normalized_0_1": (0.0, 255.0), "Normalized_1_1": (127.5, 127.5)}


def onnx_metadata(model: Any, graph: Graph) -> Metadata:
    """The metadata in an onnx.ModelProto."""
    props = {p.key[:200]: p.value for p in model.metadata_props[:MAX_PROPERTIES]}
    texts: dict[str, Any] = {}
    sources: dict[str, str] = {}
    used: set[str] = set()
    for field, keys in TEXTS.items():
        for key in keys:
            if key in props and field not in texts and (text := clean(props[key])):
                texts[field], sources[field] = text, f"metadata_props {key}"
                used.add(key)
    if "description" not in texts and (text := clean(model.doc_string or model.graph.doc_string)):
        texts["description"], sources["description"] = text, "doc_string"
    if "version" not in texts and model.model_version:
        texts["version"], sources["version"] = str(model.model_version), "model_version"
    labels, sources_of_labels, output = _labels(model, props, graph)
    if labels:
        sources["labels"] = sources_of_labels
        used |= {*LABELS}
    inputs = _picture(props, graph)
    if inputs:
        sources["inputs"] = "metadata_props"
    steps = steps_in(props[PREPROCESSING]) if PREPROCESSING in props else None
    if steps is not None:
        sources["preprocessing"] = f"metadata_props {PREPROCESSING}"
        used.add(PREPROCESSING)
    more = {clean(k, 100): clean(v, 300) for k, v in props.items() if k not in used}
    producer = clean(f"{model.producer_name} {model.producer_version}", 100)
    more |= {"producer": producer} if producer else {}
    return Metadata(
        **texts, labels=labels, labels_output=output, inputs=inputs, preprocessing=steps, sources=sources,
        more={k: v for k, v in more.items() if k and v},
    )  # fmt: skip


def _labels(model: Any, props: Mapping[str, str], graph: Graph) -> tuple[tuple[str, ...], str, str]:
    """(labels, where they were found, their output)."""
    for key in LABELS:
        if key in props:
            found = labels_in(props[key])
            if not found and "\n" in props[key]:
                found = label_lines(props[key])
            if found:
                return found, f"metadata_props {key}", ""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in CLASSIFIERS and (values := list(attribute.strings) or list(attribute.ints)):
                texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]
                scores = node.output[-1] if node.output else ""
                return labels_in(texts), f"{node.op_type}.{attribute.name}", scores if scores in graph.outputs else ""
    return (), "", ""


def _picture(props: Mapping[str, str], graph: Graph) -> tuple[InputMetadata, ...]:
    """The ONNX standard's keys of pictures (docs/MetadataProps.md): the order of colours, and the range of values."""
    colour = PIXELS.get(props.get("Image.BitmapPixelFormat", ""))
    nominal = RANGES.get(props.get("Image.NominalPixelRange", ""))
    if not graph.inputs or (colour is None and nominal is None):
        return ()
    normalization = Normalization((nominal[0],), (nominal[1],)) if nominal else None
    return (InputMetadata(name=graph.inputs[0], colour=colour, normalization=normalization),)


def steps_in(text: str) -> tuple[Step, ...] | None:
    """Preprocessing steps as edgeloop writes them; None where it is another program's text, or a later edgeloop's."""
    try:
        return tuple(msgspec.json.decode(text.encode("utf-8", "replace"), type=list[Step]))
    except (msgspec.MsgspecError, RecursionError):
        return None
