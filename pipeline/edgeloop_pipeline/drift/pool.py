"""Reference samples as the drift monitor sees them: one at a time on a device, many at once on the workstation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from edgeloop_agent.answers import answer_features, answer_names
from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import sample_features, sample_names
from edgeloop_exporters.named_inputs import NamedInput, samples_of
from edgeloop_exporters.named_outputs import Output, separate

__all__ = ["Pool", "Seen", "pool_of", "pool_of_seen", "seen_of"]


@dataclass(frozen=True)
class Pool:
    """Reference samples: features (n, F), and for each sample the numbers of its answer, recording and group."""

    features: Array
    answers: Array
    recordings: Array
    groups: Array

    def of(self, rows: Array) -> Pool:
        return Pool(self.features[rows], self.answers[rows], self.recordings[rows], self.groups[rows])


class Seen(NamedTuple):
    """One sample as the monitor sees it: features (F,), the number of the answer, and its confidence."""

    features: Array
    answer: int
    confidence: float


def seen_of(
    task: Any, sample: Array | Mapping[str, Array], scores: Array | Mapping[str, Array], texts: Collection[str] = ()
) -> Seen:  # fmt: skip
    """A sample (1, *sample), by input where there are several, with its scores (1, ...) or its named outputs.

    `texts`: inputs of token ids, which are not watched.
    """
    first = next(iter(sample.values())) if isinstance(sample, Mapping) else sample
    said, answer, confidence = answer_features(task, scores, first)
    return Seen(np.concatenate([sample_features(sample, texts), said]), answer, confidence)


def pool_of_seen(seen: Sequence[Seen], recordings: Array, groups: Array) -> Pool:
    """Samples that were seen one at a time, so that they need not fit into memory."""
    answers = np.array([one.answer for one in seen], dtype=np.intp)
    return Pool(np.stack([one.features for one in seen]), answers, np.asarray(recordings), np.asarray(groups))


def pool_of(
    task: Any, values: Array, scores: Array, recordings: Array, groups: Array, outputs: Sequence[Output] = (),
    inputs: Sequence[NamedInput] = (), texts: Collection[str] = (),
) -> tuple[Pool, list[str], Array]:  # fmt: skip
    """The features of samples (n, *sample) and their scores; the features' names; and the confidence of each answer (n,).

    `outputs`: several, whose scores are joined; `inputs`: several, which each sample has together; `texts`: those of token ids.
    """
    rows: list[Any] = [scores[i : i + 1] for i in range(len(values))]
    if outputs:
        rows = [separate(row, outputs) for row in rows]
    given = samples_of(values, inputs) if inputs else {"": values}
    seen = [seen_of(task, _one(given, i), row, texts) for i, row in enumerate(rows)]
    names = sample_names({name: part.shape[1:] for name, part in given.items()}, texts) + (
        answer_names(task, [o.name for o in outputs]) if outputs else answer_names(task)
    )
    return pool_of_seen(seen, recordings, groups), names, np.array([one.confidence for one in seen])


def _one(samples: Mapping[str, Array], row: int) -> Array | dict[str, Array]:
    """One sample (1, *sample), by input where there are several."""
    found = {name: np.asarray(values[row : row + 1]) for name, values in samples.items()}
    return found if len(found) > 1 else next(iter(found.values()))
