"""Pseudo-labels: the teacher, tuned on this turn's labels, answers field samples that nobody labelled (Lee 2013).

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
class Given:
    """What was added, of how many. `right`: how often the teacher is, where as sure, on the field's held-out labels."""

    labels: int
    of: int
    right: float | None
    temperature: float


def add(
    recipe: recipes.Recipe, found: Field, open_ones: Field, sure: float, store: Store, listener: Listener
) -> tuple[Field, Given]:
    """`found`, and those of `open_ones` that train and of which the teacher is at least `sure`, labelled by it.

    `recipe` trains on `found` alone; only its stages as far as its `train` stage are run. Both fields have their parts.
    """
    names = list(recipe.stages)
    if "train" not in names:
        raise UsageError(f"{recipe.path}: has no train stage; pseudo-labels need a teacher, so leave them off")
    stages = {name: recipe.stages[name] for name in names[: names.index("train") + 1]}
    floors = msgspec.structs.replace(recipe.head, target=Target())
    result = run_recipe(recipes.Recipe(recipe.path, floors, stages), store, listener)
    teacher = _Teacher(Project(recipe), result.store.folder("train", result.entries[-1].key))
    asked = open_ones.of(open_ones.parts == "train")
    held = samples(found.judging, teacher.names)
    guesses, confidence = teacher.answers(asked.values)
    kept = confidence >= sure
    of_held, held_confidence = teacher.answers(held.values)
    as_sure = held_confidence >= sure
    right = float((of_held == held.labels)[as_sure].mean()) if as_sure.any() else None
    named = replace(asked, labels=np.array(teacher.names, dtype=str)[guesses]).of(kept)
    return joined(found, replace(named, pseudo=np.ones(len(named), dtype=bool))), Given(
        int(kept.sum()), len(asked), right, teacher.temperature
    )


class _Teacher:
    """The float network of a train stage, its confidence calibrated on validation data (temperature scaling, Guo et al. 2017)."""

    def __init__(self, project: Project, folder: Path) -> None:
        from edgeloop_pipeline.data.normalization import front_of
        from edgeloop_pipeline.networks import saved_network

        splits = project.splits
        self.names = splits.labels
        self._network, self._front = saved_network.load(project, folder).network, front_of(splits)
        self.temperature = calibrated(self._scores(splits.validation.values), splits.validation.labels)

    def answers(self, values: Array) -> tuple[Array, Array]:
        """(N,) class numbers, and (N,) how sure of them."""
        if not len(values):
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        logs = _log_softmax(self._scores(values) / self.temperature)
        return logs.argmax(1), np.exp(logs.max(1))

    def _scores(self, values: Array) -> Array:
        from edgeloop_pipeline.training.scoring import scores_of

        nothing = np.zeros(len(values), dtype=np.int64)
        found: Array = scores_of(self._network, self._front, Samples(values, nothing, nothing, nothing)).numpy().astype(np.float64)
        return found


def calibrated(scores: Array, labels: Array) -> float:
    """The temperature under which the labels (N,) are likeliest given scores (N, classes)."""
    losses = [-_log_softmax(scores / t)[np.arange(len(labels)), labels].mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found
