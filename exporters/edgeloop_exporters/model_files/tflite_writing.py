"""Writes TFLite metadata: a FlatBuffer in the model's own, and the labels in a zip at its end.

Source: metadata_schema.fbs of TensorFlow Lite Support. Readers of it take the zip only where it is not compressed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeloop_exporters.model_files.description import InputMetadata, Metadata

__all__ = ["packed", "tflite_with_metadata"]

NAME = b"TFLITE_METADATA"
LABELS = "labels.txt"
ALIGNMENT = 16  # of weights: the converter aligns them so, and kernels for vectors read them faster
NORMALIZATION, IMAGE, AXIS_LABELS = 1, 2, 2
COLOURS = {"rgb": 1, "grey": 2}
DATE = (1980, 1, 1, 0, 0, 0)  # the zip's dates: the same on each build


def tflite_with_metadata(content: bytes, metadata: Metadata) -> bytes:
    """The file with this metadata in place of any that it had. `metadata.inputs` are in the order of the model's inputs."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    names = [
        [_name(graph.tensors[int(i)]) for i in numbers]
        for graph in model.subgraphs[:1]
        for numbers in (graph.inputs, graph.outputs)
    ]
    described = np.frombuffer(_metadata(metadata, *names), np.uint8)
    entry = next((e for e in model.metadata or [] if e.name == NAME), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = NAME, len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.metadata = [*(model.metadata or []), entry]
    model.buffers[entry.buffer].data = described
    written = packed(model)
    return _with_labels(written, metadata.labels) if metadata.labels else written


def packed(model: Any) -> bytes:
    """A ModelT of LiteRT's schema as a file."""
    from ai_edge_litert.tools import flatbuffer_utils

    builder = _builder()
    builder.Finish(model.Pack(builder), file_identifier=flatbuffer_utils._TFLITE_FILE_IDENTIFIER)
    return bytes(builder.Output())


def _name(tensor: Any) -> str:
    return bytes(tensor.name or b"").decode("utf-8", "replace")


def _builder() -> Any:
    import flatbuffers

    class Aligned(flatbuffers.Builder):  # type: ignore[misc]
        """flatbuffers' Python code does not keep to the alignment that both schemas ask for."""

        def CreateNumpyVector(self, x: Any) -> Any:
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.StartVector(1, x.size, ALIGNMENT)
            self.head -= x.size
            self.Bytes[self.head : self.head + x.size] = x.tobytes()
            self.vectorNumElems = x.size
            return self.EndVector()

    return Aligned(1024)


def _with_labels(content: bytes, labels: tuple[str, ...]) -> bytes:
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS, DATE), "".join(" ".join(label.splitlines()) + "\n" for label in labels))
    return file.getvalue()


def _metadata(metadata: Metadata, inputs: list[str], outputs: list[str]) -> bytes:
    build = _Tables()
    given = dict(enumerate(metadata.inputs))
    described = [_input(build, name, given.get(i)) for i, name in enumerate(inputs)]
    answered = []
    for name in outputs:
        labelled = bool(metadata.labels) and metadata.labels_output in ("", name)
        files = [build.table({0: build.text(LABELS)}, {2: AXIS_LABELS})] if labelled else []
        answered.append(build.table({0: build.text(name), **({6: build.tables(files)} if files else {})}))
    ours: dict[str, Any] = {**metadata.more, **({"task": metadata.task} if metadata.task else {})}
    if metadata.preprocessing is not None:
        ours["preprocessing"] = metadata.preprocessing
    custom = build.table({0: build.text("edgeloop"), 1: build.data(msgspec.json.encode(ours, order="sorted"))})
    graph = build.table({2: build.tables(described), 3: build.tables(answered), 9: build.tables([custom])})
    texts = {0: metadata.name, 1: metadata.description, 2: metadata.version, 4: metadata.author, 5: metadata.licence}
    return build.finish(build.table({3: build.tables([graph]), **{slot: build.text(text) for slot, text in texts.items() if text}}))


def _input(build: _Tables, name: str, given: InputMetadata | None) -> int:
    fields = {0: build.text(name)}
    if given is not None and given.colour in COLOURS:
        fields[3] = build.table({1: build.table({}, {0: COLOURS[given.colour]})}, {0: IMAGE})
    if given is not None and given.normalization is not None:
        options = build.table({0: build.floats(given.normalization.mean), 1: build.floats(given.normalization.std)})
        fields[4] = build.tables([build.table({1: options}, {0: NORMALIZATION})])
    return build.table(fields)


class _Tables:
    """Builds tables by their fields' numbers; each method returns the place of what it built."""

    def __init__(self) -> None:
        self._builder = _builder()

    def text(self, text: str) -> int:
        return int(self._builder.CreateSharedString(text))

    def floats(self, values: Sequence[float]) -> int:
        return int(self._builder.CreateNumpyVector(np.asarray(values, "<f4")))

    def data(self, values: bytes) -> int:
        return int(self._builder.CreateNumpyVector(np.frombuffer(values, np.uint8)))

    def tables(self, places: Sequence[int]) -> int:
        self._builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self._builder.PrependUOffsetTRelative(place)
        return int(self._builder.EndVector())

    def table(self, places: Mapping[int, int], numbers: Mapping[int, int] | None = None) -> int:
        """`places`: field → what was built before; `numbers`: field → a byte."""
        numbers = numbers or {}
        self._builder.StartObject(max((*places, *numbers), default=-1) + 1)
        for slot, place in sorted(places.items()):
            self._builder.PrependUOffsetTRelativeSlot(slot, place, 0)
        for slot, number in sorted(numbers.items()):
            self._builder.PrependUint8Slot(slot, number, 0)
        return int(self._builder.EndObject())

    def finish(self, root: int) -> bytes:
        self._builder.Finish(root, file_identifier=b"M001")
        return bytes(self._builder.Output())
