"""Both bundles as shipped, on the same samples: their answers, in the form in which the gate compares them.

Scores of boxes and labels, and errors of reconstructions, enter as ranks among their own model's: where models exchange answers,
one that gives higher scores for the same things would otherwise rank above the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import POINT_VALUES, VALUES, Found, sigmas_of, similarity
from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.retraining.gate import Answers, Compared
from edgeloop_pipeline.retraining.paired_measure import PairedMeasure, Part
from edgeloop_pipeline.retraining.shipped_answers import Shipped
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.registry import metric_name

__all__ = ["compared", "of_boxes", "of_errors", "of_labels", "of_masks", "of_points", "of_values", "on_field", "on_test"]


def on_test(champion: Path, challenger: Path, splits: PreparedSplits) -> Compared:
    """On the recipe's own test set."""
    return compared((Shipped(champion), Shipped(challenger)), splits.test, splits, by_group=False)


def on_field(champion: Path, challenger: Path, splits: PreparedSplits, field: field_data.Field) -> Compared:
    """On the part of the field data that judges."""
    held_out = field_data.samples(field.judging, splits.labels, splits.task)
    return compared((Shipped(champion), Shipped(challenger)), held_out, splits, by_group=True)


def compared(models: tuple[Shipped, Shipped], samples: Samples, splits: PreparedSplits, by_group: bool) -> Compared:
    """`by_group`: who took the samples makes slices."""
    task, names, values = splits.task, splits.labels, samples.values
    groups = np.asarray(samples.groups) if by_group else np.full(len(samples), "")
    if not len(samples):
        none = np.zeros(0, bool)
        return Answers(none, none, none, metric=metric_name(task))
    if task == "classification":
        classes = {"class": np.asarray(names)[samples.labels]}
        champion, challenger = (model.labels(values) == samples.labels for model in models)
        return Answers(champion, challenger, samples.recording, {"of": groups, **classes} if by_group else classes)
    if task == "regression":
        return of_values([model.values(values) for model in models], samples, groups, names)
    if task == "multilabel":
        return of_labels([model.label_scores(values) for model in models], samples, groups, names)
    if task == "anomaly":
        return of_errors([model.errors(values) for model in models], samples, groups)
    if task == "keypoints":
        return of_points([model.points(values) for model in models], samples, groups, names, splits.points)
    if task == "detection":
        return of_boxes([model.boxes(values) for model in models], samples, groups, names)
    return of_masks([model.masks(values) for model in models], samples, groups, names)


def of_values(both: Sequence[Array], samples: Samples, groups: Array, names: Sequence[str]) -> PairedMeasure:
    """R² of both models' answers (N, quantities), in their units; the mean over quantities."""
    truth = np.concatenate([samples.labels, samples.labels]).astype(np.float64)
    answers = np.concatenate(both)
    each = [confidence_intervals.r2(answers[:, i : i + 1], truth[:, i : i + 1]) for i in range(len(names))]
    parts = [Part(f"quantity {name}", np.ones(len(samples), bool)) for name in names]
    lacking = "a quantity is the same in all of them; label samples with other values"

    def measure(weights: Array) -> Array:
        figures = np.array([r2(weights) for r2 in each])
        return np.array([figures.mean(), *figures])

    return PairedMeasure(metric_name("regression"), measure, samples.recording, groups, parts, lacking)


def of_labels(both: Sequence[Array], samples: Samples, groups: Array, names: Sequence[str]) -> PairedMeasure:
    """Mean AP of both models' scores (N, labels); the mean over labels."""
    from scipy.stats import rankdata

    from edgeloop_pipeline.tasks.multilabel.measure import Ranking

    truth = np.asarray(samples.labels)
    ranking = Ranking.of(np.concatenate([rankdata(scores, axis=0) for scores in both]), np.concatenate([truth, truth]))
    parts = [Part(f"label {name}", truth[:, i] == 1) for i, name in enumerate(names)]
    lacking = "none of them has a label; label some that have one"
    return PairedMeasure(metric_name("multilabel"), _with_mean(ranking.precisions), samples.recording, groups, parts, lacking)


def of_errors(both: Sequence[Array], samples: Samples, groups: Array) -> PairedMeasure:
    """ROC AUC of both models' reconstruction errors (N,)."""
    from scipy.stats import rankdata

    ranks = np.concatenate([rankdata(errors) for errors in both])
    auc = confidence_intervals.auc(ranks, np.tile(samples.labels == 1, 2))
    lacking = "there must be normal and anomalous ones among them; label the missing kind"
    return PairedMeasure(metric_name("anomaly"), lambda weights: np.array([auc(weights)]), samples.recording, groups, (), lacking)


def of_boxes(both: Sequence[Sequence[Found]], samples: Samples, groups: Array, names: Sequence[str]) -> PairedMeasure:
    """mAP@0.5:0.95 of both models' boxes of each picture; the mean over labels.

    Boxes and truths are matched once; who exchanges answers only ranks anew.
    """
    from edgeloop_pipeline.tasks.detection.measure import judged

    truth = np.asarray(samples.labels)
    found = [boxes for one in both for boxes in _ranked(one, len(names))]
    matched = judged(found, np.concatenate([truth, truth]), len(names))
    parts = [Part(f"label {name}", (truth[..., 0] == i).any(1)) for i, name in enumerate(names)]
    lacking = "none of them has a box; label some with boxes"
    return PairedMeasure(metric_name("detection"), _with_mean(matched.precisions), samples.recording, groups, parts, lacking)


def of_points(
    both: Sequence[Sequence[tuple[Found, Array]]], samples: Samples, groups: Array, names: Sequence[str], points: Sequence[str]
) -> PairedMeasure:
    """OKS mAP@0.5:0.95 of both models' boxes with points of each picture; the mean over labels."""
    from edgeloop_pipeline.tasks.detection.measure import judged
    from edgeloop_pipeline.tasks.keypoints.measure import MOST, without_points

    truth, sigmas = np.asarray(samples.labels), sigmas_of(points)
    found = [boxes for one in both for boxes in _ranked([each for each, _ in one], len(names))]
    places = [at for one in both for _, at in one]
    twice = np.concatenate([truth, truth])
    matched = judged(found, twice, len(names), lambda i, rows: similarity(places[i], rows, sigmas), without_points, MOST)
    known = (truth[..., VALUES + 2 :: POINT_VALUES] > 0).any(-1)
    parts = [Part(f"label {name}", ((truth[..., 0] == i) & known).any(1)) for i, name in enumerate(names)]
    lacking = "none of them has a box with a known point; label some with points"
    return PairedMeasure(metric_name("keypoints"), _with_mean(matched.precisions), samples.recording, groups, parts, lacking)


def _ranked(found: Sequence[Found], labels: int) -> list[Found]:
    """The same boxes, where the score is minus the rank among all boxes of the label."""
    scores, kinds = (np.concatenate([getattr(one, name) for one in found]) for name in ("scores", "labels"))
    ranks = np.zeros(len(scores))
    for label in range(labels):
        rows = np.flatnonzero(kinds == label)
        ranks[rows[np.argsort(-scores[rows], kind="stable")]] = -np.arange(len(rows), dtype=np.float64)
    ends = np.cumsum([len(one.scores) for one in found])[:-1]
    return [one._replace(scores=part) for one, part in zip(found, np.split(ranks, ends), strict=True)]


def of_masks(both: Sequence[Array], samples: Samples, groups: Array, names: Sequence[str]) -> PairedMeasure:
    """Mean IoU of both models' numbers of each pixel's label (N, height, width), of all pixels; the mean over labels."""
    from edgeloop_pipeline.tasks.segmentation.measure import compared as counted

    truth = np.asarray(samples.labels)
    pixels = counted([*both[0], *both[1]], np.concatenate([truth, truth]), len(names))
    parts = [Part(f"label {name}", pixels.truth[: len(truth), i] > 0) for i, name in enumerate(names)]
    lacking = "no pixel has a label; draw masks"
    return PairedMeasure(metric_name("segmentation"), _with_mean(pixels.ious), samples.recording, groups, parts, lacking)


def _with_mean(each: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The mean over parts in front of them; parts without a figure do not count."""

    def measure(weights: Array) -> Array:
        figures = each(weights)
        there = np.isfinite(figures)
        return np.concatenate([[figures[there].mean() if there.any() else np.nan], figures])

    return measure
