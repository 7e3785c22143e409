"""The drift reference of a bundle that is packed, where there are enough samples to know how ordinary ones look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeloop_agent.answers import answer_names
from edgeloop_agent.engine import Engine
from edgeloop_contract.drift import Drift, sample_names
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import SCORES, Manifest
from edgeloop_contract.preprocessing import takes_texts
from edgeloop_contract.tasks import Classification
from edgeloop_pipeline.drift import calibration
from edgeloop_pipeline.drift.pool import Seen, pool_of_seen, seen_of
from edgeloop_pipeline.packing.canary import of_the_only
from edgeloop_pipeline.packing.samples import Sample

__all__ = ["MIN_SAMPLES", "drift_reference"]

MIN_SAMPLES, MAX_SAMPLES = 200, 5000
MAX_CHANNELS = 32  # of a model's only input: the monitor has a mean and more for each channel of the last axis
MAX_LABELS = 64  # that are told apart


def drift_reference(manifest: Manifest, engine: Engine, files: Sequence[Sample]) -> Drift | str:
    """The reference, or in words why there is none. Raises DataError naming a file that does not fit."""
    shapes, task = {entry.name: entry.sample.shape for entry in manifest.inputs}, manifest.task
    shape = manifest.sample.shape
    if len(shapes) == 1 and takes_texts(manifest.preprocessing):
        return "token ids have no distance from each other"
    if len(shapes) == 1 and (len(shape) < 2 or shape[-1] > MAX_CHANNELS):
        return f"drift is watched by channel, and a sample of shape {shape} has none or more than {MAX_CHANNELS}"
    seen, recordings, labels = _windows(manifest, engine, files)
    if len(seen) < MIN_SAMPLES:
        return f"{len(seen)} samples do not say how ordinary ones look; {MIN_SAMPLES} do (--samples)"
    pool = pool_of_seen(seen, recordings, recordings)
    names = [*sample_names(shapes, _texts(manifest)), *answer_names(task, [spec.name or SCORES for spec in engine.variant.outputs])]
    classes = len(task.labels) if isinstance(task, Classification) else 1
    table: list[tuple[float, int]] = []
    if isinstance(task, Classification) and (labels >= 0).all():  # else nobody knows how often a confidence is right
        table = calibration.reliability(np.array([one.confidence for one in seen]), pool.answers == labels)
    return calibration.calibrate(pool, names, classes if classes <= MAX_LABELS else 1, "samples", table)


def _texts(manifest: Manifest) -> set[str]:
    """Of several inputs, those of token ids, which are not watched."""
    return {entry.name for entry in manifest.inputs if len(manifest.inputs) > 1 and takes_texts(entry.preprocessing)}


def _windows(manifest: Manifest, engine: Engine, files: Sequence[Sample]) -> tuple[list[Seen], np.ndarray, np.ndarray]:
    """All windows as the monitor sees them, the number of each one's file, and its label's number (-1: not known)."""
    names = manifest.task.labels if isinstance(manifest.task, Classification) else []
    seen: list[Seen] = []
    recordings: list[int] = []
    labels: list[int] = []
    for number, file in enumerate(files):
        values = of_the_only(file.read(), manifest)
        try:
            for answer in engine.answers(values):
                said = answer.tensors if answer.scores is None else answer.scores
                if answer.sample is not None and said is not None:
                    seen.append(seen_of(manifest.task, answer.sample, said, _texts(manifest)))
                    recordings.append(number)
                    labels.append(names.index(file.label) if file.label in names else -1)
        except DataError as error:
            raise DataError(f"{file.name}: {error}") from error
        if len(seen) >= MAX_SAMPLES:
            break
    return seen, np.array(recordings), np.array(labels)
