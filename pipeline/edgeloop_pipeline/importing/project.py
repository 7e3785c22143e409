"""From a model file and data to a project that `edgeloop run` builds."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, EdgeloopError, ModelError, UsageError
from edgeloop_contract.preprocessing import prepare
from edgeloop_exporters.constant_inputs import with_constants
from edgeloop_exporters.count_inputs import COUNTS, with_float_input
from edgeloop_exporters.cutting import only_outputs
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.reading import content_of, read
from edgeloop_exporters.onnx_import.old_sets import in_newer_set
from edgeloop_exporters.value_axes import with_value_axes
from edgeloop_pipeline.data.datasets.recordings import ARRAYS, Recordings
from edgeloop_pipeline.data.datasets.scanning import kind_of
from edgeloop_pipeline.data.original_answers import Original
from edgeloop_pipeline.data.tokenizer_files import TOKENIZER
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.importing import detection, project_files, texts
from edgeloop_pipeline.importing.input_meaning import NORMALIZATIONS, Ask, Entry, entry_of
from edgeloop_pipeline.importing.output_meaning import answer_of
from edgeloop_pipeline.importing.request import CompressRequest, Meaning
from edgeloop_pipeline.importing.sequences import check_label_at
from edgeloop_pipeline.importing.several_inputs import has_several, takes_numbers
from edgeloop_pipeline.importing.several_model import check_outputs, meaning_of_several, with_original_ports
from edgeloop_pipeline.importing.texts_beside import with_texts
from edgeloop_pipeline.importing.torch_models import is_torch, with_onnx_file
from edgeloop_pipeline.networks.imported import open_import
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.recipe.settings import Imported
from edgeloop_pipeline.recipe.wizard.write import project_name
from edgeloop_pipeline.tasks.kept_boxes import KeptBoxes

__all__ = ["make_project"]

MIN_BOXES = 50


def make_project(request: CompressRequest, ask: Ask) -> Meaning:
    """Understand the model, check its import and the data, and write the project; nothing is left where something is wrong.

    Raises UsageError, ModelError and DataError, each with what to do.
    """
    _check_names(request)
    final = request.out.absolute()
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-"))
    try:
        request, meaning = _understood(request, ask, scratch)
        project_files.write(scratch, request, meaning, (scratch / project_files.MODEL).read_bytes(), final)
        scratch.chmod(0o755)
        if final.exists():
            final.rmdir()
        scratch.rename(final)
        try:
            _try_data(final, meaning)
        except BaseException:
            shutil.rmtree(final, ignore_errors=True)
            raise
    except EdgeloopError as error:
        named = str(error)
        for folder in (scratch, final):  # which are no longer there
            named = named.replace(str(folder / project_files.MODEL), request.reference or str(request.model))
        if named == str(error):
            raise
        raise type(error)(named) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return meaning


def _understood(request: CompressRequest, ask: Ask, scratch: Path) -> tuple[CompressRequest, Meaning]:
    """Reads the model, writes what is compressed of it into `scratch`, and says what it is. The request names the file as read."""
    path = scratch / project_files.MODEL
    if is_torch(request.reference):
        request = with_onnx_file(request, path)
    else:
        request = replace(request, model=in_newer_set(request.model, path))
    model = read(request.model, side_files=True)
    if model.runtime == "tflite":
        request, model = _from_tflite(request, model, path)
    content, original, tokens = content_of(request.model), model, None
    if request.outputs and model.runtime == "onnx":
        model, content = _of_outputs(model, content, request.outputs, path)
    if request.constants:
        model, content = _with_constants(model, content, request, path)
    if (with_axes := with_value_axes(content, str(request.model))) is not None:
        if request.drop_in:
            what = "gives one value a sample without an axis for it, and the files have one, (batch, 1)"
            raise UsageError(f"--io original: {request.model} {what}: leave it out")
        path.write_bytes(content := with_axes)
        model = msgspec.structs.replace(read(path), metadata=model.metadata)
    numbers = takes_numbers(model, request)
    if request.tokenizer is None and not numbers and texts.takes_only_tokens(model):
        request = replace(request, tokenizer=texts.tokenizer_beside(request.model))
    said = request.tokenizer is not None or request.tokenizers
    if said and not texts.takes_one_text(model, request):
        model, request = with_texts(model, content, request, path)
        content = path.read_bytes()
        for text in request.texts.values():
            (scratch / text.step.file).write_bytes(text.tokenizer)
    elif (request := texts.of_the_only(request)).tokenizer is not None:
        tokens = texts.text_model(model, content, request, request.tokenizer)
        content = tokens.content
        (scratch / TOKENIZER).write_bytes(tokens.tokenizer)
    path.write_bytes(content)
    model = texts.described(model, path) if tokens is not None else model
    several = tokens is None and (numbers or has_several(model, request))
    request = request if several or not model.inputs else _without_name(request, model.inputs[0].name)
    _check(model, request, several)
    if not several and tokens is None and model.inputs[0].dtype in COUNTS:
        path.write_bytes(with_float_input(content, model.inputs[0].name, str(request.model)))
    if several:
        return request, _of_several(model, original, request, path)
    return request, _meaning(model, content, request, path, ask, tokens)


def _check_names(request: CompressRequest) -> None:
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise UsageError(f"--out {request.out}: is not empty; choose another folder")
    if request.name and project_name(Path(request.name)) != request.name:
        raise UsageError(f"--name {request.name}: use letters, digits, _ . and -, at most 64, the first a letter or digit")


def _from_tflite(request: CompressRequest, found: ModelFile, out: Path) -> tuple[CompressRequest, ModelFile]:
    """The float TFLite file as an ONNX file at `out`, with its metadata. Raises ModelError where it cannot be read exactly."""
    from edgeloop_exporters.tflite_import import to_onnx

    out.write_bytes(to_onnx(request.model).SerializeToString())
    made = replace(request, model=out)
    return made, msgspec.structs.replace(read(out, side_files=False), metadata=found.metadata)


def _of_outputs(model: ModelFile, content: bytes, names: tuple[str, ...], path: Path) -> tuple[ModelFile, bytes]:
    """The model with the outputs that were named: the others need not be understood, and may be constant. Writes it to `path`."""
    known = {tensor.name for tensor in model.outputs}
    if not set(names) < known:
        return model, content
    path.write_bytes(content := only_outputs(content, names))
    return msgspec.structs.replace(read(path), metadata=model.metadata), content


def _with_constants(model: ModelFile, content: bytes, request: CompressRequest, path: Path) -> tuple[ModelFile, bytes]:
    """The model without the inputs that always have the same values. Writes it to `path`."""
    path.write_bytes(content := with_constants(content, request.constants, str(request.model)))
    return msgspec.structs.replace(read(path), metadata=model.metadata), content


def _check(model: ModelFile, request: CompressRequest, several: bool) -> None:
    """Raises ModelError for a file that cannot become a network here."""
    remedy = "`edgeloop pack` puts it into a bundle as it is"
    if not model.inputs:
        raise ModelError(f"{request.model}: has no input; {remedy}")
    if model.variables:
        raise ModelError(f"{request.model}: its runtime keeps state from one call to the next, which is not compressed; {remedy}")
    if request.tokenizer is None and texts.takes_only_tokens(model) and not takes_numbers(model, request):
        raise UsageError(f"{request.model}: takes token ids, of texts; say which tokenizer.json makes them, with --tokenizer")
    if several:
        return
    check_label_at(request, False)
    if request.drop_in and model.inputs[0].dtype != "float32":
        raise UsageError(f"--io original: {request.model} takes {model.inputs[0].dtype}; only files of float32 can be replaced")
    if of := {**request.shape_of, **request.steps_of}:
        raise UsageError(f"{next(iter(of))}=…: {request.model} has one input, {model.inputs[0].name}")


def _without_name(request: CompressRequest, name: str) -> CompressRequest:
    """What was said of the only input by its name, as if it was said without."""
    shapes, steps = dict(request.shape_of), dict(request.steps_of)
    return replace(
        request, shape=shapes.pop(name, request.shape), steps=steps.pop(name, request.steps), shape_of=shapes, steps_of=steps
    )


def _of_several(model: ModelFile, original: ModelFile, request: CompressRequest, path: Path) -> Meaning:
    """`original`: the file as it came; `model`: without inputs that are constants, and outputs that do not count."""
    meaning = meaning_of_several(model, request, path)
    return with_original_ports(meaning, original, read(path)) if request.drop_in else meaning


def _meaning(
    model: ModelFile, content: bytes, request: CompressRequest, path: Path, ask: Ask, tokens: texts.TextModel | None
) -> Meaning:  # fmt: skip
    first = np.zeros(0)
    if tokens is not None:
        plain = NORMALIZATIONS["counts"]
        entry = Entry("as_it_is", [tokens.step.length], [tokens.step], plain, facts=tokens.facts, guesses=tokens.guesses)
    else:
        kind, first = _first_recording(request)
        entry = entry_of(model, content, request, kind, first, ask)
    found = open_import(path, tuple(entry.shape))
    check_outputs(found, request.outputs, request.model)
    size = found.inputs[0].shape
    picture = {"channels_first": size[1:], "channels_last": size[:2]}.get(entry.layout, ()) if len(size) == 3 else ()
    shapes = {port.name: port.shape for port in found.outputs}
    known = detection.joined(model, content, shapes, request, picture, partial(_answers, path, entry, first))
    if known is not None:
        path.write_bytes(known[0])
        model = msgspec.structs.replace(read(path), metadata=model.metadata)
        found = open_import(path, tuple(entry.shape))
        shapes = {port.name: port.shape for port in found.outputs}
    answer = answer_of(model, shapes, request, picture, known[1] if known is not None else None)
    count = sum(found.operators.values())
    facts = [f"{count} operators of opset {found.opset}{f', written by {found.producer}' if found.producer else ''}"]
    imported = Imported(
        model=project_files.MODEL, measure=answer.measure, output=answer.outputs[0] if len(answer.outputs) == 1 else "",
        outputs=answer.outputs if len(answer.outputs) > 1 else [], boxes=answer.boxes, masks=answer.masks, layout=entry.layout,  # type: ignore[arg-type]
        shape=entry.shape,
    )  # fmt: skip
    return Meaning(
        answer.task, imported, entry.normalize, entry.steps, answer.labels, answer.measure is None, entry.sample,
        found.inputs[0].shape,
        [*facts, *entry.facts, *answer.facts], [*entry.guesses, *answer.guesses],
    )  # fmt: skip


def _answers(path: Path, entry: Entry, first: Array) -> dict[str, Array]:
    """What the file answers to the first sample of a recording, by output."""
    names = tuple(tensor.name for tensor in read(path).outputs)
    original = Original(path, names, entry.layout, tuple(entry.shape))
    return original.answers(prepare(entry.steps, first).values[:1], *entry.normalize)


def _first_recording(request: CompressRequest) -> tuple[str, Array]:
    """The kind of the data, and one recording of it; of an array file, one row. Raises DataError."""
    files = Recordings(request.calibrate).files()
    ending = files[0].suffix.lower()
    kind = "arrays" if ending in ARRAYS else "tables" if ending in (".csv", ".tsv") else kind_of(files[0])
    if not kind:
        raise DataError(f"{files[0]}: is none of the files that edgeloop reads as data")
    from edgeloop_agent.sources.readers import read as read_recording

    recording = read_recording(files[0])
    if recording.values is None:
        raise DataError(f"{files[0]}: {recording.refused or 'has several arrays; give files with one'}; repair or remove it")
    values = recording.values[0] if kind == "arrays" and len(files) == 1 and recording.values.ndim > 1 else recording.values
    return kind, values[None] if values.ndim == 1 and kind == "arrays" else values


def _try_data(folder: Path, meaning: Meaning) -> None:
    """Prepare all samples, and ask the original model for its answers. Raises DataError for data that can calibrate nothing."""
    splits = Project(recipes.load(folder / recipes.FILE)).splits
    for name in ("train", "validation", "test"):
        values = getattr(splits, name).values
        if not math.isfinite(float(values.max())) or (values == values.flat[0]).all():
            raise DataError(
                f"{name}: every value of its {len(values)} samples is {values.flat[0]}; give data as the model meets it"
            )
    if splits.measure == "boxes":
        _count_boxes(splits, meaning)
    labels = splits.train.labels
    if splits.measure and splits.task == "classification" and len(np.unique(labels)) == 1:
        meaning.guesses.append(
            f"the model answers {splits.labels[int(labels[0])]!r} for every sample that calibrates, so agreement says little; check"
            " the normalization, or give more different data"
        )


def _count_boxes(splits: PreparedSplits, meaning: Meaning) -> None:
    """Raises DataError where the model finds nothing in the data, or its layout is another one."""
    assert splits.boxes is not None
    kept = KeptBoxes(splits.boxes, splits.outputs, splits.shape[0], splits.shape[1])
    parts = (splits.train, splits.validation, splits.test)
    count, pictures = sum(len(f.boxes) for s in parts for f in kept.found(np.asarray(s.labels))), sum(map(len, parts))
    least = f"a score of {splits.boxes.score_threshold:g}"
    if not count:
        raise DataError(
            f"the model finds no box with {least} in {pictures} pictures; give pictures of what it finds, check the normalization,"
            " or judge by --measure signal"
        )
    meaning.facts.append(f"the model finds {count} boxes in {pictures} pictures")
    if count < MIN_BOXES:
        meaning.guesses.append(f"{count} boxes are few to judge by; give more pictures of what the model finds")
