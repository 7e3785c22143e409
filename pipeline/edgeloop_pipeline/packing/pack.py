"""Makes a bundle of model files that exist already: read, tried once, described, and put in as they are (but for open rows)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from edgeloop_agent.engine import Engine
from edgeloop_contract import archive, consistency
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import UsageError
from edgeloop_contract.manifest import INPUT, SCHEMA, Input, Manifest, Variant
from edgeloop_contract.preprocessing import SoundFeatures, Step, ToFloat, dtype_after, takes_texts
from edgeloop_contract.tasks import Detection, Tensors
from edgeloop_contract.tensors import Reset, State, TensorSpec
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.reading import content_of, read
from edgeloop_pipeline.bundling.model_card import CardTexts, model_card
from edgeloop_pipeline.packing.canary import canary_of, prepared
from edgeloop_pipeline.packing.meaning import steps_of, task_of
from edgeloop_pipeline.packing.open_rows import closed
from edgeloop_pipeline.packing.reference import drift_reference
from edgeloop_pipeline.packing.request import PackRequest, PackResult
from edgeloop_pipeline.packing.samples import sample_files
from edgeloop_pipeline.packing.tensors import FileTensors, check_names, tensors_of
from edgeloop_pipeline.packing.texts import with_texts
from edgeloop_pipeline.packing.trial import check_it_loads

__all__ = ["pack"]

CARD = ("name", "version", "author", "description", "licence")


def pack(request: PackRequest) -> PackResult:
    """Write the bundle. Raises UsageError, DataError or ModelError; nothing is left behind then."""
    facts: list[str] = []
    models = [read(path, side_files=False) for path in request.models]
    check_names(models, request)
    whole = [closed(model, content_of(path), request, facts) for model, path in zip(models, request.models, strict=True)]
    models, contents = [model for model, _ in whole], [content for _, content in whole]
    models, contents, request, tokenizers = with_texts(models, contents, request, facts)
    names = _names(models)
    makers = [partial(_variant, model, name, request.reset) for model, name in zip(models, names, strict=True)]
    for model, content in zip(models, contents, strict=True):
        check_it_loads(model, content)
    parts = [tensors_of(m, c, make, request) for m, c, make in zip(models, contents, makers, strict=True)]
    parts = [parts[0], *(_like(parts[0], part, model) for part, model in zip(parts[1:], models[1:], strict=True))]
    task = task_of(models, parts[0].inputs, parts[0].outputs, request, facts)
    variants = [make(p.inputs, p.outputs, p.states) for make, p in zip(makers, parts, strict=True)]
    inputs = _inputs(models, parts, request, facts)
    variants = [_named(variant, inputs, isinstance(task, Tensors | Detection)) for variant in variants]
    files = tokenizers | {variant.file: content for variant, content in zip(variants, contents, strict=True)}
    manifest = Manifest(
        schema=SCHEMA, name=request.name, version=request.version, task=task, inputs=inputs, variants=variants,
        files=archive.describe(files),
    )  # fmt: skip
    manifest = msgspec.structs.replace(manifest, model_card=_card(manifest, models, request.card))
    if problems := consistency.problems(manifest):
        raise UsageError(f"{request.models[0]}: {'; '.join(problems)}")
    facts += [note for model in models for note in model.notes]
    with tempfile.TemporaryDirectory() as scratch:  # the bundle is opened and run before it has its name
        first = Path(scratch) / "first.edgeloop"
        archive.write(first, manifest, files)
        for variant in variants:
            with Bundle.open(first) as bundle:
                engine = Engine(bundle, VariantChoice(variant.name, 1, "pack"))
            engine.try_once()
        if request.samples is not None:
            samples = sample_files(request.samples, facts, {e.name: takes_texts(e.preprocessing) for e in inputs})
            canary, more = canary_of(first, prepared(manifest, engine, samples))
            files |= more
            reference = drift_reference(manifest, engine, samples)
            drift = None if isinstance(reference, str) else reference
            facts += [f"no drift monitor: {reference}"] if isinstance(reference, str) else []
            manifest = msgspec.structs.replace(manifest, canary=canary, drift=drift, files=archive.describe(files))
    archive.write(request.out, manifest, files)
    with Bundle.open(request.out) as bundle:
        found = bundle.manifest
        return PackResult(request.out, bundle.sha256, request.out.stat().st_size, found.schema, names, facts, _unknown(found))


def _names(models: Sequence[ModelFile]) -> list[str]:
    names: list[str] = []
    for model in models:
        plain = f"{model.runtime}-{model.precision.value.replace('-', '')}"
        same = sum(name == plain or name.startswith(f"{plain}-") for name in names)
        names.append(f"{plain}-{same + 1}" if same else plain)
    return names


def _variant(
    model: ModelFile, name: str, reset: Reset, inputs: list[TensorSpec], outputs: list[TensorSpec], states: list[State]
) -> Variant:
    return Variant(
        name=name, runtime=model.runtime, precision=model.precision, file=f"models/{name}.{model.runtime}", inputs=inputs,
        outputs=outputs, states=states, kept_inside=reset if model.variables else None,
    )  # fmt: skip


def _like(first: FileTensors, other: FileTensors, model: ModelFile) -> FileTensors:
    """The other file's tensors under the first one's names: by name, else by shape. Raises UsageError where that is no answer."""
    return FileTensors(
        _matched(first.inputs, other.inputs, model, "inputs"),
        _matched(first.outputs, other.outputs, model, "outputs"),
        other.states,
    )


def _matched(first: Sequence[TensorSpec], other: Sequence[TensorSpec], model: ModelFile, side: str) -> list[TensorSpec]:
    if len(first) != len(other):
        raise UsageError(f"{model.path} has {len(other)} {side}, the first file {len(first)}: they are not of one model")
    if {spec.tensor for spec in first} == {spec.tensor for spec in other}:
        same_names = {o.tensor: o for o in other}
        return [msgspec.structs.replace(same_names[spec.tensor], name=spec.name) for spec in first]
    matched = []
    for spec in first:
        same = [o for o in other if o.sample_shape == spec.sample_shape]
        if len(same) != 1:
            raise UsageError(f"{model.path}: which of its {side} is {spec.tensor}? Names and shapes do not tell: pack it by itself")
        matched.append(msgspec.structs.replace(same[0], name=spec.name))
    return matched


def _inputs(models: Sequence[ModelFile], parts: Sequence[FileTensors], request: PackRequest, facts: list[str]) -> list[Input]:
    """The bundle's inputs: one for each tensor of the first file that a sample feeds."""
    fed = [spec for spec in parts[0].inputs if spec.constant is None]
    inputs = []
    for spec in fed:
        steps = steps_of(models, spec, request, facts, len(fed) == 1)
        facts += _raw_sound(steps, spec.name)
        every = [next(o for o in part.inputs if o.name == spec.name) for part in parts]
        inputs.append(Input(name=INPUT if len(fed) == 1 else spec.name, sample=_sample(every, steps), preprocessing=steps))
    unknown = (
        request.steps.keys() - {name for spec in fed for name in (spec.name, spec.tensor)} - ({""} if len(fed) == 1 else set())
    )
    if unknown:
        raise UsageError(f"preprocessing of {min(unknown)!r}: the model's inputs are {', '.join(spec.name for spec in fed)}")
    return inputs


def _sample(specs: Sequence[TensorSpec], steps: Sequence[Step]) -> TensorSpec:
    """The prepared sample: real values where a file is quantized or the files differ, else what the file itself takes."""
    spec = next((s for s in specs if s.dtype.startswith("float")), specs[0])
    shape = spec.sample_shape
    made = dtype_after(steps)
    if made:
        return TensorSpec(dtype=made, shape=shape)  # type: ignore[arg-type]
    real = spec.quantization is not None or len({s.dtype for s in specs}) > 1 or spec.dtype == "float16"
    return TensorSpec(dtype="float32" if real else spec.dtype, shape=shape)


def _named(variant: Variant, inputs: Sequence[Input], keep_outputs: bool) -> Variant:
    """A model's only input and only scores need no name; each other input says which of the bundle's feeds it."""
    fed = [spec for spec in variant.inputs if spec.constant is None]
    named = [
        spec if spec.constant is not None
        else msgspec.structs.replace(spec, name="", of="") if len(fed) == 1 and len(variant.inputs) == 1
        else msgspec.structs.replace(spec, of=INPUT if len(fed) == 1 else spec.name)
        for spec in variant.inputs
    ]  # fmt: skip
    outputs = variant.outputs
    if len(outputs) == 1 and not keep_outputs:
        outputs = [msgspec.structs.replace(outputs[0], name="")]
    return msgspec.structs.replace(variant, inputs=named, outputs=outputs)


def _raw_sound(steps: Sequence[Step], name: str) -> list[str]:
    """What features are computed of where nothing made sound a float: some conventions want counts, most want −1 to 1."""
    kinds = [type(step) for step in steps]
    if SoundFeatures not in kinds or ToFloat in kinds[: kinds.index(SoundFeatures)]:
        return []
    where = f" of {name}" if name else ""
    return [
        f"sound features{where} are computed of 16-bit counts (−32768 to 32767); put {{step: to_float}} before them for −1 to 1"
    ]


def _card(manifest: Manifest, models: Sequence[ModelFile], text: str) -> str:
    """What was said and what the files say of themselves, nothing else."""
    first = {what: next((value for m in models if (value := getattr(m.metadata, what))), "") for what in CARD}
    lines = [f"{what}: {first[what]}" for what in ("name", "version", "author") if first[what]]
    return model_card(manifest, CardTexts(text or first["description"], lines, "accuracy", license=first["licence"]))


def _unknown(manifest: Manifest) -> list[str]:
    canary = ["right answers: a device can check the structure only (--samples makes a canary)"] * (manifest.canary is None)
    return [*canary, "accuracy", "provenance", *["how ordinary samples look: no drift is watched"] * (manifest.drift is None)]
