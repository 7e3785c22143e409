"""Boxes as other trainers' exporters write them: finished ones in several outputs, rows beside scores, rows that are not decoded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgeloop
from bundles import onnx_file
from commands import edgeloop_here, sentence
from constant_models import answering
from edgeloop_contract.archive import Bundle
from edgeloop_contract.tasks import Detection, Instances
from tflite_parts import Op, options, tflite_file

SIDE = 64
F = TensorProto.FLOAT
STEPS = "[{step: colour}, {step: resize, height: 64, width: 64}]"
BOXES = np.array([[8.0, 12, 40, 50], [20, 10, 60, 30], [1, 20, 15, 47]])
SCORES, LABELS = np.array([0.9, 0.6, 0.1]), np.array([1, 0, 1])
WANTED = [("dog", 0.9, [16, 18, 80, 75]), ("cat", 0.6, [40, 15, 120, 45])]  # in a picture of 96 × 128
MIDDLES = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], 1)
SAID = ("--labels", "cat,dog", "--preprocess", STEPS)


def table(places: int = 84) -> np.ndarray:
    """Scores (places, 2) of the first places' labels."""
    made = np.zeros((places, 2))
    made[range(3), LABELS] = SCORES
    return made


def padded(rows: np.ndarray, places: int = 84) -> np.ndarray:
    return np.concatenate([rows, np.zeros((places - len(rows), rows.shape[1]))])


def yolox(reach: tuple[int, ...] = (8, 16, 32)) -> np.ndarray:
    """Three boxes at cells of the finest grid that lie at their middles."""
    rows = np.zeros((sum((SIDE // s) ** 2 for s in reach), 7))
    for (x, y, w, h), score, label in zip(MIDDLES, SCORES, LABELS, strict=True):
        column, row = int(x // 8), int(y // 8)
        at = rows[row * 8 + column]
        at[:5] = x / 8 - column, y / 8 - row, np.log(w / 8), np.log(h / 8), 1
        at[5 + label] = score
    return rows


def nanodet() -> np.ndarray:
    """Scores, and distributions of eight bins for each side, from the corner of the first cell of stride 16."""
    cells = [(x, y, s) for s in (8, 16, 32, 64) for y in range(SIDE // s) for x in range(SIDE // s)]
    rows = np.zeros((len(cells), 2 + 32))
    for (x1, y1, x2, y2), score, label, cell in zip(BOXES, SCORES, LABELS, [(1, 1, 16), (2, 1, 16), (1, 3, 8)], strict=True):
        row, (x, y, stride) = rows[cells.index(cell)], cell
        for side, far in enumerate((x * stride - x1, y * stride - y1, x2 - x * stride, y2 - y * stride)):
            low, share = int(far // stride), far / stride % 1
            bins = np.full(8, -40.0)
            bins[low : low + 2] = np.log(max(1 - share, 1e-12)), np.log(max(share, 1e-12))
            row[2 + 8 * side : 10 + 8 * side] = bins
        row[label] = score
    return rows


def edges(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float32)[None]


FINISHED = np.concatenate([BOXES, SCORES[:, None]], 1)
MAPS = np.full((1, 3, SIDE, SIDE), 0.1)
MAPS[:, :, :, :32] = 0.9
APART = {"labels": LABELS[None], "boxes": edges(BOXES), "scores": SCORES[None]}
KNOWN: dict[str, tuple[dict[str, np.ndarray], tuple[str, ...]]] = {
    "RT-DETR and D-FINE": (APART, ()),
    "mmdeploy": ({"dets": edges(FINISHED), "labels": LABELS[None]}, ()),
    "torchvision, with a background": (
        {"boxes": BOXES, "labels": LABELS + 1, "scores": SCORES},
        ("--boxes", "{layout: final, rows: boxes, scores: scores, labels: labels, first_label: 1}"),
    ),
    "PaddleDetection with its suppression": (
        {"multiclass_nms3_0.tmp_0": np.concatenate([LABELS[:, None], SCORES[:, None], BOXES], 1)},
        ("--boxes", "{layout: final, label_first: true}"),
    ),
    "PP-YOLOE without it": (
        {"tmp_16": edges(padded(BOXES)), "concat_14.tmp_0": table().T[None]},
        ("--boxes", "{layout: rows, rows: tmp_16, scores: concat_14.tmp_0, scores_channels: first, corners: true}"),
    ),
    "DAMO-YOLO": (
        {"output": table()[None], "954": edges(padded(BOXES))}, ("--boxes", "{layout: rows, rows: '954', scores: output, corners: true}"),
    ),
    "DETR": (
        {"logits": np.log(np.clip(table(9), 1e-4, 1) / (1 - np.clip(table(9), 1e-4, 0.999)))[None], "pred_boxes": edges(padded(MIDDLES / SIDE, 9))},
        ("--boxes", "{layout: rows, rows: pred_boxes, scores: logits, normalised: true, activation: sigmoid, iou_threshold: 1}"),
    ),
    "YOLOX": ({"output": yolox()[None]}, ("--task", "detection")),
    "NanoDet-Plus": ({"output": nanodet()[None]}, ("--task", "detection")),
}  # fmt: skip


def packed(folder: Path, outputs: dict[str, np.ndarray], *more: str) -> Path:
    model = answering(folder / "model.onnx", outputs, (SIDE, SIDE))
    done = edgeloop_here("pack", model, "--out", folder / "model.edgeloop", *SAID, *more)
    assert done.returncode == 0, done.stderr
    return folder / "model.edgeloop"


def check(path: Path) -> None:
    with Bundle.open(path) as bundle:
        assert isinstance(bundle.manifest.task, Detection)
    found = edgeloop.open(path)(np.full((96, 128, 3), 110, np.uint8)).boxes
    assert found is not None and [box.label for box in found] == [label for label, _, _ in WANTED]
    assert [box.score for box in found] == pytest.approx([score for _, score, _ in WANTED], abs=2e-3)
    assert np.allclose([box.box for box in found], [box for _, _, box in WANTED], atol=0.1)


@pytest.mark.parametrize("name", KNOWN)
def test_boxes_are_those_of_the_picture(name: str, tmp_path: Path) -> None:
    outputs, more = KNOWN[name]
    check(packed(tmp_path, outputs, *more))


def counting(path: Path, batch: bool) -> Path:
    """torchvision's way: one picture without a batch; three things in one that is not black, and none in a black one."""
    outputs = {"boxes": BOXES, "scores": SCORES, "labels": LABELS + 1}
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["seen"]) if batch else helper.make_node("Identity", ["images"], ["seen"]),
        helper.make_node("ReduceMean", ["seen"], ["mean"], keepdims=0), helper.make_node("Greater", ["mean", "least"], ["light"]),
        helper.make_node("Cast", ["light"], ["one"], to=TensorProto.INT64), helper.make_node("Mul", ["one", "three"], ["count"]),
        *(helper.make_node("Slice", [f"{name}_", "begin", "count", "axis"], [name]) for name in outputs),
    ]  # fmt: skip
    made = [
        (
            name,
            TensorProto.INT64 if name == "labels" else F,
            ["n", 4][: values.ndim] if not batch else [1, "n", 4][: values.ndim + 1],
        )
        for name, values in outputs.items()
    ]
    constants = {f"{n}_": (v[None] if batch else v).astype(np.int64 if n == "labels" else np.float32) for n, v in outputs.items()}
    content = onnx_file(
        nodes, [("images", F, [1, 3, SIDE, SIDE] if batch else [3, SIDE, SIDE])], made, **constants, least=np.array(1, np.float32),
        three=np.array([3]), begin=np.array([0]), axis=np.array([int(batch)]), w=np.ones((1, 3, 1, 1), np.float32),
    )  # fmt: skip
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("said", [(), ("--boxes", "{layout: final, rows: boxes, scores: scores, labels: labels, first_label: 1}")])
def test_as_many_rows_as_there_are_things_become_a_fixed_number(batch: bool, said: tuple[str, ...], tmp_path: Path) -> None:
    labels = ("--labels", "cat,dog" if said else "nothing,cat,dog")
    model = counting(tmp_path / "model.onnx", batch)
    done = edgeloop_here("pack", model, "--out", tmp_path / "model.edgeloop", "--preprocess", STEPS, *labels, *said)
    assert done.returncode == 0 and "the bundle's file has 300" in done.stdout, done.stderr
    check(tmp_path / "model.edgeloop")
    assert edgeloop.open(tmp_path / "model.edgeloop")(np.zeros((96, 128, 3), np.uint8)).boxes == []


def blaze() -> dict[str, np.ndarray]:
    """MediaPipe's face detector: priors as large as the picture, values in pixels, points behind the edges."""
    anchors = [
        (x, y, s) for s, count in ((8, 2), (16, 6)) for y in range(SIDE // s) for x in range(SIDE // s) for _ in range(count)
    ]
    rows, scores = np.zeros((1, len(anchors), 4 + 2 * 2)), np.full((1, len(anchors), 1), -20.0)
    for (x, y, w, h), score, at in zip(MIDDLES, SCORES, (3, 40, 140), strict=True):
        px, py = (anchors[at][0] + 0.5) * anchors[at][2], (anchors[at][1] + 0.5) * anchors[at][2]
        rows[0, at] = x - px, y - py, w, h, x - w / 4 - px, y - py, x + w / 4 - px, y - py
        scores[0, at] = np.log(score / (1 - score))
    return {"regressors": rows, "classificators": scores}


def test_mediapipes_face_detector_answers_boxes_with_points(tmp_path: Path) -> None:
    sizes = [[[SIDE, SIDE]] * 2, [[SIDE, SIDE]] * 6]
    levels = [{"stride": stride, "sizes": each} for stride, each in zip((8, 16), sizes, strict=True)]
    said = {
        "layout": "priors", "boxes": "regressors", "scores": "classificators", "levels": levels, "variances": [1 / SIDE] * 4,
        "exponential": False, "background": False, "activation": "sigmoid", "points": 2,
    }  # fmt: skip
    model = answering(tmp_path / "model.onnx", blaze(), (SIDE, SIDE))
    done = edgeloop_here(
        "pack", model, "--out", tmp_path / "model.edgeloop", "--labels", "face", "--preprocess", STEPS, "--boxes", json.dumps(said),
        "--points", "right eye,left eye",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = edgeloop.open(tmp_path / "model.edgeloop")(np.full((96, 128, 3), 110, np.uint8)).boxes
    assert found is not None and np.allclose([box.box for box in found], [box for _, _, box in WANTED], atol=0.1)
    for box in found:
        x1, y1, x2, y2 = box.box
        places = {point.label: point.point for point in box.points or []}
        assert np.allclose(places["right eye"], [x1 + (x2 - x1) / 4, (y1 + y2) / 2], atol=0.1)
        assert np.allclose(places["left eye"], [x2 - (x2 - x1) / 4, (y1 + y2) / 2], atol=0.1)


DETR = {"task": "detect", "stride": "32", "imgsz": "[64, 64]", "names": "{0: 'cat', 1: 'dog', 2: 'cow'}", "author": "Ultralytics"}


@pytest.mark.parametrize("finished", [True, False])
def test_rt_detr_by_ultralytics_is_stretched_and_says_middles(finished: bool, tmp_path: Path) -> None:
    """It looks like YOLO's end-to-end rows of corners otherwise."""
    more = np.stack([SCORES, LABELS], 1) if finished else table(3)
    rows = np.concatenate([MIDDLES / SIDE, more, *([] if finished else [np.zeros((3, 1))])], 1)
    said = DETR | ({"head": "RTDETRDecoder"} if finished else {"description": "Ultralytics rtdetr-l model"})
    model = answering(tmp_path / "model.onnx", {"output0": padded(rows, 300)[None]}, (SIDE, SIDE), said)
    done = edgeloop_here("pack", model, "--out", tmp_path / "model.edgeloop")
    assert done.returncode == 0, done.stderr
    check(tmp_path / "model.edgeloop")


def test_masks_that_each_box_has_to_itself(tmp_path: Path) -> None:
    path = packed(tmp_path, {"dets": edges(FINISHED), "labels": LABELS[None], "masks": MAPS})
    check(path)
    with Bundle.open(path) as bundle:
        assert isinstance(bundle.manifest.task, Instances) and bundle.manifest.task.mask_threshold == 0.5
    for box in edgeloop.open(path)(np.full((96, 128, 3), 110, np.uint8)).boxes or []:
        assert box.mask is not None
        rows, columns = np.nonzero(box.mask.pixels())
        x1, y1, x2, y2 = box.box
        assert np.allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [x1, y1, min(x2, 64), y2], atol=1)


def test_tflite_files_that_end_in_their_own_postprocessing(tmp_path: Path) -> None:
    """EfficientDet-Lite and SSD MobileNet: which output is which is known by the operator, not by their names."""
    from flatbuffers import flexbuffers

    said = flexbuffers.Builder()
    with said.Map():
        for key, number in (("max_detections", 5), ("max_classes_per_detection", 1), ("num_classes", 2)):
            said.Int(key, number)
        for key, value in (("nms_score_threshold", 0.2), ("nms_iou_threshold", 0.6), *((f"{n}_scale", 10.0) for n in "yxhw")):
            said.Float(key, value)
        said.Bool("use_regular_nms", False)
    shares = MIDDLES / SIDE
    scores = np.zeros((1, 3, 3), np.float32)
    scores[0, range(3), LABELS + 1] = SCORES
    ops = [
        Op("MEAN", ["images", "axes"], {"mean": (1, 1, 1, 3)}, options("Reducer", keepDims=True)),
        Op("MUL", ["mean", "none"], {"nothing": (1, 1, 1, 3)}, options("Mul")),
        Op("SUM", ["nothing", "axes3"], {"sum": (1, 1)}, options("Reducer", keepDims=False)),
        Op("ADD", ["boxes", "sum"], {"moved": (1, 3, 4)}, options("Add")),
        Op(
            "TFLite_Detection_PostProcess", ["moved", "scores", "anchors"], {":3": (), ":2": (), ":1": (), ":0": ()},
            custom=bytes(said.Finish()),
        ),
    ]  # fmt: skip
    constants = {
        "axes": np.array([1, 2], np.int32), "axes3": np.array([2, 3], np.int32), "none": np.zeros(1, np.float32),
        "boxes": np.zeros((1, 3, 4), np.float32), "scores": scores, "anchors": shares[:, [1, 0, 3, 2]].astype(np.float32),
    }  # fmt: skip
    content = tflite_file({"images": (1, SIDE, SIDE, 3)}, ops, [":1", ":3", ":0", ":2"], constants)
    (tmp_path / "model.tflite").write_bytes(content)
    done = edgeloop_here("pack", tmp_path / "model.tflite", "--out", tmp_path / "model.edgeloop", *SAID)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "model.edgeloop")


REFUSED: dict[str, tuple[dict[str, np.ndarray], str, str]] = {
    "fewer scores than boxes": ({**APART, "scores": SCORES[None, :2]}, "{layout: final, rows: boxes, scores: scores, labels: labels}", "3 boxes, 2 scores and 3 labels"),
    "no such output": (APART, "{layout: final, rows: boxes, scores: score, labels: labels}", "boxes need the output 'score'"),
    "rows of edges alone": (APART, "{layout: final, rows: boxes}", "edges, score and label are 6"),
    "two ways at once": (APART, "{layout: final, rows: boxes, scores: scores, label_first: true}", "leave out the outputs of scores"),
    "other grids": ({"output": yolox((8, 16))[None]}, "{layout: centres, strides: [8, 16, 32]}", "makes 84 rows of 64 × 64 pixels"),
    "a threshold that is no number": (
        {"dets": edges(FINISHED), "labels": LABELS[None], "masks": MAPS},
        "{layout: final, rows: dets, labels: labels, prototypes: masks, mask_threshold: .nan}", "mask_threshold is a number",
    ),
    "masks of the boxes alone": (
        {**APART, "masks": np.zeros((1, 2, 28, 28))},
        "{layout: final, rows: boxes, scores: scores, labels: labels, prototypes: masks}", "3 maps are needed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_sentence(name: str, tmp_path: Path) -> None:
    outputs, layout, why = REFUSED[name]
    model = answering(tmp_path / "model.onnx", outputs, (SIDE, SIDE))
    done = edgeloop_here("pack", model, "--out", tmp_path / "model.edgeloop", *SAID, "--boxes", layout)
    assert done.returncode != 0 and re.search(re.escape(why), sentence(done, done.returncode)), done.stderr
    assert not (tmp_path / "model.edgeloop").exists()
