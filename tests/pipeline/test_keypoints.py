"""Points of boxes: the measure beside a well-kept COCO evaluator, the loss, data, augmentation, and what a device makes of outputs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import annotated
from edgeloop_agent.box_answers import box_answers
from edgeloop_contract.boxes import Distances, Final, Found, find_points, placement, sigmas_of, similarity
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import CenterCrop, Colour, Letterbox, Resize
from edgeloop_contract.tasks import Keypoints
from edgeloop_pipeline.data.augmentations import augment_points
from edgeloop_pipeline.data.box_augmentations import mirrored
from edgeloop_pipeline.data.boxes import NONE, padded
from edgeloop_pipeline.data.datasets import PicturePoints
from edgeloop_pipeline.data.prepare import prepare_splits
from edgeloop_pipeline.data.types import Split, Splits
from edgeloop_pipeline.recipe.wizard.look import look
from edgeloop_pipeline.recipe.wizard.write import write
from edgeloop_pipeline.tasks.detection.cells import Cells, points
from edgeloop_pipeline.tasks.detection.measure import Judged, judged
from edgeloop_pipeline.tasks.keypoints.loss import PointLoss
from edgeloop_pipeline.tasks.keypoints.measure import MOST, without_points
from pointed import POINTS, pointed

SIDE, COUNT = 200.0, 3
SIGMAS = np.array([0.03, 0.06, 0.1])


def pictures(seed: int, labels: int = 2) -> tuple[list[Found], list[np.ndarray], np.ndarray]:
    """Answers with points, and truths of which some points, and all points of some boxes, are not known."""
    rng = np.random.default_rng(seed)
    found, places, truth = [], [], []
    for _ in range(20):
        n = int(rng.integers(0, 6))
        low = rng.uniform(0, SIDE - 80, (n, 2))
        boxes = np.concatenate([low, low + rng.uniform(20, 80, (n, 2))], 1)
        at = low[:, None] + rng.random((n, COUNT, 2)) * (boxes[:, None, 2:] - low[:, None])
        known = (rng.random((n, COUNT, 1)) < 0.8) & (rng.random((n, 1, 1)) < 0.8)
        kinds = rng.integers(0, labels, n)
        rows = np.concatenate([at * known, known * 2.0], -1).reshape(n, 3 * COUNT)
        truth.append(np.concatenate([kinds[:, None], boxes, rows], 1).astype(np.float32))
        of = rng.integers(0, n, int(rng.integers(0, 2 * n + 1))) if n else np.zeros(0, int)
        moved = at[of] + rng.normal(0, 1, (len(of), COUNT, 2)) * rng.choice([0.5, 1, 4], (len(of), 1, 1))
        extra = rng.uniform(0, SIDE, (3, COUNT, 2))
        moved = np.concatenate([moved, extra])
        answered = np.concatenate([kinds[of], rng.integers(0, labels, 3)])
        scores = rng.permutation(len(moved)) / 100 + rng.random() / 1000
        order = np.argsort(-scores)
        edges = np.concatenate([moved.min(1), moved.max(1)], 1)[order]
        found.append(Found(edges.astype(np.float32), scores[order].astype(np.float32), answered[order]))
        places.append(np.concatenate([moved, np.ones((len(moved), COUNT, 1))], -1)[order])
    return found, places, padded(truth, 8)


def coco(found: list[Found], places: list[np.ndarray], truth: np.ndarray, labels: int = 2) -> np.ndarray:
    from faster_coco_eval import COCO, COCOeval_faster

    rows: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for i, boxes in enumerate(truth):
        for kind, x1, y1, x2, y2, *rest in boxes[boxes[:, 0] != NONE].astype(float).tolist():
            box, count = [x1, y1, x2 - x1, y2 - y1], sum(v > 0 for v in rest[2::3])
            fixed = {"id": len(rows) + 1, "image_id": i, "category_id": int(kind), "area": box[2] * box[3], "iscrowd": 0}
            rows.append({**fixed, "bbox": box, "keypoints": rest, "num_keypoints": count})
        answers += [
            {"image_id": i, "category_id": int(kind), "keypoints": at.reshape(-1).tolist(), "score": float(score)}
            for at, score, kind in zip(places[i], found[i].scores, found[i].labels, strict=True)
        ]
    images = [{"id": i, "width": int(SIDE), "height": int(SIDE)} for i in range(len(truth))]
    with redirect_stdout(io.StringIO()):
        given = COCO({"images": images, "annotations": rows, "categories": [{"id": k, "name": str(k)} for k in range(labels)]})
        evaluator = COCOeval_faster(given, given.loadRes(answers), "keypoints", print_function=lambda *_: None)
        evaluator.params.kpt_oks_sigmas = SIGMAS
        evaluator.run()
    return np.asarray(evaluator.stats)


def measured(found: list[Found], places: list[np.ndarray], truth: np.ndarray) -> Judged:
    return judged(found, truth, 2, lambda i, rows: similarity(places[i], rows, SIGMAS), without_points, MOST)


@pytest.mark.parametrize("seed", range(6))
def test_the_measure_is_coco_s(seed: int) -> None:
    """With boxes of which no point is known: who finds one is neither right nor wrong."""
    found, places, truth = pictures(seed)
    here, once = measured(found, places, truth), np.ones(len(truth))
    wanted = coco(found, places, truth)
    assert here.mean_precision(once) == pytest.approx(wanted[0], abs=1e-5)
    assert here.mean_precision(once, slice(0, 1)) == pytest.approx(wanted[1], abs=1e-5)
    assert here.mean_precision(once, slice(5, 6)) == pytest.approx(wanted[2], abs=1e-5)
    assert 0.05 < wanted[0] < 0.95 and any(without_points(rows[rows[:, 0] >= 0]).any() for rows in truth)


def test_persons_have_coco_s_spreads() -> None:
    assert sigmas_of(["nose", "left_eye", "Right_Hip"]).tolist() == [0.026, 0.025, 0.107]
    assert sigmas_of(["nose", "antenna"]).tolist() == [0.05, 0.05]


CELLS = Cells((8, 16), 64, 96, 1, 3 * COUNT)


def answered(box: list[float], at: list[tuple[float, float, float]]) -> torch.Tensor:
    """Joined outputs in which every cell inside the box says it, with points at `at` (x, y, logit)."""
    middles, strides = points(CELLS)
    reach = np.stack([middles[:, 0] - box[0], middles[:, 1] - box[1], box[2] - middles[:, 0], box[3] - middles[:, 1]], 1)
    inside = (reach > 0).all(1)
    logs = np.log(np.maximum(reach, 0.1) / strides[:, None])
    scores = np.where(inside, 6.0, -6.0)[:, None]
    away = [((np.array([x, y]) - middles) / strides[:, None], np.full((len(middles), 1), logit)) for x, y, logit in at]
    values = np.concatenate([part for pair in away for part in pair], 1)
    return torch.from_numpy(np.concatenate([part.reshape(-1) for part in (logs, scores, values)])[None].astype(np.float32))


BOX = [10.0, 12.0, 70.0, 52.0]
AT = [(15.0, 20.0), (40.0, 30.0), (65.0, 50.0)]


def test_the_loss_asks_for_known_points_alone() -> None:
    loss = PointLoss(CELLS, torch.from_numpy(SIGMAS).float())
    truth = torch.tensor([[[0, *BOX, 15, 20, 2, 40, 30, 1, 0, 0, 0]]])
    right = answered(BOX, [(*AT[0], 6), (*AT[1], 6), (90, 3, -6)])
    wrong = answered(BOX, [(*AT[1], 6), (*AT[0], 6), (90, 3, -6)])
    assert float(loss(right, truth)) + 1 < float(loss(wrong, truth))
    assert float(loss(right, truth)) == pytest.approx(float(loss(right, truth.flatten(1))))
    elsewhere = answered(BOX, [(*AT[0], 6), (*AT[1], 6), (20, 40, -6)])
    assert float(loss(right, truth)) == pytest.approx(float(loss(elsewhere, truth)), abs=1e-4)
    nothing = truth.clone()
    nothing[..., 5:] = 0  # nobody marked a point, which does not mean that there is none
    assert float(loss(right, nothing)) == pytest.approx(float(loss(wrong, nothing)), abs=1e-4)
    rows = right.clone().requires_grad_()
    loss(rows, torch.full((1, 2, 14), NONE)).backward()
    assert rows.grad is not None and torch.isfinite(rows.grad).all()


TASK = Keypoints(labels=["person"], decode=Distances(strides=[8, 16], exponential=True), points=["a", "b", "c"], iou_threshold=0.6)


def test_a_device_answers_points_in_pixels_of_the_picture() -> None:
    rows = answered(BOX, [(*AT[0], 4), (*AT[1], 0), (*AT[2], -4)])
    outputs = CELLS.separate(rows.numpy())
    (box,) = box_answers(TASK, outputs, 64, 96, placement([Resize(height=64, width=96)], 128, 96))
    assert box.points is not None and [p.label for p in box.points] == ["a", "b", "c"]
    assert [p.score for p in box.points] == pytest.approx([0.982, 0.5, 0.018], abs=1e-3)
    assert np.array([p.point for p in box.points]) == pytest.approx(np.array(AT) * [1, 2], abs=0.02)
    with pytest.raises(DataError, match="points need the output 'points'"):
        box_answers(TASK, {"boxes": outputs["boxes"], "scores": outputs["scores"]}, 64, 96, None)
    with pytest.raises(DataError, match="120 cells of three values"):
        find_points(TASK.decode, outputs["points"][:, :50], np.zeros(1, int), 64, 96)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [{"points": ["a", "a"]}, {"points": [""]}, {"decode": Final()}])
def test_a_task_that_says_no_points_is_refused(words: dict[str, Any]) -> None:
    given = {"labels": ["x"], "points": ["a"], "decode": Distances(strides=[8]), **words}
    with pytest.raises(ValueError, match="points have different names"):
        Keypoints(**given)


def test_names_say_what_changes_places_in_a_mirror() -> None:
    assert mirrored(["nose", "left_eye", "right_eye", "L-hip", "R-hip", "tail_l", "tail_r", "left_over"]) == [
        0,
        2,
        1,
        4,
        3,
        6,
        5,
        7,
    ]


def test_points_move_with_their_pictures() -> None:
    """Where the picture is red the left point is, where it is blue the right one; in a mirror they change names."""
    values, boxes = np.full((32, 64, 64, 3), 100, np.uint8), np.full((32, 2, 11), NONE, np.float32)
    for i in range(32):
        values[i, 20:24, 20:24], values[i, 30:34, 40:44] = (255, 0, 0), (0, 0, 255)
        boxes[i, 0] = [0, 18, 18, 46, 36, 22, 22, 2, 42, 32, 2]
    augment = augment_points(("left_end", "right_end"))
    made, moved = augment(torch.from_numpy(values), torch.from_numpy(boxes), torch.Generator().manual_seed(1))
    flipped = 0
    for picture, box in zip(made.numpy().astype(int), moved[:, 0].numpy(), strict=True):
        red, blue = picture[..., 0] - picture[..., 2], picture[..., 2] - picture[..., 0]
        ends = [np.array([np.nonzero(part > 90)[1].mean(), np.nonzero(part > 90)[0].mean()]) + 0.5 for part in (red, blue)]
        left, right = box[5:7], box[8:10]
        assert box[0] == 0 and box[7] == box[10] == 2
        turned = left[0] > right[0] or abs(left - ends[0]).max() > 3
        flipped += turned
        for point, end in zip((left, right), ends[::-1] if turned else ends, strict=True):
            assert abs(point - end).max() < 2
    assert 5 < flipped < 27 and (moved[:, 1, 0] == NONE).all()


@pytest.mark.parametrize(
    "steps", [[Resize(height=48, width=64)], [Letterbox(height=64, width=64)], [CenterCrop(height=64, width=64)]]
)
def test_points_lie_where_preprocessing_puts_them(steps: list, tmp_path: Path) -> None:
    found = pointed(tmp_path / "data", 12)
    data = PicturePoints(tmp_path / "data")
    assert data.points == POINTS
    made = prepare_splits(data.load(), [Colour(), *steps], "keypoints")
    assert made.points == POINTS and made.train.labels.shape[2] == 11
    place = placement(steps, 96, 128)
    names = data.load().train.names or []
    for name, row in zip(names, made.train.labels, strict=True):
        for box in row[row[:, 0] != NONE]:
            (head,) = (at for at in box[None, 5:7])
            heads = place.points_to_sample(np.array([worm.head for worm in found[Path(name).name]]))
            if box[7]:
                assert abs(heads - head).max(1).min() < 0.01


def test_edgeloop_new_recognises_points_and_writes_a_project(tmp_path: Path) -> None:
    pointed(tmp_path / "data", 15)
    plan = look(tmp_path / "data")
    assert plan.task == "keypoints" and plan.kind == "PicturePoints" and plan.says[1][0] == "points"
    write(tmp_path / "mine", plan)
    scope: dict = {"__file__": str(tmp_path / "mine" / "data.py")}
    exec((tmp_path / "mine" / "data.py").read_text(), scope)
    assert scope["data"]().load().points == POINTS and callable(scope["augment"])
    assert "points: 2}" in (tmp_path / "mine" / "recipe.yaml").read_text()
    assert look(tmp_path / "data", "detection").task == "detection"
    annotated.coco(tmp_path / "bare", 12)
    with pytest.raises(DataError, match="no category with boxes names keypoints"):
        look(tmp_path / "bare", "keypoints")


Spoil = Callable[[dict[str, Any]], None]


def too_few(data: dict[str, Any]) -> None:
    for row in data["annotations"][:3]:
        row["keypoints"] = [1, 2, 2]


def texts(data: dict[str, Any]) -> None:
    for row in data["annotations"][:3]:
        row["keypoints"] = "none"


@pytest.mark.parametrize("spoil", [too_few, texts])
def test_points_that_fit_no_names_are_counted(spoil: Spoil, tmp_path: Path) -> None:
    pointed(tmp_path / "data", 12)
    path = tmp_path / "data" / "annotations.json"
    data = json.loads(path.read_text())
    spoil(data)
    path.write_text(json.dumps(data))
    lines = " ".join(PicturePoints(tmp_path / "data").load().notes)
    assert "3 boxes whose points are not those that their category names" in lines
    assert "3 boxes without a known point, which are not judged" in lines


def test_two_kinds_with_other_points_are_refused(tmp_path: Path) -> None:
    pointed(tmp_path / "data", 12)
    path = tmp_path / "data" / "annotations.json"
    data = json.loads(path.read_text())
    data["categories"].append({"id": 4, "name": "snail", "keypoints": ["shell"]})
    data["annotations"][0] |= {"category_id": 4, "keypoints": [5, 5, 2]}
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="have different keypoints; give both the same"):
        look(tmp_path / "data", "keypoints")


def test_a_data_py_says_points_by_name(tmp_path: Path) -> None:
    part = Split([np.zeros((16, 16, 3), np.uint8)] * 2, [[[0, 1, 1, 9, 9, 4, 4, 2]], []])
    steps = [Colour()]
    made = prepare_splits(Splits(("a",), part, part, part, points=("tip",)), steps, "keypoints")
    assert made.train.labels[0, 0].tolist() == [0, 1, 1, 9, 9, 4, 4, 2] and (made.train.labels[1] == NONE).all()
    with pytest.raises(DataError, match="points: 0 names"):
        prepare_splits(Splits(("a",), part, part, part), steps, "keypoints")
    with pytest.raises(DataError, match="x, y and 0 to 2 for each of 2 points"):
        prepare_splits(Splits(("a",), part, part, part, points=("tip", "end")), steps, "keypoints")


def test_points_beyond_the_picture_are_not_known(tmp_path: Path) -> None:
    pointed(tmp_path, 8)
    path = tmp_path / "annotations.json"
    found = json.loads(path.read_text())
    row = found["annotations"][0]
    row["keypoints"][0] += 500
    path.write_text(json.dumps(found))
    read = PicturePoints(tmp_path).annotations
    assert "1 points outside the picture, taken as not known (w000.png)" in "\n".join(read.findings.lines())
    moved = [box for picture in read.pictures for box in picture.boxes if box.points and box.points[0] > 400]
    assert len(moved) == 1 and moved[0].points[2] == 0
    found["categories"][0]["keypoints"] = ["eye", "eye"]
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match="names a keypoint twice"):
        _ = PicturePoints(tmp_path).annotations
