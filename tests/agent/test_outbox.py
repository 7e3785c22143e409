"""The outbox: nothing that it took is lost, nothing arrives twice, and what is worth most stays longest."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeloop_agent.config import Samples as Settings
from edgeloop_agent.drift.monitor import DriftObservation
from edgeloop_agent.hub_client import Refused
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.outbox.redaction import packed, redacted
from edgeloop_agent.outbox.selection import SampleSelector
from edgeloop_agent.outbox.sender import send
from edgeloop_agent.outbox.store import Outbox, Row
from edgeloop_agent.outbox.writer import OutboxWriter
from edgeloop_contract.annotations import AnnotatedBox, Annotation
from edgeloop_contract.errors import NetworkError
from edgeloop_contract.messages import Event, Sample, Samples

MIB = 1 << 20


def row(key: str, value: float = 0.5, size: int = 100, kind: str = "random") -> Row:
    if kind == "event":
        return Row(key, kind, 4.0, msgspec.msgpack.encode(Event(key=key, kind="drift", at=0.0)))
    made = Sample(key=key, at=0.0, kind="random", model="m", sha256="0" * 64, recording="r", data=bytes(size))
    return Row(key, kind, value, msgspec.msgpack.encode(made))


def test_at_the_ceiling_the_most_valuable_stay_and_the_rest_is_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", MIB)
    rng = np.random.default_rng(0)
    values = rng.random(200) * 3
    for i, value in enumerate(values):
        outbox.put([row(f"key-{i:05}", float(value), 20_000)])
    outbox.put([row("event-000", kind="event")])
    kept = outbox.batch(1 << 30, 1000)
    evicted = outbox.counts()["evicted random"]
    assert evicted == 201 - len(kept) and 30 < len(kept) < 60
    assert kept[0].kind == "event"
    assert [r.value for r in kept[1:]] == sorted(values, reverse=True)[: len(kept) - 1]
    size = sum(p.stat().st_size for p in tmp_path.iterdir() if p.name == "o.sqlite")
    assert size <= MIB


WRITER = """
import sys
from pathlib import Path
from edgeloop_agent.outbox.store import Outbox, Row
from edgeloop_agent.hub_client import Refused
outbox = Outbox(Path(sys.argv[1]), 64 << 20)
for i in range(100000):
    outbox.put([Row(f"{sys.argv[2]}-{i:06}", "random", 0.5, bytes(500))])
    print(f"{sys.argv[2]}-{i:06}", flush=True)
"""


def test_killed_while_writing_nothing_that_was_taken_is_lost(tmp_path: Path) -> None:
    taken: list[str] = []
    for turn in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "o.sqlite"), f"turn{turn}"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(0.02 * (turn + 1))
        process.send_signal(signal.SIGKILL)
        taken += [first.strip(), *process.stdout.read().split()]
        process.stdout.close()
        process.wait()
    held = {r.key for r in Outbox(tmp_path / "o.sqlite", 64 * MIB).batch(1 << 30, 1_000_000)}
    taken = [key for key in taken if len(key) == len("turn0-000000")]  # the last word may be cut short
    assert len(taken) > 50 and set(taken) <= held


class Flaky:
    """Takes uploads; every third is not taken, and of every third the answer is lost."""

    def __init__(self) -> None:
        self.calls, self.seen = 0, list[str]()

    def samples(self, body: bytes) -> None:
        self.calls += 1
        if self.calls % 3 == 1:
            raise NetworkError("away")
        upload = msgspec.msgpack.decode(body, type=Samples)
        self.seen += [s.key for s in upload.samples] + [e.key for e in upload.events]
        if self.calls % 3 == 2:
            raise NetworkError("the answer was lost")


def test_everything_arrives_the_best_first_and_the_budget_holds(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", 8 * MIB)
    outbox.put([row(f"key-{i:05}", i / 300, 2000) for i in range(250)])
    hub = Flaky()
    for _ in range(40):
        try:
            if not send(outbox, hub, Settings(send="samples"), time.monotonic() + 5):
                break
        except NetworkError:
            continue
    assert set(hub.seen) == {f"key-{i:05}" for i in range(250)} and not outbox.waiting()
    assert hub.seen[0] == "key-00249"
    outbox.put([row("event-001", kind="event"), row("key-99999", 0.1)])
    spent = Settings(send="samples", max_upload_bytes_per_day=1)
    hub.calls = 2
    send(outbox, hub, spent, time.monotonic() + 5)
    assert hub.seen[-1] == "event-001" and outbox.waiting() == {"random": 1}


class Picky:
    """Refuses every upload with one sample in it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def samples(self, body: bytes) -> None:
        keys = [s.key for s in msgspec.msgpack.decode(body, type=Samples).samples]
        if "key-00003" in keys:
            raise Refused("status 400")
        self.seen += keys


def test_a_row_that_the_hub_never_takes_does_not_stand_in_the_way(tmp_path: Path) -> None:
    outbox, hub = Outbox(tmp_path / "o.sqlite", 8 * MIB), Picky()
    outbox.put([row(f"key-{i:05}") for i in range(10)])
    assert send(outbox, hub, Settings(send="samples"), time.monotonic() + 5) == 9
    assert len(hub.seen) == 9 and not outbox.waiting() and outbox.counts() == {"refused random": 1}


class Earlier:
    """A hub that knows no points of boxes."""

    def __init__(self) -> None:
        self.seen: list[Sample] = []

    def samples(self, body: bytes) -> None:
        if b"points" in body:
            raise Refused("status 400")
        self.seen += msgspec.msgpack.decode(body, type=Samples).samples


def test_a_hub_that_does_not_know_all_of_an_answer_gets_the_sample_without_it(tmp_path: Path) -> None:
    outbox, hub = Outbox(tmp_path / "o.sqlite", 8 * MIB), Earlier()
    boxes = {"a": AnnotatedBox("dog", (0, 0, 1, 1)), "b": AnnotatedBox("dog", (0, 0, 1, 1), points=[(1.0, 1.0, 2)])}
    for name, box in boxes.items():
        sample = msgspec.msgpack.decode(row(f"key-0000{name}").body, type=Sample)
        body = msgspec.msgpack.encode(msgspec.structs.replace(sample, answer=Annotation(boxes=[box])))
        outbox.put([Row(sample.key, "random", 0.5, body)])
    assert send(outbox, hub, Settings(send="samples"), time.monotonic() + 5) == 2
    assert {s.key[-1]: s.answer and s.answer.boxes for s in hub.seen} == {"a": [boxes["a"]], "b": None}
    assert not outbox.waiting() and outbox.counts() == {"refused answers": 1}


def test_rows_of_an_earlier_release_beyond_todays_bounds_do_not_either(tmp_path: Path) -> None:
    outbox, hub = Outbox(tmp_path / "o.sqlite", 8 * MIB), Picky()
    odd = msgspec.msgpack.decode(row("key-00001").body, type=dict)
    outbox.put([row("key-00000"), Row("key-00001", "random", 0.5, msgspec.msgpack.encode({**odd, "features": [float("inf")]}))])
    outbox.put([Row("key-00002", "event", 4.0, msgspec.msgpack.encode({"key": "key-00002", "kind": "x", "at": -1e300}))])
    assert send(outbox, hub, Settings(send="samples"), time.monotonic() + 5) == 1
    assert hub.seen == ["key-00000"] and not outbox.waiting() and outbox.counts() == {"refused random": 1, "refused event": 1}


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    path.write_bytes(b"this is no database" * 500)
    outbox = Outbox(path, MIB)
    outbox.put([row("key-00001")])
    assert outbox.quarantined and outbox.waiting() == {"random": 1}
    assert (tmp_path / "o.sqlite.damaged").exists()
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_what_is_chosen() -> None:
    """Unsure and new samples; few that resemble one that was kept; a share at random that does not depend on them."""
    rng = np.random.default_rng(0)
    chooser = SampleSelector(0.05, 0.1, 1e9, rng.random, lambda: 0.0)
    chooser.allowance = 1e9
    found = [chooser(rng.standard_normal(8), float(c), False, None) for c in rng.random(4000)]
    kinds = [c.kind for c in found if c]
    assert 0.05 < kinds.count("uncertain") / 4000 < 0.2
    assert 0.03 < sum(c.random for c in found if c) / 4000 < 0.07
    same = np.zeros(8)
    assert sum(chooser(same, 0.0, True, None) is not None for _ in range(50)) < 10
    assert chooser(same, 0.99, False, False).kind == "labelled"  # type: ignore[union-attr]
    chooser.allowance, chooser.random_share, chooser.max_per_hour = 0.0, 0.0, 0.0
    assert chooser(rng.standard_normal(8) * 5, 0.0, True, None) is None


def test_a_frame_with_many_doubtful_boxes_goes_first() -> None:
    """The most doubtful box alone says that it is kept; a person who looks at it settles all of them."""
    chooser = SampleSelector(0.0, 0.1, 1e9, lambda: 1.0, lambda: 0.0)
    few, many = (chooser(np.full(8, 10.0 * i), 0.1, True, None, doubtful) for i, doubtful in enumerate((1.0, 12.0)))
    assert few is not None and many is not None and few.kind == many.kind == "uncertain" and few.value < many.value < 3


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_what_may_not_leave_is_taken_out(kind: type) -> None:
    image = np.random.default_rng(0).integers(0, 255, (10, 14, 3)).astype(kind)
    found = redacted(image, Settings(send="statistics", drop_channels=[1], blur=5))
    assert not found[..., 1].any() and found.dtype == kind
    assert len(np.unique(found[:5, :5, 0])) == 1
    assert abs(float(found[:5, :5, 0].mean()) - float(image[:5, :5, 0].mean())) < 1


def test_rules_that_changed_hold_for_what_was_kept_before(tmp_path: Path) -> None:
    outbox, hub = Outbox(tmp_path / "o.sqlite", 8 * MIB, context_bytes=MIB), Flaky()
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    found = Sample(
        key="key-00001", at=0.0, kind="random", model="m", sha256="0" * 64, recording="r", dtype="uint8", shape=[8, 8, 3],
        data=packed(image, 6),
    )  # fmt: skip
    body = msgspec.msgpack.encode(found)
    strict = Settings(send="samples", drop_channels=[2], blur=4)
    outbox.put([Row(f"key-{i:05}", "random", 0.5, body) for i in (1, 2)])
    sent: list[Sample] = []
    hub.samples = lambda body: sent.extend(msgspec.msgpack.decode(body, type=Samples).samples)  # type: ignore[method-assign]
    assert send(outbox, hub, strict, time.monotonic() + 5) == 2
    left = np.frombuffer(zlib.decompress(sent[0].data), np.uint8).reshape(8, 8, 3)
    assert np.array_equal(left, redacted(image, strict)) and not left[..., 2].any() and len(np.unique(left[:4, :4, 0])) == 1
    outbox.put([Row("key-00003", "random", 0.5, body), Row("key-00004", "rest", 0.9, body, "r"), row("event-001", kind="event")])
    assert send(outbox, hub, Settings(send="statistics"), time.monotonic() + 5) == 1
    assert len(sent) == 2 and not outbox.waiting() and not outbox.context_count() and outbox.counts() == {"withdrawn random": 1}


def test_what_waits_for_a_slow_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of samples of 1 MB as many as fit wait in memory, half as many of the rest; the others are counted, and nothing waits."""
    counts, slow = Counts(), threading.Event()
    look = DriftObservation(features=np.zeros(4), confidence=0.99, drifting=False, changed=False, label=0)
    image = np.zeros((1, 1024, 1024), np.uint8)
    for share, held in ((0.0, 8), (1.0, 16)):
        outbox_writer = OutboxWriter(
            Settings(send="samples", random_share=share, context_bytes=64 * MIB), tmp_path / str(share), counts, Log()
        )
        put = outbox_writer.outbox.put
        monkeypatch.setattr(outbox_writer.outbox, "put", lambda rows, put=put: slow.wait(20) and put(rows))
        outbox_writer.sample("r", 0, image, "a", look, "", "m", "0" * 64)
        while outbox_writer._queue or outbox_writer._context:
            time.sleep(0.01)  # the thread has taken it, and waits for the disk
        before = counts.dropped["outbox"]
        for i in range(30):
            outbox_writer.sample("r", i + 1, image, "a", look, "", "m", "0" * 64)
        assert counts.dropped["outbox"] - before == 30 - held
        slow.set()
        outbox_writer.stop()
        assert outbox_writer.outbox.context_count() + sum(outbox_writer.outbox.waiting().values()) == 1 + held
        slow.clear()
