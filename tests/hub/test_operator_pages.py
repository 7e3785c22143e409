"""Events, rollouts and versions as an operator reads them: severities, pages, confirmations, who is in, what changed."""

from __future__ import annotations

import re
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import insert, text

from edgeloop_contract.hub_messages import PublishedBundle, VariantSummary
from edgeloop_contract.messages import Event
from edgeloop_contract.rollout import Step
from edgeloop_hub import event_list
from edgeloop_hub.fleet import finding, marks, rollout_members, rollout_view
from edgeloop_hub.rollouts import rollout_store, service
from edgeloop_hub.storage import device_rows
from edgeloop_hub.storage.fleet_tables import device_bundles, device_states, device_tags
from edgeloop_hub.storage.schema import events
from edgeloop_hub.updates.lineage import changes
from hub_parts import NEW, OLD, Parts, beat, parts
from hubs import Hub, running_hub, version

Asked = Callable[..., str]
NOW = time.time()


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    return parts(tmp_path)


def fill(hub: Parts, kinds: list[str]) -> None:
    """An event of each kind, the first one the newest; two share each moment."""
    rows = [
        {"source": "hub" if i % 2 else "pi", "key": f"{i:08}", "at": NOW - i // 2, "kind": kind, "target": "", "text": str(i)}
        for i, kind in enumerate(kinds)
    ]
    with hub.hub.database.writing() as database:
        database.execute(insert(events), rows)


@pytest.mark.parametrize("severity", ["", "error", "warning", "info"])
def test_every_event_is_on_one_page_and_on_no_other(hub: Parts, severity: str) -> None:
    kinds = ["failed", "enrolled", "refused", "installed", "rolled-back", "rollout halted", "whatever a device says"] * 13
    fill(hub, kinds)
    seen: list[str] = []
    before = None
    with hub.hub.database.reading() as database:
        for _ in range(20):
            page, before = event_list.listed(database, severity, before=before, limit=10)
            assert all(row.severity == (severity or row.severity) for row in page)
            seen += [row.text for row in page]
            if before is None:
                break
    expected = [str(i) for i, kind in enumerate(kinds) if severity in ("", event_list.severity_of(kind))]
    assert sorted(seen, key=int) == expected and len(set(seen)) == len(seen)


def test_rare_errors_are_found_by_their_index(hub: Parts) -> None:
    asked = "SELECT * FROM events WHERE kind = 'failed' ORDER BY at DESC LIMIT 9"
    with hub.hub.database.reading() as database:
        plan = " ".join(map(str, database.execute(text(f"EXPLAIN QUERY PLAN {asked}"))))
    assert "ix_events_kind_at" in plan


@pytest.mark.parametrize("place", ["", "x", "1~2", "nan-nonsense~a~b", "1e5~hub~key~more"])
def test_a_place_that_no_link_has_is_the_first_page_or_another(place: str) -> None:
    found = event_list.place_of(place)
    assert found is None or found == (1e5, "hub", "key~more")


def test_a_large_rollout_is_shown_without_judging_it(hub: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs it, who is late, who did not take it; the others are not in."""
    monkeypatch.setattr(rollout_view, "MAX_JUDGED", 3)
    hub.bundle("m-1.edgeloop", OLD, version=1)
    hub.bundle("m-2.edgeloop", NEW, version=2)
    for i in range(120):
        hub.device(f"pi-{i:03}", labels=("pilot",) if i < 70 else ())
    number = hub.rollout("m-2.edgeloop", [Step(label="pilot"), Step(percent=100.0)], soak_seconds=60.0)
    refused = Event(key="event-01", kind="refused", at=NOW, target="m-2.edgeloop", text="needs more memory")
    for i in range(120):
        hub.report(f"pi-{i:03}", f"key-{i:05}", beat(NEW if i < 10 else OLD, answered=5), events=[refused] if i == 11 else [])
    with hub.hub.database.writing() as database:
        database.execute(device_states.delete())
        database.execute(device_tags.delete())
    device_rows.adopt(hub.hub.database)
    hub.report("pi-011", "key-again", beat(OLD, answered=5), events=[msgspec.structs.replace(refused, key="event-02")])
    hub.tick()
    with hub.hub.database.reading() as database:
        stored = rollout_store.find(database, number)
        cohort = rollout_members.cohort(database, stored)
        shown, of_looks = rollout_view.of(database, number, stored, cohort)
        assert of_looks and (shown.cohort, shown.reported, shown.failed) == (70, 10, 1)
        assert cohort == (70, 10, 59, 0)
        pages = {who: rollout_members.members(database, stored, who, "") for who in ("in", "late", "failed")}
        assert [m.name for m in pages["in"][0]] == [f"pi-{i:03}" for i in range(10)]
        assert [(m.name, m.why) for m in pages["failed"][0]] == [("pi-011", "refused: needs more memory")]
        first, following = pages["late"]
        rest, end = rollout_members.members(database, stored, "late", following)
        late = [m.name for m in (*first, *rest)]
        assert late == [f"pi-{i:03}" for i in range(10, 70) if i != 11] and end == "" and len(first) == rollout_members.PAGE
        assert {gate.gate for gate in shown.gates if gate.looks} >= {"install failures"}


def test_no_rollout_waits_for_a_pinned_device(hub: Parts) -> None:
    hub.bundle("m-1.edgeloop", OLD, version=1)
    hub.bundle("m-2.edgeloop", NEW, version=2)
    for name in ("free", "stays", "first"):
        hub.device(name)
        hub.report(name, f"key-{name:0>8}", beat(OLD, answered=5))
    with hub.hub.database.writing() as database:
        marks.pin(database, "stays", "m-1.edgeloop", "ada")
        marks.pin(database, "first", "m-2.edgeloop", "ada")
    number = hub.rollout("m-2.edgeloop", [Step(percent=100.0)])
    with hub.hub.database.reading() as database:
        stored = rollout_store.find(database, number)
        assert service.assess(database, stored).cohort == 2
        assert rollout_members.cohort(database, stored) == (2, 0, 2, 1)
        assert [m.name for m in rollout_members.members(database, stored, "late", "")[0]] == ["first", "free"]


def test_a_rollout_of_an_agent_counts_who_runs_it_beside_the_first_bundle(hub: Parts) -> None:
    hub.bundle("agent-pi-1.wheelhouse", "c" * 64, model="agent:pi", version=1)
    hub.bundle("agent-pi-2.wheelhouse", "d" * 64, model="agent:pi", version=2)
    for name in ("new", "old", "none"):
        hub.device(name)
        hub.report(name, f"key-{name:0>8}", beat(OLD, answered=5))
    beside = [{"device": "new", "version": 2, "sha256": "d" * 64}, {"device": "old", "version": 1, "sha256": "c" * 64}]
    with hub.hub.database.writing() as database:
        database.execute(insert(device_bundles), [{**row, "model": "agent:pi", "at": NOW} for row in beside])
    number = hub.rollout("agent-pi-2.wheelhouse", [Step(percent=100.0)])
    with hub.hub.database.reading() as database:
        stored = rollout_store.find(database, number)
        assert rollout_members.cohort(database, stored) == (2, 1, 1, 0)
        shown = {who: rollout_members.members(database, stored, who, "")[0] for who in ("in", "late")}
        assert [(who, m.name, m.version) for who in shown for m in shown[who]] == [("in", "new", 2), ("late", "old", 1)]
        assert finding.running(database)["d" * 64] == 1
        assert [d.name for d in finding.found(database, finding.Filter(bundle="d" * 16), "", 1, NOW)] == ["new"]


def test_what_changed_between_versions_is_said() -> None:
    common = {
        "target": "m",
        "sha256": OLD,
        "bytes": 1,
        "channel": "stable",
        "published": NOW,
        "model": "m",
        "recipe": "r",
        "data": "d",
    }
    file = VariantSummary(name="onnx-int8", bytes=1000, accuracy=[0.9, 0.8, 0.95], latency_us=100.0, machine="a board")
    old = PublishedBundle(**common, variants=[file], labels=["a", "b"])
    other = msgspec.structs.replace(file, bytes=900, accuracy=[0.92, 0.85, 0.95], latency_us=150.0)
    new = msgspec.structs.replace(old, variants=[other, msgspec.structs.replace(file, name="new")], labels=["a", "c"], data="e")
    assert changes(old, old) == []
    assert changes(new, old) == [
        "onnx-int8: accuracy +2.0 points, -100 bytes, p50 +50 %", "new variants: new", "new labels: c", "labels that are gone: b",
        "other data",
    ]  # fmt: skip
    elsewhere = msgspec.structs.replace(old, variants=[msgspec.structs.replace(file, latency_us=150.0, machine="another")])
    assert changes(elsewhere, old) == [], "latencies of two machines are not compared"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Asked]]:
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(folder) as hub:
        hub.edgeloop("rollout", "start", hub.publish(version(folder, 2)), "--steps", "pi-1, 100%")
        yield hub, hub.signed_in("ada")


def test_aborting_asks_first(running: tuple[Hub, Asked]) -> None:
    hub, ask = running
    csrf = re.search(r'name="csrf" value="(\w+)"', ask("/rollouts/1"))
    assert csrf is not None
    asked = ask("/rollouts/1/abort", csrf=csrf[1])
    assert "Abort rollout 1?" in asked and hub.get("/api/v1/rollouts/1")["state"] == "running"
    assert 'href="/rollouts/1">Back' in asked
    assert "is <span" in ask("/rollouts/1/abort", csrf=csrf[1], sure="yes")
    assert hub.get("/api/v1/rollouts/1")["state"] == "aborted"
    assert "abort by ada" in ask("/events?severity=warning")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask("/rollouts/77/abort")
