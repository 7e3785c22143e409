"""Texts of a model that is packed: its file gets one input for each, and the bundle the tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_contract.preprocessing import Tokenize
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.token_inputs import TextInput, fixed_length, grouped, with_text_inputs
from edgeloop_pipeline.data.tokenizer_files import check_rows, file_names, pad_of, tokenizer_of
from edgeloop_pipeline.packing.request import PackRequest

__all__ = ["with_texts"]

T = TypeVar("T")


def with_texts(
    models: list[ModelFile], contents: list[bytes], request: PackRequest, facts: list[str]
) -> tuple[list[ModelFile], list[bytes], PackRequest, dict[str, bytes]]:
    """The files with one input for each text, the request with the steps that make its token ids, and the tokenizers by file name.

    An ONNX file computes mask, token types and positions of the ids from then on; a TFLite file must take the ids alone. Raises
    UsageError, ModelError and DataError, with what to do.
    """
    if not request.tokenizers:
        if request.lengths:
            raise UsageError("--length: is of a text; say --tokenizer too")
        return models, contents, request, {}
    roles, facts_of = _roles(models[0], request), "a text, whose {} token ids {} makes; short ones are filled with {}"
    paths = {name: _said(request.tokenizers, name, of) or Path() for name, of in roles.items()}
    tokenizers = {name: tokenizer_of(path) for name, path in paths.items()}
    files = file_names(tokenizers.values())
    texts, steps = list[TextInput](), dict[str, Tokenize]()
    for name, of in roles.items():
        pad, filler = pad_of(tokenizers[name], paths[name])
        length = _said(request.lengths, name, of) or fixed_length(models[0].inputs, of)
        if not length:
            raise UsageError(f"{models[0].path}: how many token ids has {name!r}? Say --length {name}=N")
        texts.append(TextInput(name, of, length, pad))
        steps[name] = Tokenize(file=files[tokenizers[name]], length=length, pad=pad)
        facts.append(f"{name}: {facts_of.format(length, paths[name].name, filler)}")
    if both := next((name for name in request.steps if name in steps), ""):
        raise UsageError(f"--preprocess {both}=…: is a text; its tokenizer makes all of it")
    made = [_with_doors(model, content, texts) for model, content in zip(models, contents, strict=True)]
    for name, step in steps.items():
        if models[0].runtime == "onnx":
            check_rows(made[0][1], step, tokenizers[name], request.models[0], paths[name], name)
    said = replace(request, steps={**request.steps, **{name: [step] for name, step in steps.items()}})
    return [model for model, _ in made], [content for _, content in made], said, {name: data for data, name in files.items()}


def _roles(model: ModelFile, request: PackRequest) -> dict[str, dict[str, str]]:
    """Text → role by input of the file. Raises UsageError for a name that no text has, and where there is no text."""
    given = {*request.tokenizers} - {""}
    roles = grouped(model.inputs, given)
    shown = ", ".join(f"{t.name} {t.dtype} {list(t.shape or ())}" for t in model.inputs)
    for option, said in (("--tokenizer", request.tokenizers), ("--length", request.lengths)):
        for name in said:
            if name and not any(name in (text, *of) for text, of in roles.items()):
                raise UsageError(f"{option} {name}=…: is no input of token ids; {model.path} has {shown}")
    if not roles:
        raise UsageError(f"--tokenizer: which input of {model.path} takes token ids? It has {shown}; say --tokenizer INPUT=FILE")
    lacking = next((name for name, of in roles.items() if _said(request.tokenizers, name, of) is None), "")
    if lacking:
        raise UsageError(f"{model.path}: which tokenizer.json makes the ids of {lacking!r}? Say --tokenizer {lacking}=FILE")
    if model.runtime == "tflite":  # the file stays as it is: its own names
        return {next(iter(of)): of for of in roles.values()}
    return roles


def _said(given: Mapping[str, T], text: str, of: Mapping[str, str]) -> T | None:
    """What was said of a text, by its name, by that of one of its inputs, or of all texts."""
    return next((given[name] for name in (text, *of, "") if name in given), None)


def _with_doors(model: ModelFile, content: bytes, texts: Sequence[TextInput]) -> tuple[ModelFile, bytes]:
    """The file with the texts' inputs, and its description."""
    if model.runtime == "tflite":
        if several := next((text for text in texts if len(text.roles) > 1), None):
            made = ", ".join(name for name in several.roles if name != several.name)
            raise ModelError(f"{model.path}: takes {made} beside the ids; only an ONNX file can compute these: pack that one")
        return model, content
    content = with_text_inputs(content, model.inputs, texts, str(model.path))
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(content)
        file.flush()
        return msgspec.structs.replace(model, inputs=read(Path(file.name), side_files=False).inputs), content
