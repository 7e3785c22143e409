"""Boxes on the device: answers in the picture's pixels, what drift watches of them, and labelled ones that are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from commands import HERE, edgeloop_here
from edgeloop_agent.answers import answer_features, answer_names
from edgeloop_agent.box_answers import box_answers, count_found, found_boxes
from edgeloop_contract.boxes import Final, placement
from edgeloop_contract.preprocessing import Letterbox
from edgeloop_contract.tasks import Detection

TASK = Detection(labels=["cat", "dog"], decode=Final(), score_threshold=0.5)
SAMPLE = np.zeros((1, 100, 100, 3), np.uint8)


def outputs(*rows: list[float]) -> dict[str, np.ndarray]:
    return {"": np.array([[*rows, [0.0] * 6]], np.float32)}


def features(*rows: list[float]) -> tuple[dict[str, float], float]:
    values, label, confidence = answer_features(TASK, outputs(*rows), SAMPLE)
    assert label == 0 and len(values) == len(answer_names(TASK)) and np.isfinite(values).all()
    return dict(zip(answer_names(TASK), values.tolist(), strict=True)), confidence


def test_answers_are_in_pixels_of_the_picture_and_inside_it() -> None:
    place = placement([Letterbox(height=100, width=100)], 50, 200)  # half as large, in 25 rows from 37 on
    answers = box_answers(TASK, outputs([10, 40, 50, 60, 0.9, 1], [0, 0, 99, 99, 0.8, 0], [1, 1, 9, 9, 0.3, 0]), 100, 100, place)
    assert [(a.label, a.score) for a in answers] == [("dog", 0.9), ("cat", 0.8)]
    assert answers[0].box == pytest.approx([20, 6, 100, 46]) and answers[1].box == pytest.approx([0, 0, 198, 50])


def test_a_label_that_nobody_named_is_a_number() -> None:
    (answer,) = box_answers(TASK, outputs([1, 1, 9, 9, 0.9, 7]), 100, 100, None)
    assert answer.label == "label 7" and answer.box == [1, 1, 9, 9]


def test_drift_watches_number_score_size_place_and_mix() -> None:
    nothing, sure = features([1, 1, 9, 9, 0.1, 0])
    assert nothing["log boxes"] == 0 and sure == pytest.approx(0.9) and nothing["share of cat"] == nothing["share of dog"] == 0
    one, _ = features([10, 20, 30, 40, 0.9, 0])
    two, confidence = features([10, 20, 30, 40, 0.9, 0], [50, 60, 90, 80, 0.7, 1])
    assert two["log boxes"] > one["log boxes"] > 0 and confidence == pytest.approx(0.8)
    assert (one["share of cat"], two["share of dog"]) == (1, 0.5)
    assert one["x of boxes"] == pytest.approx(0.2) and one["y of boxes"] == pytest.approx(0.3)
    assert two["log size of boxes"] > one["log size of boxes"] and two["score of boxes"] == pytest.approx(0.8)


def test_labelled_boxes_are_found_by_answers_of_their_label() -> None:
    found = found_boxes(TASK, outputs([10, 10, 30, 30, 0.9, 0], [60, 60, 90, 90, 0.9, 1]), 100, 100)
    assert count_found(found, np.array([[0, 11, 11, 31, 31], [0, 60, 60, 90, 90], [1, 62, 60, 90, 90]], float)) == 2
    assert count_found(found, np.zeros((0, 5))) == 0


def test_samples_of_a_detector_are_named_by_their_number_of_boxes(tmp_path: Path) -> None:
    done = edgeloop_here("samples", HERE / "projects" / "shapes", tmp_path / "out", "--limit", 3)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "00000_1_boxes.png").is_file()
