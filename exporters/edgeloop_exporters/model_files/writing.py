"""Writes what a model means into its file, where the ecosystem looks for it. The same metadata gives the same bytes."""

from __future__ import annotations

import json

import msgspec

from edgeloop_contract.manifest import Runtime
from edgeloop_exporters.model_files.description import Metadata
from edgeloop_exporters.model_files.tflite_writing import tflite_with_metadata

__all__ = ["with_metadata"]

CLASSES = "classification"  # the task whose labels are names of classes


def with_metadata(content: bytes, runtime: Runtime, metadata: Metadata) -> bytes:
    """The model file with this metadata in it, in place of any that it had. What it computes does not change.

    ONNX: `metadata_props`, `doc_string` and `model_version`. TFLite: metadata, and the labels as a file in a zip at its end.
    """
    if runtime == "tflite":
        return tflite_with_metadata(content, metadata)
    return _onnx(content, metadata)


def _onnx(content: bytes, metadata: Metadata) -> bytes:
    import onnx

    model = onnx.ModelProto.FromString(content)
    del model.metadata_props[:]
    for key, value in _properties(metadata).items():
        model.metadata_props.add(key=key, value=value)
    model.ClearField("doc_string")
    if metadata.description:
        model.doc_string = metadata.description
    if metadata.version.isdigit():
        model.model_version = int(metadata.version)
    return bytes(model.SerializeToString(deterministic=True))


def _properties(metadata: Metadata) -> dict[str, str]:
    """`model_author` and `model_license` are the ONNX standard's; `task` and `names` are read by ultralytics' tools and others."""
    found = {"name": metadata.name, "task": metadata.task, "model_author": metadata.author, "model_license": metadata.licence}
    if metadata.labels:
        found["labels"] = json.dumps(metadata.labels, ensure_ascii=False)
        if metadata.task == CLASSES:
            found["names"] = repr(dict(enumerate(metadata.labels)))
    if metadata.preprocessing is not None:
        found["preprocessing"] = msgspec.json.encode(metadata.preprocessing).decode()
    return {key: value for key, value in {**found, **metadata.more}.items() if value}
