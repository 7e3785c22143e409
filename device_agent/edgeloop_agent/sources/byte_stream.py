"""Bytes as they come: from standard input, a file, a serial port, or a FIFO whose writers come and go."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

__all__ = ["READ_BYTES", "chunks", "opened"]

READ_BYTES = 1 << 16
WAIT_SECONDS = 0.5


@contextlib.contextmanager
def opened(where: str) -> Iterator[int]:
    """A descriptor of `where`, "-" for standard input. Waits neither for a FIFO's writer nor for a modem line."""
    if where == "-":
        yield sys.stdin.fileno()
        return
    file = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def chunks(file: int, where: str, stop: Event) -> Iterator[bytes]:
    """What is read, until its end; `stop` is looked at twice a second.

    A FIFO has no end: b"" says that its last writer has closed it. It stays open, so that no byte of the next writer is lost, until
    another file is at its path. Writers that follow each other before it is read look like one.
    """
    fifo = where != "-" and stat.S_ISFIFO(os.fstat(file).st_mode)
    spoke = at_once = False  # at once: look whether the writer has gone, without waiting: the next one may be near
    while not stop.is_set():
        if not at_once and not select.select([file], [], [], WAIT_SECONDS)[0]:
            if fifo and not spoke and not _anew(file, where):
                return
            continue
        try:
            data = os.read(file, READ_BYTES)
        except BlockingIOError:
            at_once = False
            continue
        at_once = fifo and bool(data)
        if data:
            spoke = True
            yield data
        elif not fifo:
            return
        else:
            if spoke:
                yield b""
            spoke = False
            if not _anew(file, where):
                return


def _anew(file: int, where: str) -> bool:
    """Let the descriptor be as one that never had a writer: else it would be ready all the time. False: another file is there."""
    try:
        if not os.path.samestat(Path(where).stat(), os.fstat(file)):  # not even opened: its writer would see a reader that leaves
            return False
        other = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        same = os.path.samestat(os.fstat(other), os.fstat(file))
        if same:
            os.dup2(other, file, inheritable=False)
        return same
    finally:
        os.close(other)
