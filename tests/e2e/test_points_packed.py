"""Poses that somebody else's model finds: points of its boxes, on the device and through the local API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgeloop
from bundles import onnx_file
from commands import edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.tasks import Keypoints

F = TensorProto.FLOAT
HEIGHT, WIDTH = 48, 64
BOX = [20.0, 12.0, 44.0, 36.0]  # in the sample; a picture of 96 × 96 lies at 8 to 56 in it, half as large
IN_PICTURE = [24.0, 24.0, 72.0, 72.0]
POINTS = [[20.0, 12.0, 0.9], [44.0, 36.0, 0.2], [32.0, 24.0, 0.6]]
POINTS_IN_PICTURE = [[24.0, 24.0], [72.0, 72.0], [48.0, 48.0]]
STEPS = "[{step: colour}, {step: letterbox, height: 48, width: 64}]"
NAMES = ["left hand", "right hand", "head"]
PLACES = HEIGHT * WIDTH // 64 + HEIGHT * WIDTH // 256 + 4  # of strides 8, 16 and 32, whose last rows are cut
POSE = {"task": "pose", "stride": "32", "imgsz": "[48, 64]", "names": "{0: 'person'}", "kpt_shape": "[3, 3]"}


def model(path: Path, rows: np.ndarray, said: dict[str, str]) -> Path:
    """A file that answers these rows, whatever it sees."""
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[1, 2, 3], keepdims=0), helper.make_node("Mul", ["m", "none"], ["n"]),
        helper.make_node("Add", ["rows", "n"], ["output0"]),
    ]  # fmt: skip
    content = onnx_file(
        nodes, [("images", F, [1, 3, HEIGHT, WIDTH])], [("output0", F, list(rows.shape))], rows=rows,
        none=np.zeros(1, np.float32), w=np.ones((1, 3, 1, 1), np.float32),
    )  # fmt: skip
    made = onnx.load_from_string(content)
    helper.set_model_props(made, said)
    path.write_bytes(made.SerializeToString())
    return path


def columns(values: int = 3, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """As YOLOv8's poses: (1, 4 + labels + points, places), all decoded; two places find the same person."""
    x1, y1, x2, y2 = BOX
    rows = np.zeros((1, 5 + 3 * values, PLACES), np.float32)
    rows[0, :4, 5:7] = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])[:, None]
    rows[0, 4, 5:7] = 0.9, 0.8
    rows[0, 5:, 5] = np.array(POINTS)[:, :values].reshape(-1)
    rows[0, :2, 5:7] *= np.array(scale)[:, None]
    rows[0, 2:4, 5:7] *= np.array(scale)[:, None]
    for point in range(3):
        rows[0, 5 + point * values : 7 + point * values, 5] *= scale
    return rows


def finished() -> np.ndarray:
    """As end-to-end exports: (1, rows, 6 + points)."""
    rows = np.zeros((1, 20, 6 + 9), np.float32)
    rows[0, 3] = [*BOX, 0.9, 0, *np.array(POINTS).reshape(-1)]
    return rows


LAYOUT = "layout: rows, channels: first, points: 3"
KNOWN: dict[str, tuple[np.ndarray, dict[str, str], tuple[str, ...], list[str]]] = {
    "by its metadata": (columns(), POSE, (), ["point 1", "point 2", "point 3"]),
    "names in the file": (columns(), {**POSE, "kpt_names": str({0: NAMES})}, (), NAMES),
    "finished rows": (finished(), POSE, ("--points", ",".join(NAMES)), NAMES),
    "as said": (columns(), {}, ("--labels", "person", "--boxes", f"{{{LAYOUT}}}", "--preprocess", STEPS, "--points", "a,b,c"), ["a", "b", "c"]),
    "shares of the picture": (
        columns(scale=(1 / WIDTH, 1 / HEIGHT)), {},
        ("--labels", "person", "--boxes", f"{{{LAYOUT}, normalised: true}}", "--preprocess", STEPS), ["point 1", "point 2", "point 3"],
    ),
    "without scores": (
        columns(2), {}, ("--labels", "person", "--boxes", f"{{{LAYOUT}, point_values: 2}}", "--preprocess", STEPS),
        ["point 1", "point 2", "point 3"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_points_in_pixels_of_the_picture(name: str, tmp_path: Path) -> None:
    rows, said, more, names = KNOWN[name]
    done = edgeloop_here("pack", model(tmp_path / "pose.onnx", rows, said), "--out", tmp_path / "p.edgeloop", *more)
    assert done.returncode == 0, done.stderr
    with Bundle.open(tmp_path / "p.edgeloop") as bundle:
        assert isinstance(bundle.manifest.task, Keypoints) and list(bundle.manifest.task.points) == names
    answer = edgeloop.open(tmp_path / "p.edgeloop")(np.full((96, 96, 3), 110, np.uint8))
    assert answer.boxes is not None
    (box,) = answer.boxes
    assert box.label == "person" and box.box == pytest.approx(IN_PICTURE, abs=0.02) and box.points is not None
    assert [point.label for point in box.points] == names
    assert [point.point for point in box.points] == [pytest.approx(at, abs=0.02) for at in POINTS_IN_PICTURE]
    scores = [1.0] * 3 if name == "without scores" else [0.9, 0.2, 0.6]
    assert [point.score for point in box.points] == pytest.approx(scores, abs=1e-3)


ROWS = ["--labels", "person", "--preprocess", STEPS]
REFUSED: dict[str, tuple[dict[str, str], list[Any], str]] = {
    "how many is not said": ({**POSE, "kpt_shape": ""}, [], "does not say how many: say --boxes"),
    "too few names": (POSE, ["--points", "a,b"], "--points: 2 names, and boxes of this layout have 3 points"),
    "a name twice": (POSE, ["--points", "a,b,a"], "'a' is there twice; points must be different"),
    "an empty name": (POSE, ["--points", "a,,b"], "point 2 is empty"),
    "a layout without points": ({}, [*ROWS, "--task", "keypoints", "--boxes", "{layout: rows, channels: first}"], "10 scores, and there are 1 labels"),
    "points of a layout that has none": ({}, [*ROWS, "--boxes", "{layout: heatmap, stride: 4, points: 3}"], "--boxes {layout: heatmap"),
    "more points than values": ({}, [*ROWS, "--boxes", "{layout: rows, channels: first, points: 30}"], "rows of 14 values|scores|does not fit"),
    "names of nothing": ({}, ["--points", "a,b"], "--points"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_sentence(name: str, tmp_path: Path) -> None:
    said, more, expected = REFUSED[name]
    done = edgeloop_here("pack", model(tmp_path / "pose.onnx", columns(), said), "--out", tmp_path / "p.edgeloop", *more)
    assert done.returncode != 0
    assert re.search(expected, sentence(done, done.returncode)), done.stderr
    assert not (tmp_path / "p.edgeloop").exists()
