"""The loss, the measure and the thresholds of several labels; and what a device makes of its scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeloop_agent.answers import answer_features, answer_names, interpret
from edgeloop_agent.label_answers import count_right
from edgeloop_contract.tasks import NOT_KNOWN, Multilabel
from edgeloop_pipeline.tasks.multilabel.loss import label_loss, weights_of
from edgeloop_pipeline.tasks.multilabel.measure import Ranking, best_thresholds

TASK = Multilabel(labels=["a", "b", "c"], thresholds=[0.5, 0.2, 0.9])


def test_average_precision_is_that_of_torchmetrics_with_ties_and_weights() -> None:
    from torchmetrics.functional.classification import multilabel_average_precision

    rng = np.random.default_rng(0)
    truth = (rng.random((300, 4)) < [0.5, 0.2, 0.05, 0.9]).astype(np.uint8)
    scores = np.round(rng.normal(size=(300, 4)) + truth, 1).astype(np.float32)  # as int8 gives them: many are equal
    weights = rng.integers(0, 3, 300)
    rows = np.repeat(np.arange(300), weights)
    for chosen, weight in ((np.arange(300), np.ones(300)), (rows, weights.astype(float))):
        wanted = multilabel_average_precision(
            torch.tensor(scores[chosen]).sigmoid(), torch.tensor(truth[chosen]).int(), 4, average="none"
        )
        assert Ranking.of(scores, truth).precisions(weight) == pytest.approx(wanted.numpy(), abs=1e-5)


def test_unknown_labels_and_labels_that_none_has_do_not_count() -> None:
    rng = np.random.default_rng(1)
    scores, truth = rng.normal(size=(40, 2)).astype(np.float32), (rng.random((40, 2)) < 0.4).astype(np.uint8)
    truth[:, 1] = 0
    known = rng.random(40) < 0.7
    hidden = np.where(known[:, None], truth, NOT_KNOWN).astype(np.uint8)
    there, every = Ranking.of(scores[known], truth[known]), Ranking.of(scores, hidden)
    assert every.precisions(np.ones(40))[0] == pytest.approx(there.precisions(np.ones(known.sum()))[0])
    assert np.isnan(every.precisions(np.ones(40))[1]) and every.mean(np.ones(40)) == every.precisions(np.ones(40))[0]
    weights = torch.ones(2)
    some, all_ = label_loss(torch.tensor(scores[known]), torch.tensor(truth[known]), weights), torch.tensor(hidden)
    assert float(label_loss(torch.tensor(scores), all_, weights)) == pytest.approx(float(some))


def test_every_label_s_loss_is_one_where_the_sample_is_ignored() -> None:
    """So a rare label teaches as much as a common one; and the best score is still the logit of its probability."""
    shares = np.array([0.5, 0.1, 0.02])
    truth = torch.from_numpy((np.arange(1000)[:, None] % [2, 10, 50] == 0).astype(np.uint8))
    logits = torch.tensor(np.log(shares / (1 - shares))).float().repeat(1000, 1).requires_grad_()
    for label in range(3):
        only = weights_of(shares) * torch.eye(3)[label] * 3
        assert float(label_loss(logits.detach(), truth, only)) == pytest.approx(1, abs=1e-3)
    label_loss(logits, truth, weights_of(shares)).backward()
    assert logits.grad is not None and torch.allclose(logits.grad.sum(0), torch.zeros(3), atol=1e-6)


def test_thresholds_have_the_best_f1_and_lie_between_scores() -> None:
    rng = np.random.default_rng(2)
    truth = (rng.random((200, 2)) < 0.3).astype(np.uint8)
    truth[:, 1] = 0
    shares = np.round(np.clip(0.3 * truth + rng.random((200, 2)) * 0.7, 0, 1), 2)
    limit, without = best_thresholds(shares, truth)

    def f1(at: float) -> float:
        said = shares[:, 0] >= at
        return 2 * (said & (truth[:, 0] == 1)).sum() / (said.sum() + truth[:, 0].sum())

    assert f1(limit) == max(f1(at) for at in np.unique(shares[:, 0])) and limit not in shares and without == 0.5


def test_a_device_answers_each_label_from_its_threshold_on() -> None:
    logits = np.log(np.array([[0.6, 0.3, 0.85]]) / (1 - np.array([[0.6, 0.3, 0.85]]))).astype(np.float32)
    found = interpret(TASK, logits, np.zeros((1, 4)))
    assert [(label.label, label.score) for label in found.labels or []] == [("a", 0.6), ("b", 0.3)] and found.label is None
    assert count_right(TASK, logits, np.array([[1, 0, 0]], np.uint8)) == 2
    assert count_right(TASK, logits, np.array([[1, NOT_KNOWN, 0]], np.uint8)) == 2
    as_shares = Multilabel(labels=TASK.labels, thresholds=TASK.thresholds, scores="probabilities")
    assert interpret(as_shares, np.array([[0.6, 0.3, 0.85]]), np.zeros((1, 4))).labels == found.labels


def test_drift_watches_number_scores_and_the_most_doubtful_label() -> None:
    def seen(*shares: float) -> dict[str, float]:
        p = np.array([shares])
        values, label, sure = answer_features(TASK, np.log(p / (1 - p)), np.zeros((1, 4)))
        assert label == 0 and sure == values[-1]
        return dict(zip(answer_names(TASK), values.tolist(), strict=True))

    both = seen(0.8, 0.6, 0.1)
    assert both["log labels"] == pytest.approx(np.log1p(2)) and both["score of labels"] == pytest.approx(0.7)
    assert both["score of a"] == pytest.approx(np.log(4)) and both["confidence"] == pytest.approx(0.5 + 0.5 / 2)
    none = seen(0.3, 0.19, 0.1)
    assert none["log labels"] == 0 and none["score of labels"] == pytest.approx(0.3) and 0.5 < none["confidence"] < 0.53
    many = Multilabel(labels=[str(i) for i in range(40)], thresholds=[0.5] * 40)
    values, _, _ = answer_features(many, np.linspace(-2, 2, 40)[None], np.zeros((1, 4)))
    assert len(values) == len(answer_names(many)) == 4 and values[2] == 2
