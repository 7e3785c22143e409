"""Recordings in files: one of them, a folder, JSON lines; and a folder that is watched for new ones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import IO

import msgspec
import numpy as np

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Away, Recording
from edgeloop_agent.sources.readers import READERS, read
from edgeloop_contract.errors import DataError

MAX_LINE_CHARACTERS = 16 << 20


def folder(path: Path) -> Iterator[Recording]:
    """Every readable file of a folder, by name. Raises DataError when there is none."""
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in READERS and p.is_file())
    if not files:
        raise DataError(f"{path}: no recordings; put {', '.join(sorted(READERS))} files there")
    for file in files:
        yield _read_inside(file, path)


def _read_inside(file: Path, folder: Path) -> Recording:
    """A link that leads out of the folder is not followed: whoever may put recordings there may not read every file of ours."""
    if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
        return Recording(file.name, None, "a symbolic link that leads out of its folder; put the file itself there")
    return read(file)


def json_lines(stream: IO[str]) -> Iterator[Recording]:
    """One JSON object a line: {"name": …, "values": [[…], …]}, null for a missing value."""
    number = 0
    while line := stream.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        name = f"line {number}"
        if len(line) > MAX_LINE_CHARACTERS:
            while line and not line.endswith("\n"):
                line = stream.readline(MAX_LINE_CHARACTERS)
            yield Recording(name, None, f"longer than {MAX_LINE_CHARACTERS} characters")
        elif line.strip():
            yield json_record(line, name)


def json_record(line: str, name: str) -> Recording:
    """One JSON object {"name": …, "values": [[…], …], "label": …}; what is wrong with it is reported in `refused`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Recording(name, None, f"not JSON: {error}")
    if isinstance(record, dict):
        name = str(record.get("name", name))
    if not isinstance(record, dict) or "values" not in record:
        return Recording(name, None, 'not an object with "values"')
    try:
        values = np.array(record["values"])
        if values.dtype == object:  # a null among the numbers
            values = np.array(record["values"], dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return Recording(name, None, '"values" is not a regular array of numbers')
    if values.ndim < 2 or values.dtype.kind not in "fiu":
        return Recording(name, None, f'"values" has shape {values.shape} of {values.dtype}; send rows of channels')
    return Recording(name, values, label=str(record.get("label") or ""))


def open_source(where: str, stdin: IO[str]) -> Iterator[Recording]:
    """`where`: a folder, a file, or '-' for JSON lines on standard input."""
    if where == "-":
        return json_lines(stdin)
    path = Path(where)
    if path.is_dir():
        return folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give a folder of recordings, a file, or - for standard input")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_file(path)
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: cannot read {path.suffix or 'files without an ending'}; known: {', '.join(sorted(READERS))}")
    return iter([read(path)])


def _json_file(path: Path) -> Iterator[Recording]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        yield from json_lines(stream)


def _nothing() -> None: ...


def _state(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """None for what is no file, vanished meanwhile, or is a link that leads in a circle."""
    try:
        told = entry.stat()
        return (told.st_mtime_ns, told.st_size) if entry.is_file() else None
    except OSError:
        return None


class Watch:
    """A folder: every readable file in it once, by name, and then every new one. A file counts when its size stands still.

    With `after: delete` a file goes once it is answered; kept ones are remembered for as long as they are there, and a restart
    answers them again. A folder that vanishes (a stick pulled out) is waited for.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.folder = settings, Path(settings.where)
        self.seen: dict[str, tuple[int, int]] = {}

    def recordings(self, stop: Event, away: Away) -> Iterator[Recording]:
        before: dict[str, tuple[int, int]] = {}
        while not stop.is_set():
            now = self._listing(away)
            self.seen = {name: state for name, state in self.seen.items() if name in now}
            for name in sorted(now):
                if stop.is_set():
                    return
                if now[name] == before.get(name) and self.seen.get(name) != now[name]:
                    self.seen[name] = now[name]
                    path = self.folder / name
                    done = partial(path.unlink, missing_ok=True) if self.settings.after == "delete" else _nothing
                    yield msgspec.structs.replace(_read_inside(path, self.folder), done=done)
            before = now
            stop.wait(self.settings.poll_seconds)

    def _listing(self, away: Away) -> dict[str, tuple[int, int]]:
        found = {}
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if Path(entry.name).suffix.lower() in READERS and (state := _state(entry)) is not None:
                        found[entry.name] = state
        except OSError as error:
            away(f"{self.folder}: {error.strerror}")
            return {}
        away("")
        return found


class Once:
    """A file, or every file of a folder; then the source is done."""

    def __init__(self, settings: Settings) -> None:
        self.where = settings.where

    def recordings(self, stop: Event, away: Away) -> Iterator[Recording]:
        for recording in open_source(self.where, sys.stdin):
            if stop.is_set():
                return
            yield recording
