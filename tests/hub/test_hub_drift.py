"""What the hub tells of drift, of a fleet that has sent very many reports."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event, insert, text

from edgeloop_contract.hub_messages import GroupVariance
from edgeloop_contract.messages import DriftReport
from edgeloop_hub.drift import reports
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.schema import bundles, devices, drifts
from edgeloop_hub.updates import registry
from edgeloop_hub.web import sample_pages
from edgeloop_hub.web.page import TEMPLATES
from edgeloop_hub.web.sample_pages import drift_section

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


def test_finding_the_newest_reports_reads_no_others(tmp_path: Path) -> None:
    """Three thousand devices with one time: nothing is compared with everything, and no history is read through."""
    rows = [report(f"d-{i:04}", number, NOW - 300 * number) for i in range(3000) for number in range(2)]
    asked: list[str] = []
    with fleet(tmp_path, rows).reading() as connection:
        event.listen(connection, "before_cursor_execute", lambda c, cursor, said, values, *more: asked.append(said))
        began = time.process_time()
        assert reports.faulty(connection) == []
        assert time.process_time() - began < 2
        plan = " ".join(str(row) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {asked[0].replace('?', '1')}")))
    assert "ix_drifts_device_at" in plan
    assert "SCAN drifts" not in plan


def test_a_look_reads_no_more_reports_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_REPORTS", 20)
    monkeypatch.setattr(sample_pages, "DEVICES_SHOWN", 5)
    rows = [report(f"d-{i}", number, NOW - 300 * number - i, score=i / 10) for i in range(10) for number in range(4)]
    rows += [report("odd", 1, NOW, drifting=True, cause="fault", score=0.01)]
    with fleet(tmp_path, rows).reading() as connection:
        section = drift_section(connection, "m", 86400.0)
        assert [row.drift.device for row in section.rows] == ["odd", "d-9", "d-8", "d-7", "d-6"]
        assert (section.count, section.summary.reports, section.summary.cut) == (11, 20, True)
        monkeypatch.setattr(reports, "MAX_REPORTS", 1000)
        section = drift_section(connection, "m", 86400.0)
        assert (section.summary.reports, section.summary.cut) == (41, False)
        assert section.summary.oldest == pytest.approx(NOW - 909)


def test_one_device_fills_no_page(tmp_path: Path) -> None:
    rows = [report("loud", 1, NOW, faults={f"{i:0200}": i + 1 for i in range(50)}), {**report("loud", 2, NOW), "model": ""}]
    with fleet(tmp_path, rows).reading() as connection:
        assert reports.models(connection) == ["m"]
        section = drift_section(connection, "m", 86400.0)
        assert [n for _, n in section.rows[0].top_faults] == [50, 49, 48, 47, 46]
        html = TEMPLATES.get_template("drift.html.j2").render(title="Drift", user="ada", csrf="", days=1.0, sections=[section])
    assert "and 45 more" in html
    assert "0" * 100 not in html


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
