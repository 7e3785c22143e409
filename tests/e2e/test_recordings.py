"""One answer for a whole recording: of what is at the hub, of what comes later, and of what the device held back until then."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
import zlib
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_loop import BUNDLE, device, recording, settings

from arrived import made, stored
from edgeloop_agent.config import Samples as Settings
from edgeloop_agent.hub_client import Refused
from edgeloop_agent.outbox.sender import send
from edgeloop_agent.outbox.store import Outbox, Row, outbox_path
from edgeloop_contract.errors import NetworkError
from edgeloop_contract.messages import MAX_RECORDINGS, Samples
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.samples import ingest, label_queue, labelling, sample_store
from hubs import Hub, running_hub
from serving import eventually, serving

PI = EnrolledDevice("pi-1", [], "stable", "m", "0" * 64)
MIB = 1 << 20
KEEPS = 'send = "samples"\nrandom_share = 0.0\nuncertain_share = 0.1\nmax_per_hour = 100000\ncontext_bytes = 4000000'


def test_a_person_labels_a_whole_recording(tmp_path: Path) -> None:
    """Of that device, and not those that have a label; where two must agree, both of each sample."""
    places = [(i, name) for i in range(4) for name in ("one", "two")]
    sent = [made(f"{i}{name}", name, 10.0 * n, random=i == 3) for n, (i, name) in enumerate(places)]
    database, settings = stored(tmp_path, sent)
    two = replace(settings, labels_needed=2)
    with database.writing() as connection:
        other = Samples(samples=[made("0one", "one", 1e3)])
        ingest.store(connection, EnrolledDevice("pi-2", [], "stable", "m", "0" * 64), other, settings)
        entry = {row.key: row for row in label_queue.waiting(connection, "m", "anna", 100)}[sent[2].key]
        assert (entry.together, entry.alike) == (4, 1)
        assert labelling.label(connection, "pi-1", sent[0].key, "anna", "SQT", settings) == 1
        assert labelling.label(connection, "pi-1", sent[2].key, "anna", "ROW", settings, whole=True) == 3
        assert labelling.label(connection, "pi-1", sent[1].key, "anna", "ROW", two, whole=True) == 0
        assert labelling.label(connection, "pi-1", sent[3].key, "berta", "ROW", two) == 1
        assert labelling.label(connection, "pi-1", sent[1].key, "berta", "ROW", two, whole=True) == 3
        found = {(row.device, row.key): (row.label, row.people) for row in sample_store.listed(connection, "m", "labelled")}
    assert len(found) == 8 and found["pi-1", sent[0].key] == ("SQT", ["anna"]) and ("pi-2", sent[0].key) not in found
    assert {tuple(people) for (_, key), (_, people) in found.items() if key in {s.key for s in sent[1::2]}} == {("anna", "berta")}


def test_what_comes_later_has_the_label_of_its_recording(tmp_path: Path) -> None:
    database, settings = stored(tmp_path, [made("a", "one", 0.0), made("b", "two", 50.0)])
    two = replace(settings, labels_needed=2)
    with database.writing() as connection:
        labelling.label(connection, "pi-1", made("a", "one", 0).key, "anna", "ROW", two, whole=True)
        assert labelling.wanted_recordings(connection, "pi-1", two) == [] and labelling.wanted_recordings(
            connection, "pi-1", settings
        ) == ["one"]
        ingest.store(connection, PI, Samples(samples=[made("c", "one", 100.0)]), two)
        assert not sample_store.listed(connection, "m", "labelled"), "one of two people is not enough"
        labelling.label(connection, "pi-1", made("c", "one", 0).key, "berta", "ROW", two, whole=True)
        assert (
            labelling.wanted_recordings(connection, "pi-1", two) == ["one"]
            and labelling.wanted_recordings(connection, "pi-2", two) == []
        )
        late = Samples(
            samples=[made("d", "one", 200.0), made("e", "two", 200.0), made("f", "two", 300.0)], released=["one", "none"]
        )
        ingest.store(connection, PI, late, two)
        ingest.store(connection, PI, late, two)
        assert labelling.wanted_recordings(connection, "pi-1", two) == []
        found = {row.key[4]: (row.label, row.people) for row in sample_store.listed(connection, "m", "labelled")}
        assert found == {key: ("ROW", ["anna", "berta"]) for key in "acd"}
        asked = {row.key[4] for row in label_queue.waiting(connection, "m", "carla", 100)}
        assert asked == {"b", "e", "f"}, "one like a sample that had its label at once is asked about all the same"


def test_who_said_something_wrong_of_a_recording_says_it_again(tmp_path: Path) -> None:
    sent = [made(str(i), "one", 10.0 * i) for i in range(3)]
    database, settings = stored(tmp_path, sent)
    with database.writing() as connection:
        for name in ("PEN", "ROW"):
            assert labelling.label(connection, "pi-1", sent[0].key, "anna", name, settings, whole=True) == 3
        ingest.store(connection, PI, Samples(samples=[made("9", "one", 90.0)]), settings)
        assert [row.label for row in sample_store.listed(connection, "m", "labelled")] == ["ROW"] * 4
        assert [(r.label, r.person) for r in labelling.recording_labels(connection, "m")] == [("ROW", "anna")]


def rest(number: int, name: str, size: int = 100) -> Row:
    key = f"{name}-{number:06}"
    body = made(key, name, 0.0)
    return Row(key, "rest", 0.9, msgspec.msgpack.encode(msgspec.structs.replace(body, key=key, data=os.urandom(size))), name)


def test_the_rest_is_held_back_until_its_recording_is_asked_for(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", MIB, context_bytes=MIB)
    for i in range(6):
        outbox.put([rest(i, "one"), rest(i, "two")])
    assert outbox.context_count() == 12 and not outbox.batch(MIB, 100) and not outbox.waiting()
    again = Outbox(tmp_path / "o.sqlite", MIB, context_bytes=MIB)
    assert again.release(["two", "unknown"]) == 6 and again.release(["two"]) == 0
    assert outbox.context_count() == 6 and outbox.waiting() == {"rest": 6}
    assert sorted(row.key for row in outbox.batch(MIB, 100)) == [f"two-{i:06}" for i in range(6)]


def test_of_the_rest_the_oldest_makes_room_and_never_what_was_chosen(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", MIB, context_bytes=2 * MIB)
    outbox.put([Row(f"chosen-{i:03}", "random", 0.5, bytes(20_000)) for i in range(40)])
    for i in range(300):
        outbox.put([rest(i, f"r{i}", 20_000)])
    assert outbox.waiting() == {"random": 40} and not outbox.counts()
    kept = outbox.context_count()
    assert 60 < kept < 100 and (tmp_path / "o.sqlite").stat().st_size <= 3 * MIB
    assert outbox.release([f"r{i}" for i in range(300 - kept)]) == 0
    Outbox(tmp_path / "o.sqlite", MIB).put([])  # it is switched off
    assert outbox.context_count() == 0 and outbox.waiting() == {"random": 40}


class Told:
    """A hub that answers as it is told to."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers, self.seen, self.released = list(answers), list[str](), list[list[str]]()

    def samples(self, body: bytes) -> None:
        if self.answers and (answer := self.answers.pop(0)):
            raise answer
        upload = msgspec.msgpack.decode(body, type=Samples)
        self.seen += [s.key for s in upload.samples]
        self.released.append(upload.released)


@pytest.mark.parametrize("rows", [0, 3, 250])
def test_the_hub_is_told_once_what_is_released(tmp_path: Path, rows: int) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", MIB)
    outbox.put([Row(r.key, "random", 0.5, r.body) for r in (rest(i, "one") for i in range(rows))])
    hub = Told(NetworkError("away"), None, None)
    with pytest.raises(NetworkError):
        send(outbox, hub, Settings(send="samples"), time.monotonic() + 5, ["one"])
    assert send(outbox, hub, Settings(send="samples"), time.monotonic() + 5, ["one"]) == rows == len(hub.seen)
    assert [r for r in hub.released if r] == [["one"]]
    assert send(outbox, Told(Refused("status 400")), Settings(send="samples"), time.monotonic() + 5, ["one"]) == 0


def test_a_device_is_asked_for_a_hundred_recordings_at_a_time(tmp_path: Path) -> None:
    sent = [made(f"{i:03}", f"r{i}", 10.0 * i) for i in range(MAX_RECORDINGS + 30)]
    database, settings = stored(tmp_path, sent)
    with database.writing() as connection:
        for one in sent:
            labelling.label(connection, "pi-1", one.key, "anna", "ROW", settings, whole=True)
        first = labelling.wanted_recordings(connection, "pi-1", settings)
        assert first == [f"r{i}" for i in range(MAX_RECORDINGS)]
        ingest.store(connection, PI, Samples(released=first), settings)
        assert labelling.wanted_recordings(connection, "pi-1", settings) == [f"r{i}" for i in range(MAX_RECORDINGS, len(sent))]


@pytest.mark.long
def test_an_answer_for_a_recording_brings_the_rest_of_it_and_of_no_other(tmp_path: Path) -> None:
    """Through agent and hub, with a power cut between."""
    with running_hub(tmp_path / "hub") as hub:
        hub.publish(BUNDLE)
        text = settings(hub, KEEPS).replace("poll_seconds", 'after = "delete"\npoll_seconds', 1)
        device(hub, tmp_path, "pi-1", text)
        with serving(tmp_path, text, BUNDLE) as agent:
            for i in range(3):
                (tmp_path / "in" / f"{i}.csv").write_text(recording(turned=i == 1))
            eventually(lambda: len(agent.lines) == 144 and sum(of(hub).values()) >= 3 and not list((tmp_path / "in").iterdir()))
            eventually(lambda: sum(of(hub).values()) + held_back(tmp_path / "state") == 144)  # the rest is on disk
            for process in (agent.process.pid, agent.worker()):
                os.kill(process, signal.SIGKILL)
        (tmp_path / "out.jsonl").unlink()
        before = of(hub)
        name = min(before, key=lambda n: before[n])
        sample = next(s for s in hub.get("/api/v1/samples") if s["recording"] == name)
        assert before[name] < 48
        said = {"device": "pi-1", "key": sample["key"], "label": "ROW", "whole": True}
        assert hub.post("/api/v1/labels", {"who": "anna", "labels": [said]})["settled"] >= before[name]
        (entry,) = hub.get("/api/v1/recordings?model=exercise_watch")
        assert (entry["recording"], entry["label"], entry["released"]) == (name, "ROW", None)
        with serving(tmp_path, text, BUNDLE):
            eventually(lambda: of(hub)[name] == 48)
            eventually(lambda: hub.get("/api/v1/recordings")[0]["released"])
            time.sleep(1.5)  # polls in which nothing more is to come
        assert {n: count for n, count in of(hub).items() if n != name} == {n: c for n, c in before.items() if n != name}
        found = [s for s in hub.get("/api/v1/samples") if s["recording"] == name]
        assert Counter(s["label"] for s in found) == {"ROW": 48} and {s["window"] for s in found} == set(range(48))
        assert sum(s["kind"] == "rest" for s in found) == 48 - before[name]
        packed = [row for row in hub.packed("/api/v1/labelled?model=exercise_watch") if row["kind"] == "rest"]
        assert all(row["said"] for row in packed) and all(not row["random"] for row in packed)
        values = np.frombuffer(zlib.decompress(packed[0]["data"]), packed[0]["dtype"])
        assert values.size == 600 and values.any()


def held_back(state: Path) -> int:
    """How many samples an agent keeps on its disk until their recordings are asked for."""
    with closing(sqlite3.connect(outbox_path(state))) as outbox:
        return int(outbox.execute("SELECT count(*) FROM rest").fetchone()[0])


def of(hub: Hub) -> Counter[str]:
    """How many samples of each recording the hub has."""
    return Counter[str](s["recording"] for s in hub.get("/api/v1/samples"))
