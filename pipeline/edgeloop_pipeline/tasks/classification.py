"""The task classification: a sample belongs to one of several classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeloop_agent.answers import softmax
from edgeloop_pipeline.tasks import confidence_intervals

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.task_figures import TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

MAX_CLASSES_SHOWN = 30


@dataclass(frozen=True)
class Classification:
    """Classification: labels are classes, scores are logits."""

    splits: PreparedSplits
    named: ClassVar[tuple[str, ...]] = ()

    @property
    def outputs(self) -> int:
        return len(self.splits.labels)

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        return "" if answer == (1, self.outputs) else f"scores of shape {(1, self.outputs)}"

    def loss(self, smoothing: float = 0.0) -> Loss:
        from edgeloop_pipeline.tasks.losses import cross_entropy

        return cross_entropy(smoothing)

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """The distillation loss of Hinton et al. 2015."""
        import torch.nn.functional as F

        soft = F.kl_div(
            F.log_softmax(scores / temperature, 1), F.log_softmax(wanted / temperature, 1), log_target=True, reduction="batchmean"
        )
        return temperature**2 * soft

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        import torch
        import torch.nn.functional as F

        labels = torch.from_numpy(np.asarray(samples.labels))
        return float((scores.argmax(1) == labels).double().mean()), float(F.cross_entropy(scores, labels))

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        return confidence_intervals.bootstrap(confidence_intervals.share(scores.argmax(1) == samples.labels), samples.recording)

    def shares(self, scores: Array, samples: Samples) -> Array | None:
        return None

    def chance(self, samples: Samples) -> float:
        """The metric of a model that always answers the most common class; 0 where the labels are the original's answers."""
        return 0.0 if self.splits.measure else float(np.bincount(samples.labels).max() / len(samples))

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """`confusion`: rows are true classes, columns answers. `classes`: precision, recall, F1 and count of each."""
        from edgeloop_pipeline.results.task_figures import ClassFigures, TaskFigures

        if self.splits.measure:  # a table of right and wrong needs labels that somebody gave
            return TaskFigures()
        names = self.splits.labels
        classes, truth = len(names), np.asarray(samples.labels)
        matrix = np.bincount(truth * classes + scores.argmax(1), minlength=classes**2).reshape(classes, classes)
        hits, answered, counts = np.diag(matrix), matrix.sum(0), matrix.sum(1)
        # A class that was never answered, or never true, has 0.
        precision, recall = hits / np.maximum(answered, 1), hits / np.maximum(counts, 1)
        f1 = 2 * hits / np.maximum(answered + counts, 1)
        # A table of a thousand rows is not readable: only the most common classes.
        shown = np.sort(np.argsort(-counts, kind="stable")[:MAX_CLASSES_SHOWN])
        rows = [ClassFigures(names[i], int(counts[i]), *(float(values[i]) for values in (precision, recall, f1))) for i in shown]
        return TaskFigures(confusion=matrix[np.ix_(shown, shown)].tolist(), classes=rows)

    def reference(self, on_validation: Array) -> dict[str, Any]:
        shares = softmax(on_validation)
        counts = np.bincount(shares.argmax(1), minlength=self.outputs) / len(shares)
        return {"mean_confidence": float(shares.max(1).mean()), "label_share": counts.tolist()}

    def described(self, figures: TaskFigures) -> manifest.Classification:
        from edgeloop_contract import manifest

        return manifest.Classification(labels=list(self.splits.labels))

    def card(self, figures: TaskFigures) -> list[str]:
        classes = f"Classifies into {', '.join(self.splits.labels[:MAX_CLASSES_SHOWN])}{' …' * (self.outputs > MAX_CLASSES_SHOWN)}."
        if not figures.classes:
            return [classes]
        weakest = min(figures.classes, key=lambda c: c.recall)
        return [
            classes,
            f"Weakest class: {weakest.label}, recall {weakest.recall:.1%} of {weakest.count}.",
        ]
