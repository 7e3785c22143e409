"""A tokenizer.json as a person gives it: read, its padding, and whether a model has a row for each of its ids."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.preprocessing import Tokenize, with_files
from edgeloop_contract.preprocessing.tokens import MAX_TOKENIZER_BYTES, PAD_TOKENS
from edgeloop_exporters.token_inputs import TOKENS, smallest_table

__all__ = ["TOKENIZER", "check_rows", "file_names", "pad_of", "tokenizer_of"]

TOKENIZER = "tokenizer.json"


def file_names(tokenizers: Iterable[bytes]) -> dict[bytes, str]:
    """A name in the bundle for each different one."""
    return {data: f"tokenizer-{i}.json" if i > 1 else TOKENIZER for i, data in enumerate(dict.fromkeys(tokenizers), 1)}


def tokenizer_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise DataError(f"--tokenizer {path}: has more than {MAX_TOKENIZER_BYTES >> 20} MB; is it a tokenizer.json?")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--tokenizer {path}: cannot be read ({error.strerror or error})") from error


def pad_of(tokenizer: bytes, path: Path) -> tuple[int, str]:
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


def check_rows(content: bytes, step: Tokenize, tokenizer: bytes, model: Path, path: Path, door: str = TOKENS) -> None:
    """Raises DataError where the tokenizer makes ids that the model has no row for: a device would fail at such a text."""
    table = smallest_table(content, str(model), door)
    loaded = with_files([step], lambda _: tokenizer)[0]
    highest = max(loaded.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)  # type: ignore[attr-defined]
    if table is not None and highest >= table[1]:
        raise DataError(
            f"--tokenizer {path}: its token ids go up to {highest}, and {model} has a table of {table[1]} rows for them"
            f" ({table[0]}); give the tokenizer that the model was trained with"
        )
