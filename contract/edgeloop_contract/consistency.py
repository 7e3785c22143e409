"""Consistency of a bundle beyond the type of each field: checked when a bundle is written and when it is opened.

Otherwise a bundle with eleven labels for twelve scores would be published, staged and started, and then refuse every sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import Anomaly, Canary, Classification, Manifest, Regression, TensorSpec, Variant
from edgeloop_contract.preprocessing import Step, sizes_after

__all__ = ["canary_problems", "problems"]

MAX_VALUES = 1 << 28  # of one tensor


def problems(manifest: Manifest) -> list[str]:
    """Every inconsistency of the manifest, in words; the files themselves are not read."""
    problems = [*_files(manifest), *_task(manifest), *_drift(manifest), *_split(manifest)]
    problems += _tensor("sample", manifest.sample)
    for place, size in _sizes_after(manifest.preprocessing).items():
        if place < len(manifest.sample.shape) and manifest.sample.shape[place] != size:
            problems.append(
                f"preprocessing makes samples with {size} on axis {place}, the sample has shape {manifest.sample.shape}"
            )
    if not manifest.variants:
        problems.append("it has no model")
    names = [v.name for v in manifest.variants]
    problems += [f"two variants are called {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    for variant in manifest.variants:
        problems += _tensor(f"variant {variant.name}'s input", variant.input)
        problems += _tensor(f"variant {variant.name}'s output", variant.output)
        if not manifest.probe:
            problems += _variant(manifest, variant)
    return problems


def canary_problems(manifest: Manifest, array: Callable[[str], Array]) -> list[str]:
    """Every inconsistency of the golden samples. `array`: reads a file of the bundle as an array."""
    canary, task = manifest.canary, manifest.task
    inputs, labels = array(canary.inputs), array(canary.labels)
    problems = []
    if inputs.dtype != manifest.sample.dtype or list(inputs.shape[1:]) != manifest.sample.shape:
        problems.append(f"canary inputs have shape {inputs.shape} of {inputs.dtype}, the sample is {_described(manifest.sample)}")
    if manifest.probe:
        return problems
    goldens = {canary.scores: "the canary's scores"}
    goldens |= {golden.scores: f"the canary's scores of {name}" for name, golden in canary.variants.items()}
    for name, what in goldens.items():
        scores = array(name)
        if scores.shape[:1] != inputs.shape[:1] or scores[:1].size != (outputs(manifest) if len(inputs) else 0):
            problems.append(f"{what} have shape {scores.shape}; {len(inputs)} samples of {outputs(manifest)} scores are needed")
        elif scores.dtype.kind != "f" or not np.isfinite(scores).all():
            problems.append(f"{what} are no finite numbers")
    wanted = (len(inputs), len(task.quantities)) if isinstance(task, Regression) else (len(inputs),)
    if labels.shape != wanted:
        problems.append(f"canary labels have shape {labels.shape}; {wanted} is needed")
    elif not isinstance(task, Regression) and (labels.dtype.kind not in "iu" or not np.isin(labels, range(len(task.labels))).all()):
        problems.append(f"canary labels are not whole numbers from 0 to {len(task.labels) - 1}")
    return problems


def outputs(manifest: Manifest) -> int:
    """How many scores one sample has."""
    task = manifest.task
    if isinstance(task, Anomaly):
        return math.prod(manifest.sample.shape)
    return len(task.labels if isinstance(task, Classification) else task.quantities)


def _files(manifest: Manifest) -> Iterator[str]:
    canary: Canary = manifest.canary
    heads = (name for cut in manifest.split.cuts for name in (cut.file, cut.decoder) if name) if manifest.split else ()
    goldens = (golden.scores for golden in canary.variants.values())
    for name in (canary.inputs, canary.scores, canary.labels, *goldens, *(v.file for v in manifest.variants), *heads):
        if name not in manifest.files:
            yield f"the manifest uses {name!r} but does not list it"
    for name in canary.variants.keys() - {v.name for v in manifest.variants}:
        yield f"the canary has scores of {name!r}, which is no variant"
    for golden in (canary, *canary.variants.values()):
        if golden.score_step <= 0 or golden.max_steps < 0:
            yield f"a score step of {golden.score_step:g} with {golden.max_steps} steps allowed compares nothing"


def _task(manifest: Manifest) -> Iterator[str]:
    task = manifest.task
    names = task.quantities if isinstance(task, Regression) else task.labels
    if not names or "" in names or len(set(names)) != len(names):
        yield f"labels must be different names, and not empty: {', '.join(map(repr, names[:20])) or 'there are none'}"
    if isinstance(task, Regression | Anomaly) and (0 in task.std or not np.isfinite([*task.mean, *task.std]).all()):
        yield "the task's mean and std must be finite, and no std 0"
    if isinstance(task, Anomaly) and len(task.mean) not in (1, manifest.sample.shape[-1] if manifest.sample.shape else 1):
        yield f"the task has {len(task.mean)} means for {manifest.sample.shape[-1]} channels"


def _drift(manifest: Manifest) -> Iterator[str]:
    reference = manifest.drift_reference
    if not len(reference.mean) == len(reference.std) == len(reference.low) == len(reference.high):
        yield "the drift reference has not as many means as deviations and limits"
    if isinstance(manifest.task, Classification):
        count = len(manifest.task.labels)
        if reference.label_share and len(reference.label_share) != count:
            yield f"the drift reference has {len(reference.label_share)} label shares for {count} labels"
        if manifest.drift is not None and manifest.drift.labels not in (0, 1, count):
            yield f"the drift monitor tells {manifest.drift.labels} labels apart, the task has {count}"


def _split(manifest: Manifest) -> Iterator[str]:
    if manifest.split is None:
        return
    if manifest.split.variant not in {v.name for v in manifest.variants}:
        yield f"the split is of {manifest.split.variant!r}, which is no variant"
    names = [cut.name for cut in manifest.split.cuts]
    if len(set(names)) != len(names):
        yield "two cuts have one name"
    for cut in manifest.split.cuts:
        yield from _tensor(f"cut {cut.name}'s boundary", cut.boundary)


def _variant(manifest: Manifest, variant: Variant) -> Iterator[str]:
    if variant.input.shape != manifest.sample.shape:
        yield f"variant {variant.name} takes shape {variant.input.shape}, the sample has {manifest.sample.shape}"
    taken = {manifest.sample.dtype, "int8"} if manifest.sample.dtype == "uint8" else {manifest.sample.dtype}
    if variant.input.dtype not in taken:
        yield f"variant {variant.name} takes {variant.input.dtype}, the sample is {manifest.sample.dtype}"
    if math.prod(variant.output.shape) != outputs(manifest):
        what = "values of the sample" if isinstance(manifest.task, Anomaly) else "labels"
        yield f"variant {variant.name} answers {math.prod(variant.output.shape)} scores for {outputs(manifest)} {what}"


def _tensor(what: str, spec: TensorSpec) -> Iterator[str]:
    if not spec.shape or min(spec.shape) < 1 or math.prod(spec.shape) > MAX_VALUES:
        yield f"{what} has shape {spec.shape}, which no tensor has"
    if spec.quantization is not None and not 0 < spec.quantization.scale < math.inf:
        yield f"{what} has a scale of {spec.quantization.scale:g}"


def _sizes_after(steps: Sequence[Step]) -> dict[int, int]:
    """Sizes that the steps alone decide, by axis of a sample."""
    return sizes_after(steps)


def _described(spec: TensorSpec) -> str:
    return f"{spec.shape} of {spec.dtype}"
