"""Texts for a model that is trained already: a folder of .txt files, a file with a text a line, or a column of a table."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeloop_agent.sources.tables import delimiter_of
from edgeloop_agent.sources.texts import decoded
from edgeloop_contract.arrays import evenly_spaced_rows
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import as_bytes
from edgeloop_contract.preprocessing.tokens import MAX_TEXT_BYTES, NULS
from edgeloop_pipeline.data.datasets.recordings import MIN_RECORDINGS, sides_of
from edgeloop_pipeline.data.datasets.scanning import is_hidden
from edgeloop_pipeline.data.types import Split, Splits

__all__ = ["Text", "Texts"]

LINES, TABLES, OBJECTS = (".txt",), (".csv", ".tsv"), (".jsonl", ".ndjson")
COLUMNS = ("text", "sentence", "content", "review", "message", "question", "utterance", "document", "body", "comment")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "topic", "sentiment")  # never taken for texts unasked
MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class Text:
    """One text. `label`: of its column or folder, "" where there is none; `name`: its file or line."""

    text: str
    label: str
    name: str


@dataclass(frozen=True)
class Texts:
    """Texts for a model that is trained already: half calibrate, a quarter choose, a quarter test.

    `root`: a folder of .txt files in any subfolders, each one text; a .txt file with a text a line; or a .csv, .tsv or .jsonl
    file with a column of texts. `column`: its name; "" for one that any row has, called text,
    sentence or the like, or the only one.
    `label_column`: where labels are. `labels`: names of the model's classes; `labelled`: the texts' labels, or folders' names,
    are among them. Of more than `most` texts, evenly spaced ones are used. Equal texts count once.
    """

    root: Path
    column: str = ""
    label_column: str = ""
    labels: tuple[str, ...] = ()
    labelled: bool = False
    most: int = 1024

    def files(self) -> Sequence[Path]:
        """The files that are read. Raises DataError where there is none."""
        if not self.root.exists():
            raise DataError(f"{self.root}: no such file or folder; correct the path")
        if self.root.is_file():
            if self.root.suffix.lower() not in (*LINES, *TABLES, *OBJECTS):
                raise DataError(f"{self.root}: texts come from .txt, .csv, .tsv and .jsonl files, or a folder of .txt files")
            return [self.root]
        inside = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in LINES and p.is_file())
        found = [p for p in inside if not any(map(is_hidden, p.relative_to(self.root).parts))]
        if not found:
            raise DataError(f"{self.root}: holds no .txt file; give a folder of texts, or one file with a text a line")
        return found

    @cached_property
    def texts(self) -> list[Text]:
        """The distinct texts in the order of their digests: the same on every machine. Raises DataError for what cannot be read."""
        distinct: dict[str, Text] = {}
        for text in self._all():
            if len(text.text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
                raise DataError(f"{self.root}, {text.name}: a text of more than {MAX_TEXT_BYTES} bytes; divide it")
            if "\0" in text.text:
                raise DataError(f"{self.root}, {text.name}: {NULS}")
            distinct.setdefault(hashlib.sha256(text.text.encode("utf-8", "surrogatepass")).hexdigest(), text)
        ordered = [distinct[digest] for digest in sorted(distinct)]
        return [ordered[i] for i in evenly_spaced_rows(len(ordered), self.most)]

    def load(self) -> Splits:
        texts = self.texts
        if len(texts) < MIN_RECORDINGS:
            raise DataError(f"{self.root}: {len(texts)} different texts; at least {MIN_RECORDINGS} are needed, and 200 are good")
        sides, made = sides_of(len(texts)), []
        truth = [self._label(text) for text in texts] if self.labelled else [0] * len(texts)
        for number in range(3):
            rows = [i for i, side in enumerate(sides) if side == number]
            names = [texts[i].name for i in rows]
            made.append(Split([as_bytes(texts[i].text) for i in rows], np.array([truth[i] for i in rows]), np.array(names), names))
        return Splits(self.labels or ("answer",), *made)

    def _label(self, text: Text) -> int:
        if text.label in self.labels:
            return self.labels.index(text.label)
        if text.label.isdecimal() and int(text.label) < len(self.labels):
            return int(text.label)
        raise DataError(
            f"{self.root}, {text.name}: its label {text.label!r} is none of the model's; correct it, or leave labels out"
        )

    def _all(self) -> Iterator[Text]:
        if self.root.is_dir():
            for path in self.files():
                text = _content(path).strip()
                if text:
                    yield Text(text, "" if path.parent == self.root else path.parent.name, str(path.relative_to(self.root)))
            return
        if self._rows is not None:
            yield from self._of_rows(self._rows)
            return
        (path,) = self.files()
        lines = enumerate(_content(path).splitlines(), 1)
        yield from (Text(line.strip(), "", f"line {i}") for i, line in lines if line.strip())

    @cached_property
    def text_column(self) -> str:
        """The column of texts; "" where the data are no table. Raises DataError where no column is one, or a row cannot be read."""
        return "" if self._rows is None else self._column(self._rows)

    @cached_property
    def _rows(self) -> list[tuple[int, dict[str, object]]] | None:
        """All rows with their lines; None where the data are no table."""
        if self.root.is_dir():
            return None
        (path,) = self.files()
        ending = path.suffix.lower()
        if ending in LINES:
            return None
        return list(_objects(path, _content(path)) if ending in OBJECTS else _table(path, _content(path)))

    def _of_rows(self, rows: list[tuple[int, dict[str, object]]]) -> Iterator[Text]:
        column, label = self.text_column, self.label_column
        for line, row in rows:
            for name in filter(None, (column, label)):
                if row.get(name) is None:
                    what = f"its {name!r} is null" if name in row else f"has no {name!r}; it has {', '.join(row)[:200]}"
                    raise DataError(f"{self.root}, line {line}: {what}; add it, or leave the line out")
            text = row[column]
            if not isinstance(text, str):
                shown = json.dumps(text, ensure_ascii=False)[:40]
                raise DataError(f"{self.root}, line {line}: its {column!r} is {shown}, and no text; name another --text-column")
            if text.strip():
                yield Text(text.strip(), self._plain(row[label], line) if label else "", f"line {line}")

    def _plain(self, value: object, line: int) -> str:
        """A label as text. Raises DataError for a list or an object."""
        if not isinstance(value, str | int | float):
            raise DataError(f"{self.root}, line {line}: its {self.label_column!r} is a list or an object, and no label")
        return str(value).lower() if isinstance(value, bool) else str(value).strip()

    def _column(self, rows: list[tuple[int, dict[str, object]]]) -> str:
        if self.column:
            return self.column
        names = list(dict.fromkeys(name for _, row in rows for name in row))
        plain = {name.strip().lower(): name for name in reversed(names)}
        usual = next((plain[name] for name in COLUMNS if name in plain), "")
        alone = [
            name for name in names if len(names) == 1 and name.strip().lower() not in (*LABEL_COLUMNS, self.label_column.lower())
        ]
        found = usual or next(iter(alone), "")
        if names and not found:
            raise DataError(f"{self.root}: which column has the texts? Say --text-column; it has {', '.join(names)[:200]}")
        return found


def _content(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: has more than {MAX_FILE_BYTES >> 20} MB; give a part of it")
        return decoded(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; repair or remove it") from error
    except DataError as error:
        raise error if str(error).startswith(str(path)) else DataError(f"{path}, {error}") from error


def _table(path: Path, content: str) -> Iterator[tuple[int, dict[str, object]]]:
    separator = "\t" if path.suffix.lower() == ".tsv" else delimiter_of(content)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
    try:
        names = next(reader, [])
        if not names:
            raise DataError(f"{path}: has no header line; its first line names the columns")
        for row in reader:
            if row and len(row) != len(names):
                raise DataError(f"{path}, line {reader.line_num}: has {len(row)} columns, the header has {len(names)}")
            if row:
                yield reader.line_num, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _objects(path: Path, content: str) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {number}: not an object with a "text"')
        yield number, row
