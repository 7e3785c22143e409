"""Faults for the agent's worker, put into its runtime from outside: imported by Python at its start, from PYTHONPATH.

$FAULT names a file whose first word says what the next inference does; the file is taken away first, so that it happens once.
$SLOW: seconds that every inference takes longer. Reading a file called segfault.csv or killed.csv ends the process so; a recording
with more than 9000 in it ends it while it is answered.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def _armed() -> str:
    path = Path(os.environ["FAULT"])
    try:
        what = path.read_text().strip()
        path.unlink()
    except OSError:
        return ""
    return what


def _spoil(runtime: Any) -> None:
    plain = runtime.run

    def run(self: object, samples: Any) -> object:
        what = _armed()
        if samples.max() > 9000:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(10)
        time.sleep(float(os.environ.get("SLOW", "0")))
        if what == "hang":
            time.sleep(3600)
        elif what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "raise":
            raise RuntimeError("the runtime gives up")
        return plain(self, samples)

    runtime.run = run


def _slow(session: Any) -> None:
    """Of models with named tensors."""
    plain = session.feed

    def feed(self: object, tensors: Any) -> object:
        time.sleep(float(os.environ.get("SLOW", "0")))
        return plain(self, tensors)

    session.feed = feed


def _poison(readers: dict) -> None:
    plain = readers[".csv"]

    def read(path: Path) -> object:
        if path.stem in ("segfault", "killed"):
            os.kill(os.getpid(), signal.SIGSEGV if path.stem == "segfault" else signal.SIGKILL)
            time.sleep(10)  # the signal may find another thread first
        return plain(path)

    readers[".csv"] = read


class _Finder:
    """Spoils the runtimes as they are imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "edgeloop_agent.loop":
            sys.meta_path.remove(self)
            from edgeloop_agent.runtimes import onnx, tflite

            _spoil(onnx._Session)
            _slow(onnx._Session)
            _spoil(tflite._Interpreter)
            from edgeloop_agent.sources.readers import READERS

            _poison(READERS)


if "FAULT" in os.environ and "edgeloop_agent.worker" in " ".join(sys.orig_argv):
    sys.meta_path.insert(0, _Finder())
