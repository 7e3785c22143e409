"""A model of texts: its tokenizer, the length of its token ids, and its one input."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.arrays import Array, evenly_spaced_rows
from edgeloop_contract.errors import DataError, ModelError, UsageError
from edgeloop_contract.preprocessing import Tokenize, as_bytes, prepare, with_files
from edgeloop_contract.preprocessing.tokens import MAX_TOKENIZER_BYTES, PAD_TOKENS, guarded
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.quiet import quiet
from edgeloop_exporters.token_inputs import TOKENS, roles_of, smallest_table, with_one_input
from edgeloop_pipeline.data.datasets.texts import Texts
from edgeloop_pipeline.importing.request import CompressRequest

__all__ = [
    "TOKENIZER",
    "TextModel",
    "described",
    "looks_like_texts",
    "takes_only_tokens",
    "text_data",
    "text_model",
    "tokenizer_beside",
]

TOKENIZER = "tokenizer.json"
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


def tokenizer_beside(model: Path) -> Path | None:
    return beside if (beside := model.parent / TOKENIZER).is_file() else None


def text_data(request: CompressRequest, **more: Any) -> Texts:
    """The data that the request names."""
    return Texts(request.calibrate, request.text_column, request.label_column, **more)


def text_model(model: ModelFile, content: bytes, request: CompressRequest, path: Path) -> TextModel:
    """The model with one input, and the step in front of it. Raises DataError, UsageError and ModelError, with what to do.

    `path`: of the tokenizer.
    """
    _check_words(request)
    tokenizer = _tokenizer_of(path)
    pad, where = _pad_of(tokenizer, path)
    facts, guesses = [f"texts become token ids by {path.name}; short ones are filled with {where}"], list[str]()
    if column := text_data(request).text_column:
        facts.append(f"texts come from the column {column!r}{' as said' if request.text_column else ''}")
    length = request.length or _fixed_length(model)
    if length:
        facts.append(f"{length} token ids a text, {'as said' if request.length else 'as the file takes them'}")
    lengths = _lengths(tokenizer, text_data(request), path)
    if not length:
        longest = -(-int(lengths.max()) // STEP) * STEP
        length = min(DEFAULT_LENGTH, longest)
        guesses.append(f"{length} token ids a text: the longest of {len(lengths)} has {int(lengths.max())} (--length)")
    if (cut := float((lengths > length).mean())) > MANY_CUT:
        guesses.append(f"{cut:.0%} of the texts are longer than {length} token ids, and are cut there (--length)")
    step = Tokenize(file=TOKENIZER, length=length, pad=pad)
    content = with_one_input(content, model.inputs, length, pad, str(request.model))
    _check_rows(content, step, tokenizer, request.model, path)
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


def _tokenizer_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise DataError(f"--tokenizer {path}: has more than {MAX_TOKENIZER_BYTES >> 20} MB; is it a tokenizer.json?")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--tokenizer {path}: cannot be read ({error.strerror or error})") from error


def _pad_of(tokenizer: bytes, path: Path) -> tuple[int, str]:
    """The id that fills short texts, and its name in words. Raises DataError where the tokenizer says none."""
    try:
        parsed = msgspec.json.decode(tokenizer)
        padding = parsed.get("padding") or {}
        if isinstance(padding.get("pad_id"), int):
            return padding["pad_id"], f"{padding.get('pad_token')} ({padding['pad_id']})"
        added = {token["content"]: token["id"] for token in parsed.get("added_tokens") or []}
        vocabulary = parsed["model"].get("vocab") or {}
        known = dict(vocabulary) if isinstance(vocabulary, dict) else {pair[0]: i for i, pair in enumerate(vocabulary)}
        known |= added
    except (msgspec.MsgspecError, UnicodeDecodeError, AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"--tokenizer {path}: is no tokenizer.json ({' '.join(str(error).split())[:200]})") from error
    for token in PAD_TOKENS:
        if token in known:
            return int(known[token]), f"{token} ({known[token]})"
    raise DataError(
        f"--tokenizer {path}: names no token that fills short texts ({', '.join(PAD_TOKENS[:2])} or the like); add its `padding`"
    )


def _fixed_length(model: ModelFile) -> int:
    sizes = {tensor.shape[1] for tensor in model.inputs if tensor.shape is not None and len(tensor.shape) == 2}
    known = [size for size in sizes if size is not None and size > 0]
    if len(set(known)) > 1:
        raise ModelError(f"{model.path}: its inputs have different lengths ({', '.join(map(str, sorted(known)))})")
    return known[0] if known else 0


def _check_rows(content: bytes, step: Tokenize, tokenizer: bytes, model: Path, path: Path) -> None:
    """Raises DataError where the tokenizer makes ids that the model has no row for: a device would fail at such a text."""
    table = smallest_table(content, str(model))
    loaded = with_files([step], lambda _: tokenizer)[0]
    highest = max(loaded.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)  # type: ignore[attr-defined]
    if table is not None and highest >= table[1]:
        raise DataError(
            f"--tokenizer {path}: its token ids go up to {highest}, and {model} has a table of {table[1]} rows for them"
            f" ({table[0]}); give the tokenizer that the model was trained with"
        )


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


def _lengths(tokenizer: bytes, data: Texts, path: Path) -> Array:
    """How many ids some of the texts have, uncut. Raises DataError, and DeviceError where the library is missing."""
    loaded = with_files([Tokenize(file=TOKENIZER, length=4096, pad=_pad_of(tokenizer, path)[0])], lambda _: tokenizer)[0]
    encoder = loaded.tokenizer  # type: ignore[attr-defined]
    encoder.no_padding()
    rows = evenly_spaced_rows(len(data.texts), LOOKED_AT)
    if not len(rows):
        raise DataError(f"{data.root}: holds no text")
    texts = [data.texts[i].text for i in rows]
    return np.array(
        guarded(lambda: [len(encoder.encode(text).ids) for text in texts], f"--tokenizer {path}: cannot take the texts")
    )
