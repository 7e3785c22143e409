"""Consistency of a bundle beyond the type of each field: checked when a bundle is written and when it is opened.

Otherwise a bundle with eleven labels for twelve scores would be published, staged and started, and then refuse every sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edgeloop_contract.arrays import DTYPES
from edgeloop_contract.boxes import placement
from edgeloop_contract.detection_consistency import detection_problems
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import SCORES, Anomaly, Classification, Detection, Manifest, Regression, TensorSpec, Variant
from edgeloop_contract.preprocessing import Tokenize, sizes_after
from edgeloop_contract.tasks import Segmentation, Tensors, names_of

__all__ = ["outputs", "problems"]

MAX_VALUES = 1 << 28  # of one tensor
MAX_ZERO_POINT = 1 << 32  # of quantized values: no type of theirs is wider
MAX_TENSORS = 64  # inputs, outputs or states of one file


def problems(manifest: Manifest) -> list[str]:
    """Every inconsistency of the manifest, in words; the files themselves are not read."""
    if not manifest.inputs or not all(v.inputs and v.outputs for v in manifest.variants):
        return ["it has no input, or a model file without inputs or outputs"]
    problems = [*_files(manifest), *_task(manifest), *_drift(manifest), *_split(manifest)]
    problems += _twice("inputs", [entry.name for entry in manifest.inputs])
    for entry in manifest.inputs:
        what = "sample" if len(manifest.inputs) == 1 else f"sample of {entry.name}"
        problems += _tensor(what, entry.sample)
        for place, size in sizes_after(entry.preprocessing).items():
            if place < len(entry.sample.shape) and entry.sample.shape[place] != size:
                problems.append(
                    f"preprocessing makes samples with {size} on axis {place}, the {what} has shape {entry.sample.shape}"
                )
    if not manifest.variants:
        problems.append("it has no model")
    problems += _twice("variants", [v.name for v in manifest.variants])
    for variant in manifest.variants:
        problems += _tensors(variant)
        if not manifest.probe:
            problems += _variant(manifest, variant)
    return problems


def outputs(manifest: Manifest) -> int:
    """How many scores one sample has; of the first output where no meaning is declared."""
    task = manifest.task
    if isinstance(task, Anomaly):
        return math.prod(manifest.sample.shape)
    if isinstance(task, Detection):
        return sum(math.prod(spec.shape) for spec in manifest.variants[0].outputs)
    if isinstance(task, Segmentation):
        return task.values
    return len(names_of(task)) or math.prod(manifest.variants[0].output.shape)


def _files(manifest: Manifest) -> Iterator[str]:
    canary = manifest.canary
    used = [v.file for v in manifest.variants]
    used += [step.file for entry in manifest.inputs for step in entry.preprocessing if isinstance(step, Tokenize)]
    used += [name for cut in manifest.split.cuts for name in (cut.file, cut.decoder) if name] if manifest.split else []
    if canary is not None:
        goldens = [*canary.golden.values(), *(g for own in canary.variants.values() for g in own.values())]
        used += [*canary.inputs.values(), *(g.file for g in goldens), *([canary.labels] if canary.labels else [])]
        for name in canary.variants.keys() - {v.name for v in manifest.variants}:
            yield f"the canary has scores of {name!r}, which is no variant"
        if canary.inputs.keys() != {entry.name for entry in manifest.inputs} or not canary.golden:
            yield "the canary has not exactly the model's inputs, or no golden output"
        known = {spec.name or SCORES for v in manifest.variants for spec in v.outputs}
        for name in sorted({name for own in (canary.golden, *canary.variants.values()) for name in own} - known):
            yield f"the canary has an output {name!r}, which no model file gives"
        for golden in goldens:
            if golden.step <= 0 or golden.max_steps < 0:
                yield f"a score step of {golden.step:g} with {golden.max_steps} steps allowed compares nothing"
    for name in used:
        if name not in manifest.files:
            yield f"the manifest uses {name!r} but does not list it"


def _task(manifest: Manifest) -> Iterator[str]:
    task = manifest.task
    if task.output and any(task.output not in {spec.name for spec in v.outputs} for v in manifest.variants):
        yield f"the task's scores are the output {task.output!r}, which not every model file gives"
    if isinstance(task, Tensors):
        return
    names = names_of(task)
    if not names or "" in names or len(set(names)) != len(names):
        yield f"labels must be different names, and not empty: {', '.join(map(repr, names[:20])) or 'there are none'}"
    if isinstance(task, Detection | Segmentation):
        yield from _picture(manifest)
    if isinstance(task, Detection):
        yield from detection_problems(manifest, task)
    if isinstance(task, Regression | Anomaly) and (0 in task.std or not np.isfinite([*task.mean, *task.std]).all()):
        yield "the task's mean and std must be finite, and no std 0"
    if isinstance(task, Anomaly) and len(task.mean) not in (1, manifest.sample.shape[-1] if manifest.sample.shape else 1):
        yield f"the task has {len(task.mean)} means for {manifest.sample.shape[-1]} channels"


def _picture(manifest: Manifest) -> Iterator[str]:
    """Whether boxes and masks can be found in the picture that comes."""
    if len(manifest.sample.shape) != 3:
        yield f"boxes and masks are of pictures (height, width, channels), and the sample has shape {manifest.sample.shape}"
    try:
        placement(manifest.preprocessing, 1, 1)
    except DataError as error:
        yield str(error)


def _drift(manifest: Manifest) -> Iterator[str]:
    reference = manifest.drift_reference
    if reference is None:
        return
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
    samples = {entry.name: entry.sample for entry in manifest.inputs}
    fed = set()
    for spec in variant.inputs:
        if spec.constant is not None:
            continue
        source = spec.of or manifest.inputs[0].name
        if source not in samples:
            yield f"variant {variant.name}: {spec.name or 'its input'} is fed by {source!r}, which is no input of the bundle"
            continue
        fed.add(source)
        yield from _taken(variant, spec, samples[source])
    for name in samples.keys() - fed:
        yield f"variant {variant.name} does not take the input {name!r}"
    if isinstance(manifest.task, Detection):
        return
    size = math.prod(variant.output_of(manifest.task).shape)
    if size != outputs(manifest) and not isinstance(manifest.task, Tensors):
        named = {Anomaly: "values of the sample", Segmentation: "labels of cells"}
        what = named.get(type(manifest.task), "labels")
        yield f"variant {variant.name} answers {size} scores for {outputs(manifest)} {what}"


def _taken(variant: Variant, spec: TensorSpec, sample: TensorSpec) -> Iterator[str]:
    """Whether the prepared sample can become this input."""
    if [n for n in spec.sample_shape if n != 1] != [n for n in sample.shape if n != 1]:  # another order would be other values
        yield f"variant {variant.name} takes shape {spec.shape}, the sample has {sample.shape}"
    integer, float_sample = spec.dtype not in ("float16", "float32", "float64"), sample.dtype.startswith("float")
    if integer and spec.dtype != sample.dtype and (sample.dtype, spec.dtype) != ("uint8", "int8"):
        wider = spec.quantization is None and np.can_cast(DTYPES[sample.dtype], DTYPES[spec.dtype], "safe")
        if not float_sample and not wider:
            yield f"variant {variant.name} takes {spec.dtype}, the sample is {sample.dtype}"
        elif float_sample and spec.quantization is None:
            yield f"variant {variant.name} takes {spec.dtype} without a scale; a sample of {sample.dtype} cannot become that"


def _tensors(variant: Variant) -> Iterator[str]:
    """The tensors of one model file by themselves."""
    for side, specs in (("input", variant.inputs), ("output", variant.outputs)):
        names, places = [spec.name for spec in specs], [spec.tensor for spec in specs]
        if len(specs) > 1:
            yield from _twice(f"{side}s of {variant.name}", names)
            yield from _twice(f"{side} tensors of {variant.name}", places)
            if "" in names or "" in places:
                yield f"variant {variant.name} has several {side}s, and not each has a name"
        if len(specs) > MAX_TENSORS or len(variant.states) > MAX_TENSORS:
            yield f"variant {variant.name} has more than {MAX_TENSORS} {side}s or states"
        for spec in specs:
            yield from _tensor(f"variant {variant.name}'s {side}{f' {spec.name}' if len(specs) > 1 else ''}", spec)
            if spec.constant is not None and (side == "output" or len(spec.constant) != math.prod(spec.shape)):
                yield f"variant {variant.name}'s {side} {spec.name} has a constant that does not fill it"
            if (odd := _outside(spec.constant or [], spec.dtype)) is not None:
                yield f"variant {variant.name}'s {side} {spec.name or spec.tensor} has a constant {odd:g}, which no {spec.dtype} is"
    inputs, outputs = [s.input for s in variant.states], [s.output for s in variant.states]
    yield from _twice(f"states of {variant.name}", [*inputs, *(spec.tensor for spec in variant.inputs if variant.states)])
    yield from _twice(f"states of {variant.name}", outputs)
    shapes = [*(spec.shape for spec in (*variant.inputs, *variant.outputs)), *(state.shape for state in variant.states)]
    if sum(map(math.prod, shapes)) > MAX_VALUES:
        yield f"variant {variant.name} has tensors of more than {MAX_VALUES} values together"
    for state in variant.states:
        yield from _tensor(f"variant {variant.name}'s state {state.input}", TensorSpec(dtype=state.dtype, shape=state.shape))
        if not state.input or not state.output:
            yield f"variant {variant.name} has a state without its pair: an input and an output tensor are needed"
        if (odd := _outside([state.initial], state.dtype)) is not None:
            yield f"variant {variant.name}'s state {state.input} begins as {odd:g}, which no {state.dtype} is"


def _outside(values: list[float], dtype: str) -> float | None:
    """The first of `values` that this type cannot hold: it would be another number on the device, or an error."""
    kind = DTYPES[dtype]
    if kind.kind == "f":
        most = float(np.finfo(kind).max)
        return next((value for value in values if not abs(value) <= most), None)
    least, most = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    return next((value for value in values if not (value.is_integer() and least <= value <= most)), None)


def _twice(what: str, names: list[str]) -> Iterator[str]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two {what} are called {name!r}"


def _tensor(what: str, spec: TensorSpec) -> Iterator[str]:
    if not (spec.shape or spec.batch == "none") or min(spec.shape, default=1) < 1 or math.prod(spec.shape) > MAX_VALUES:
        yield f"{what} has shape {spec.shape}, which no tensor has"
    if spec.quantization is not None and not 0 < spec.quantization.scale < math.inf:
        yield f"{what} has a scale of {spec.quantization.scale:g}"
    if spec.quantization is not None and abs(spec.quantization.zero_point) > MAX_ZERO_POINT:
        yield f"{what} has a zero point beyond ±{MAX_ZERO_POINT}"
