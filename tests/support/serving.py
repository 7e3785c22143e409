"""A running agent for tests: started by its command, stopped when the block ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands import BIN, HERE

GOLDEN = HERE / "goldens" / "v0.1" / "exercise_watch-1.edgeloop"
RECORDING = GOLDEN.parent / "recording.csv"
WAIT_SECONDS = 60.0


def eventually(what: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """The first true answer of `what`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := what():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


@dataclass
class Agent:
    folder: Path
    process: subprocess.Popen[bytes]
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "out.jsonl"
        whole, _, _ = (path.read_text() if path.exists() else "").rpartition("\n")  # the last line may still be written
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def address(self) -> str:
        """Of the worker that runs now."""
        return re.findall(r"api address=(http://\S+)", self.log)[-1]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.address + path, timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """The sum over all labels; 0 where there is none."""
        return sum(float(line.split()[-1]) for line in self.get("/metrics").splitlines() if re.match(rf"{name}[ {{]", line))

    def worker(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def wait_ready(self, times: int = 1) -> None:
        eventually(lambda: self.log.count(" ready ") >= times)


def write_config(folder: Path, text: str, *bundles: Path, state: str = "state") -> Path:
    """A config with quick measurements, a free port, and answers in out.jsonl; `text`: more of it."""
    tables = {"output": 'where = "out.jsonl"', "api": "port = 0", "runtime": 'variant = "tflite-int8"'}
    for name, default in tables.items():
        if f"[{name}]" not in text:
            text += f"\n[{name}]\n{default}\n"
    path = folder / "agent.toml"
    names = ", ".join(f'"{b}"' for b in bundles or (GOLDEN,))
    path.write_text(f'bundles = [{names}]\nstate = "{state}"\n{text}')
    return path


@contextmanager
def serving(
    folder: Path, text: str = "", *bundles: Path, inside: Sequence[object] = (), state: str = "state", **environment: str
) -> Iterator[Agent]:
    """`inside`: words before the command, which run it in another place (places.py)."""
    config = write_config(folder, text, *bundles, state=state)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, inside), BIN / "edgeloop-agent", "serve", config],
            stdin=subprocess.DEVNULL,
            stderr=log,
            stdout=log,
            env={**os.environ, **environment},
        )
    agent = Agent(folder, process)
    try:
        agent.wait_ready()
        yield agent
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
