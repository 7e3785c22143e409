"""Pseudo-labels: the teacher, tuned on this cycle's labels, labels field samples that nobody labelled (Lee 2013).

They train, and never judge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cache.store import Store
from edgeloop_pipeline.data.field_data import Field, joined, samples
from edgeloop_pipeline.data.types import Samples
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.recipe.settings import Target
from edgeloop_pipeline.run.runner import Listener
from edgeloop_pipeline.run.runner import run as run_recipe

TEMPERATURES = np.geomspace(0.25, 16, 49)


@dataclass(frozen=True)
class PseudoLabels:
    """`count` of `unlabelled` samples took the teacher's label.

    `accuracy`: of the teacher on the field's held-out labels, where it is as confident; None where it never is.
    """

    count: int
    unlabelled: int
    accuracy: float | None
    temperature: float


def add(
    recipe: recipes.Recipe, field: Field, unlabelled: Field, min_confidence: float, store: Store, listener: Listener
) -> tuple[Field, PseudoLabels]:
    """`field`, and those of `unlabelled` that train and where the teacher has `min_confidence`, labelled by it.

    `recipe` trains on `field` alone; only its stages as far as its `train` stage are run. Both fields have their parts.
    Raises UsageError for a recipe without a train stage.
    """
    names = list(recipe.stages)
    if "train" not in names:
        raise UsageError(f"{recipe.path}: has no train stage; pseudo-labels need a teacher, so leave them off")
    stages = {name: recipe.stages[name] for name in names[: names.index("train") + 1]}
    without_floors = msgspec.structs.replace(recipe.head, target=Target())
    result = run_recipe(recipes.Recipe(recipe.path, without_floors, stages), store, listener, keep="no")
    teacher = _Teacher(Project(recipe), result.store.folder("train", result.entries[-1].key))
    candidates = unlabelled.of(unlabelled.parts == "train")
    held_out = samples(field.judging, teacher.names)
    predictions, confidence = teacher.predict(candidates.values)
    kept = confidence >= min_confidence
    held_out_predictions, held_out_confidence = teacher.predict(held_out.values)
    confident = held_out_confidence >= min_confidence
    accuracy = float((held_out_predictions == held_out.labels)[confident].mean()) if confident.any() else None
    labelled = replace(candidates, labels=np.array(teacher.names, dtype=str)[predictions]).of(kept)
    labelled = replace(labelled, pseudo=np.ones(len(labelled), dtype=bool))
    return joined(field, labelled), PseudoLabels(int(kept.sum()), len(candidates), accuracy, teacher.temperature)


class _Teacher:
    """The float network of a train stage, its confidence calibrated on validation data (temperature scaling, Guo et al. 2017)."""

    def __init__(self, project: Project, folder: Path) -> None:
        from edgeloop_pipeline.data.normalization import input_normalization
        from edgeloop_pipeline.networks import saved_network

        splits = project.splits
        self.names = splits.labels
        self._network, self._normalization = saved_network.load(project, folder).network, input_normalization(splits)
        self.temperature = calibrated(self._scores(splits.validation.values), splits.validation.labels)

    def predict(self, values: Array) -> tuple[Array, Array]:
        """(N,) class numbers, and (N,) their confidence."""
        if not len(values):
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        from scipy.special import log_softmax

        logs = log_softmax(self._scores(values) / self.temperature, axis=1)
        return logs.argmax(1), np.exp(logs.max(1))

    def _scores(self, values: Array) -> Array:
        from edgeloop_pipeline.training.scoring import scores_of

        unused = np.zeros(len(values), dtype=np.int64)
        scores: Array = (
            scores_of(self._network, self._normalization, Samples(values, unused, unused, unused)).numpy().astype(np.float64)
        )
        return scores


def calibrated(scores: Array, labels: Array) -> float:
    """The temperature under which the labels (N,) are likeliest given scores (N, classes)."""
    from scipy.special import log_softmax

    losses = [-log_softmax(scores / t, axis=1)[np.arange(len(labels)), labels].mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])
