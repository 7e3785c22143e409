"""Confusion matrix and per-class figures of one set of answers."""

from __future__ import annotations

from typing import Any

from edgeloop_pipeline.data import Array


def table(scores: Array, labels: Array, names: tuple[str, ...]) -> dict[str, Any]:
    """`confusion`: rows are true classes, columns answers. `classes`: precision, recall, F1 and count of each."""
    import torch
    from torchmetrics.functional import classification as metrics

    answers, truth, classes = torch.from_numpy(scores).argmax(1), torch.from_numpy(labels), len(names)
    figures = {
        "precision": metrics.multiclass_precision(answers, truth, classes, average="none"),
        "recall": metrics.multiclass_recall(answers, truth, classes, average="none"),
        "f1": metrics.multiclass_f1_score(answers, truth, classes, average="none"),
    }
    return {
        "confusion": metrics.multiclass_confusion_matrix(answers, truth, classes).tolist(),
        "classes": [
            {"label": n, "count": int((truth == i).sum()), **{k: float(v[i]) for k, v in figures.items()}}
            for i, n in enumerate(names)
        ],
    }
