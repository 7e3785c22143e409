"""A model with several inputs, or with state: what each input is, and what makes it of a recording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, ModelError, UsageError
from edgeloop_contract.preprocessing import Step, prepare, with_files
from edgeloop_contract.preprocessing.base import StepBase
from edgeloop_exporters.model_files.description import ModelFile, Tensor
from edgeloop_exporters.token_inputs import grouped
from edgeloop_pipeline.data.datasets.named_arrays import Named, named_rows
from edgeloop_pipeline.data.datasets.recordings import ARRAYS, Recordings
from edgeloop_pipeline.data.several_inputs import PreparedInput, prepared_together
from edgeloop_pipeline.importing.input_meaning import NORMALIZATIONS, Entry
from edgeloop_pipeline.importing.request import CompressRequest
from edgeloop_pipeline.recipe.settings import ImportedInput

__all__ = [
    "FLOATS", "Several", "entry_of_several", "has_several", "is_open_second", "sample_shape", "states_of", "takes_numbers",
    "total_of", "without_state_outputs",
]  # fmt: skip

FLOATS = {"float16": "float32", "float64": "float32", "bfloat16": "float32"}  # inside, and in the file that is written
IDS = ("int32", "int64")
TYPES = get_args(get_type_hints(ImportedInput)["dtype"])


class Several(msgspec.Struct, frozen=True):
    """`inputs`: in the file's order, states among them; `named`: those that a recording has, () if it is one array."""

    entry: Entry
    inputs: list[ImportedInput]
    named: tuple[str, ...]

    @property
    def states(self) -> list[str]:
        """The outputs that come back as inputs."""
        return [entry.output for entry in self.inputs if entry.output]


def has_several(model: ModelFile, request: CompressRequest) -> bool:
    """Whether the file has several inputs, or feeds one of its outputs back."""
    return len(model.inputs) > 1 or bool(states_of(model, request))


def takes_numbers(model: ModelFile, request: CompressRequest) -> bool:
    """Whether every input takes whole numbers, and the data are arrays of them: ids that somebody made, which go in as they are."""
    if request.tokenizer is not None or request.tokenizers or not model.inputs or any(t.dtype not in IDS for t in model.inputs):
        return False
    try:
        return Recordings(request.calibrate).files()[0].suffix.lower() in ARRAYS
    except DataError:  # texts, most likely
        return False


def without_state_outputs(model: ModelFile, states: list[str]) -> ModelFile:
    """The model with its answers alone as outputs. Raises UsageError where nothing is left."""
    answers = tuple(tensor for tensor in model.outputs if tensor.name not in states)
    if not answers:
        raise UsageError(f"{model.path}: every output comes back as an input ({', '.join(states)}); say --no-states")
    return msgspec.structs.replace(model, outputs=answers)


def entry_of_several(model: ModelFile, request: CompressRequest) -> Several:
    """Understand the inputs by the file, the request and the first recording. Raises UsageError, ModelError and DataError."""
    _check_words(model, request)
    states = states_of(model, request)
    fed = [tensor for tensor in model.inputs if tensor.name not in states]
    try:
        recording = _first(request, [tensor.name for tensor in fed])
    except DataError as error:
        if request.texts or not (texts := grouped(model.inputs, ())):
            raise
        ids = next(iter(next(iter(texts.values()))))
        raise DataError(f"{error}; if {ids} takes the token ids of a text, say --tokenizer {ids}=FILE") from error
    inputs = []
    for tensor in model.inputs:
        shape, dtype = sample_shape(tensor, request), _dtype(tensor, request.model)
        if tensor.name in states:
            if dtype != "float32":
                raise ModelError(f"{request.model}: its state {tensor.name} is of type {tensor.dtype}; states of floats are taken")
            inputs.append(ImportedInput(name=tensor.name, shape=list(shape), output=states[tensor.name]))
            continue
        steps = _steps(tensor.name, request, len(fed) == 1)
        if tensor.name in request.texts:
            inputs.append(ImportedInput(name=tensor.name, shape=list(shape), dtype="int32", preprocessing=steps))
            continue
        values = recording.get(tensor.name) if isinstance(recording, Mapping) else recording
        if isinstance(values, str) and tensor.name not in request.texts:
            remedy = f"; --tokenizer {tensor.name}=FILE makes token ids of it" if dtype in IDS else ""
            raise DataError(f"{request.calibrate}: the first recording: {tensor.name} is a text; the model takes {dtype}{remedy}")
        layout = _layout(steps, values, shape) if isinstance(values, np.ndarray) else "as_it_is"
        inputs.append(ImportedInput(name=tensor.name, shape=list(shape), dtype=dtype, layout=layout, preprocessing=steps))  # type: ignore[arg-type]
    try:
        prepared_together(recording, [PreparedInput(entry.named, _loaded(entry, request)) for entry in inputs], None)
    except DataError as error:
        raise DataError(f"{request.calibrate}: the first recording: {error}") from error
    entry = Entry("as_it_is", [], [], NORMALIZATIONS["counts"])
    for given in inputs:
        what = f"is {given.output} of the call before" if given.output else "goes in as it is"
        what = "by the steps that were said" if given.preprocessing else what
        if given.name in request.texts:
            what = request.texts[given.name].said
            entry.guesses.extend(request.texts[given.name].guesses)
        entry.facts.append(f"input {given.name} {given.dtype} {given.shape}: {what}")
    return Several(entry, inputs, tuple(tensor.name for tensor in fed) if len(fed) > 1 else ())


def _check_words(model: ModelFile, request: CompressRequest) -> None:
    """Raises UsageError for what is not for several inputs, and for names that no input has."""
    others = {"--normalize": request.normalize is not None, "--fit": request.fit is not None, "--bgr": request.bgr is not None}
    if given := next((name for name, is_given in others.items() if is_given), ""):
        raise UsageError(f"{given}: {request.model} has several inputs; say the steps of each with --preprocess NAME=STEPS")
    if scalar := next((tensor for tensor in model.inputs if tensor.shape == ()), None):
        sample_shape(scalar, request)
    if request.shape or request.steps:
        option, example = ("--size", "NAME=3x224x224") if request.shape else ("--preprocess", "NAME=STEPS")
        if len(model.inputs) - len(states_of(model, request)) > 1:
            raise UsageError(f"{option}: {request.model} has several inputs; say of which, {option} {example}")
    names = [tensor.name for tensor in model.inputs]
    if of_text := next((name for name in request.texts if name in request.steps_of or name in request.shape_of), ""):
        raise UsageError(f"{of_text}=…: is a text; --length {of_text}=N says how many token ids it has, and its tokenizer the rest")
    for option, there in (("--size", request.shape_of), ("--preprocess", request.steps_of)):
        if unknown := next((name for name in there if name not in names), ""):
            raise UsageError(f"{option} {unknown}=…: {request.model} has the inputs {', '.join(names)}")


def states_of(model: ModelFile, request: CompressRequest) -> dict[str, str]:
    """Input → output of each state: as said, or proven by the graph. Raises UsageError where only names look like it."""
    if request.no_states:
        return {}
    if request.states:
        inputs, outputs = [t.name for t in model.inputs], [t.name for t in model.outputs]
        for old, new in request.states.items():
            if old not in inputs or new not in outputs:
                raise UsageError(
                    f"--state {old}={new}: {request.model} has the inputs {', '.join(inputs)} and the outputs {', '.join(outputs)}"
                )
        _check_states(model, request)
        return dict(request.states)
    if model.guessed_states:
        pairs = " ".join(f"--state {pair.input}={pair.output}" for pair in model.guessed_states)
        raise UsageError(f"{request.model}: these look like state ({model.guessed_states[0].why}): say {pairs}, or --no-states")
    return {pair.input: pair.output for pair in model.states}


def _check_states(model: ModelFile, request: CompressRequest) -> None:
    """Raises UsageError for a state that cannot be the output it is said to be."""
    shapes = {tensor.name: tensor.shape for tensor in (*model.inputs, *model.outputs)}
    for old, new in request.states.items():
        a, b = shapes[old], shapes[new]
        fits = a is None or b is None or (len(a) == len(b) and all(x == y or None in (x, y) for x, y in zip(a, b, strict=True)))
        if not fits:
            shown = f"{old} has shape {list(a or ())}, {new} {list(b or ())}"
            raise UsageError(f"--state {old}={new}: {shown}: the one cannot be the other at the next call")


def is_open_second(tensor: Tensor) -> bool:
    """Whether the second of three axes is left open, and the first is not: the batch of a recurrent layer's state."""
    shape = tensor.shape
    return shape is not None and len(shape) == 3 and shape[0] is not None and shape[1] is None


def sample_shape(tensor: Tensor, request: CompressRequest) -> tuple[int, ...]:
    """Of one sample at an input. Raises UsageError and ModelError where it is not known, or has no batch."""
    said = request.shape_of.get(tensor.name) or (request.shape or None)
    if tensor.shape is None or not tensor.shape:
        raise ModelError(
            f"{request.model}: its input {tensor.name} has no batch; give it a value that never changes with --constant"
            f" {tensor.name}=VALUE, or export it with a batch as the first axis"
        )
    inner = tensor.shape[1:]
    if said is not None:
        if len(said) != len(inner) or any(a is not None and a != b for a, b in zip(inner, said, strict=True)):
            raise UsageError(f"--size {tensor.name}={'x'.join(map(str, said))}: the file has {list(inner)} behind the batch")
        return said
    if any(size is None or size < 1 for size in inner):
        example = "x".join(str(size or 100) for size in inner)
        raise UsageError(
            f"{request.model}: {tensor.name} leaves sizes open; say one sample's, such as --size {tensor.name}={example}"
        )
    return tuple(int(size) for size in inner if size is not None)


def _dtype(tensor: Tensor, path: Path) -> str:
    found = FLOATS.get(tensor.dtype, tensor.dtype)
    if found not in TYPES:
        raise ModelError(f"{path}: its input {tensor.name} is of type {tensor.dtype}; {', '.join(TYPES)} are taken")
    return found


def _steps(name: str, request: CompressRequest, only: bool) -> list[Step]:
    if name in request.texts:
        return [request.texts[name].step]
    return request.steps_of.get(name) or (list(request.steps) if only else [])


def _loaded(entry: ImportedInput, request: CompressRequest) -> list[StepBase]:
    """The input's steps with their files."""
    return with_files(entry.preprocessing, lambda _: request.texts[entry.name].tokenizer)


def _layout(steps: list[Step], values: Array, shape: tuple[int, ...]) -> str:
    """Whether a prepared sample's last axis is the first one in the file. Without steps arrays are as the file takes them."""
    if not steps:
        return "as_it_is"
    try:
        got = tuple(prepare(steps, values).values.shape[1:])
    except DataError:
        return "as_it_is"  # said below, with the input's name
    return "channels_first" if got != shape and len(got) > 1 and (got[-1], *got[:-1]) == shape else "as_it_is"


def _first(request: CompressRequest, fed: Sequence[str]) -> Array | Named:
    """One recording. Raises DataError where it has no array or text for each input."""
    from edgeloop_agent.sources.readers import read

    several, data = len(fed) > 1, Recordings(request.calibrate, inputs=tuple(fed), texts=tuple(request.texts))
    if several and data.is_table:
        if not len(data.rows):
            raise DataError(f"{request.calibrate}: has no rows")
        first: Named = data.rows[0]
        return first
    files = Recordings(request.calibrate).files()
    found = read(files[0])
    if several:
        if found.inputs is None:
            raise DataError(
                f"{files[0]}: {found.refused or 'has one array'}; the model has several inputs: give .npz files with an array for"
                " each (numpy.savez), a file a recording, one file with samples along the first axes, or a table with a column for"
                " each input"
            )
        return named_rows(files[0], found.inputs)[0] if len(files) == 1 else found.inputs
    if found.values is None:
        raise DataError(f"{files[0]}: {found.refused or 'has several arrays; the model takes one'}; repair or remove it")
    rows = len(files) == 1 and files[0].suffix.lower() in ARRAYS and found.values.ndim > 1
    return np.asarray(found.values[0] if rows else found.values)


def total_of(inputs: list[ImportedInput]) -> int:
    """Values of one sample."""
    return sum(math.prod(entry.shape) for entry in inputs)
