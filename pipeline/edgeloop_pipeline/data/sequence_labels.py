"""What a label of a recording says of a model that answers at each of its windows, as models that keep state do."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.tasks import Classification, Multilabel

__all__ = ["LabelAt", "SequenceLabels"]

LabelAt = Literal["last", "any", "every"]
HALF = 0.5


class SequenceLabels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`at`: which answers a recording's label is held against.

    last: the one at its last window; every: each window's by itself; any: the surest answer of the recording that is not the first
    label, which stands for nothing (background, noise); the first label where no window answers another one.
    `output`: that has a score for each label, or (`single`) one score: from half on it is the second label, below it the first.
    """

    output: Annotated[str, msgspec.Meta(min_length=1)]
    at: LabelAt
    scores: Literal["logits", "probabilities"] = "logits"
    single: bool = False

    def task(self, labels: list[str]) -> Classification | Multilabel:
        """What a bundle answers at each window."""
        if self.single:
            return Multilabel(labels=labels[1:], thresholds=[HALF], scores=self.scores)
        return Classification(labels=labels, scores=self.scores)

    def answers(self, scores: Array, recording: Array) -> tuple[Array, Array]:
        """The answers that are judged, (M,) numbers of labels, and the row (M,) that each has its label from.

        `scores`: (N, …) of the output, window by window; `recording`: (N,) the number of each window's.
        """
        rows = scores.reshape(len(scores), -1).astype(np.float64)
        if self.single:
            half = HALF if self.scores == "probabilities" else 0.0
            rows = np.concatenate([2 * half - rows, rows], 1)
        best, places = rows.argmax(1), np.arange(len(rows))
        if self.at == "every":
            return best, places
        last = np.flatnonzero(np.append(recording[1:] != recording[:-1], True))
        if self.at == "last":
            return best[last], last
        if not self.single and self.scores == "logits":  # comparable from window to window
            rows = rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) - rows.max(1, keepdims=True)
        sure = np.where(best > 0, rows[places, best], -np.inf)
        first = np.append(0, last[:-1] + 1)
        found = [begin + int(sure[begin : end + 1].argmax()) for begin, end in zip(first, last, strict=True)]
        return best[found], last
