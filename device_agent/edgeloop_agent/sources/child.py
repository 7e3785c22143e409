"""A program whose output is read through a pipe, and which ends with the agent."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence

from edgeloop_agent.sources.live_frames import CameraGone
from edgeloop_contract.errors import DeviceError

__all__ = ["Child", "program_in"]

# The kernel ends the program with the thread that reads it, also where this process is killed. In a process of its own, because
# nothing safe can run between fork and exec of one with threads. 1: PR_SET_PDEATHSIG; 9: SIGKILL.
TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
KEPT_ERRORS = 4096  # bytes of what it says of itself
END_SECONDS = 1.0  # to end by itself, before it is killed
CHUNK = 1 << 18
PIPE_BYTES, F_SETPIPE_SZ = 1 << 20, 1031  # a program that writes whole frames waits less


def program_in(names: Sequence[str], remedy: str) -> str:
    """The path of the first program that is there. Raises DeviceError."""
    import shutil

    for name in names:
        if found := shutil.which(name):
            return found
    raise DeviceError(f"the program {' or '.join(names)} is not here; {remedy}")


class Child:
    """Started at once. Raises CameraGone where it cannot be."""

    def __init__(self, words: Sequence[str]) -> None:
        self._name = words[0].rpartition("/")[2]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-IS", "-c", TIED, *words], bufsize=0,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},  # what it says is looked at, in English
            )  # fmt: skip
        except OSError as error:
            raise CameraGone(f"{self._name} cannot be started ({error.strerror or error})") from error
        assert self._process.stdout is not None and self._process.stderr is not None
        self._out, self._said = self._process.stdout.fileno(), bytearray()
        os.set_blocking(self._out, False)
        with contextlib.suppress(OSError, ImportError):  # a small pipe does too
            import fcntl

            fcntl.fcntl(self._out, F_SETPIPE_SZ, PIPE_BYTES)
        self._listener = threading.Thread(target=self._listen, name=f"{self._name} errors", daemon=True)
        self._listener.start()

    def read(self, seconds: float) -> bytes:
        """Some bytes. Raises CameraGone when it ended, or when none come in time."""
        if not select.select([self._out], [], [], seconds)[0]:
            raise CameraGone(f"{self._name} gives nothing for {seconds:g} s{self._last_words()}")
        chunk = os.read(self._out, CHUNK)
        if not chunk:
            code = self._wait()
            raise CameraGone(f"{self._name} ended with {code}{self._last_words()}")
        return chunk

    @property
    def said(self) -> str:
        """The end of what it wrote to standard error."""
        return bytes(self._said).decode("utf-8", "replace")

    def interrupt(self) -> None:
        """End it: a reader that waits comes back."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.terminate()
        self._wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._listener.join(END_SECONDS)

    def _wait(self) -> int:
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _listen(self) -> None:
        """Take what it says, so that it never waits for us; only the end is kept."""
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            while chunk := stream.read(1 << 14):
                self.heard(chunk)
                self._said += chunk
                del self._said[:-KEPT_ERRORS]

    def heard(self, chunk: bytes) -> None:
        """What it just said of itself; for those who look for something in it."""

    def _last_words(self) -> str:
        self._listener.join(0.2)
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        return f": {lines[-1][:200]}" if lines else ""
