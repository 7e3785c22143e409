"""Consistency of a bundle's golden samples with its manifest: checked when a bundle is written and when it is opened."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.consistency import outputs
from edgeloop_contract.manifest import Anomaly, Classification, Detection, Manifest, Regression
from edgeloop_contract.masks import NOWHERE
from edgeloop_contract.tasks import NOT_KNOWN, Keypoints, Multilabel, Segmentation

__all__ = ["canary_problems"]


def canary_problems(manifest: Manifest, array: Callable[[str], Array]) -> list[str]:
    """Every inconsistency of the golden samples. `array`: reads a file of the bundle as an array."""
    canary, task = manifest.canary, manifest.task
    if canary is None:
        return []
    problems, counts = [], set()
    for entry in manifest.inputs:
        inputs = array(canary.inputs[entry.name])
        counts.add(len(inputs) if inputs.ndim else 0)
        if inputs.dtype != entry.sample.dtype or list(inputs.shape[1:]) != entry.sample.shape:
            problems.append(
                f"canary inputs have shape {inputs.shape} of {inputs.dtype}, the sample is"
                f" {entry.sample.shape} of {entry.sample.dtype}"
            )
    if len(counts) > 1:
        problems.append(f"the canary has {' and '.join(map(str, sorted(counts)))} samples of its inputs")
    if manifest.probe or problems:
        return problems
    count = counts.pop()
    sizes = {spec.name: math.prod(spec.shape) for v in manifest.variants for spec in v.outputs}
    goldens = {golden.file: (name, "") for name, golden in canary.golden.items()}
    goldens |= {g.file: (name, f" of {variant}") for variant, own in canary.variants.items() for name, g in own.items()}
    for file, (output, whose) in goldens.items():
        scores, wanted = array(file), sizes.get(output, outputs(manifest))
        what = f"the canary's {'scores' if len(sizes) == 1 else output}{whose}"
        if scores.shape[:1] != (count,) or scores[:1].size != (wanted if count else 0):
            problems.append(f"{what} have shape {scores.shape}; {count} samples of {wanted} scores are needed")
        elif scores.dtype.kind != "f" or not np.isfinite(scores).all():
            problems.append(f"{what} are no finite numbers")
    if canary.labels:
        problems += _labels(task, array(canary.labels), count)
    return problems


def _labels(task: object, labels: Array, count: int) -> Iterator[str]:
    if isinstance(task, Detection):
        values = 5 + (3 * len(task.points) if isinstance(task, Keypoints) else 0)
        if labels.ndim != 3 or len(labels) != count or labels.shape[2] != values or not np.isfinite(labels).all():
            what = "boxes (label, x1, y1, x2, y2)" + (" with x, y and 0 or 1 for each point" if isinstance(task, Keypoints) else "")
            yield f"canary labels have shape {labels.shape}; {count} samples of {what} are needed"
        elif not np.isin(labels[..., 0], range(-1, len(task.labels))).all():
            yield f"canary labels have a box whose label is not a whole number from 0 to {len(task.labels) - 1}"
        return
    if isinstance(task, Segmentation):
        if labels.ndim != 3 or len(labels) != count or not np.isin(labels, [*range(len(task.labels)), NOWHERE]).all():
            yield f"canary labels have shape {labels.shape}; {count} masks of the numbers of {len(task.labels)} labels are needed"
        return
    if isinstance(task, Multilabel):
        if labels.shape != (count, len(task.labels)) or not np.isin(labels, [0, 1, NOT_KNOWN]).all():
            wanted_rows = f"{count} rows of {len(task.labels)} times 0, 1 or {NOT_KNOWN}"
            yield f"canary labels have shape {labels.shape}; {wanted_rows} are needed"
        return
    wanted = (count, len(task.quantities)) if isinstance(task, Regression) else (count,)
    if labels.shape != wanted:
        yield f"canary labels have shape {labels.shape}; {wanted} is needed"
    elif isinstance(task, Classification | Anomaly) and (
        labels.dtype.kind not in "iu" or not np.isin(labels, range(len(task.labels))).all()
    ):
        yield f"canary labels are not whole numbers from 0 to {len(task.labels) - 1}"
