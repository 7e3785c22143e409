"""The door: one function reads a model file of either format, whoever made it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeloop_contract.errors import DataError, ModelError
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.onnx_file import read_onnx, whole_onnx
from edgeloop_exporters.model_files.side_files import with_side_files
from edgeloop_exporters.model_files.tflite_file import IDENTIFIER, read_tflite

__all__ = ["content_of", "read"]

MAX_MODEL_BYTES = 2**31 - 1  # the most that a protocol buffer or a FlatBuffer can hold
# First bytes of files that are often taken for models.
OTHERS = {
    b"PK\x03\x04": "a zip file (PyTorch and Keras save those)", b"\x80\x02": "a pickle", b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle", b"\x80\x05": "a pickle", b"\x89HDF": "an HDF5 file (Keras)", b"version h": "a Git LFS pointer",
}  # fmt: skip


def read(path: Path | str, *, side_files: bool = False) -> ModelFile:
    """Describe a `.tflite` or `.onnx` file (opset 7 or later, any IR). Nothing in it is run, and no pickle is loaded.

    `side_files`: also read labels and settings beside it (labels.txt, config.json, preprocessor_config.json). Raises DataError for
    a file that cannot be read or is not whole, ModelError for a model that no runtime could run.
    """
    path = Path(path)
    content = _content(path)
    model = read_tflite(path, content) if _is_tflite(path, content) else read_onnx(path, content)
    if not side_files:
        return model
    return msgspec.structs.replace(model, metadata=with_side_files(model.metadata, path, model.inputs))


def content_of(path: Path | str) -> bytes:
    """The bytes of a model file as one file: weights that an ONNX file keeps beside it are inside. Raises as `read` does."""
    path = Path(path)
    content = _content(path)
    return content if _is_tflite(path, content) else whole_onnx(path, content)


def _is_tflite(path: Path, content: bytes) -> bool:
    """By what the file is; its name decides where that says nothing. Raises ModelError for other formats."""
    if content[4:8] == IDENTIFIER:
        return True
    if other := next((words for start, words in OTHERS.items() if content.startswith(start)), ""):
        raise ModelError(f"{path} is {other}, not a model in ONNX or TFLite; export it to one of them")
    if path.suffix.lower() not in (".onnx", ".ort", ".tflite", ".lite"):
        raise ModelError(f"{path}: edgeloop reads .onnx and .tflite files; export it to one of them")
    if path.suffix.lower() == ".ort":
        raise ModelError(f"{path}: ONNX Runtime's own form fits one machine's kind; give the .onnx file that it was made from")
    return path.suffix.lower() != ".onnx"


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(
                f"{path} has {size / 2**30:.1f} GB; a model file holds at most 2 GB: keep its weights in a file beside it"
            )
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not content:
        raise DataError(f"{path} is empty: download or export it again")
    return content
