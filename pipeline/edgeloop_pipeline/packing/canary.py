"""The canary of a bundle that is packed: sample data with the answers of the bare runtime here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeloop_agent.engine import Engine
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array, evenly_spaced_rows
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import SCORES, Canary, GoldenTensor, Manifest
from edgeloop_contract.preprocessing import TextOrArray
from edgeloop_contract.tasks import Classification
from edgeloop_pipeline.bundling.canary import GOLDEN_STEPS, golden_step
from edgeloop_pipeline.bundling.contents import npy_of
from edgeloop_pipeline.packing.samples import Sample

__all__ = ["PreparedSamples", "canary_of", "of_the_only", "prepared"]

CANARY_SAMPLES = 16


@dataclass(frozen=True)
class PreparedSamples:
    """By input, (N, *sample); `labels`: by number, None where not every sample has one of the task's."""

    inputs: dict[str, Array]
    labels: Array | None


def prepared(manifest: Manifest, engine: Engine, files: Sequence[Sample]) -> PreparedSamples:
    """The first window of each file. Raises DataError naming the file that does not fit."""
    rows: dict[str, list[Array]] = {entry.name: [] for entry in manifest.inputs}
    labels: list[str] = []
    chosen = [files[i] for i in evenly_spaced_rows(len(files), CANARY_SAMPLES)]
    for file in chosen:
        given = of_the_only(file.read(), manifest)
        for entry in manifest.inputs:
            try:
                sample = engine.prepared(entry.name, _named(given, entry.name))
                fitting = engine.checked(sample.values, entry.sample)
            except DataError as error:
                raise DataError(f"{file.name}: {error}") from error
            if not len(fitting):
                raise DataError(f"{file.name}: {next(iter(sample.refused.values()), 'no sample in it')}")
            rows[entry.name].append(fitting[:1])
        labels.append(file.label)
    names = manifest.task.labels if isinstance(manifest.task, Classification) else []
    known = np.array([names.index(label) for label in labels]) if labels and all(label in names for label in labels) else None
    return PreparedSamples({name: np.concatenate(values) for name, values in rows.items()}, known)


def of_the_only(given: Array | Mapping[str, TextOrArray], manifest: Manifest) -> Array | Mapping[str, TextOrArray]:
    """Of a model with one input, the only array or text of a recording, whatever it is called there."""
    if isinstance(given, np.ndarray) or len(manifest.inputs) > 1 or len(given) > 1:
        return given
    only = next(iter(given.values()))
    return {manifest.inputs[0].name: only} if isinstance(only, str) else only


def _named(given: Array | Mapping[str, TextOrArray], name: str) -> TextOrArray:
    if isinstance(given, np.ndarray):
        return given
    if name not in given:
        raise DataError(f"has {', '.join(given)}; the model takes {name}: save an array or a text of that name")
    return given[name]


def canary_of(path: Path, samples: PreparedSamples) -> tuple[Canary, dict[str, bytes]]:
    """The canary of a bundle that was written without one: each variant's own answers, each sample from the beginning.

    A quantized output is compared in its own steps: kernels of another CPU differ by some of them.
    """
    places = {name: f"canary/input-{number}.npy" for number, name in enumerate(samples.inputs)}
    files = {places[name]: npy_of(values) for name, values in samples.inputs.items()}
    variants: dict[str, dict[str, GoldenTensor]] = {}
    with Bundle.open(path) as bundle:
        for variant in bundle.manifest.variants:
            outputs = _outputs(Engine(bundle, VariantChoice(variant.name, 1, "pack")), samples.inputs)
            scales = {spec.name or SCORES: spec.quantization.scale for spec in variant.outputs if spec.quantization is not None}
            variants[variant.name] = {}
            for number, (name, values) in enumerate(outputs.items()):
                file = f"canary/{variant.name}-{number}.npy"
                files[file] = npy_of(values)
                variants[variant.name][name] = GoldenTensor(
                    file=file, step=max(golden_step(values), scales.get(name, 0.0)), max_steps=GOLDEN_STEPS
                )
        first = variants[bundle.manifest.variants[0].name]
    labels = ""
    if samples.labels is not None:
        labels = "canary/labels.npy"
        files[labels] = npy_of(samples.labels.astype(np.int64))
    return Canary(inputs=places, golden=first, labels=labels, variants=variants), files


def _outputs(engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """By name, (N, ...) float32."""
    count = len(next(iter(inputs.values())))
    rows = [engine.outputs({n: v[i : i + 1] for n, v in inputs.items()}, {}) for i in range(count)]
    outputs = {name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in rows[0]}
    if bad := [name for name, values in outputs.items() if not np.isfinite(values).all()]:
        raise DataError(f"{engine.variant.name} answers the samples with NaN or infinity in {bad[0]}; check preprocessing and data")
    return outputs
