"""What model files say of themselves: read from other exporters' files, written into ours."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from commands import HERE
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import Runtime
from edgeloop_contract.preprocessing import Resize, Window
from edgeloop_exporters.model_files.description import InputMetadata, Metadata, Normalization
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.model_files.side_files import read_labels
from edgeloop_exporters.model_files.text import label_lines
from edgeloop_exporters.model_files.writing import with_metadata
from model_parts import node, onnx_file, tflite_file, value

GOLDEN = HERE / "goldens" / "v0.3" / "exercise_watch-1.edgeloop"
LABELS = ("curl", "dumb bell \"row\"", "Kniebeuge – tief")  # fmt: skip


def classifier(props: dict[str, str] | None = None, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    made = nodes or (node("Softmax", "x", "y"),)
    return onnx_file(made, [value("x", [1, 3])], [value("y", [1, 3])], props=props)


def metadata_of(model: onnx.ModelProto, folder: Path, side_files: bool = False) -> Metadata:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return read(path, side_files=side_files).metadata


# ---------------------------------------------------------------- other exporters'

ULTRALYTICS = {
    "description": "Ultralytics YOLO11n-cls model", "author": "Ultralytics", "license": "AGPL-3.0 License", "version": "8.3.0",
    "stride": "1", "task": "classify", "batch": "1", "imgsz": "[224, 224]", "names": "{0: 'tench', 1: \"cock's comb\", 2: 'shark'}",
}  # fmt: skip


def test_ultralytics_properties_are_read(tmp_path: Path) -> None:
    found = metadata_of(classifier(ULTRALYTICS), tmp_path)
    assert found.labels == ("tench", "cock's comb", "shark") and found.sources["labels"] == "metadata_props names"
    assert (found.task, found.author, found.licence, found.version) == ("classify", "Ultralytics", "AGPL-3.0 License", "8.3.0")
    assert found.more == {"stride": "1", "batch": "1", "imgsz": "[224, 224]", "producer": "somebody"}


@pytest.mark.parametrize("name", ["metadata.json", "temp_meta.txt"])
def test_ultralytics_tflite_files_are_read(name: str, tmp_path: Path) -> None:
    """Its exporter adds its properties as a file in a zip: JSON, or a Python dictionary before."""
    props: dict[str, Any] = {**ULTRALYTICS, "names": {0: "tench", 1: "cock's comb"}, "imgsz": [224, 224]}
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_file({"x": ((1, 2), "float32"), "y": ((1, 2), "float32")}, [("SOFTMAX", "x", "y")], "x", "y"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, json.dumps(props) if name.endswith("json") else str(props))
    found = read(path).metadata
    assert found.labels == ("tench", "cock's comb") and found.sources["labels"] == f"{name} names"
    assert (found.task, found.licence, found.more["imgsz"]) == ("classify", "AGPL-3.0 License", "[224, 224]")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('["a", "b"]', ("a", "b")), ('{"0": "a", "1": "b"}', ("a", "b")), ("{1: 'b', 0: 'a'}", ("a", "b")),
        ('{"a": 1, "b": 0}', ("b", "a")), ("x\ny\n ", ("x", "y")), ("{1: 'a', 2: 'b'}", ()), ("__import__('os').getcwd()", ()),
        ("[" * 100_000, ()), ('["a", ["b"]]', ()), ("", ()), ("9" * 5000, ()),
    ],
)  # fmt: skip
def test_labels_are_read_in_every_common_form(text: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    assert metadata_of(classifier({"labels": text}), tmp_path).labels == labels


def test_classes_of_a_classifier_are_its_labels(tmp_path: Path) -> None:
    """As sklearn-onnx writes them: the scores may become a list of dictionaries, which is told as no tensor."""
    linear = node(
        "LinearClassifier", "x", "label scores", domain="ai.onnx.ml", coefficients=[0.0] * 9, intercepts=[0.0] * 3,
        classlabels_strings=["iris", "rose", "elm"], post_transform="SOFTMAX",
    )  # fmt: skip
    zipmap = node("ZipMap", "scores", "table", domain="ai.onnx.ml", classlabels_strings=["iris", "rose", "elm"])
    outputs = [value("label", [1], onnx.TensorProto.STRING), value("scores", [1, 3])]
    model = onnx_file([linear, zipmap], [value("x", [1, 3])], outputs)
    kinds = onnx.helper.make_map_type_proto(onnx.TensorProto.STRING, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, []))
    table = onnx.helper.make_value_info("table", onnx.helper.make_sequence_type_proto(kinds))
    model.graph.output.append(table)
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    found = read(path)
    assert found.metadata.labels == ("iris", "rose", "elm") and found.metadata.labels_output == "scores"
    assert [t.dtype for t in found.outputs] == ["string", "float32", "sequence"]
    assert found.outputs[1].scores == "probabilities"


def test_the_standards_picture_properties_are_read(tmp_path: Path) -> None:
    props = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_1_1", "model_author": "A. Maker"}
    found = metadata_of(classifier(props), tmp_path)
    assert found.inputs == (InputMetadata(name="x", colour="bgr", normalization=Normalization((127.5,), (127.5,))),)
    assert found.author == "A. Maker"


def test_texts_are_cleaned_and_bounded(tmp_path: Path) -> None:
    hostile = "a\x00b\x1b[31m\u202ec\u200bd\r\n e" + "x" * 100_000
    names = json.dumps(["ok\x1b[2J\x00", "b" * 10_000])
    found = metadata_of(classifier({"description": hostile, "author": "\x07", "labels": names, "k\x00ey": hostile}), tmp_path)
    assert found.description.startswith("ab[31mcd e") and len(found.description) == 2000 and found.author == ""
    assert found.labels == ("ok[2J", "b" * 200) and found.more["key"].startswith("ab[31mcd e") and len(found.more["key"]) <= 300


# ---------------------------------------------------------------- beside the file


def test_files_beside_the_model_are_read_when_asked_for(tmp_path: Path) -> None:
    config = {"id2label": {"0": "cat", "1": "dog", "2": "owl"}, "problem_type": "single_label_classification"}
    processor = {
        "do_resize": True, "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
        "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.25],
        "image_std": [0.2, 0.25, 0.5],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert metadata_of(classifier(), tmp_path) == Metadata(more={"producer": "somebody"})
    found = metadata_of(classifier(), tmp_path, side_files=True)
    assert found.labels == ("cat", "dog", "owl") and found.sources["labels"] == "config.json id2label"
    (picture,) = found.inputs
    assert (picture.size, picture.crop, picture.resample, picture.colour) == ((256, 256), (224, 224), "bicubic", "rgb")
    assert picture.normalization is not None  # in counts from 0 to 255
    np.testing.assert_allclose(picture.normalization.mean, [127.5, 102, 63.75])
    np.testing.assert_allclose(picture.normalization.std, [51, 63.75, 127.5])
    (tmp_path / "labels.txt").write_text("0 katze\n1 hund\n2 eule\n", "utf-8")
    assert metadata_of(classifier(), tmp_path, side_files=True).labels == ("katze", "hund", "eule")
    assert metadata_of(classifier({"labels": '["own"]'}), tmp_path, side_files=True).labels == ("own",)


def test_side_files_that_say_nothing_or_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}')
    (tmp_path / "preprocessor_config.json").write_text('{"size": "large", "image_mean": ["a"], "resample": true, "image_std": [0]}')
    assert metadata_of(classifier(), tmp_path, side_files=True) == Metadata(more={"producer": "somebody"})
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(DataError, match=r"config\.json is no JSON object"):
        metadata_of(classifier(), tmp_path, side_files=True)
    with pytest.raises(DataError, match="has no labels"):
        read_labels(tmp_path / "empty.txt" if (tmp_path / "empty.txt").write_text("\n\n") else tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "gone.txt")


def test_label_files() -> None:
    assert label_lines("\ufeffa\r\nb b\r\n\r\n") == ("a", "b b")
    assert label_lines("0: a\n1: b") == ("a", "b") and label_lines("1 a\n2 b") == ("1 a", "2 b")
    assert label_lines('["a", "b"]') == ("a", "b") and label_lines("[a\nb") == ("[a", "b")
    assert label_lines("a\n\nb") == ("a", "", "b")  # a class without a name keeps its place


# ---------------------------------------------------------------- ours

OURS = Metadata(
    name="exercise_watch", version="12", description="Classifies into 3 labels.", author="Ä. Maker", licence="Apache-2.0",
    task="classification", labels=LABELS, preprocessing=(Window(100, 50), Resize(8, 8)), more={"note": "one"},
    inputs=(InputMetadata(name="x", normalization=Normalization((127.0,), (64.5,)), colour="rgb"),),
)  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> tuple[list[tuple[Runtime, bytes]], Array]:
    """The model files of a bundle, and samples."""
    with zipfile.ZipFile(GOLDEN) as bundle:
        names = [name for name in bundle.namelist() if name.startswith("models/")]
        files = [("tflite" if name.endswith("tflite") else "onnx", bundle.read(name)) for name in names]
        return files, np.load(io.BytesIO(bundle.read("canary/inputs.npy")))


def scores(runtime: Runtime, content: bytes, samples: Array) -> bytes:
    """Of the bare runtime."""
    if runtime == "onnx":
        return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"input": samples})[0].tobytes()
    from ai_edge_litert.interpreter import Interpreter

    interpreter, answers = Interpreter(model_content=content), b""
    interpreter.allocate_tensors()
    for sample in samples:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample[None])
        interpreter.invoke()
        answers += interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tobytes()
    return answers


def test_what_is_written_is_read_again_and_changes_no_score(golden: Any, tmp_path: Path) -> None:
    for runtime, content in golden[0]:
        written = with_metadata(content, runtime, OURS)
        assert written == with_metadata(content, runtime, OURS) == with_metadata(written, runtime, OURS)
        assert scores(runtime, content, golden[1]) == scores(runtime, written, golden[1])
        path = tmp_path / f"m.{runtime}"
        path.write_bytes(written)
        found = read(path).metadata
        for field in ("name", "version", "description", "author", "licence", "task", "labels", "preprocessing"):
            assert getattr(found, field) == getattr(OURS, field), field
            assert field in found.sources
        assert found.more["note"] == "one"
        if runtime == "tflite":
            assert read(path).inputs[0].signature == "args_0"
            (entry,) = found.inputs
            assert (entry.normalization, entry.colour) == (OURS.inputs[0].normalization, "rgb")


def test_a_file_grows_by_what_it_says(golden: Any) -> None:
    """Beside the texts: 400 bytes of keys in ONNX, 900 of tables, names and zip in TFLite."""
    texts = len(json.dumps([msgspec.to_builtins(OURS)], ensure_ascii=False).encode())
    labels = len(json.dumps(LABELS).encode())
    for runtime, content in golden[0]:
        allowed = texts + 2 * labels + (400 if runtime == "onnx" else 900)
        assert 0 < len(with_metadata(content, runtime, OURS)) - len(content) <= allowed
        bare = len(with_metadata(content, runtime, Metadata())) - len(content)
        assert bare <= (0 if runtime == "onnx" else 600)


def test_other_readers_find_it_where_they_look(golden: Any, tmp_path: Path) -> None:
    for runtime, content in golden[0]:
        path = tmp_path / f"m.{runtime}"
        path.write_bytes(with_metadata(content, runtime, OURS))
        if runtime == "onnx":
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            said = session.get_modelmeta()
            assert (said.version, said.description) == (12, OURS.description)
            props = said.custom_metadata_map
            assert json.loads(props["labels"]) == [*LABELS] and json.loads(props["preprocessing"])[0]["length"] == 100
            assert eval(props["names"], {"__builtins__": {}}) == dict(enumerate(LABELS))  # as ultralytics' tools read them
            assert props["model_license"] == "Apache-2.0" and props["task"] == "classification"
        else:
            with zipfile.ZipFile(path) as labels:  # as LiteRT's documentation reads them: stored, not compressed
                assert labels.testzip() is None and labels.infolist()[0].compress_type == zipfile.ZIP_STORED
                assert labels.read("labels.txt").decode().splitlines() == [*LABELS]


def test_labels_that_look_like_something_else_stay_what_they_are(golden: Any, tmp_path: Path) -> None:
    labels = ("0 fingers", "1 finger", "[2", "3 on\ntwo lines")
    for runtime, content in golden[0]:
        path = tmp_path / f"m.{runtime}"
        path.write_bytes(with_metadata(content, runtime, Metadata(labels=labels, task="classification")))
        assert read(path).metadata.labels == (*labels[:3], "3 on two lines")


def test_weights_stay_aligned(golden: Any) -> None:
    from ai_edge_litert import schema_py_generated as schema

    for runtime, content in golden[0]:
        if runtime == "tflite":
            written = with_metadata(content, "tflite", OURS)
            model = schema.Model.GetRootAs(written, 0)
            data = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength())]
            start = np.frombuffer(written, np.uint8).__array_interface__["data"][0]
            assert {(d.__array_interface__["data"][0] - start) % 16 for d in data if isinstance(d, np.ndarray) and d.size} == {0}


def test_spoiled_metadata_never_hide_the_model(golden: Any, tmp_path: Path) -> None:
    """Bytes of the metadata and of the zip are spoiled: the tensors are read as before, the texts as far as they can be."""
    content = next(c for runtime, c in golden[0] if runtime == "tflite")
    written, chance, path = with_metadata(content, "tflite", OURS), random.Random(0), tmp_path / "m.tflite"
    first, damaged = written.index(b"M001") - 4, 0
    zipped = written.index(b"PK\x03\x04")
    for i in range(160):
        spoiled = bytearray(written)
        area = range(first, first + 500) if i % 2 else range(zipped, len(written))
        for _ in range(chance.randrange(1, 6)):
            spoiled[chance.choice(area)] = chance.choice([0, 1, 127, 255, chance.randrange(256)])
        path.write_bytes(spoiled)
        found = read(path)
        assert found.outputs[0].shape == (1, 7)
        damaged += found.metadata.labels != LABELS
    assert damaged > 50
