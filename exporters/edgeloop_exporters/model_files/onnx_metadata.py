"""What people wrote into an ONNX file: `metadata_props` of known exporters, and the labels of classifiers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edgeloop_exporters.model_files.description import InputMetadata, Metadata, Normalization
from edgeloop_exporters.model_files.graph import Graph
from edgeloop_exporters.model_files.properties import detector_input, from_properties
from edgeloop_exporters.model_files.text import clean, labels_in

__all__ = ["onnx_metadata"]

MAX_PROPERTIES = 200
CLASSIFIERS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")  # ai.onnx.ml's, as sklearn-onnx writes them
PIXELS: dict[str, Literal["rgb", "bgr", "grey"]] = {"Rgb8": "rgb", "Bgr8": "bgr", "Gray8": "grey", "Rgba8": "rgb", "Bgra8": "bgr"}
RANGES = {"NominalRange_0_255": (0.0, 1.0), "Normalized_0_1": (0.0, 255.0), "Normalized_1_1": (127.5, 127.5)}


def onnx_metadata(model: Any, graph: Graph) -> Metadata:
    """The metadata in an onnx.ModelProto."""
    props = {p.key[:200]: p.value for p in model.metadata_props[:MAX_PROPERTIES]}
    found = from_properties(props, "metadata_props")
    changed: dict[str, Any] = {}
    sources = dict(found.sources)
    if not found.description and (text := clean(model.doc_string or model.graph.doc_string)):
        changed["description"], sources["description"] = text, "doc_string"
    if not found.version and model.model_version:
        changed["version"], sources["version"] = str(model.model_version), "model_version"
    if not found.labels and (classes := _classes(model, graph)) is not None:
        changed["labels"], changed["labels_output"], sources["labels"] = classes
    if inputs := _picture(props, graph):
        changed["inputs"], sources["inputs"] = inputs, "metadata_props"
    if producer := clean(f"{model.producer_name} {model.producer_version}", 100):
        changed["more"] = found.more | {"producer": producer}
    return msgspec.structs.replace(found, **changed, sources=sources)


def _classes(model: Any, graph: Graph) -> tuple[tuple[str, ...], str, str] | None:
    """The labels of a classifier's operator, their output, and where they were found."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in CLASSIFIERS and (values := list(attribute.strings) or list(attribute.ints)):
                texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]
                scores = node.output[-1] if node.output else ""
                return labels_in(texts), scores if scores in graph.outputs else "", f"{node.op_type}.{attribute.name}"
    return None


def _picture(props: dict[str, str], graph: Graph) -> tuple[InputMetadata, ...]:
    """Ultralytics' keys, or the ONNX standard's (docs/MetadataProps.md): the order of colours, and the range of values."""
    colour = PIXELS.get(props.get("Image.BitmapPixelFormat", ""))
    nominal = RANGES.get(props.get("Image.NominalPixelRange", ""))
    if graph.inputs and (found := detector_input(props, graph.inputs[0])) is not None:
        return (found,)
    if not graph.inputs or (colour is None and nominal is None):
        return ()
    normalization = Normalization((nominal[0],), (nominal[1],)) if nominal else None
    return (InputMetadata(name=graph.inputs[0], colour=colour, normalization=normalization),)
