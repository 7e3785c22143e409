"""A model of texts: its tokenizer, the length of its token ids, and its one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.arrays import evenly_spaced_rows
from edgeloop_contract.errors import DataError, ModelError, UsageError
from edgeloop_contract.preprocessing import Tokenize, as_bytes, prepare, with_files
from edgeloop_contract.preprocessing.tokens import guarded
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.quiet import quiet
from edgeloop_exporters.token_inputs import TOKENS, roles_of, roles_of_only, with_one_input
from edgeloop_pipeline.data.datasets.texts import Texts
from edgeloop_pipeline.data.tokenizer_files import TOKENIZER, check_rows, pad_of, tokenizer_of
from edgeloop_pipeline.importing.request import CompressRequest

__all__ = [
    "LOOKED_AT",
    "TextModel",
    "described",
    "length_of",
    "looks_like_texts",
    "of_the_only",
    "takes_one_text",
    "takes_only_tokens",
    "text_data",
    "text_model",
    "tokenizer_beside",
]

TRIED, LOOKED_AT, DEFAULT_LENGTH, STEP = 32, 256, 128, 8
MANY_CUT = 0.02  # share of texts that are longer than the ids that the model gets


@dataclass
class TextModel:
    """`content`: the ONNX file with one input; `step`: makes that of a text. `facts` and `guesses` as in `Meaning`."""

    content: bytes
    tokenizer: bytes
    step: Tokenize
    facts: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)


def looks_like_texts(model: ModelFile) -> bool:
    """Whether an input has whole numbers by (batch, length): token ids, most likely."""
    return any(t.dtype in ("int64", "int32") and t.shape is not None and len(t.shape) == 2 for t in model.inputs)


def takes_only_tokens(model: ModelFile) -> bool:
    """Whether every input is one of a model of texts: ids, mask, types, positions."""
    try:
        return bool(model.inputs) and bool(roles_of(model.inputs, model.path)) and looks_like_texts(model)
    except ModelError:
        return False


def takes_one_text(model: ModelFile, request: CompressRequest) -> bool:
    """Whether every input is made of one text, by its name or as it was said."""
    try:
        return bool(model.inputs) and bool(roles_of_only(model.inputs, set(request.tokenizers), model.path))
    except ModelError:
        return False


def tokenizer_beside(model: Path) -> Path | None:
    return beside if (beside := model.parent / TOKENIZER).is_file() else None


def text_data(request: CompressRequest, **more: Any) -> Texts:
    """The data that the request names."""
    return Texts(request.calibrate, request.text_column, request.label_column, **more)


def of_the_only(request: CompressRequest) -> CompressRequest:
    """What was said of the only text by its name, as if it was said without. Raises UsageError for two of one kind."""
    for option, given in request.said_of_texts.items():
        if len(given) > 1:
            raise UsageError(f"{option}: {', '.join(given)}: {request.model} takes one text; say one")
    return replace(
        request, tokenizer=request.tokenizer or next(iter(request.tokenizers.values()), None),
        length=request.length or next(iter(request.lengths.values()), 0),
        text_column=request.text_column or next(iter(request.text_columns.values()), ""),
    )  # fmt: skip


def text_model(model: ModelFile, content: bytes, request: CompressRequest, path: Path) -> TextModel:
    """The model with one input, and the step in front of it. Raises DataError, UsageError and ModelError, with what to do.

    `path`: of the tokenizer.
    """
    _check_words(request)
    tokenizer = tokenizer_of(path)
    pad, where = pad_of(tokenizer, path)
    facts = [f"texts become token ids by {path.name}; short ones are filled with {where}"]
    if column := text_data(request).text_column:
        facts.append(f"texts come from the column {column!r}{' as said' if request.text_column else ''}")
    length = request.length or _fixed_length(model)
    if length:
        facts.append(f"{length} token ids a text, {'as said' if request.length else 'as the file takes them'}")
    data = text_data(request)
    rows = evenly_spaced_rows(len(data.texts), LOOKED_AT)
    if not len(rows):
        raise DataError(f"{data.root}: holds no text")
    length, guesses = length_of([data.texts[i].text for i in rows], tokenizer, path, length)
    step = Tokenize(file=TOKENIZER, length=length, pad=pad)
    content = with_one_input(content, model.inputs, length, pad, str(request.model), set(request.tokenizers))
    check_rows(content, step, tokenizer, request.model, path)
    _try(content, step, tokenizer, text_data(request), request.model)
    return TextModel(content, tokenizer, step, facts, guesses)


def _check_words(request: CompressRequest) -> None:
    """Raises UsageError for what is not for texts."""
    others = {
        "--io original": request.drop_in, "--prune": request.prune is not None, "--preprocess": bool(request.steps),
        "--normalize": request.normalize is not None, "--size": bool(request.shape), "--fit": request.fit is not None,
    }  # fmt: skip
    if given := [name for name, is_given in others.items() if is_given]:
        remedy = "; --length says how many token ids a text has" if given == ["--size"] else ""
        raise UsageError(f"{given[0]}: is not for a model of texts; leave it out{remedy}")


def described(model: ModelFile, path: Path) -> ModelFile:
    """The same model with the one input of the file at `path`."""
    return msgspec.structs.replace(model, inputs=read(path).inputs)


def _fixed_length(model: ModelFile) -> int:
    sizes = {tensor.shape[1] for tensor in model.inputs if tensor.shape is not None and len(tensor.shape) == 2}
    known = [size for size in sizes if size is not None and size > 0]
    if len(set(known)) > 1:
        raise ModelError(f"{model.path}: its inputs have different lengths ({', '.join(map(str, sorted(known)))})")
    return known[0] if known else 0


def _try(content: bytes, step: Tokenize, tokenizer: bytes, data: Texts, model: Path) -> None:
    """Some texts through the model in its own runtime.

    Raises ModelError where it does not take their ids, DataError where all are equal.
    """
    steps = with_files([step], lambda _: tokenizer)
    some = [data.texts[i].text for i in evenly_spaced_rows(len(data.texts), TRIED)]
    ids = np.concatenate([prepare(steps, as_bytes(text)).values for text in some])
    if len(ids) > 1 and (ids == ids[0]).all():
        raise DataError(f"{data.root}: every text becomes the same {step.length} token ids; say a longer --length, or other texts")
    try:
        with quiet():
            session_of(content).run(None, {TOKENS: ids})
    except Exception as error:  # onnxruntime's own types
        why = " ".join(str(error).split("Status Message:")[-1].split())[:200]
        raise ModelError(
            f"{model}: does not take texts of {step.length} token ids by this tokenizer ({why}); say a shorter --length, or give"
            " the tokenizer that it was trained with"
        ) from error


def length_of(texts: Sequence[str], tokenizer: bytes, path: Path, fixed: int, option: str = "--length") -> tuple[int, list[str]]:
    """How many ids a text gets: `fixed`, or (0) as many as the longest of these needs, up to a bound; and what to check of it.

    Raises DataError, and DeviceError where the library is missing.
    """
    loaded = with_files([Tokenize(file=TOKENIZER, length=4096, pad=pad_of(tokenizer, path)[0])], lambda _: tokenizer)[0]
    encoder = loaded.tokenizer  # type: ignore[attr-defined]
    encoder.no_padding()
    lengths = np.array(
        guarded(lambda: [len(encoder.encode(text).ids) for text in texts], f"--tokenizer {path}: cannot take the texts")
    )
    guesses, length = list[str](), fixed
    if not fixed:
        length = min(DEFAULT_LENGTH, -(-int(lengths.max()) // STEP) * STEP)
        guesses.append(f"{length} token ids a text: the longest of {len(lengths)} has {int(lengths.max())} ({option})")
    if (cut := float((lengths > length).mean())) > MANY_CUT:
        guesses.append(f"{cut:.0%} of the texts are longer than {length} token ids, and are cut there ({option})")
    return length, guesses
