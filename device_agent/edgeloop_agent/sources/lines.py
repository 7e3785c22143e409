"""CSV or JSON lines as they come: a file, a FIFO, a serial port, standard input."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import termios
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.sources import Away, Recording
from edgeloop_agent.sources.files import MAX_LINE_CHARACTERS, json_record

READ_BYTES = 1 << 16
LOOK_SECONDS = 0.5


class Lines:
    """A JSON line with "values" of two or more dimensions is a recording. Any other line of numbers is one point of a series:
    CSV, a JSON list, or {"t": seconds, "values": [..]}; `points` of them make a recording, and every `hop` points the next.

    A path that vanishes (a cable pulled out) is opened again every `poll_seconds`. A regular file ends the source.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hop = settings.hop or settings.points
        self.points: deque[tuple[float | None, list[float]]] = deque(maxlen=settings.points)
        self.until_next = settings.points
        self.count = 0

    def recordings(self, stop: Event, away: Away) -> Iterator[Recording]:
        for line in self._lines(stop, away):
            self.count += 1
            yield from self._of(line)

    def _of(self, line: bytes | None) -> Iterator[Recording]:
        name = f"line {self.count}"
        if line is None:
            yield Recording(name, None, f"longer than {MAX_LINE_CHARACTERS} characters")
            return
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return
        try:
            time, values = _point(text)
        except ValueError:
            yield json_record(text, name)
            return
        if self.points and len(values) != len(self.points[-1][1]):
            yield Recording(name, None, f"{len(values)} numbers, the line before had {len(self.points[-1][1])}")
            return
        self.points.append((time, values))
        self.until_next -= 1
        if self.until_next == 0:
            self.until_next = self.hop
            times = [t for t, _ in self.points]
            known = None if None in times else np.array(times, dtype=np.float64)
            yield Recording(name, np.array([v for _, v in self.points], dtype=np.float64), times=known)

    def _lines(self, stop: Event, away: Away) -> Iterator[bytes | None]:
        """Whole lines; None for one that is too long."""
        while not stop.is_set():
            try:
                with self._opened() as file:
                    away("")
                    yield from _split(file, stop)
                    if self.settings.where == "-" or Path(self.settings.where).is_file():
                        return
                away(f"{self.settings.where}: closed at its other end")
            except OSError as error:
                away(f"{self.settings.where}: {error.strerror}")
            stop.wait(self.settings.poll_seconds)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        if self.settings.where == "-":
            yield sys.stdin.fileno()
            return
        # Without waiting for a FIFO's writer, or for a modem line that never rises.
        file = os.open(self.settings.where, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if os.isatty(file):
                _as_serial(file, self.settings.baud)
            yield file
        finally:
            os.close(file)


def _split(file: int, stop: Event) -> Iterator[bytes | None]:
    """Lines of a descriptor until it ends. Looks at `stop` twice a second."""
    rest, skipping, seen = b"", False, False
    while not stop.is_set():
        ready, _, _ = select.select([file], [], [], LOOK_SECONDS)
        if not ready:
            continue
        try:
            data = os.read(file, READ_BYTES)
        except BlockingIOError:
            continue
        if not data:
            if not seen and _is_fifo(file):  # nobody writes yet
                stop.wait(LOOK_SECONDS)
                continue
            break
        seen = True
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            if skipping:
                skipping = False
                yield None
            else:
                yield line
        if len(rest) > MAX_LINE_CHARACTERS:
            rest, skipping = b"", True
    if rest and not skipping:
        yield rest


def _is_fifo(file: int) -> bool:
    import stat

    return stat.S_ISFIFO(os.fstat(file).st_mode)


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


def _point(text: str) -> tuple[float | None, list[float]]:
    """One point of a series. Raises ValueError where the line is something else."""
    if text[0] not in "{[":
        return None, [float(cell) if cell.strip() else float("nan") for cell in text.split(",")]
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    time = found.get("t") if isinstance(found, dict) else None
    values = found.get("values") if isinstance(found, dict) else found
    if not isinstance(values, list) or not values or any(isinstance(v, list | dict | str | bool) for v in values):
        raise ValueError("not one point")
    if time is not None and (isinstance(time, bool) or not isinstance(time, int | float)):
        raise ValueError("a time that is no number")
    return time, [float("nan") if v is None else float(v) for v in values]
