"""Writes what a model means into its file, where the ecosystem looks for it. The same meaning gives the same bytes."""

from __future__ import annotations

import json

import msgspec

from edgeloop_contract.manifest import Runtime
from edgeloop_exporters.model_files.description import Meaning
from edgeloop_exporters.model_files.tflite_writing import tflite_with_meaning

__all__ = ["with_meaning"]

CLASSES = "classification"  # the task whose labels are names of classes


def with_meaning(content: bytes, runtime: Runtime, meaning: Meaning) -> bytes:
    """The model file with this meaning in it, in place of any that it had. What it computes does not change.

    ONNX: `metadata_props`, `doc_string` and `model_version`. TFLite: metadata, and the labels as a file in a zip at its end.
    """
    if runtime == "tflite":
        return tflite_with_meaning(content, meaning)
    return _onnx(content, meaning)


def _onnx(content: bytes, meaning: Meaning) -> bytes:
    import onnx

    model = onnx.ModelProto.FromString(content)
    del model.metadata_props[:]
    for key, value in _properties(meaning).items():
        model.metadata_props.add(key=key, value=value)
    model.ClearField("doc_string")
    if meaning.description:
        model.doc_string = meaning.description
    if meaning.version.isdigit():
        model.model_version = int(meaning.version)
    return bytes(model.SerializeToString(deterministic=True))


def _properties(meaning: Meaning) -> dict[str, str]:
    """`model_author` and `model_license` are the ONNX standard's; `task` and `names` are read by ultralytics' tools and others."""
    found = {"name": meaning.name, "task": meaning.task, "model_author": meaning.author, "model_license": meaning.licence}
    if meaning.labels:
        found["labels"] = json.dumps(meaning.labels, ensure_ascii=False)
        if meaning.task == CLASSES:
            found["names"] = repr(dict(enumerate(meaning.labels)))
    if meaning.preprocessing is not None:
        found["preprocessing"] = msgspec.json.encode(meaning.preprocessing).decode()
    return {key: value for key, value in {**found, **meaning.more}.items() if value}
