"""Recordings in files: one of them, a folder, JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import IO, Any

import msgspec
import numpy as np

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.in_flight import EXCLUDED, InFlight
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_agent.sources.readers import ENDINGS, read
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

MAX_LINE_CHARACTERS = 16 << 20
JSON_LINES = (".jsonl", ".ndjson")
LEADS_OUT = "a symbolic link to another folder; put the file itself there"


NOT_TRACKED = InFlight()


def leads_out(path: Path) -> bool:
    """Whether it is a link to another folder: who may put recordings there must not be able to read every file of the agent."""
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve())
    except (OSError, RuntimeError):  # a circle of links
        return True


def read_tracked(path: Path, in_flight: InFlight) -> Recording:
    """Read one file, with its key. A file that ended workers before is refused unread."""
    try:
        state = path.stat()
    except OSError:
        return read(path)  # whose `refused` says why
    key = f"{path} {state.st_mtime_ns} {state.st_size}"
    if in_flight.is_excluded(key):
        return Recording(path.name, None, EXCLUDED, key=key)
    with in_flight.reading(key):
        return msgspec.structs.replace(read(path), key=key)


def folder(path: Path, in_flight: InFlight = NOT_TRACKED) -> Iterator[Recording]:
    """Every readable file of a folder, by name. Raises DataError when there is none."""
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (*ENDINGS, *JSON_LINES) and p.is_file())
    if not files:
        raise DataError(f"{path}: no recordings; put {', '.join(sorted((*ENDINGS, *JSON_LINES)))} files there")
    for file in files:
        if leads_out(file):
            yield Recording(file.name, None, LEADS_OUT)
        elif file.suffix.lower() in JSON_LINES:
            yield from _json_file(file, f"{file.name} ")
        else:
            yield read_tracked(file, in_flight)


def json_lines(stream: IO[str], prefix: str = "") -> Iterator[Recording]:
    """One JSON object a line: {"name": …, "values": [[…], …]}, null for a missing value."""
    number = 0
    while line := stream.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        name = f"{prefix}line {number}"
        if len(line) > MAX_LINE_CHARACTERS:
            while line and not line.endswith("\n"):
                line = stream.readline(MAX_LINE_CHARACTERS)
            yield Recording(name, None, f"longer than {MAX_LINE_CHARACTERS} characters")
        elif line.strip():
            yield json_record(line, name)


def json_record(line: str, name: str) -> Recording:
    """One JSON object {"name": …, "values": [[…], …], "label": …}; `refused` says what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Recording(name, None, f"not JSON: {error}")
    if isinstance(record, dict) and record.get("name") is not None:
        name = str(record["name"])
    if isinstance(record, dict) and isinstance(record.get("inputs"), dict) and record["inputs"]:
        return _by_input(record, name)
    if not isinstance(record, dict) or "values" not in record:
        return Recording(name, None, 'not an object with "values"')
    rate = record.get("rate_hz")
    rate = int(rate) if isinstance(rate, float) and rate.is_integer() else rate
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int)):
        return Recording(name, None, f'"rate_hz" is {str(rate)[:40]!r}; send points a second, a whole number')
    try:
        values = _numbers("values", record["values"])
    except DataError as error:
        return Recording(name, None, str(error))
    return Recording(name, values, label=label_text(record.get("label")), rate_hz=rate)


def _by_input(record: dict[str, Any], name: str) -> Recording:
    """{"inputs": {NAME: [...], ...}}: an array for each input of a model."""
    try:
        values = {str(part): _numbers(str(part), given) for part, given in record["inputs"].items()}
    except DataError as error:
        return Recording(name, None, str(error))
    return Recording(name, None, label=label_text(record.get("label")), inputs=values)


def _numbers(what: str, given: Any) -> Array:
    """An array of any shape. Raises DataError for what is no regular array of numbers."""
    try:
        values = np.array(given)
        if values.dtype == object:  # a null among the numbers
            values = np.array(given, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f'"{what}" is not a regular array of numbers') from error
    if values.ndim < 1 or values.dtype.kind not in "fiu":
        raise DataError(f'"{what}" has shape {values.shape} of {values.dtype}; send numbers in lists')
    return values


def label_text(label: object) -> str:
    """A label of any JSON type as text: 0 and false are labels, null means no label."""
    if label is None:
        return ""
    return str(label).lower() if isinstance(label, bool) else str(label)


def open_source(where: str, stdin: IO[str], in_flight: InFlight = NOT_TRACKED) -> Iterator[Recording]:
    """`where`: a folder, a file, or '-' for JSON lines on standard input."""
    if where == "-":
        return json_lines(stdin)
    path = Path(where)
    if path.is_dir():
        return folder(path, in_flight)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give a folder of recordings, a file, or - for standard input")
    if path.suffix.lower() in JSON_LINES:
        return _json_file(path)
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f"{path}: cannot read {path.suffix or 'files without an ending'}; known: {', '.join(sorted(ENDINGS))}")
    return iter([read_tracked(path, in_flight)])


def _json_file(path: Path, prefix: str = "") -> Iterator[Recording]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, recording in enumerate(json_lines(stream, prefix), 1):
            yield msgspec.structs.replace(recording, key=f"{path} {number}")


class FileSource:
    """A file, or every file of a folder; then the source is done. After an interruption it continues there."""

    def __init__(self, settings: Settings, in_flight: InFlight = NOT_TRACKED) -> None:
        self.where, self.in_flight = settings.where, in_flight
        self.given = 0

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        for number, recording in enumerate(open_source(self.where, sys.stdin, self.in_flight), 1):
            if stop.is_set():
                return
            if number <= self.given:
                continue
            self.given = number
            yield recording
