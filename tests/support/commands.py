"""Our commands as a user runs them, and what they say."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

BIN = Path(sys.executable).parent
HERE = Path(__file__).parents[1]  # tests/
TINY = HERE / "projects" / "tiny"
TIMEOUT_SECONDS = 300
ONNX = "--set=export.runtimes=[onnx]"  # where it is not about TFLite: its converter takes half of a small run's time


def command(*words: object, cwd: Path | None = None, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of our commands as a user would."""
    full = [str(BIN / str(words[0])), *map(str, words[1:])]
    return subprocess.run(
        full, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, env={**os.environ, **env}
    )


def edgeloop_here(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    """`command("edgeloop", ...)` in this process, where it is not about processes: a new one would mostly import torch."""
    from edgeloop_pipeline.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        mock.patch.dict(os.environ, env),
        mock.patch.object(sys, "argv", ["edgeloop", *map(str, words)]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main()
            except SystemExit as left:  # how a command leaves with a code of its own
                code = int(left.code or 0)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return subprocess.CompletedProcess(["edgeloop", *map(str, words)], code, out.getvalue(), err.getvalue())


def sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What the command said on stderr, after checking its exit code and that it was no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stderr)
    return done.stderr
