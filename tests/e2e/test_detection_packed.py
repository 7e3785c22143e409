"""Detectors that somebody else made: their files answer boxes on the device, by the declared layout."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgeloop
from bundles import onnx_file
from commands import edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from serving import serving

F = TensorProto.FLOAT
HEIGHT, WIDTH = 48, 64
BOX = [20.0, 12.0, 44.0, 36.0]  # in the sample; a picture of 96 × 96 lies at 8 to 56 in it, half as large
IN_PICTURE = [24.0, 24.0, 72.0, 72.0]
STEPS = "[{step: colour}, {step: letterbox, height: 48, width: 64}]"


def rows_first(path: Path) -> Path:
    """As YOLOv8 exports: (1, 4 + labels, anchors), decoded; of three anchors two are one box, and the answer needs the input."""
    x1, y1, x2, y2 = BOX
    rows = np.zeros((1, 6, 3), np.float32)
    rows[0, :4, :2] = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])[:, None]
    rows[0, 5, :2] = 0.9, 0.8
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[1, 2, 3], keepdims=0), helper.make_node("Mul", ["m", "none"], ["n"]),
        helper.make_node("Add", ["rows", "n"], ["output0"]),
    ]  # fmt: skip
    model = onnx_file(
        nodes,
        [("images", F, [1, 3, HEIGHT, WIDTH])],
        [("output0", F, [1, 6, 3])],
        rows=rows,
        none=np.zeros(1, np.float32),
        w=np.ones((1, 3, 1, 1), np.float32),
    )
    path.write_bytes(model)
    return path


def packed(folder: Path, *more: object) -> tuple[int, str]:
    done = edgeloop_here(
        "pack", rows_first(folder / "yolo.onnx"), "--out", folder / "y.edgeloop", "--preprocess", STEPS, "--name", "yolo", *more
    )
    return done.returncode, done.stderr


def test_a_foreign_file_answers_boxes_in_pixels_of_the_picture(tmp_path: Path) -> None:
    layout = "{layout: rows, channels: first, score_threshold: 0.4}"
    code, said = packed(tmp_path, "--labels", "cat,dog", "--boxes", layout)
    assert code == 0, said
    with Bundle.open(tmp_path / "y.edgeloop") as bundle:
        assert bundle.manifest.schema == 3 and bundle.manifest.task.score_threshold == 0.4
    model = edgeloop.open(tmp_path / "y.edgeloop", state=tmp_path / "state")
    (box,) = model(np.zeros((96, 96, 3), np.uint8)).boxes
    assert box.label == "dog" and box.score == pytest.approx(0.9, abs=1e-3) and box.box == pytest.approx(IN_PICTURE, abs=0.02)


def test_the_local_api_gives_raw_tensors_and_boxes_where_they_are_asked_for(tmp_path: Path) -> None:
    assert packed(tmp_path, "--labels", "cat,dog", "--boxes", "{layout: rows, channels: first}")[0] == 0
    with serving(tmp_path, "[runtime]\nthreads = 1\n", tmp_path / "y.edgeloop") as agent:
        metadata = json.load(urlopen(f"{agent.address}/v2/models/yolo"))
        assert [tensor["name"] for tensor in metadata["outputs"]] == ["output0"]
        values = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
        tensor = {"name": "input", "shape": list(values.shape), "datatype": "UINT8", "data": values.ravel().tolist()}
        for asked in (False, True):
            body = json.dumps({"inputs": [tensor], **({"parameters": {"boxes": True}} if asked else {})}).encode()
            answer = json.load(urlopen(Request(f"{agent.address}/v2/models/yolo/infer", body)))
            assert answer["outputs"][0]["shape"] == [2, 6, 3]
            boxes = answer.get("parameters", {}).get("boxes")
            assert boxes == ([[{"label": "dog", "score": 0.9, "box": BOX}]] * 2 if asked else None)


REFUSED = {
    "no labels": (("--boxes", "{layout: rows}"), 2, "say what the boxes are of with --labels"),
    "no layout": (("--labels", "cat,dog", "--task", "detection"), 2, "say how the outputs are boxes with --boxes"),
    "an unknown layout": (("--labels", "cat,dog", "--boxes", "{layout: yolo99}"), 2, "docs/detection.md has the layouts"),
    "an unknown setting": (("--labels", "cat,dog", "--boxes", "{layout: rows, chanels: first}"), 2, "chanels"),
    "a threshold of 3": (("--labels", "cat,dog", "--boxes", "{layout: rows, iou_threshold: 3}"), 2, "iou_threshold"),
    "another task": (("--labels", "cat,dog", "--task", "tensors", "--boxes", "{layout: rows}"), 2, "are not for --task tensors"),
    "other grids": (
        ("--labels", "cat,dog", "--boxes", "{layout: grid, levels: [{stride: 8, sizes: [[9, 9]]}]}"),
        2,
        "makes 48 rows of 48 × 64 pixels",
    ),
    "rows of another length": (("--labels", "cat,dog", "--boxes", "{layout: rows}"), 2, "rows of 3 values; 4 are box, then scores"),
    "an output that is not there": (
        ("--labels", "cat,dog", "--boxes", "{layout: distances, strides: [8]}"),
        2,
        "the output 'boxes'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_sentence(name: str, tmp_path: Path) -> None:
    more, code, why = REFUSED[name]
    done = edgeloop_here("pack", rows_first(tmp_path / "yolo.onnx"), "--out", tmp_path / "y.edgeloop", "--preprocess", STEPS, *more)
    assert why in sentence(done, code) and not (tmp_path / "y.edgeloop").exists()
