"""The gate where the metric is no mean over samples: its figures are the tasks' own, and its error rate is held."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeloop_contract.boxes import Found
from edgeloop_pipeline.data.boxes import padded
from edgeloop_pipeline.data.types import Samples
from edgeloop_pipeline.retraining import judging, paired_measure
from edgeloop_pipeline.retraining.gate import ChallengerLimits, judge
from edgeloop_pipeline.tasks.detection.measure import judged
from two_models import MODELS, anomalies, boxes

ANY_TEST = ChallengerLimits(max_test_drop=1.0, max_slice_drop=1.0)


@pytest.fixture
def few_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("SWAPS", 150), ("MIN_SWAPS", 150), ("RESAMPLES", 20)):
        monkeypatch.setattr(paired_measure, name, count)


def passed(metric: str, runs: int, recordings: int, **challenger: float) -> float:
    """The share of challengers that are shown to be better in the field, at an alpha of 0.05."""
    rng = np.random.default_rng(0)
    return float(np.mean([MODELS[metric](rng, recordings, **challenger).whole("field").p_better < 0.05 for _ in range(runs)]))


@pytest.mark.parametrize("metric", [pytest.param(name, marks=pytest.mark.long if name == "mAP" else ()) for name in MODELS])
def test_a_challenger_that_is_no_better_seldom_passes_and_one_that_is_does(metric: str, few_swaps: None) -> None:
    """0.05 and three standard errors of 200 runs."""
    assert passed(metric, 200, 14) <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert passed(metric, 40, 14, gain={"ROC AUC": 3.0, "mean AP": 2.0}.get(metric, 0.7)) >= 0.8


@pytest.mark.parametrize("metric", ["ROC AUC", "mAP", "mean AP"])
def test_the_scale_of_scores_neither_helps_nor_hides(metric: str, few_swaps: None) -> None:
    same, scaled = (MODELS[metric](np.random.default_rng(3), 14, gain=0.3, scale=scale) for scale in (1.0, 0.4))
    assert same.whole("field") == scaled.whole("field")


def test_figures_are_the_task_s_own() -> None:
    """Each label's boxes beside the measure of one model alone."""
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 100, (20, 3, 2))
    rows = [np.concatenate([rng.integers(0, 2, (3, 1)), at, at + 30], 1).astype(np.float32) for at in low]
    truth = padded(rows, 3)
    models = [
        [
            Found(row[:, 1:] + rng.normal(0, off, (3, 4)).astype(np.float32), np.sort(rng.random(3))[::-1], row[:, 0].astype(int))
            for row in rows
        ]
        for off in (2.0, 4.0)
    ]
    samples = Samples(np.zeros((20, 1)), truth, np.arange(20), np.full(20, "device pi"))
    pair = judging.of_boxes(models, samples, samples.groups, ("a", "b"))
    whole = pair.whole("field")
    alone = [judged(found, truth, 2).mean_precision(np.ones(20)) for found in models]
    assert [whole.champion, whole.challenger] == pytest.approx(alone) and alone[0] > alone[1] + 0.1
    assert whole.p_worse < 0.01 and whole.p_better > 0.9 and whole.low <= whole.difference <= whole.high < 0
    limits = dataclasses.replace(ANY_TEST, min_slice_samples=5)
    slices = {one.name: one for one in pair.slices("field", limits)}
    assert set(slices) == {"field, label a", "field, label b"}, "one device alone is the whole"
    for number, name in enumerate("ab"):
        own = [judged(found, truth, 2).of_label(number) for found in models]
        assert [slices[f"field, label {name}"].champion, slices[f"field, label {name}"].challenger] == pytest.approx(own)


def test_equal_answers_are_no_better_and_no_worse() -> None:
    pair = boxes(np.random.default_rng(0), 8)
    same = dataclasses.replace(pair, measure=lambda weights: pair.measure(np.tile(weights.reshape(2, -1).sum(0), 2)))
    whole = same.whole("field")
    assert whole.p_better == whole.p_worse == 1.0 and whole.difference == 0


def test_few_recordings_are_counted_exactly() -> None:
    """Two recordings in which the challenger is right and the champion wrong: one of four exchanges is as good."""
    errors = np.array([0.0, 1.0, 0.0, 1.0])
    samples = Samples(np.zeros((4, 1)), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), np.full(4, "device pi"))
    whole = judging.of_errors([1 - errors, errors], samples, samples.groups).whole("field")
    assert (whole.champion, whole.challenger, whole.p_better, whole.p_worse) == (0.0, 1.0, 0.25, 1.0)


def test_a_field_without_a_metric_is_refused_in_a_sentence() -> None:
    samples = Samples(np.zeros((30, 1)), np.zeros(30, np.int64), np.arange(30), np.full(30, "device pi"))
    none = judging.of_errors([np.arange(30.0), np.arange(30.0)], samples, samples.groups)
    verdict = judge(anomalies(np.random.default_rng(0), 12), none, ANY_TEST)
    assert verdict.reasons == [
        "the held-out field samples have no ROC AUC: there must be normal and anomalous ones among them; label the missing kind"
    ]
    assert verdict.metric == "ROC AUC" and verdict.field.samples == 0


def test_a_label_that_falls_is_refused_by_name(few_swaps: None) -> None:
    rng = np.random.default_rng(4)
    home = boxes(rng, 30, gain=-6.0)
    verdict = judge(home, boxes(rng, 30, gain=0.6), ChallengerLimits())
    assert not verdict.passed and verdict.reasons[0].startswith("worse on the test set: mAP ")
    assert any(reason.startswith("worse for test set, label a: mAP") for reason in verdict.reasons)
    assert "accuracy" not in str(verdict.reasons)
