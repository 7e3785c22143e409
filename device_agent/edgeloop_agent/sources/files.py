"""Recordings in files: one of them, a folder, JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import IO, TextIO

import msgspec

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.in_flight import EXCLUDED, InFlight
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_agent.sources.input_tables import file_beside
from edgeloop_agent.sources.json_records import json_record
from edgeloop_agent.sources.readers import ENDINGS, read
from edgeloop_agent.sources.texts import TEXT_ENDINGS, is_text_file, lines_of_file, text_lines, text_of_file
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
        return msgspec.structs.replace(text_of_file(path) if is_text_file(path) else read(path), key=key)


def folder(path: Path, in_flight: InFlight = NOT_TRACKED, texts: bool = False) -> Iterator[Recording]:
    """Every readable file of a folder, by name; with `texts`, .txt files too. Raises DataError when there is none."""
    endings = (*ENDINGS, *JSON_LINES, *(TEXT_ENDINGS if texts else ()))
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in endings and p.is_file())
    if not files:
        raise DataError(f"{path}: no recordings; put {', '.join(sorted(endings))} files there")
    for file in files:
        if leads_out(file):
            yield Recording(file.name, None, LEADS_OUT)
        elif file.suffix.lower() in JSON_LINES:
            yield from _json_file(file, f"{file.name} ")
        else:
            yield read_tracked(file, in_flight)


def json_lines(stream: IO[str], prefix: str = "", beside: Path | None = None) -> Iterator[Recording]:
    """One JSON object a line: {"name": …, "values": [[…], …]}, null for a missing value.

    `beside`: a folder whose files it may name.
    """
    number, files = 0, None if beside is None else partial(file_beside, beside, read)
    while line := stream.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        name = f"{prefix}line {number}"
        if len(line) > MAX_LINE_CHARACTERS:
            while line and not line.endswith("\n"):
                line = stream.readline(MAX_LINE_CHARACTERS)
            yield Recording(name, None, f"longer than {MAX_LINE_CHARACTERS} characters")
        elif line.strip():
            yield json_record(line, name, files)


def open_source(where: str, stdin: TextIO, in_flight: InFlight = NOT_TRACKED, texts: bool = False) -> Iterator[Recording]:
    """`where`: a folder, a file, or '-' for JSON lines on standard input.

    With `texts`, a line on standard input or in a .txt file is a text, and so is each .txt file of a folder.
    """
    if where == "-":
        return text_lines(stdin.buffer) if texts else json_lines(stdin)
    path = Path(where)
    if path.is_dir():
        return folder(path, in_flight, texts)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give a folder of recordings, a file, or - for standard input")
    if path.suffix.lower() in JSON_LINES:
        return _json_file(path)
    if texts and is_text_file(path):
        return lines_of_file(path)
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f"{path}: cannot read {path.suffix or 'files without an ending'}; known: {', '.join(sorted(ENDINGS))}")
    return iter([read_tracked(path, in_flight)])


def _json_file(path: Path, prefix: str = "") -> Iterator[Recording]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, recording in enumerate(json_lines(stream, prefix, path.parent), 1):
            yield msgspec.structs.replace(recording, key=f"{path} {number}")


class FileSource:
    """A file, or every file of a folder; then the source is done. After an interruption it continues there."""

    def __init__(self, settings: Settings, in_flight: InFlight = NOT_TRACKED) -> None:
        self.where, self.in_flight = settings.where, in_flight
        self.given, self.texts = 0, False

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        for number, recording in enumerate(open_source(self.where, sys.stdin, self.in_flight, self.texts), 1):
            if stop.is_set():
                return
            if number <= self.given:
                continue
            self.given = number
            yield recording
