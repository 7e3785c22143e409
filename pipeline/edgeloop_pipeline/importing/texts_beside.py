"""Texts beside other inputs: which inputs of the file are of a text, its tokenizer, and the length of its token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.preprocessing import Tokenize
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.token_inputs import TextInput, fixed_length, grouped, with_text_inputs
from edgeloop_pipeline.data.datasets.recordings import Recordings
from edgeloop_pipeline.data.tokenizer_files import TOKENIZER, check_rows, file_names, pad_of, tokenizer_of
from edgeloop_pipeline.importing.request import CompressRequest, TextSteps
from edgeloop_pipeline.importing.several_inputs import states_of
from edgeloop_pipeline.importing.texts import LOOKED_AT, length_of

__all__ = ["with_texts"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Text:
    """`name`: as the data and the bundle have it; `plain`: as the file's inputs are called; `roles`: by input."""

    name: str
    plain: str
    roles: dict[str, str]

    def of(self, given: Mapping[str, T]) -> T | None:
        """What was said of it, by any of its names."""
        return next((given[name] for name in (self.name, self.plain, *self.roles) if name in given), None)


def with_texts(model: ModelFile, content: bytes, request: CompressRequest, path: Path) -> tuple[ModelFile, CompressRequest]:
    """The model with one input for each of its texts, which is written to `path`, and the request with what makes them.

    Raises UsageError, ModelError and DataError, with what to do.
    """
    texts = _texts_of(model, request)
    paths = {text.name: text.of(request.tokenizers) or request.tokenizer for text in texts}
    if lacking := next((name for name, given in paths.items() if given is None), ""):
        raise UsageError(f"{request.model}: which tokenizer.json makes the ids of {lacking!r}? Say --tokenizer {lacking}=FILE")
    tokenizers = {name: tokenizer_of(found) for name, found in paths.items() if found is not None}
    files = file_names(tokenizers.values())
    samples = _samples(model, request, texts)
    made = dict[str, TextSteps]()
    for text in texts:
        where, tokenizer = paths[text.name] or Path(TOKENIZER), tokenizers[text.name]
        pad, filler = pad_of(tokenizer, where)
        fixed = text.of(request.lengths) or request.length or fixed_length(model.inputs, text.roles)
        length, guesses = length_of(samples[text.name], tokenizer, where, fixed, f"--length {text.name}=…")
        said = f"a text, whose {length} token ids {where.name} makes ({', '.join(text.roles)}); short ones are filled with {filler}"
        guesses = [f"{text.name}: {guess}" for guess in guesses]
        made[text.name] = TextSteps(Tokenize(file=files[tokenizer], length=length, pad=pad), tokenizer, said, guesses)
    doors = [TextInput(t.name, t.roles, made[t.name].step.length, made[t.name].step.pad) for t in texts]
    path.write_bytes(content := with_text_inputs(content, model.inputs, doors, str(request.model)))
    for text in texts:
        found = made[text.name]
        check_rows(content, found.step, found.tokenizer, request.model, paths[text.name] or Path(TOKENIZER), text.name)
    return msgspec.structs.replace(model, inputs=read(path).inputs), replace(request, texts=made)


def _texts_of(model: ModelFile, request: CompressRequest) -> list[_Text]:
    """Raises UsageError for what is not for such a model, for a name that no text has, and where there is no text."""
    others = {"--io original": request.drop_in, "--prune": request.prune is not None}
    if given := next((name for name, is_given in others.items() if is_given), ""):
        raise UsageError(f"{given}: is not for a model with texts; leave it out")
    names = [tensor.name for tensor in model.inputs]
    shown = ", ".join(f"{t.name} {t.dtype} {list(t.shape or ())}" for t in model.inputs)
    found = [_Text(plain, plain, roles) for plain, roles in grouped(model.inputs, set(request.tokenizers)).items()]
    for option, said in request.said_of_texts.items():
        for name in said:
            if not any(name in (text.plain, *text.roles) for text in found):
                what = (
                    "is no input of token ids (whole numbers, by batch and length)" if name in names else "there is no such input"
                )
                raise UsageError(f"{option} {name}=…: {what}; {request.model} has {shown}")
    if not found:
        raise UsageError(f"--tokenizer: which input of {request.model} takes token ids? It has {shown}; say --tokenizer INPUT=FILE")
    if request.text_column and len(found) > 1:
        texts = ", ".join(text.plain for text in found)
        raise UsageError(f"--text-column: {request.model} has the texts {texts}; say of which, --text-column TEXT=NAME")
    found = [replace(text, name=text.of(request.text_columns) or request.text_column or text.plain) for text in found]
    taken = {*names} - {name for text in found for name in text.roles} | {tensor.name for tensor in model.outputs}
    columns = [text.name for text in found]
    if twice := next((c for c in columns if c in taken or columns.count(c) > 1), ""):
        raise UsageError(f"--text-column {twice}: something else of {request.model} has this name; give the column another one")
    return found


def _samples(model: ModelFile, request: CompressRequest, texts: list[_Text]) -> dict[str, list[str]]:
    """By text, some of the data's. Raises DataError where a sample has no text of that name."""
    made_of_texts = {name for text in texts for name in text.roles}
    left_out = {*made_of_texts, *states_of(model, request), *request.constants}
    names = [text.name for text in texts]
    wanted = (*names, *(tensor.name for tensor in model.inputs if tensor.name not in left_out))
    if len(wanted) == 1:
        raise UsageError(
            f"{request.model}: takes a text and keeps state from one to the next, which is not compressed; --no-states takes the"
            " state as an input, and `edgeloop pack` the file as it is"
        )
    data = Recordings(request.calibrate, inputs=wanted, texts=tuple(names), most=LOOKED_AT)
    found: dict[str, list[str]] = {name: [] for name in names}
    for where, sample in data.named():
        for name, some in found.items():
            text = sample.get(name)
            if not isinstance(text, str):
                has = f"its {name} is an array, and no text (str)" if name in sample else f"has {', '.join(sample)}"
                raise DataError(f"{where}: {has}; the model takes {', '.join(wanted)}, of which {', '.join(names)} are texts")
            some.append(text)
    if not all(found.values()):
        raise DataError(f"{request.calibrate}: has no samples")
    return found
