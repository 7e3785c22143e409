"""The drift reference of a bundle that is packed, where there are enough samples to know how ordinary ones look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeloop_agent.engine import Engine
from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import Drift
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import Manifest
from edgeloop_contract.preprocessing import prepare
from edgeloop_contract.tasks import Classification, Tensors
from edgeloop_pipeline.data.types import Samples
from edgeloop_pipeline.drift import calibration
from edgeloop_pipeline.packing.samples import SampleFile

__all__ = ["MIN_SAMPLES", "drift_reference"]

MIN_SAMPLES, MAX_SAMPLES, MAX_BYTES = 200, 5000, 512 << 20
MAX_CHANNELS = 32  # the monitor has a mean and more for each channel of the last axis


def drift_reference(manifest: Manifest, engine: Engine, files: Sequence[SampleFile]) -> Drift | str:
    """The reference, or in words why there is none. Raises DataError naming a file that does not fit."""
    shape = manifest.sample.shape
    if not engine.is_simple or isinstance(manifest.task, Tensors):
        return "drift is watched for models with one input, scores and no state"
    if len(shape) < 2 or shape[-1] > MAX_CHANNELS:
        return f"drift is watched by channel, and a sample of shape {shape} has none or more than {MAX_CHANNELS}"
    values, recordings, labels = _windows(manifest, engine, files)
    if len(values) < MIN_SAMPLES:
        return f"{len(values)} samples do not say how ordinary ones look; {MIN_SAMPLES} do (--samples)"
    scores = np.concatenate([engine.scored(values[i : i + 1]).scores for i in range(len(values))]).reshape(len(values), -1)
    known = labels >= 0
    samples = Samples(values, labels, recordings, recordings)
    if isinstance(manifest.task, Classification) and not known.all():  # no label, no table of how often a confidence is right
        pool, names, _ = calibration.pool_of(manifest.task, values, scores, recordings, recordings)
        count = len(manifest.task.labels) if len(manifest.task.labels) <= 64 else 1
        return calibration.calibrate(pool, names, count, "samples")
    return calibration.of_bundle(manifest.task, {"validation": (samples, scores)})


def _windows(manifest: Manifest, engine: Engine, files: Sequence[SampleFile]) -> tuple[Array, Array, Array]:
    """Samples (N, *sample) of all windows, the number of each one's file, and its label's number (-1: not known)."""
    names = manifest.task.labels if isinstance(manifest.task, Classification) else []
    values: list[Array] = []
    recordings: list[int] = []
    labels: list[int] = []
    values_each = math.prod(manifest.sample.shape)
    for number, file in enumerate(files):
        given = file.read()
        array = given if isinstance(given, np.ndarray) else next(iter(given.values()))
        try:
            prepared = prepare(manifest.preprocessing, array)
            rows = engine.checked(prepared.values) if prepared.indices else np.zeros((0, *manifest.sample.shape))
        except DataError as error:
            raise DataError(f"{file.name}: {error}") from error
        values.append(rows)
        recordings += [number] * len(rows)
        labels += [names.index(file.label) if file.label in names else -1] * len(rows)
        if len(recordings) >= MAX_SAMPLES or len(recordings) * rows.itemsize * values_each >= MAX_BYTES:
            break
    return np.concatenate(values), np.array(recordings), np.array(labels)
