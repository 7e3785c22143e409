"""Upgrades: databases of every schema with what that version's hub wrote, old agents with the new hub, new agents with the old ones."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest

from commands import HERE, command, sentence
from earlier_hubs import NAMES, Recorded, answering, recorded, restored, rows_of
from edgeloop_agent.config import load
from edgeloop_agent.outbox.store import Outbox, Row, outbox_path
from edgeloop_agent.updates.cycle import UpdateCycle
from edgeloop_agent.updates.journal import Running, UpdateFolder, update_folder
from edgeloop_contract import archive
from edgeloop_contract.archive import Bundle
from edgeloop_contract.messages import Event, Heartbeat
from edgeloop_hub.storage.database import MIGRATIONS, Database
from hubs import Hub, free_port, running_hub
from serving import eventually, serving, write_config

PAGES = (
    "/", "/devices/pi-1", "/rollouts", "/rollouts/1", "/versions", "/drift", "/queue", "/disagreements", "/alerts", "/events", "/people",
    "/audit",
)  # fmt: skip
API = (
    "bundles", "devices", "events", "rollouts", "rollouts/1", "samples", "labelled?model=exercise_watch", "recordings", "queue?model=exercise_watch",
    "unlabelled?model=exercise_watch", "drift?model=exercise_watch", "signed", "key", "health", "tokens", "devices/pi-1/marks",
)  # fmt: skip
NEWEST = NAMES[-1]


def test_every_schema_has_a_database_here() -> None:
    """A new migration comes with a database of the schema before it: python scripts/record_hubs.py."""
    assert {path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")} == {name[:4] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_an_upgrade_keeps_every_row_and_value(name: str, tmp_path: Path) -> None:
    path = restored(name, tmp_path)
    before = rows_of(path)
    assert before["alembic_version"] == [{"version_num": name[:4]}] and all(
        before[table] for table in ("rollouts", "jobs", "released")
    )
    Database(f"sqlite:///{path}").engine.dispose()
    after = rows_of(path)
    assert after.pop("alembic_version") == [{"version_num": "0005"}]
    del before["alembic_version"]
    for table, rows in before.items():
        kept = [{column: row[column] for column in rows[0]} for row in after[table]] if rows else after[table]
        assert kept == rows, table
    lots = [row["lot"] for row in after.get("samples", [])]
    assert len(set(lots)) == len(lots)  # drawn by the migration where there was none


def test_a_device_s_own_labels_become_its_word(tmp_path: Path) -> None:
    """The one migration that moves values: what a device said of its samples stood among people's labels."""
    path = restored("0003", tmp_path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE labels SET person = 'device', label = 'TRAP' WHERE key = (SELECT MIN(key) FROM labels)")
    before = rows_of(path)["labels"]
    Database(f"sqlite:///{path}").engine.dispose()
    after = rows_of(path)
    assert len(after["labels"]) == len(before) - 1 and "device" not in {row["person"] for row in after["labels"]}
    assert [row["key"] for row in after["samples"] if row["truth"] == "TRAP"] == [min(str(row["key"]) for row in before)]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_an_upgraded_hub_shows_everything_and_answers_the_agents_of_its_time(name: str, tmp_path: Path) -> None:
    restored(name, tmp_path)
    known = recorded(name)
    with running_hub(tmp_path, keys=False) as hub:
        people = hub.signed_in("berta")
        for page in PAGES:
            assert "<h1" in people(page), page
        if name > "0001":
            sample = hub.get("/api/v1/samples")[0]
            assert "ROW" in json.dumps(hub.get("/api/v1/samples")) and sample["device"] == "pi-1"
        for path in API:
            hub.http.get_bytes(f"/api/v1/{path}")
        hub.http.get_bytes("/metrics")
        (device,) = hub.get("/api/v1/devices")
        assert (device["name"], device["version"], device["labels"]) == ("pi-1", 2, ["pilot"])
        assert hub.get("/api/v1/rollouts/1")["target"] == known.target
        _replay(known, hub)
        assert "Traceback" not in hub.log


def _replay(known: Recorded, hub: Hub) -> None:
    """The agent's requests again, with its credential of then: the same answers, and nothing stored twice."""
    path = hub.folder / "data" / "hub.sqlite"
    before = rows_of(path)
    for exchange in known.exchanges:
        if exchange.answer is None:
            continue  # the bundle's bytes are not in the fixture
        sent = exchange.sent
        if exchange.path == "/api/v1/enrol":
            sent = json.dumps({**json.loads(sent), "token": hub.run("token", "enrol", "pi-2"), "device": "pi-2"}).encode()
        status, answer = _asked(hub, exchange.method, exchange.path, exchange.headers, sent)
        if exchange.path == "/api/v1/update":  # a job waits since then: once it is known, the answer is unchanged
            assert status == 200 and json.loads(answer)["target"] == known.target
        else:
            assert status == exchange.status, (exchange.path, status, answer)
        if exchange.path.startswith("/tuf/metadata/") and exchange.status == 200:
            assert answer == exchange.answered
        if exchange.path == "/api/v1/enrol":
            assert json.loads(answer).keys() == json.loads(exchange.answered).keys()
            assert json.loads(answer)["root"] == json.loads(exchange.answered)["root"]
    after = rows_of(path)
    for table in ("heartbeats", "samples", "drifts"):
        assert after.get(table, []) == before.get(table, []), table


def _asked(hub: Hub, method: str, path: str, headers: dict[str, str], sent: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(hub.address + path, sent or None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def second(known: Recorded, folder: Path) -> tuple[Path, bytes]:
    """The bundle that ran then, and the one that it took: today's code writes the same bytes."""
    digest = next(e.path for e in known.exchanges if e.answer is None).rpartition("/")[2].partition(".")[0]
    for golden in sorted((HERE / "goldens").glob("*/exercise_watch-1.edgeloop")):
        path = folder / "second.edgeloop"
        with Bundle.open(golden) as bundle:
            files = {name: bundle.read(name) for name in bundle.manifest.files}
            archive.write(path, msgspec.structs.replace(bundle.manifest, version=2), files)
        with Bundle.open(path) as bundle:
            if bundle.sha256 == digest:
                return golden, path.read_bytes()
    raise AssertionError(f"no golden bundle becomes {digest}")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == NEWEST else pytest.mark.long) for name in NAMES])
def test_todays_agent_copes_with_the_hub_of_then(name: str, tmp_path: Path) -> None:
    """Enrolment, report, poll, signed metadata, download and samples, by the answers that were recorded then."""
    known = recorded(name)
    golden, bundle = second(known, tmp_path)
    with answering(known, bundle) as (address, asked):
        settings = f'[updates]\nhub = "{address}"\n[samples]\nsend = "samples"\n'
        path = write_config(tmp_path, settings, golden)
        done = command("edgeloop-agent", "enrol", path, "--name", "pi-1", "--token", "any")
        assert done.returncode == 0 and "enrolled as pi-1" in done.stdout, done.stderr
        config = load(path)
        outbox = Outbox(outbox_path(tmp_path / "state"), 1 << 20)
        event = Event(key="k" * 32, kind="drift", at=known.at, text="x")
        outbox.put([Row(event.key, "event", 4.0, msgspec.msgpack.encode(event))])
        folder, running = UpdateFolder(update_folder(config)), Running("exercise_watch", 1, "")
        cycle = UpdateCycle(config, folder, running, lambda _: None, now=lambda: known.at)
        beat = Heartbeat(model="exercise_watch", version=1, reads=9)
        if name > "0001":
            assert "is staged; 1 rows of the outbox sent" in cycle(beat)
            assert outbox.waiting() == {}
        else:  # that hub takes no samples: they wait, and updates come all the same
            assert "is staged; this hub takes no samples: they wait until it is updated" in cycle(beat)
            assert outbox.waiting() == {"event": 1}
        outbox.close()
        journal = folder.load()
        assert journal.b is not None or journal.a is not None
        assert {target for _, target, _ in asked} <= {e.path for e in known.exchanges} | {"/api/v1/outbox"}


def of_then(name: str, folder: Path) -> Any:
    """That version's code, from the repository's history."""
    sys.path.insert(0, str(HERE.parent / "scripts"))
    from record_hubs import VERSIONS, Version

    try:
        return Version(VERSIONS[name], folder)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the repository's history is not here: clone it whole")


def test_a_database_of_a_later_schema_is_refused(tmp_path: Path) -> None:
    path = restored(NEWEST, tmp_path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '0006'")
    before = rows_of(path)
    done = command("edgeloop-hub", "--data", tmp_path / "data", "token", "api", "x")
    assert "did a later release make it? use that one" in sentence(done, 7) and rows_of(path) == before


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if name >= "0005"])
def test_a_hub_of_the_same_schema_opens_what_todays_wrote_and_serves_todays_agent(name: str, tmp_path: Path) -> None:
    """A step back of the hub, or agents that are upgraded first."""
    restored(NEWEST, tmp_path / "hub")
    known, port = recorded(NEWEST), free_port()
    with running_hub(tmp_path / "hub", keys=False) as hub:
        people = hub.signed_in("berta")
        assert "<h1" in people("/")
    last = of_then(name, tmp_path / "hub")
    with last.running("hub", "serve", "--port", port):
        old = Hub(tmp_path / "hub", f"http://127.0.0.1:{port}", None, ("--data", str(tmp_path / "hub" / "data")), known.token)
        eventually(lambda: old.get("/api/v1/devices"))
        for path in ("rollouts/1", "samples", "labelled?model=exercise_watch", "events", "tokens"):
            old.http.get_bytes(f"/api/v1/{path}")
        once = last.run("hub", "token", "enrol", "pi-9")
        golden = HERE / "goldens" / "v0.3" / "exercise_watch-1.edgeloop"
        settings = f'[updates]\nhub = "{old.address}"\npoll_seconds = 1\n'
        config = write_config(tmp_path, settings, golden)
        assert command("edgeloop-agent", "enrol", config, "--name", "pi-9", "--token", once).returncode == 0
        with serving(tmp_path, settings, golden) as agent:
            eventually(lambda: 'updates result="nothing new"' in agent.log)  # what is released runs already
        assert {device["name"]: device["version"] for device in old.get("/api/v1/devices")} == {"pi-1": 2, "pi-9": 1}
