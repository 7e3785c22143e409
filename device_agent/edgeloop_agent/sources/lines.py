"""CSV or JSON lines as they come: a file, a FIFO, a serial port, standard input."""

from __future__ import annotations

import json
import os
import re
import sys
import termios
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import msgspec
import numpy as np

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_agent.sources.byte_stream import chunks, opened
from edgeloop_agent.sources.files import MAX_LINE_CHARACTERS
from edgeloop_agent.sources.json_records import json_record
from edgeloop_agent.sources.texts import text_of_line
from edgeloop_agent.sources.width_filter import Line, WidthFilter
from edgeloop_contract.errors import DataError

SEPARATOR = re.compile(r"[;\s]\s*")  # between numbers without commas
FIRST_LINE = "the first line of a serial port: it may be incomplete"
CUT_LINE = "its writer closed the FIFO before the end of the line: it may be incomplete"
TOO_LONG = f"longer than {MAX_LINE_CHARACTERS} characters"


class LineSource:
    """A JSON line with "values" of two or more dimensions is a recording. Any other line of numbers is one point of a series:
    CSV, a JSON list, or {"t": seconds, "values": [..]}; `points` of them make a recording, and every `hop` points the next.

    A series is as wide as most of its lines; a line of another width is refused, and several such lines in a row begin another
    series. A path that vanishes (a cable pulled out) is opened again every `poll_seconds`. A regular file ends the source.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hop = settings.hop or settings.points
        self.points: deque[Line] = deque(maxlen=settings.points)
        self.until_next = settings.points
        self.width_filter = WidthFilter()
        self.count = self.unused = 0  # lines; points that are in no recording yet
        self.texts = False  # the model takes texts: each line is one
        self.of_file = settings.where != "-" and Path(settings.where).is_file()

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        for recording in self._recordings(stop, report_unavailable):
            yield msgspec.structs.replace(recording, key=f"{self.settings.where} {recording.name}") if self.of_file else recording

    def _recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        self.count = 0 if self.of_file else self.count
        for line, why in self._lines(stop, report_unavailable):
            if line is None and not why:
                yield from self._series(*self.width_filter.flush())
                continue
            self.count += 1
            name = f"line {self.count}"
            if line is None or (why and line.strip()):
                yield Recording(name, None, why)
            elif self.texts and line.strip():
                yield text_of_line(line, name)
            elif text := line.decode("utf-8", "replace").strip():
                yield from self._parsed(text, name)

    def _parsed(self, text: str, name: str) -> Iterator[Recording]:
        try:
            time, values = _point(text)
        except DataError as error:
            yield Recording(name, None, str(error))
            return
        except (ValueError, OverflowError):
            plain = text[0] not in "{["
            yield Recording(name, None, f"not JSON, nor numbers: {text[:80]!r}") if plain else json_record(text, name)
            return
        yield from self._series(*self.width_filter.add(Line(name, time, values)))

    def _series(self, mine: list[Line], others: list[Line]) -> Iterator[Recording]:
        for line in others:
            width = self.width_filter.width or "another number"
            yield Recording(line.name, None, f"{len(line.values)} numbers, most lines have {width}")
        for line in mine:
            if self.points and len(line.values) != len(self.points[-1].values):
                if self.unused:
                    left = f"lines have {len(line.values)} numbers from here on; {self.unused} points before it are left"
                    yield Recording(line.name, None, left)
                self.unused = 0
                self.points.clear()
                self.until_next = self.settings.points
            yield from self._next(line)

    def _next(self, line: Line) -> Iterator[Recording]:
        self.points.append(line)
        self.until_next -= 1
        self.unused += 1
        if self.until_next == 0:
            self.unused = 0
            self.until_next = self.hop
            times = [point.time for point in self.points]
            known = None if None in times else np.array(times, dtype=np.float64)
            yield Recording(line.name, np.array([point.values for point in self.points], dtype=np.float64), times=known)

    def _lines(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[tuple[bytes | None, str]]:
        """Lines, None for one that is too long, with the reason why a line is not usable. (None, ""): the other side has closed."""
        where = self.settings.where
        closed = f"{where}: closed at its other end"
        while not stop.is_set():
            try:
                with opened(where) as file:
                    report_unavailable("")
                    first = os.isatty(file)
                    if first:
                        _as_serial(file, self.settings.baud)
                    for line, why in _split(file, where, stop):
                        report_unavailable("" if line is not None or why else closed)
                        yield line, FIRST_LINE if first else why
                        first = False
                    yield None, ""
                    if where == "-" or Path(where).is_file():
                        return
                report_unavailable(closed)
            except OSError as error:
                report_unavailable(f"{where}: {error.strerror}")
                yield None, ""
            stop.wait(self.settings.poll_seconds)


def _split(file: int, where: str, stop: Event) -> Iterator[tuple[bytes | None, str]]:
    """Lines of a descriptor until it ends, as `LineSource._lines` gives them."""
    rest, skipping = b"", False
    for data in chunks(file, where, stop):
        if not data:  # the writer of a FIFO has gone: the next one begins a line of its own
            if rest and not skipping:
                yield rest, "" if _is_json(rest) else CUT_LINE
            rest, skipping = b"", False
            yield None, ""
            continue
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            if skipping:
                skipping = False
                yield None, TOO_LONG
            else:
                yield line, ""
        if len(rest) > MAX_LINE_CHARACTERS:
            rest, skipping = b"", True
    if rest and not skipping and not os.isatty(file):  # a cable that was pulled out may leave half a line
        yield rest, ""


def _is_json(line: bytes) -> bool:
    """Whether a line without its end is whole: a number that was cut is a number too, an object or a list is none."""
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _as_serial(file: int, baud: int) -> None:
    """Eight bits, no parity, no echo, at this speed. Raises OSError for a speed that the system does not know."""
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise OSError(22, f"{baud} baud is no speed of this system")
    settings = termios.tcgetattr(file)
    settings[0] = settings[1] = settings[3] = 0
    settings[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
    settings[4] = settings[5] = speed
    termios.tcsetattr(file, termios.TCSANOW, settings)


def _number(cell: str) -> float:
    if "_" in cell:
        raise ValueError("Python's own digits")
    return float(cell) if cell.strip() else float("nan")


def _point(text: str) -> tuple[float | None, list[float]]:
    """One point of a series. Raises DataError for what is no number in it.

    Raises ValueError or OverflowError where the line is something else.
    """
    if text[0] not in "{[":
        cells = text.split(",") if "," in text else SEPARATOR.split(text)
        return None, [_number(cell) for cell in cells]
    try:
        point = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    time = point.get("t") if isinstance(point, dict) else None
    values = point.get("values") if isinstance(point, dict) else point
    if not isinstance(values, list) or not values or any(isinstance(v, list | dict | str) for v in values):
        raise ValueError("not one point")
    if any(isinstance(v, bool) for v in values):  # numpy would read 1 and 0
        raise DataError(f"true or false among the numbers: {text[:80]!r}")
    return _time(time), [float("nan") if v is None else float(v) for v in values]


def _time(given: object) -> float | None:
    """Seconds. Raises DataError for what is no time: the whole recording would fail by it."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= sys.float_info.max:
        raise DataError(f'"t" is {str(given)[:40]!r}, and no time; send seconds as a number')
    return float(given)
