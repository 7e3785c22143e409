"""The measure of detectors beside a well-kept COCO evaluator, and their loss."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch

from edgeloop_contract.boxes import Found
from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.data.box_augmentations import augment_boxes, augment_upright_boxes
from edgeloop_pipeline.data.boxes import NONE, padded
from edgeloop_pipeline.data.mosaic import augment_mosaic_boxes, mosaic
from edgeloop_pipeline.tasks.detection.cells import Cells, cells_of
from edgeloop_pipeline.tasks.detection.loss import DetectionLoss, assigned, complete_iou
from edgeloop_pipeline.tasks.detection.measure import SIZES, Judged, judged

SIDE = 200.0


def pictures(seed: int, count: int = 25, labels: int = 3) -> tuple[list[Found], np.ndarray]:
    """Truths, and answers that are some of them moved a little, twice, with other labels, or invented."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(count):
        n = int(rng.integers(0, 9))
        low = rng.uniform(0, SIDE - 60, (n, 2))
        boxes = np.concatenate([low, low + rng.uniform(5, 60, (n, 2))], 1)
        kinds = rng.integers(0, labels, n)
        truth.append(np.concatenate([kinds[:, None], boxes], 1).astype(np.float32))
        of = rng.integers(0, n, int(rng.integers(0, 2 * n))) if n else np.zeros(0, int)
        moved = boxes[of] + rng.normal(0, 1, (len(of), 4))
        answered = np.where(rng.random(len(of)) < 0.9, kinds[of], rng.integers(0, labels, len(of)))
        extra = rng.uniform(0, SIDE - 60, (3, 2))
        moved = np.concatenate([moved, np.concatenate([extra, extra + 30], 1)])
        answered = np.concatenate([answered, rng.integers(0, labels, 3)])
        scores = rng.permutation(len(moved)) / 100 + rng.random() / 1000
        order = np.argsort(-scores)
        found.append(Found(moved[order].astype(np.float32), scores[order].astype(np.float32), answered[order]))
    return found, padded(truth, 10)


def coco(found: list[Found], truth: np.ndarray, labels: int) -> np.ndarray:
    """Its twelve figures."""
    from faster_coco_eval import COCO, COCOeval_faster

    rows, answers = [], []
    for i, boxes in enumerate(truth):
        for kind, x1, y1, x2, y2 in boxes[boxes[:, 0] != NONE].astype(float).tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append(
                {"id": len(rows) + 1, "image_id": i, "category_id": int(kind), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
        answers += [
            {"image_id": i, "category_id": int(kind), "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "score": float(score)}
            for b, score, kind in zip(found[i].boxes.astype(float).tolist(), found[i].scores, found[i].labels, strict=True)
        ]
    images = [{"id": i, "width": int(SIDE), "height": int(SIDE)} for i in range(len(truth))]
    with redirect_stdout(io.StringIO()):
        given = COCO({"images": images, "annotations": rows, "categories": [{"id": k, "name": str(k)} for k in range(labels)]})
        evaluator = COCOeval_faster(given, given.loadRes(answers), "bbox", print_function=lambda *_: None)
        evaluator.run()
    return np.asarray(evaluator.stats)


def measured(found: list[Found], truth: np.ndarray, labels: int = 3) -> Judged:
    return judged(found, truth, labels)


@pytest.mark.parametrize("seed", range(6))
def test_the_measure_is_coco_s(seed: int) -> None:
    found, truth = pictures(seed)
    here, once = measured(found, truth), np.ones(len(truth))
    wanted = coco(found, truth, 3)
    assert here.mean_precision(once) == pytest.approx(wanted[0], abs=1e-5)
    assert here.mean_precision(once, slice(0, 1)) == pytest.approx(wanted[1], abs=1e-5)
    assert here.mean_precision(once, slice(5, 6)) == pytest.approx(wanted[2], abs=1e-5)
    assert 0.05 < wanted[0] < 0.95, "neither all right nor all wrong"


@pytest.mark.parametrize("seed", range(4))
def test_figures_by_size_are_coco_s(seed: int) -> None:
    """Boxes of 5 to 130 pixels, so that each size is there."""
    found, truth = pictures(seed, 60)
    grown = [Found(f.boxes * 2.2, f.scores, f.labels) for f in found]
    larger = np.where(truth == NONE, NONE, truth * np.array([1, 2.2, 2.2, 2.2, 2.2], np.float32))
    wanted, once = coco(grown, larger, 3), np.ones(len(truth))
    for i, areas in enumerate(SIZES.values()):
        here = judged(grown, larger, 3, areas=areas)
        assert here.mean_precision(once) == pytest.approx(wanted[3 + i], abs=1e-5) and wanted[3 + i] > 0.01


def test_a_picture_that_counts_twice_is_the_same_as_two() -> None:
    found, truth = pictures(3)
    weights = np.random.default_rng(0).integers(0, 3, len(truth)).astype(float)
    rows = np.repeat(np.arange(len(truth)), weights.astype(int))
    twice = measured([found[i] for i in rows], truth[rows])
    assert measured(found, truth).mean_precision(weights) == pytest.approx(twice.mean_precision(np.ones(len(rows))), abs=0.01)


def test_the_best_threshold_is_between_right_and_wrong() -> None:
    box = np.array([[10, 10, 40, 40]], np.float32)
    other = box + 100
    truth = padded([np.array([[0, 10, 10, 40, 40]], np.float32)] * 5, 2)
    found = [Found(np.concatenate([box, other]), np.array([0.6 + i / 100, 0.3], np.float32), np.zeros(2, int)) for i in range(5)]
    here = measured(found, truth, 1)
    assert here.best_threshold() == pytest.approx(0.6)
    (counts,) = here.counts(0.5)
    assert (counts.truths, counts.right, counts.answered) == (5, 5, 5)
    assert here.mean_precision(np.ones(5)) == pytest.approx(1.0)


def test_pictures_without_truth_have_no_precision() -> None:
    empty = np.full((2, 1, 5), NONE, np.float32)
    here = measured([Found(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, int))] * 2, empty, 2)
    assert np.isnan(here.mean_precision(np.ones(2))) and here.of_label(0) is None and here.best_threshold() == 0.5


CELLS = Cells((8, 16), 64, 96, 2)


def test_cells_are_known_by_the_number_of_outputs() -> None:
    assert cells_of(CELLS.count * 6, 64, 96, 2) == CELLS
    assert cells_of(Cells((8, 16, 32), 64, 96, 2).count * 6, 64, 96, 2).strides == (8, 16, 32)
    with pytest.raises(ModelError, match="the network gives 100 values"):
        cells_of(100, 64, 96, 2)


def test_the_loss_finds_boxes_from_nothing() -> None:
    """Free outputs, trained alone, become the boxes; so the assignment and both parts of the loss pull the right way."""
    from edgeloop_contract.boxes import find_boxes

    torch.manual_seed(0)
    truth = torch.tensor(
        [[[0, 10, 12, 40, 50], [1, 50, 5, 90, 60], [NONE, 0, 0, 0, 0]], [[1, 30, 30, 46, 44], [NONE] * 5, [NONE] * 5]]
    )
    scores = torch.zeros(2, CELLS.count * 6)
    scores[:, CELLS.count * 4 :] = -4
    scores.requires_grad_()
    loss = DetectionLoss(CELLS)
    optimizer = torch.optim.Adam([scores], 0.1)
    first = float(loss(scores, truth).detach())
    for _ in range(300):
        optimizer.zero_grad()
        loss(scores, truth).backward()
        optimizer.step()
    assert float(loss(scores.detach(), truth.flatten(1))) < first / 5
    outputs = CELLS.separate(scores.detach().numpy())
    for i, wanted in enumerate(truth.numpy()):
        found = find_boxes(
            CELLS.layout, {k: v[i] for k, v in outputs.items()}, 64, 96, score_threshold=0.5, iou_threshold=0.5, most=9
        )
        wanted = wanted[wanted[:, 0] != NONE]
        assert sorted(found.labels.tolist()) == sorted(wanted[:, 0].astype(int).tolist())
        for box, label in zip(found.boxes, found.labels, strict=True):
            assert np.abs(box - wanted[wanted[:, 0] == label][:, 1:]).max() < 1.5


def test_where_padding_stands_changes_nothing() -> None:
    torch.manual_seed(1)
    scores = torch.randn(2, CELLS.count * 6)
    boxes = torch.tensor([[[0.0, 10, 12, 40, 50], [1, 50, 5, 90, 60]], [[1, 30, 30, 46, 44], [NONE] * 5]])
    none = torch.full((2, 1, 5), NONE)
    loss = DetectionLoss(CELLS)
    spread = torch.cat([none, boxes[:, :1], none, none, boxes[:, 1:], none], 1)
    assert float(loss(scores, spread)) == pytest.approx(float(loss(scores, boxes)), rel=1e-6)


def test_pictures_without_boxes_teach_that_nothing_is_there() -> None:
    scores = torch.zeros(1, CELLS.count * 6, requires_grad=True)
    loss = DetectionLoss(CELLS)(scores, torch.full((1, 4, 5), NONE))
    loss.backward()
    assert loss.isfinite() and scores.grad is not None
    assert (scores.grad[:, CELLS.count * 4 :] > 0).all() and not scores.grad[:, : CELLS.count * 4].any()


def test_a_cell_answers_for_one_box_and_each_box_has_a_cell() -> None:
    at = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]])
    truth = torch.tensor([[[0.0, 0, 0, 14, 8], [1.0, 8, 0, 24, 8]]])
    boxes = torch.tensor([[[0.0, 0, 14, 8], [6.0, 0, 20, 8], [8.0, 0, 24, 8]]])
    found = assigned(torch.full((1, 3, 2), 0.5), boxes, truth, at)
    assert found.answers.tolist() == [[True, True, True]]
    assert found.boxes[0, 0].tolist() == [0, 0, 14, 8] and found.boxes[0, 2].tolist() == [8, 0, 24, 8]
    assert found.scores[0, 0].tolist() == [pytest.approx(1.0), 0.0] and found.scores[0, 2, 1] == pytest.approx(1.0)


def test_complete_iou_is_one_for_the_same_box_and_less_for_all_others() -> None:
    box = torch.tensor([[10.0, 10, 30, 50]])
    assert complete_iou(box, box) == pytest.approx(1.0, abs=1e-5)
    for other in ([12.0, 10, 32, 50], [10.0, 10, 50, 30], [100.0, 100, 120, 140]):
        assert complete_iou(box, torch.tensor([other])) < 0.9
    assert complete_iou(box, torch.tensor([[100.0, 100, 120, 140]])) < 0


@pytest.mark.parametrize("augment", [augment_boxes, augment_upright_boxes])
def test_boxes_stay_on_what_they_are_of(augment: object) -> None:
    """White squares on grey: after any change, each box that is left is full of white, and its surroundings are not."""
    rng = np.random.default_rng(0)
    values, boxes = np.full((32, 96, 128, 3), 60, np.uint8), np.full((32, 3, 5), NONE, np.float32)
    for i in range(32):
        x, y = int(rng.integers(10, 90)), int(rng.integers(10, 60))
        values[i, y : y + 24, x : x + 30] = 220
        boxes[i, 0] = [2, x, y, x + 30, y + 24]
    made, moved = augment(torch.from_numpy(values), torch.from_numpy(boxes), torch.Generator().manual_seed(1))
    assert made.shape == values.shape and made.dtype == torch.uint8 and moved.shape == boxes.shape
    assert not torch.equal(made, torch.from_numpy(values))
    left = 0
    for picture, (label, x1, y1, x2, y2) in zip(made.numpy().astype(float), moved[:, 0].tolist(), strict=True):
        if label == NONE:
            continue
        left += 1
        inside = picture[int(np.ceil(y1)) + 1 : int(y2) - 1, int(np.ceil(x1)) + 1 : int(x2) - 1]
        around = picture.copy()
        around[max(0, int(y1) - 1) : int(y2) + 2, max(0, int(x1) - 1) : int(x2) + 2] = np.nan
        assert np.nanmax(around) < inside.min(), (x1, y1, x2, y2)
    assert left > 24 and (moved[:, 1:, 0] == NONE).all()


def test_a_mosaic_has_the_boxes_of_four_pictures() -> None:
    """What is bright is boxed, in plain pictures and in mosaics."""
    values, boxes = np.full((24, 64, 96, 3), 100, np.uint8), np.full((24, 6, 5), NONE, np.float32)
    for i in range(24):
        x, y = 8 + 2 * i, 4 + i
        values[i, y : y + 24, x : x + 30], boxes[i, 0] = 240, [i % 3, x, y, x + 30, y + 24]
    made, moved = mosaic(torch.from_numpy(values), torch.from_numpy(boxes), torch.Generator().manual_seed(4))
    counts = (moved[..., 0] != NONE).sum(1)
    assert made.dtype == torch.uint8 and moved.shape == (24, 6, 5) and counts.max() > 2
    changed = [not torch.equal(a, torch.from_numpy(b)) for a, b in zip(made, values, strict=True)]
    assert 5 < sum(changed) < 20
    for picture, rows, is_mosaic in zip(made.numpy(), moved.numpy(), changed, strict=True):
        bright, boxed = picture[..., 0] > 170, np.zeros((64, 96), bool)
        for _, x1, y1, x2, y2 in rows[rows[:, 0] != NONE].round().astype(int):
            boxed[y1:y2, x1:x2] = True
        # Slivers of a box that was mostly cut off are bright without a box.
        assert (boxed & ~bright).mean() < 0.03 and (bright & ~boxed).mean() < (0.08 if is_mosaic else 0.001)
    augmented, _ = augment_mosaic_boxes(torch.from_numpy(values), torch.from_numpy(boxes), torch.Generator().manual_seed(4))
    assert augmented.shape == made.shape


def test_a_mosaic_with_too_many_boxes_stays_a_picture() -> None:
    values = torch.randint(0, 255, (8, 32, 32, 3), dtype=torch.uint8)
    boxes = torch.tensor([[[0.0, 4, 4, 28, 28], [1, 6, 6, 20, 20]]]).repeat(8, 1, 1)
    made, moved = mosaic(values, boxes, torch.Generator().manual_seed(0), share=1.0)
    same = [torch.equal(a, b) for a, b in zip(made, values, strict=True)]
    assert any(same) and all(torch.equal(moved[i], boxes[i]) for i in range(8) if same[i])
