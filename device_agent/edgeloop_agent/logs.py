"""Log lines that a person can read and a machine can parse: time, level, what happened, then key=value (logfmt)."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import IO

__all__ = ["Log", "Recurring"]

SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
AGAIN_SECONDS = 60.0  # before the same fault, come back, is said again
KEPT_LINES, MAX_KEPT = 100, 500  # for the page on the device
MAX_WAITING = 1_000  # lines for a disk or a reader that does not take them
LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Writes lines to a stream; never raises: a full disk or a closed terminal must not stop inference."""

    def __init__(self, level: str = "info", stream: IO[str] | None = None) -> None:
        self._least, self._stream, self._lock = LEVELS.index(level), stream, threading.Lock()
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)
        self._waiting: deque[str] = deque()
        self._changed, self._lost = threading.Condition(), 0
        self._thread: threading.Thread | None = None

    def in_background(self) -> None:
        """Let a thread write from now on: whoever logs waits for no disk. `flush` at the end."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def flush(self, seconds: float) -> None:
        """Wait until all lines are written, for at most `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds if self._thread is not None else 0)

    def __call__(self, level: str, event: str, **fields: object) -> None:
        if LEVELS.index(level) < self._least:
            return
        line = f"{_now()} {level:7} {event}{''.join(f' {k}={_quoted(v)}' for k, v in fields.items())}\n"
        self.recent.append(line.rstrip("\n")[:MAX_KEPT])
        if self._thread is None:
            self._write(line)
            return
        with self._changed:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(line)
            else:
                self._lost += 1
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                line, lost = self._waiting[0], self._lost
                self._lost = 0
            self._write(line)
            if lost:
                self._write(f"{_now()} warning log lines are lost: nothing took them count={lost}\n")
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()

    def _write(self, line: str) -> None:
        try:
            with self._lock:
                stream = self._stream or sys.stderr
                stream.write(line)
                stream.flush()
        except (OSError, ValueError):
            pass

    def warnings_after(self, line: str) -> list[str]:
        """The kept lines of warnings and errors behind this one; all of them where it is none of these."""
        lines = [kept for kept in list(self.recent) if kept.split(" ", 2)[1] in ("warning", "error")]
        return lines[lines.index(line) + 1 :] if line in lines else lines


@dataclass
class Recurring:
    """A fault that may last or come and go: one line when it begins or changes, at most one a minute, and one when it is over."""

    log: Log
    begins: str
    ends: str
    fields: dict[str, object] = field(default_factory=dict)
    _why: str = ""
    _said: tuple[str, float] = ("", 0.0)  # the last line of a beginning, and when another one may come
    _is_said: bool = False  # of the present fault

    def fails(self, why: object) -> None:
        text, now = str(why), time.monotonic()
        if text != self._why:
            self._why, self._is_said = text, False
        if not self._is_said and (text != self._said[0] or now >= self._said[1]):
            self._said, self._is_said = (text, now + AGAIN_SECONDS), True
            self.log("error", self.begins, **self.fields, why=text)

    def works(self) -> None:
        if self._why and self._is_said:
            self.log("info", self.ends, **self.fields)
        self._why, self._is_said = "", False


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if text and text.isascii() and text.isprintable() and not any(c in text for c in ' "='):
        return text
    if text and text.isprintable() and not any(c in text for c in ' "=\\'):
        return text
    escaped = "".join(SHORT.get(c) or (c if c.isprintable() else _code(c)) for c in text)
    return f'"{escaped}"'


def _code(c: str) -> str:
    """Of a character that would do something to a terminal, or is none (half of a pair, a byte of a file name)."""
    number = ord(c)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"
