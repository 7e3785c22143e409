"""Sample data for a bundle that is packed: a folder, one file, or arrays and texts by input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeloop_agent.sources import Wanted
from edgeloop_agent.sources.input_tables import LABEL
from edgeloop_agent.sources.json_records import label_text
from edgeloop_agent.sources.readers import ENDINGS, read
from edgeloop_contract.arrays import Array, evenly_spaced_rows
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import TextOrArray
from edgeloop_pipeline.data.datasets.input_rows import TABLES, InputRows, input_rows
from edgeloop_pipeline.data.datasets.named_arrays import named_rows
from edgeloop_pipeline.data.datasets.texts import Texts

__all__ = ["Sample", "sample_files"]

MAX_FILES = 4096


class Sample(Protocol):
    """A recording on disk. `label`: as somebody gave it, "" where nobody did."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    def read(self) -> Array | Mapping[str, TextOrArray]:
        """One array, or an array or a text by input. It is read at each call: many pictures do not fit into memory.

        Raises DataError.
        """


@dataclass(frozen=True)
class SampleFile:
    """A file. `label`: the folder's name, "" where the file lies in no folder of its own."""

    path: Path
    label: str

    @property
    def name(self) -> str:
        return self.path.name

    def read(self) -> Array | Mapping[str, TextOrArray]:
        recording = read(self.path)
        if recording.inputs is not None:
            return recording.inputs
        if recording.values is None:
            raise DataError(f"{self.path}: {recording.refused}")
        return recording.values


@dataclass(frozen=True)
class SampleRow:
    """A row of a table, with a column for each input."""

    rows: InputRows
    number: int

    @property
    def name(self) -> str:
        return f"{self.rows.path.name}, {self.rows.rows[self.number].name}"

    @property
    def label(self) -> str:
        return label_text(self.rows.rows[self.number].values.get(LABEL))

    def read(self) -> Mapping[str, TextOrArray]:
        found: Mapping[str, TextOrArray] = self.rows[self.number]
        return found


@dataclass(frozen=True)
class SampleGiven:
    """A sample that is read already: a text, or a row of a file with texts."""

    name: str
    label: str
    given: Mapping[str, TextOrArray]

    def read(self) -> Mapping[str, TextOrArray]:
        return self.given


def sample_files(place: Path, facts: list[str], wanted: Wanted) -> Sequence[Sample]:
    """Recordings in `place`, sorted by path: pictures, sound, tables, .npy, and .npz with an array or a text for each input; of a
    model with several inputs also the rows of a table, of one of texts whatever `Texts` reads. `wanted`: the model's inputs.

    Of very many, `MAX_FILES` evenly spaced ones; `facts` says so. Raises DataError where there is none.
    """
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; check --samples")
    if len(wanted) > 1 and place.is_file() and place.suffix.lower() in TABLES:
        rows = input_rows(place, wanted)
        return _some([SampleRow(rows, i) for i in range(len(rows))], place, facts)
    if all(wanted.values()) and len(wanted) == 1 and place.suffix.lower() != ".npz":
        (name,) = wanted
        return _some([SampleGiven(text.name, text.label, {name: text.text}) for text in Texts(place).texts], place, facts)
    if any(wanted.values()) and place.is_file() and (rows_of := _rows_with_texts(place)):
        return _some(rows_of, place, facts)
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not files:
        raise DataError(f"{place}: holds no file that edgeloop reads ({', '.join(sorted(ENDINGS))})")
    return _some([SampleFile(p, p.parent.name if p.parent != place and place.is_dir() else "") for p in files], place, facts)


def _rows_with_texts(place: Path) -> list[SampleGiven]:
    """The samples along the first axes of a .npz file, where it has arrays of texts; else none."""
    given = read(place).inputs or {}
    if not any(not isinstance(values, str) and values.dtype.kind == "U" for values in given.values()):
        return []
    return [SampleGiven(f"row {i}", "", row) for i, row in enumerate(named_rows(place, given))]


def _some(found: Sequence[Sample], place: Path, facts: list[str]) -> Sequence[Sample]:
    if not found:
        raise DataError(f"{place}: has no sample; check --samples")
    if len(found) > MAX_FILES:
        facts.append(f"{MAX_FILES} of {len(found)} samples are used, evenly spaced")
    return [found[i] for i in evenly_spaced_rows(len(found), MAX_FILES)]
