"""Poses without boxes that somebody else's model finds: points of the picture that came, on the device and through the local API."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

import edgeloop
from bundles import onnx_file
from commands import edgeloop_here, sentence
from constant_models import answering
from edgeloop_agent.updates import canary
from edgeloop_contract.archive import Bundle
from edgeloop_contract.tasks import Keypoints
from serving import eventually, serving

HEIGHT, WIDTH = 48, 64
STEPS = "[{step: colour}, {step: letterbox, height: 48, width: 64}]"  # a picture of 96 × 96 lies at 8 to 56 in it, half as large
PLACES = np.array([[20.0, 12.0], [44.0, 36.0], [32.0, 24.0]])  # x, y in the sample
IN_PICTURE = (PLACES - [8, 0]) * 2
SURE = np.array([0.9, 0.5, 0.7])
THREE = ("--points", "a,b,c", "--labels", "thing")


def points(count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many points: those three first, the rest in the middle of them, and their scores."""
    places, sure = np.tile(PLACES[2], (count, 1)), np.full(count, 0.7)
    places[:3], sure[:3] = PLACES, SURE
    return places, sure


def movenet() -> np.ndarray:
    places, sure = points(17)
    return np.concatenate([places[:, ::-1] / [HEIGHT, WIDTH], sure[:, None]], 1)[None, None]


def people() -> np.ndarray:
    """Two of six are there, the second one surer."""
    rows = np.zeros((1, 6, 56))
    rows[0, 0, :51] = movenet().reshape(-1)
    rows[0, 0, 51:] = 10 / HEIGHT, 18 / WIDTH, 40 / HEIGHT, 48 / WIDTH, 0.6
    rows[0, 1, 51:] = 0.1, 0.1, 0.5, 0.5, 0.8
    return rows


def maps(count: int, stride: int = 4) -> np.ndarray:
    """Peaks whose right and lower neighbours are the higher ones: a quarter of a cell further than the cell."""
    places, sure = points(count)
    found = np.zeros((1, count, HEIGHT // stride, WIDTH // stride))
    for number, ((x, y), score) in enumerate(zip(places / stride, sure, strict=True)):
        found[0, number, int(y), int(x)] = score
        found[0, number, int(y) + 1, int(x)] = found[0, number, int(y), int(x) + 1] = score / 2
    return found


def posenet() -> dict[str, np.ndarray]:
    """Logits of cells whose middles reach from the first pixel to the last one, and how far points are from them: y, then x."""
    places, sure = points(17)
    rows, columns = 4, 5
    maps, offsets = np.full((1, rows, columns, 17), -30.0), np.zeros((1, rows, columns, 34))
    for number, ((x, y), score) in enumerate(zip(places, sure, strict=True)):
        at = np.array([(HEIGHT - 1) / (rows - 1), (WIDTH - 1) / (columns - 1)])
        row, column = (np.array([y, x]) / at).astype(int)
        maps[0, row, column, number] = np.log(score / (1 - score))
        offsets[0, row, column, [number, number + 17]] = np.array([y, x]) - at * [row, column]
    return {"float_heatmaps": maps, "float_short_offsets": offsets, "float_mid_offsets": np.zeros((1, rows, columns, 64))}


def axes(count: int, split: int = 2) -> dict[str, np.ndarray]:
    places, sure = points(count)
    made = {"simcc_x": np.zeros((1, count, WIDTH * split)), "simcc_y": np.zeros((1, count, HEIGHT * split))}
    for number, (place, score) in enumerate(zip(places, sure, strict=True)):
        for values, at in zip(made.values(), place, strict=True):
            values[0, number, int(at * split)] = score
    made["simcc_y"] += (made["simcc_y"] > 0) * 0.05  # the smaller one of the two counts
    return made


def hand(logit: float) -> dict[str, np.ndarray]:
    places, _ = points(21)
    row = np.concatenate([places, np.zeros((21, 1))], 1).reshape(1, -1)
    return {"Identity": row, "Identity_1": np.full((1, 1), logit), "Identity_2": np.ones((1, 1)), "Identity_3": row / 100}


MAPS = "layout: point_maps, points: 3"
ROWS = "layout: point_rows, points: 3"
QUARTER = 1.0  # of four pixels
# outputs, options, label, score of the pose, scores of its points, how far the points are moved in the sample
KNOWN: dict[str, tuple[dict[str, np.ndarray], tuple[str, ...], str, float | None, bool, float]] = {
    "MoveNet of one": ({"out": movenet()}, (), "person", None, True, 0),
    "MoveNet of several": ({"out": people()}, (), "person", 0.6, True, 0),
    "maps by their name": ({"heatmaps": maps(17)}, (), "person", None, True, QUARTER),
    "maps as said": ({"out": maps(3)}, ("--boxes", f"{{{MAPS}}}", *THREE), "thing", None, True, QUARTER),
    "maps with channels last": (
        {"out": maps(3).transpose(0, 2, 3, 1)}, ("--boxes", f"{{{MAPS}, channels: last}}", *THREE), "thing", None, True, QUARTER,
    ),
    "axes by their names": (axes(17), (), "person", None, True, 0),
    "axes as said": (axes(3, 3), ("--boxes", "{layout: point_axes, points: 3, split: 3}", *THREE), "thing", None, True, 0),
    "maps with offsets": (posenet(), (), "person", None, True, 0),
    "landmarks of a hand": (hand(1.0), ("--task", "keypoints"), "hand", 0.7311, False, 0),
    "rows in pixels": ({"out": PLACES.reshape(1, 6)}, ("--boxes", f"{{{ROWS}, values: 2}}", *THREE), "thing", 1.0, False, 0),
}  # fmt: skip


def packed(folder: Path, outputs: dict[str, np.ndarray], *more: str) -> Path:
    model = answering(folder / "pose.onnx", outputs, (HEIGHT, WIDTH))
    done = edgeloop_here("pack", model, "--out", folder / "p.edgeloop", "--preprocess", STEPS, *more)
    assert done.returncode == 0, done.stderr
    return folder / "p.edgeloop"


@pytest.mark.parametrize("name", KNOWN)
def test_points_in_pixels_of_the_picture(name: str, tmp_path: Path) -> None:
    outputs, more, label, score, scored, moved = KNOWN[name]
    path = packed(tmp_path, outputs, *more)
    with Bundle.open(path) as bundle:
        task = bundle.manifest.task
        assert isinstance(task, Keypoints) and "task keypoints" in bundle.manifest.requires
    answer = edgeloop.open(path)(np.full((96, 96, 3), 110, np.uint8))
    assert answer.boxes is not None
    box = answer.boxes[-1]
    assert len(answer.boxes) == (2 if name == "MoveNet of several" else 1)
    assert box.label == label and box.points is not None and [point.label for point in box.points] == list(task.points)
    wanted = IN_PICTURE + moved * 2
    assert [point.point for point in box.points[:3]] == [pytest.approx(at, abs=0.02) for at in wanted]
    sure = SURE if scored else np.ones(3)
    assert [point.score for point in box.points[:3]] == pytest.approx(sure, abs=1e-3)
    mean = (SURE.sum() + 0.7 * (len(box.points) - 3)) / len(box.points)
    assert box.score == pytest.approx(mean if score is None else score, abs=1e-3)
    around = [18, 10, 48, 40] if name == "MoveNet of several" else [*(PLACES.min(0) + moved), *(PLACES.max(0) + moved)]
    assert box.box == pytest.approx((np.array(around) - [8, 0, 8, 0]) * 2, abs=0.02)


@pytest.mark.parametrize("kind", ["INT32", "UINT8"])
def test_pictures_as_whole_numbers(kind: str, tmp_path: Path) -> None:
    """As MoveNet's makers ship it: channels last, counts in 32 bits."""
    nodes = [
        helper.make_node("Cast", ["input"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2, 3], keepdims=1), helper.make_node("Mul", ["m", "none"], ["n"]),
        helper.make_node("Add", ["rows", "n"], ["output_0"]),
    ]  # fmt: skip
    content = onnx_file(
        nodes, [("input", getattr(TensorProto, kind), [1, HEIGHT, WIDTH, 3])], [("output_0", TensorProto.FLOAT, [1, 1, 17, 3])],
        rows=movenet().astype(np.float32), none=np.zeros(1, np.float32),
    )  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(content)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (96, 96, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    done = edgeloop_here("pack", tmp_path / "m.onnx", "--out", tmp_path / "m.edgeloop", "--preprocess", STEPS)
    assert done.returncode == 0, done.stderr
    answer = edgeloop.open(tmp_path / "m.edgeloop")(np.full((96, 96, 3), 110, np.uint8))
    assert answer.boxes is not None and answer.boxes[0].points is not None
    assert [point.point for point in answer.boxes[0].points[:3]] == [pytest.approx(at, abs=0.02) for at in IN_PICTURE]
    words = ("--calibrate", folder, "--fit", "letterbox", "--prepare-only", "--out", tmp_path / "small")
    done = edgeloop_here("compress", tmp_path / "m.onnx", *words)
    assert done.returncode == 0 and "it takes whole numbers" in done.stderr, done.stderr


def test_what_is_not_there_is_not_answered(tmp_path: Path) -> None:
    path = packed(tmp_path, hand(-3.0), "--task", "keypoints")
    assert edgeloop.open(path)(np.full((96, 96, 3), 110, np.uint8)).boxes == []


REFUSED: dict[str, tuple[dict[str, np.ndarray], tuple[str, ...], str]] = {
    "another number of maps": ({"out": maps(3)}, ("--labels", "a", "--boxes", "{layout: point_maps, points: 4}"), "4 of them are needed"),
    "axes of another split": (axes(3), ("--labels", "a", "--boxes", "{layout: point_axes, points: 3, split: 3}"), "3 points of 192 places"),
    "rows that do not go up": ({"out": movenet()}, ("--labels", "a", "--boxes", "{layout: point_rows, points: 4}"), "4 points have 12 values"),
    "an output that is not there": (
        {"out": movenet(), "other": movenet()}, ("--labels", "a", "--boxes", "{layout: point_rows, points: 17, rows: poses}"), "'poses'",
    ),
    "two labels": ({"out": movenet()}, ("--labels", "a,b"), "2 labels"),
    "names of another number": ({"out": movenet()}, ("--points", "a,b"), "2 names, and boxes of this layout have 17 points"),
    "nobody says of what": ({"out": maps(3)}, ("--boxes", f"{{{MAPS}}}"), "say what the boxes are of"),
    "a misspelt setting": ({"out": maps(3)}, ("--labels", "a", "--boxes", f"{{{MAPS}, chanels: last}}"), "chanels"),
    "more than a point has": ({"out": movenet()}, ("--labels", "a", "--boxes", "{layout: point_rows, points: 17, score_at: 5}"), "score_at"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_sentence(name: str, tmp_path: Path) -> None:
    outputs, more, expected = REFUSED[name]
    model = answering(tmp_path / "pose.onnx", outputs, (HEIGHT, WIDTH))
    done = edgeloop_here("pack", model, "--out", tmp_path / "p.edgeloop", "--preprocess", STEPS, *more)
    assert done.returncode != 0
    assert re.search(expected, sentence(done, done.returncode)), done.stderr
    assert not (tmp_path / "p.edgeloop").exists()


def test_a_detector_leads_to_points_of_the_whole_picture(tmp_path: Path) -> None:
    """A chain: the crop of a box, in the letterbox of the next model, and back."""
    rows = np.array([[[16.0, 8, 48, 40, 0.9, 0]]])
    finder = answering(tmp_path / "finder.onnx", {"rows": rows}, (HEIGHT, WIDTH))
    words = ("--labels", "person", "--boxes", "{layout: final}", "--preprocess", STEPS)
    done = edgeloop_here("pack", finder, "--out", tmp_path / "finder.edgeloop", *words)
    assert done.returncode == 0, done.stderr
    pose = packed(tmp_path, {"out": movenet()}, "--name", "pose")
    (tmp_path / "in").mkdir()
    Image.new("RGB", (256, 192), (90, 90, 90)).save(tmp_path / "in" / "a.png")
    text = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\nsettle_seconds = 0.1\n[runtime]\nthreads = 1\n'
    sample = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    tensor = {"name": "input", "shape": list(sample.shape), "datatype": "UINT8", "data": sample.ravel().tolist()}
    with serving(tmp_path, text + '[[chain]]\nmodel = "pose"\n', tmp_path / "finder.edgeloop", pose) as agent:
        (line,) = eventually(lambda: agent.lines)
        body = json.dumps({"inputs": [tensor], "parameters": {"boxes": True}}).encode()
        answer = json.load(urlopen(Request(f"{agent.address}/v2/models/pose/infer", body)))
    (box,) = line["boxes"]
    assert box["box"] == [64, 32, 192, 160]  # a crop of 128 × 128, which is 48 × 48 in the middle of the next sample
    (inner,) = box["then"]["pose"]["boxes"]
    wanted = (PLACES - [8, 0]) * 128 / 48 + [64, 32]
    assert [point["point"] for point in inner["points"][:3]] == [pytest.approx(at, abs=0.02) for at in wanted]
    (own,) = answer["parameters"]["boxes"][0]
    assert [point["point"] for point in own["points"][:3]] == [pytest.approx(at, abs=0.02) for at in PLACES]


def test_a_packed_pose_has_a_canary_and_is_watched_for_drift(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for number in range(200):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    path = packed(tmp_path, {"out": movenet()}, "--samples", str(folder))
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
    assert manifest.canary is not None and manifest.drift is not None
    assert manifest.drift.features[-6:] == [
        "log boxes",
        "score of boxes",
        "log size of boxes",
        "x of boxes",
        "y of boxes",
        "confidence",
    ]
    (tmp_path / "agent.toml").write_text(f'bundles = ["{path}"]\nstate = "{tmp_path / "state"}"\n[source]\nkind = "none"\n')
    assert canary.check(tmp_path / "agent.toml", path).samples == 16
