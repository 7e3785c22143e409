"""The task regression: estimates quantities, each standardised by its own mean and deviation."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.label_smoothing import refuse_smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.task_figures import TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss


@dataclass(frozen=True)
class Regression:
    """Regression: labels are quantities; scores are the same, standardised by the training set."""

    splits: PreparedSplits
    named: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def scale(self) -> tuple[Array, Array]:
        """The mean and standard deviation of each quantity, float32."""
        labels = self.splits.train.labels.astype(np.float64)
        std = labels.std(axis=0)
        if (std < 1e-12).any():
            name = self.splits.labels[int((std < 1e-12).argmax())]
            raise DataError(f"train: {name} is the same in every recording; there is nothing to learn")
        return labels.mean(axis=0).astype(np.float32), std.astype(np.float32)

    @property
    def outputs(self) -> int:
        return len(self.splits.labels)

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        return "" if answer == (1, self.outputs) else f"one standardised value per quantity, of shape {(1, self.outputs)}"

    def loss(self, smoothing: float = 0.0) -> Loss:
        import torch
        import torch.nn.functional as F

        refuse_smoothing(smoothing, "regression")
        mean, std = (torch.from_numpy(side) for side in self.scale)
        return lambda scores, labels, *_: F.mse_loss(scores, (labels - mean.to(labels.device)) / std.to(labels.device))

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        import torch.nn.functional as F

        return F.mse_loss(scores, wanted)

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        import torch

        labels = torch.from_numpy(np.asarray(samples.labels))
        found = confidence_intervals.r2(self._values(scores.numpy()), samples.labels.astype(np.float64))(np.ones(len(samples)))
        return found, float(self.loss()(scores, labels, scores, nullcontext))

    def _values(self, scores: Array) -> Array:
        mean, std = self.scale
        return np.asarray(scores.astype(np.float64) * std + mean)

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        return confidence_intervals.bootstrap(
            confidence_intervals.r2(self._values(scores), samples.labels.astype(np.float64)), samples.recording
        )

    def shares(self, scores: Array, samples: Samples) -> Array | None:
        return None

    def chance(self, samples: Samples) -> float:
        """The metric of a model that always answers the mean."""
        return 0.0

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """The figures of each quantity, in its unit: mean absolute error, root mean squared error, and R²."""
        from edgeloop_pipeline.results.task_figures import QuantityFigures, TaskFigures

        values, truth, once = self._values(scores), samples.labels.astype(np.float64), np.ones(len(samples))
        off = values - truth
        return TaskFigures(
            quantities=[
                QuantityFigures(
                    name=name,
                    mae=float(np.abs(off[:, i]).mean()),
                    rmse=float(np.sqrt((off[:, i] ** 2).mean())),
                    r2=confidence_intervals.r2(values[:, i : i + 1], truth[:, i : i + 1])(once),
                    low=float(truth[:, i].min()),
                    high=float(truth[:, i].max()),
                )
                for i, name in enumerate(self.splits.labels)
            ]
        )

    def reference(self, on_validation: Array) -> dict[str, Any]:
        values = self._values(on_validation)
        return {"answer_mean": values.mean(0).tolist(), "answer_std": values.std(0).tolist()}

    def described(self, figures: TaskFigures) -> manifest.Regression:
        from edgeloop_contract import manifest

        mean, std = (side.astype(np.float64).tolist() for side in self.scale)
        return manifest.Regression(quantities=list(self.splits.labels), mean=mean, std=std)

    def card(self, figures: TaskFigures) -> list[str]:
        return [
            f"Estimates {q.name}: off by {q.mae:.3g} on average ({q.low:.3g} to {q.high:.3g} in the test set)."
            for q in figures.quantities or []
        ]
