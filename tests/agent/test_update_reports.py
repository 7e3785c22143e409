"""The canary on this device, and reports to the hub."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from edgeloop_agent.config import load
from edgeloop_agent.hub_client import Refused
from edgeloop_agent.logs import Log
from edgeloop_agent.updates import reports
from edgeloop_agent.updates.cycle import UpdateCycle
from edgeloop_agent.updates.journal import UpdateFolder, update_folder
from edgeloop_contract.errors import NetworkError
from edgeloop_contract.messages import Event, Heartbeat, Report
from hubs import version
from serving import GOLDEN, write_config
from update_bench import SEED


def test_no_credential_is_one_sentence(tmp_path: Path) -> None:
    from edgeloop_contract.errors import UsageError

    config = load(write_config(tmp_path, '[updates]\nhub = "http://127.0.0.1:9"\n'))
    with pytest.raises(UsageError, match="run edgeloop-agent enrol"):
        UpdateCycle(config, UpdateFolder(update_folder(config)), SEED, lambda _: None)(None)


def test_the_canary_passes_here_and_fails_where_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloop_agent.updates.canary import CanaryResult, try_out

    config = write_config(tmp_path, "")
    found = try_out(config, GOLDEN, 60)
    assert isinstance(found, CanaryResult) and found.steps <= 1 and found.right > found.samples / 2
    assert "golden" in str(try_out(config, version(tmp_path, 9, spoil=True), 60))
    (tmp_path / "slow").mkdir()
    slow = write_config(tmp_path / "slow", "[updates]\nmax_latency_us = 0.01\n")
    assert "p95 latency" in str(try_out(slow, GOLDEN, 60))
    assert "did not end" in str(try_out(config, GOLDEN, 0.01))
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'canary' in str(sys.orig_argv): os.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "process died (signal 11)" in str(try_out(config, GOLDEN, 60))


def test_reports_that_did_not_arrive_come_later_and_once(tmp_path: Path) -> None:
    arrived: list[Report] = []
    room = 0

    def post(report: Report) -> None:
        if len(arrived) == room:
            raise NetworkError("the hub is away")
        arrived.append(report)

    def made(number: int) -> Report:
        events = [Event(key=f"event-{number:06}", kind="x", at=1.0)]
        return Report(key=f"report-{number:06}", at=float(number), heartbeat=Heartbeat(answered=number), events=events)

    for number in range(60):
        with pytest.raises(NetworkError):
            reports.send(tmp_path, made(number), post)
    room = 10
    with pytest.raises(NetworkError):
        reports.send(tmp_path, made(60), post)
    room = 1000
    reports.send(tmp_path, made(61), post)
    assert [r.at for r in arrived] == [float(n) for n in range(60 - reports.MAX_UNSENT, 62)], "oldest first, each once"
    assert not any(r.events for r in arrived[:-1]) and arrived[-1].events, "events wait in the journal"
    assert not list(tmp_path.iterdir())

    def picky(report: Report) -> None:
        if report.at == 70:
            raise Refused("a report of another time")
        post(report)

    room = len(arrived)
    with pytest.raises(NetworkError):
        reports.send(tmp_path, made(70), post)
    room = 1000
    reports.send(tmp_path, made(71), picky)
    assert arrived[-1].at == 71 and not list(tmp_path.iterdir()), "what is refused holds nothing up"
    (tmp_path / reports.FILE).write_bytes(b"damaged")
    reports.send(tmp_path, made(62), post)
    assert arrived[-1].at == 62


def test_the_hub_gets_each_warning_once() -> None:
    log = Log("debug", io.StringIO())
    for level, event in (("info", "a"), ("warning", "b"), ("error", "c"), ("debug", "d")):
        log(level, event)
    first = log.warnings_after("")
    assert [line.split()[2] for line in first] == ["b", "c"]
    assert log.warnings_after(first[-1]) == []
    log("warning", "e")
    assert [line.split()[2] for line in log.warnings_after(first[-1])] == ["e"]
