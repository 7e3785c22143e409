"""The step `tokenize`: texts to ids as the tokenizers library makes them, and one sentence for everything else."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgeloop_contract.errors import DataError, DeviceError
from edgeloop_contract.preprocessing import Tokenize, as_bytes, prepare, sizes_after, takes_texts, with_files
from token_models import sentences, tokenizer

TEXTS = [text for text, _ in sentences(60)]


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer(tmp_path_factory.mktemp("tokens") / "tokenizer.json", TEXTS, request.param)


def loaded(file: Path, length: int = 16, pad: int = 0) -> list:
    return with_files([Tokenize(file="tokenizer.json", length=length, pad=pad)], {"tokenizer.json": file.read_bytes()}.__getitem__)


def test_ids_are_those_of_the_library(file: Path) -> None:
    from tokenizers import Tokenizer

    plain, steps = Tokenizer.from_file(str(file)), loaded(file)
    assert takes_texts(steps) and sizes_after(steps) == {0: 16}
    for text in [*TEXTS, "Ünïcode, 日本語 and 😀", "x"]:
        prepared = prepare(steps, as_bytes(text))
        ids, wanted = prepared.values[0], plain.encode(text).ids
        assert prepared.values.shape == (1, 16) and ids.dtype == np.int32
        if len(wanted) <= 16:
            assert ids.tolist() == [*wanted, *[0] * (16 - len(wanted))]
        else:  # the special token at the end stays
            assert ids.tolist() == [*wanted[:15], wanted[-1]]


def test_what_is_no_text_is_refused(file: Path) -> None:
    steps = loaded(file)
    for values, why in (
        (as_bytes(" \n"), "the text is empty"),
        (np.frombuffer(b"a\xff", np.uint8), "not UTF-8 .byte 1"),
        (np.zeros((4, 2), np.float32), "the model takes texts"),
        (np.full(300_000, 97, np.uint8), "300000 bytes; at most 262144"),
    ):
        with pytest.raises(DataError, match=why):
            prepare(steps, values)
    with pytest.raises(DataError, match="not Unicode"):
        as_bytes("\ud800")


def test_a_file_that_is_no_tokenizer_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({"version": "1.0", "model": {"type": "WordPiece"}}))
    (tmp_path / "raw").write_bytes(bytes(range(256)))
    for name, why in (("bad.json", "is no tokenizer.json"), ("raw", "is no tokenizer.json")):
        with pytest.raises(DataError, match=why):
            loaded(tmp_path / name)
    with pytest.raises(DataError, match="has no token 99999"):
        loaded(file, pad=99999)
    with pytest.raises(DataError, match="2 are its special tokens"):
        loaded(file, length=2)
    with pytest.raises(DataError, match="is not loaded"):
        prepare([Tokenize(file="tokenizer.json", length=8)], as_bytes("a"))


def test_a_spoiled_file_is_one_sentence_or_works(file: Path) -> None:
    """The library panics on some of these."""
    rng, whole = random.Random(3), file.read_bytes()
    made: Counter[str] = Counter()
    for _ in range(150):
        content = bytearray(whole)
        place = rng.randrange(len(content))
        if rng.random() < 0.5:
            content[place] = rng.choice(b'0123456789{}[]",:-')
        else:
            del content[place : place + rng.randrange(1, 40)]
        step = Tokenize(file="tokenizer.json", length=16)
        try:
            (steps := with_files([step], {"tokenizer.json": bytes(content)}.__getitem__))
            made[str(prepare(steps, as_bytes("old storm é")).values.shape)] += 1
        except DataError as error:
            made["refused"] += "\n" not in str(error)
    assert set(made) == {"(1, 16)", "refused"} and sum(made.values()) == 150


def test_a_device_without_the_library_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DeviceError, match=r"pip install 'edgeloop\[text\]'"):
        loaded(file)
