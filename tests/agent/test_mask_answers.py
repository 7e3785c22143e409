"""Masks on the device: answers in the picture's pixels, and what drift watches of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from annotated_models import regressor, segmenter
from commands import command
from edgeloop_agent.answers import answer_features, answer_names
from edgeloop_agent.mask_answers import found_labels, mask_answers
from edgeloop_contract.boxes import placement
from edgeloop_contract.preprocessing import CenterCrop, Resize
from edgeloop_contract.tasks import Segmentation

TASK = Segmentation(labels=["background", "road", "car"], height=4, width=4, background="background")
SAMPLE = np.zeros((1, 8, 8, 3), np.uint8)


def outputs(grid: list[list[int]], logit: float = 4.0) -> dict[str, np.ndarray]:
    """Logits whose best label is that of the grid, flat as some runtimes give them."""
    return {"": (logit * np.eye(3, dtype=np.float32)[np.array(grid)]).transpose(2, 0, 1).reshape(1, -1)}


GRID = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 2]]


def test_masks_are_in_pixels_of_the_picture_largest_first() -> None:
    answers = mask_answers(TASK, outputs(GRID), 8, 8, placement([Resize(height=8, width=8)], 12, 20))
    assert [a.label for a in answers] == ["road", "car"] and all(a.pixels().shape == (12, 20) for a in answers)
    assert answers[0].pixels()[:6, 10:].all() and not answers[0].pixels()[:, :10].any()
    assert answers[0].share == pytest.approx(5 / 16, abs=1e-4) and answers[1].share == pytest.approx(1 / 16, abs=1e-4)
    sure = np.exp(4) / (np.exp(4) + 2)
    assert answers[0].confidence == pytest.approx(sure, abs=1e-4)


def test_what_a_crop_cuts_off_has_no_label() -> None:
    answers = mask_answers(TASK, outputs([[1] * 4] * 4), 8, 8, placement([CenterCrop(height=8, width=8)], 10, 12))
    (road,) = answers
    assert road.pixels()[1:9, 2:10].all() and road.pixels().sum() == 64 and road.share == pytest.approx(64 / 120, abs=1e-4)


def test_a_picture_of_background_has_no_mask() -> None:
    assert mask_answers(TASK, outputs([[0] * 4] * 4), 8, 8, None) == []
    assert (found_labels(TASK, outputs(GRID), 8, 8)[::2, ::2] == GRID).all()


def features(grid: list[list[int]], logit: float = 4.0) -> tuple[dict[str, float], float]:
    values, label, confidence = answer_features(TASK, outputs(grid, logit), SAMPLE)
    assert label == 0 and len(values) == len(answer_names(TASK)) and np.isfinite(values).all()
    return dict(zip(answer_names(TASK), values.tolist(), strict=True)), confidence


def test_drift_watches_share_and_confidence_of_each_label() -> None:
    seen, confidence = features(GRID)
    assert list(seen) == ["share of road", "confidence of road", "share of car", "confidence of car", "confidence"]
    assert seen["share of road"] == pytest.approx(5 / 16) and seen["share of car"] == pytest.approx(1 / 16)
    sure = np.exp(4) / (np.exp(4) + 2)
    assert confidence == seen["confidence"] == pytest.approx(sure) == pytest.approx(seen["confidence of car"])
    doubted, less = features(GRID, logit=1.0)
    assert less < confidence and doubted["confidence of road"] < seen["confidence of road"]
    absent, _ = features([[0] * 4] * 4)  # sure that there is no car, as far as the nearest cell is from one
    assert absent["share of car"] == 0 and absent["confidence of car"] == pytest.approx(1 - 1 / (np.exp(4) + 2))


def test_many_labels_are_watched_together() -> None:
    task = Segmentation(labels=[f"k{i}" for i in range(40)], height=2, width=2)
    values, _, _ = answer_features(task, {"": np.random.default_rng(0).normal(size=(1, 40, 2, 2)).astype(np.float32)}, SAMPLE)
    assert answer_names(task) == ["confidence"] and values.shape == (1,)


@pytest.mark.parametrize("words", [{"labels": ["a"]}, {"background": "other"}, {"labels": [str(i) for i in range(256)]}])
def test_a_task_that_no_byte_or_label_can_say_is_refused(words: dict) -> None:
    with pytest.raises(ValueError, match="2 to 255 labels"):
        Segmentation(**{"labels": ["a", "b"], "height": 2, "width": 2, **words})


def test_masks_are_drawn_into_pictures_by_the_command(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.full((48, 64, 3), 40, np.uint8)
    picture[24:, 32:] = (250, 40, 40)
    Image.fromarray(picture).save(tmp_path / "a.png")
    segmenter(tmp_path / "masks.edgeloop")
    words = ("--source", tmp_path / "a.png", "--state", tmp_path / "state", "--draw", tmp_path / "drawn")
    done = command("edgeloop-agent", "run", tmp_path / "masks.edgeloop", *words)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "drawn").iterdir()
    drawn = np.asarray(Image.open(file)).astype(int)
    changed = np.abs(drawn - picture).max(axis=2) > 0
    assert changed[24:, 32:].all() and not changed[24:, :32].any()  # half of its colour; the rest as it was, but for the words
    assert (drawn[24:, 32:] == drawn[40, 50]).all() and changed[:12, :12].any()
    import edgeloop

    answer = edgeloop.open(tmp_path / "masks.edgeloop")(tmp_path / "a.png")
    assert (np.asarray(edgeloop.draw(tmp_path / "a.png", answer)) == drawn).all()
    regressor(tmp_path / "values.edgeloop")
    refused = command("edgeloop-agent", "run", tmp_path / "values.edgeloop", *words)
    assert refused.returncode == 2 and "answers no boxes or masks to draw" in refused.stderr
