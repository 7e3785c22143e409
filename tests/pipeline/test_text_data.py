"""Texts as a project's data: files of several kinds, their columns and labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets import Texts

WORDS = [f"text number {i}, with a comma" for i in range(20)]


def written(data: Texts) -> list[str]:
    """All texts of the three splits."""
    loaded = data.load()
    parts = (loaded.train, loaded.validation, loaded.test)
    return [bytes(recording).decode() for part in parts for recording in part.recordings]


def test_every_form_gives_the_same_texts(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\ufeff" + "\n\n".join([*WORDS, WORDS[0]]), encoding="utf-8")
    (tmp_path / "table.csv").write_text("id;Text\n" + "".join(f'{i};"{text}"\n' for i, text in enumerate(WORDS)))
    (tmp_path / "table.tsv").write_text("other\tmine\n" + "".join(f"x\t{text}\n" for text in WORDS))
    (tmp_path / "objects.jsonl").write_text("".join(json.dumps({"n": i, "sentence": text}) + "\n" for i, text in enumerate(WORDS)))
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for i, text in enumerate(WORDS):
        (tmp_path / "folder" / ("inner" if i % 2 else "") / f"{i}.txt").write_text(text)
    (tmp_path / "folder" / "picture.png").write_bytes(b"not read")
    found = [
        written(Texts(tmp_path / "lines.txt")), written(Texts(tmp_path / "table.csv")), written(Texts(tmp_path / "table.tsv", "mine")),
        written(Texts(tmp_path / "objects.jsonl")), written(Texts(tmp_path / "folder")),
    ]  # fmt: skip
    assert all(texts == found[0] for texts in found) and sorted(found[0]) == sorted(WORDS)
    assert len(written(Texts(tmp_path / "lines.txt", most=10))) == 10


def test_labels_come_from_columns_names_numbers_and_folders(tmp_path: Path) -> None:
    rows = "".join(f'"{text}",{("no", "yes", "0", "1")[i % 4]}\n' for i, text in enumerate(WORDS))
    (tmp_path / "table.csv").write_text(f"text,answer\n{rows}")
    data = Texts(tmp_path / "table.csv", label_column="answer", labels=("no", "yes"), labelled=True)
    loaded = data.load()
    for part in (loaded.train, loaded.validation, loaded.test):
        numbers = [int(bytes(recording).split()[2].rstrip(b",")) for recording in part.recordings]
        assert np.array_equal(part.labels, [number % 2 for number in numbers])
    for i, text in enumerate(WORDS):
        (tmp_path / "folder" / ("no", "yes")[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / ("no", "yes")[i % 2] / f"{i}.txt").write_text(text)
    assert set(Texts(tmp_path / "folder", labels=("no", "yes"), labelled=True).load().train.labels) == {0, 1}
    with pytest.raises(DataError, match=r"its label '(no|yes)' is none of the model's"):
        Texts(tmp_path / "folder", labels=("maybe",), labelled=True).load()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"text,label\nonly one\n", "line 2: has 1 columns, the header has 2"),
        ("a.csv", b"", "has no header line"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: not an object"),
        ("a.jsonl", b'{"text": "a"}\n{"other": "b"}\n', "line 2: has no 'text'; it has other"),
        ("a.jsonl", b'{"text": "a"}\nnonsense\n', "line 2: not JSON"),
        ("a.txt", b"fine\nb\xe9d\n", "line 2 is not UTF-8 .byte 0xe9"),
        ("a.txt", b"x" * 300_000, "line 1: a text of more than 262144 bytes"),
        ("a.parquet", b"PAR1", "texts come from .txt, .csv, .tsv and .jsonl files"),
    ],
    ids=["ragged", "empty", "list", "no column", "no JSON", "latin-1", "long", "parquet"],
)
def test_what_is_wrong_is_said_with_its_line(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=why):
        _ = Texts(tmp_path / name).texts or Texts(tmp_path / name).files()


def test_the_column_text_counts_whichever_row_has_it_first(tmp_path: Path) -> None:
    rows = [{"title": f"title {i}", "text": text} for i, text in enumerate(WORDS)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Texts(tmp_path / "a.jsonl")
    assert data.text_column == "text" and sorted(written(data)) == sorted(WORDS)
    (tmp_path / "b.csv").write_text("comment,sentence\n" + "".join(f'c{i},"{text}"\n' for i, text in enumerate(WORDS)))
    assert Texts(tmp_path / "b.csv").text_column == "sentence" and Texts(tmp_path / "b.csv", "comment").text_column == "comment"


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ({"title": "a"}, "line 1: has no 'text'; it has title; add it"),
        ({"label": "neg"}, "line 1: has no 'text'; it has label; add it"),
        ({"label": "neg", "text": None}, "line 1: its 'text' is null; add it"),
        ({"label": "neg", "text": 0}, "line 1: its 'text' is 0, and no text"),
        ({"label": "neg", "text": ["a"]}, r'line 1: its .text. is \["a"\], and no text'),
        ({"text": "a\0b"}, "line 1: has zero bytes, as UTF-16 has"),
    ],
    ids=["title", "missing", "null", "number", "list", "zero bytes"],
)
def test_a_row_without_a_text_is_named_with_its_line(first: dict[str, object], why: str, tmp_path: Path) -> None:
    rows = [first, *({"text": text, "title": "x", "label": "pos"} for text in WORDS)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=why):
        Texts(tmp_path / "a.jsonl").load()


def test_labels_are_never_taken_for_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"label": "neg"}\n{"label": "pos"}\n')
    with pytest.raises(DataError, match=r"which column has the texts\? Say --text-column; it has label"):
        Texts(tmp_path / "a.jsonl").load()


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_refused(coding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(WORDS), encoding=coding)
    with pytest.raises(DataError, match=r"a.txt, line 1 has zero bytes, as UTF-16 has and no text: save it as UTF-8"):
        Texts(tmp_path / "a.txt").load()
