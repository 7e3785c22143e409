"""Answers of odd files: numbers that no label has, labels out of range."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloop_agent.box_answers import box_answers, box_features
from edgeloop_agent.mask_answers import mask_answers, mask_features
from edgeloop_contract.boxes import Final
from edgeloop_contract.masks import NOWHERE, numbers_of
from edgeloop_contract.tasks import Detection, Segmentation


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_a_number_that_no_label_has_is_nowhere(dtype: type) -> None:
    task = Segmentation(labels=["a", "b"], height=2, width=3, scores="numbers")
    numbers = np.array([[[0, 1, 1], [2, 255, 0]]]).astype(dtype)
    assert numbers_of(task, numbers).tolist() == [[0, 1, 1], [NOWHERE, NOWHERE, 0]]
    found = {mask.label: (mask.share, mask.confidence) for mask in mask_answers(task, {"": numbers}, 2, 3, None)}
    assert found == {"a": (pytest.approx(1 / 3, abs=1e-3), 1.0), "b": (pytest.approx(1 / 3, abs=1e-3), 1.0)}
    features, confidence = mask_features(task, {"": numbers})
    assert np.isfinite(features).all() and confidence == 1.0
    if dtype is np.float32:  # as quantized integers come back
        near = numbers + np.float32(2e-7)
        near[0, 0, 0] = np.nan
        assert numbers_of(task, near).tolist() == [[NOWHERE, 1, 1], [NOWHERE, NOWHERE, 0]]


@pytest.mark.parametrize("label", [-1, 7, 1e12, 1e30])
def test_a_label_out_of_range_costs_no_answer(label: float) -> None:
    task = Detection(labels=["a", "b"], decode=Final())
    rows = np.array([[[1, 1, 9, 9, 0.9, 0], [2, 2, 8, 8, 0.8, label]]], np.float32)
    with np.errstate(invalid="ignore"):
        answers = box_answers(task, {"": rows}, 16, 16, None)
        features, confidence = box_features(task, {"": rows}, np.zeros((1, 16, 16, 3), np.uint8))
    assert len(answers) == 2 and answers[0].label == "a" and answers[1].label.startswith("label ")
    assert np.isfinite(features).all() and 0 < confidence < 1
