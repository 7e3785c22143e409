"""The devices of `make loop`, and the recordings that they are given."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BIN = Path(sys.executable).parent
SETS = ("data=data.py:at_home", "target.min_accuracy=0.6", "target.max_drop=0.05")
WEARERS = {"worn-by-7": 7, "worn-by-8": 8, "worn-by-9": 9, "worn-by-10": 10, "turned-axes": 3, "failing-sensor": 2}
SET_POINTS = 600  # 12 s of an exercise in one recording
FAIL_FROM = 5  # recordings, after which the failing sensor's gyroscope is silent
FALSE_ALARMS = 50.0  # per 10,000 samples: one on each device, of the 200 windows that it answers before retraining
RANDOM_SHARE = 0.1  # of the samples
CONFIG = """bundles = ["{bundle}"]
state = "state"
[source]
kind = "watch"
where = "in"
poll_seconds = 0.05
after = "delete"
queue = 64
when_full = "block"
[runtime]
variant = "tflite-int8"
[api]
enabled = false
[output]
where = "out.jsonl"
[limits]
restart_seconds = 0.1
[updates]
hub = "{hub}"
poll_seconds = 0.7
health_seconds = 2.0
[samples]
send = "samples"
random_share = {random}
uncertain_share = 0.3
max_per_hour = 100000
context_bytes = 16000000
[drift]
false_alarms_per_10k = {rate}
"""


@dataclass
class Device:
    """An agent on a folder of its own; `keys`: of every sample that its outbox ever held on disk."""

    name: str
    subject: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0
    keys: set[str] = field(default_factory=set)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "edgeloop-agent", "serve", self.folder / "agent.toml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """The whole process group at once, as a power cut would end it."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.kills += 1
        self.start()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def look(self) -> int:
        """Remember what its outbox holds; how much that is."""
        path = self.folder / "state" / "outbox" / "outbox.sqlite"
        if not path.exists():
            return 0
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            found = {key for (key,) in connection.execute("SELECT key FROM waiting WHERE kind != 'event'")}
        except sqlite3.OperationalError:  # it is being made
            found = set()
        finally:
            connection.close()
        self.keys |= found
        return len(found)

    @property
    def answers(self) -> list[dict[str, Any]]:
        path = self.folder / "out.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]


class Recordings:
    """The data set's recordings: of each wearer and exercise one arm for before (A) and the other for after (B) retraining."""

    def __init__(self) -> None:
        from edgeloop_models.exercise_watch.data import SOURCE

        data = np.load(SOURCE.path(), allow_pickle=True).item()
        self.series, self.names = data["X"], list(data["y_labels"])
        self.labels, self.subjects, self.sides = (np.asarray(data[k]).astype(int) for k in ("y", "subject", "side"))

    def of(self, subject: int, half: str) -> list[tuple[int, int]]:
        """Sets of repetitions: a series and the point where the set begins. A person does one exercise after the other."""
        rows = np.flatnonzero(self.subjects == subject)
        first = (self.sides[rows] + self.labels[rows] + subject) % 2 == 0
        found = rows[first == (half == "A")]
        return [(int(i), at) for i in found for at in range(0, len(self.series[i]) - SET_POINTS + 1, SET_POINTS)]

    def values(self, one: tuple[int, int]) -> np.ndarray[Any, Any]:
        return np.asarray(self.series[one[0]][one[1] : one[1] + SET_POINTS], dtype=float)

    def give(self, device: Device, one: tuple[int, int], half: str, number: int) -> None:
        """Into the device's folder, by rename. The name carries the truth for those who count; the model does not see it."""
        values = self.values(one)
        if device.name == "turned-axes":
            values = values[:, [1, 2, 0, 4, 5, 3]]
        if device.name == "failing-sensor" and number >= FAIL_FROM:
            values = values * [1, 1, 1, 0, 0, 0]
        name = f"{half}-{number:03}-{one[0]:03}-{self.names[self.labels[one[0]]]}.csv"
        partial = device.folder / f"{name}.partial"
        np.savetxt(partial, values, delimiter=",", fmt="%.6g")
        partial.replace(device.folder / "in" / name)


def truth_of(recording: str) -> str:
    return recording.rsplit("-", 1)[1].removesuffix(".csv")


def accuracy(devices: list[Device], half: str) -> tuple[float, int]:
    rows = [a for d in devices for a in d.answers if a.get("label") and a["input"].startswith(half)]
    return (sum(a["label"] == truth_of(a["input"]) for a in rows) / len(rows) if rows else float("nan")), len(rows)
