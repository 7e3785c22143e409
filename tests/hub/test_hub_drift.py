"""What the hub tells of drift, of a fleet that has sent very many reports."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, insert, text

from edgeloop_contract.hub_messages import GroupVariance
from edgeloop_contract.messages import DriftReport
from edgeloop_hub.drift import kept, reports
from edgeloop_hub.drift.discoveries import shifts as shifts_of
from edgeloop_hub.drift.summary import summary
from edgeloop_hub.storage import device_rows
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.schema import bundles, devices, drifts
from edgeloop_hub.updates import registry
from edgeloop_hub.web import drift_pages
from hubs import running_hub

NOW = time.time()


def device(name: str) -> dict[str, object]:
    empty = {"labels": "[]", "channel": "stable", "machine": "", "model": "m", "version": 1, "sha256": "", "heartbeat": "{}"}
    return {**empty, "name": name, "credential": name, "enrolled": NOW, "quota_from": 0.0, "quota_used": 0}


def report(name: str, number: int, at: float, **told: object) -> dict[str, object]:
    body = msgspec.json.encode(DriftReport(model="m", samples=100, **told)).decode()  # type: ignore[arg-type]
    score = told.get("score", 0.0)
    return {
        "device": name,
        "key": f"{number:08}",
        "at": at,
        "model": "m",
        "sha256": "",
        "samples": 100,
        "score": score,
        "body": body,
    }


def fleet(tmp_path: Path, rows: list[dict[str, object]]) -> Database:
    database = Database(f"sqlite:///{tmp_path}/hub.sqlite")
    with database.writing() as connection:
        connection.execute(insert(devices), [device(name) for name in sorted({str(row["device"]) for row in rows})])
        connection.execute(insert(drifts), rows)
    assert device_rows.adopt(database)  # as an earlier release left them
    return database


def test_the_newest_report_says_whether_a_sensor_is_at_fault(tmp_path: Path) -> None:
    bad = {"drifting": True, "cause": "fault"}
    rows = [
        report("mended", 1, NOW - 10, **bad),
        report("mended", 2, NOW),
        report("broken", 1, NOW - 10),
        report("broken", 2, NOW, **bad),
    ]
    with fleet(tmp_path, rows).reading() as connection:
        assert reports.faulty(connection) == ["broken"]


def test_finding_faulty_devices_reads_no_reports(tmp_path: Path) -> None:
    """Three thousand devices with one time: their kept rows say it, by an index."""
    rows = [report(f"d-{i:04}", number, NOW - 300 * number) for i in range(3000) for number in range(2)]
    asked: list[str] = []
    with fleet(tmp_path, rows).reading() as connection:
        event.listen(connection, "before_cursor_execute", lambda c, cursor, said, values, *more: asked.append(said))
        began = time.process_time()
        assert reports.faulty(connection) == []
        assert time.process_time() - began < 2
        plan = " ".join(str(row) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {asked[0].replace('?', '1')}")))
    assert "ix_device_states_drifting" in plan and "drifts" not in plan


def test_a_look_reads_no_more_reports_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_REPORTS", 20)
    rows = [report(f"d-{i}", number, NOW - 300 * number - i, score=i / 10) for i in range(10) for number in range(4)]
    with fleet(tmp_path, rows).reading() as connection:
        found = summary(connection, "m", 86400.0)
        assert (found.reports, found.cut) == (20, True)
        monkeypatch.setattr(reports, "MAX_REPORTS", 1000)
        found = summary(connection, "m", 86400.0)
        assert (found.reports, found.cut) == (40, False)
        assert found.oldest == pytest.approx(NOW - 909)


def keep(database: Database, name: str, now: float = NOW, **told: Any) -> None:
    with database.writing() as connection:
        kept.keep(connection, {name: DriftReport(**{"model": "m", "samples": 100, **told})}, now)


def test_what_is_kept_finds_what_the_reports_say(tmp_path: Path) -> None:
    """The same discoveries as from all reports, in the same order, without reading one."""
    rng = random.Random(1)
    database = fleet(tmp_path, [report("d-00", 1, NOW)])
    about = '{"straying": {"between": {"a": 0.1, "b": 0.1}, "places": 5, "samples": 500}}'
    values = {"bytes": 1, "model": "m", "version": 1, "channel": "stable", "published": NOW}
    with database.writing() as connection:
        connection.execute(insert(bundles).values(target="m-1", sha256="s" * 64, about=about, **values))
    told: dict[str, list[tuple[float, DriftReport]]] = {}
    for i in range(40):
        for number in range(3):
            shifts = {"a": rng.gauss(2.0 if i < 4 else 0.0, 0.1), "b": rng.gauss(0, 0.1)}
            told.setdefault(f"d-{i:02}", []).append((NOW, DriftReport(model="m", sha256="s" * 64, samples=50, shifts=shifts)))
            keep(database, f"d-{i:02}", NOW - 60 * number, sha256="s" * 64, samples=50, shifts=shifts)
    with database.reading() as connection:
        expected = shifts_of(told, {"s" * 64: registry.group_variance_of(connection, "s" * 64)})
        found, count = kept.discoveries(connection, "m", NOW, 100)
        assert {f.device for f in found} == {"d-00", "d-01", "d-02", "d-03"}
        assert count == len(expected) and [(f.device, f.feature) for f in found] == [(e.device, e.feature) for e in expected]
        assert [f.p for f in found] == pytest.approx([e.p for e in expected])
        assert kept.discoveries(connection, "m", NOW + 3 * 86400, 100) == ([], 0), "of devices that went silent nothing is shown"


def test_sums_are_of_the_last_day_and_of_the_bundle_that_runs(tmp_path: Path) -> None:
    database = fleet(tmp_path, [report("d", 1, NOW)])
    for hours, sha256, samples in ((0, "old", 1), (13, "old", 10), (20, "old", 100), (26, "old", 1000), (27, "new", 5)):
        keep(database, "d", NOW + hours * 3600, sha256=sha256, samples=samples, score=samples / 100)
        with database.reading() as connection:
            row = kept.devices(connection, "m", 1, 10)[0]
        expected = {0: 1, 13: 11, 20: 111, 26: 1110, 27: 5}[hours]
        assert row.samples == expected, hours


def test_the_page_has_the_worst_first_on_one_scale_and_one_device_fills_none(tmp_path: Path) -> None:
    with running_hub(tmp_path, keys=False) as hub:
        database, page = Database(f"sqlite:///{hub.folder / 'data' / 'hub.sqlite'}"), hub.signed_in("bea")
        for i in range(30):
            keep(database, f"d-{i:02}", time.time(), score=i / 100)
        keep(database, "odd", time.time(), drifting=True, cause="fault", score=0.01, faults={f"{i:0200}": i + 1 for i in range(50)})
        keep(database, "nameless", time.time(), model="")
        html = page("/drift")
        assert re.findall(r'row"><a href="/devices/([\w-]+)"', html)[:3] == ["odd", "d-29", "d-28"]
        assert html.count('<th scope="row">') == drift_pages.PAGE and "page 1 of 2" in html
        assert "and 45 more" in html and "0" * 100 not in html
        assert "0 to 1.5" in html and 'rel="next"' in html and "nameless" not in html
        assert "d-05" in page("/drift?at=2")


def test_the_registry_reads_what_an_earlier_release_wrote(tmp_path: Path) -> None:
    """It had the standard deviations between groups at the top, and not how many groups there were."""
    values = {"bytes": 1, "model": "m", "version": 1, "channel": "stable", "published": NOW}
    abouts = {
        "old": '{"model": "m", "labels": ["a"], "between": {"f": 0.3}}',
        "new": '{"straying": {"between": {"f": 0.2}, "places": 4}}',
    }
    with fleet(tmp_path, [report("d", 1, NOW)]).writing() as connection:
        for name, about in abouts.items():
            connection.execute(insert(bundles).values(target=name, sha256=name, about=about, **values))
        found = registry.summaries(connection, "m")
    assert found["old"].group_variance == GroupVariance({"f": 0.3}) and found["old"].labels == ["a"]
    assert found["new"].group_variance == GroupVariance({"f": 0.2}, places=4)
