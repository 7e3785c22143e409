"""Files of a watched folder: each is answered, or it is still there; and one that kills the worker stops nobody else's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from threading import Event

import pytest

from commands import HERE, command
from edgeloop_agent.config import Source
from edgeloop_agent.in_flight import DeathRecord, InFlight
from edgeloop_agent.sources.files import folder
from edgeloop_agent.sources.folder_watch import WatchedFolder, being_written
from serving import GOLDEN, RECORDING, eventually, serving

WATCH = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\nsettle_seconds = 0.2\n'
QUICK = "[limits]\nrestart_seconds = 0.05\nmax_restart_seconds = 0.2\ndrain_seconds = 3\n"
DELETE = 'after = "delete"\n'
ROWS = RECORDING.read_text().splitlines()
ONE = "\n".join(ROWS[:101])  # one window


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def answered(lines: list[dict]) -> set[str]:
    return {line["input"] for line in lines if "label" in line}


@pytest.mark.parametrize("when_full", ["", 'when_full = "drop-oldest"\n'])
def test_of_many_files_all_are_answered_before_they_go(when_full: str, inbox: Path, tmp_path: Path) -> None:
    many = 300
    for i in range(many):
        (inbox / f"{i:04}.csv").write_text(ONE)
    with serving(
        tmp_path, WATCH + DELETE + when_full, SLOW="0.002", PYTHONPATH=str(HERE / "support" / "faults"), FAULT=str(tmp_path / "f")
    ) as agent:
        if when_full:  # what was dropped stays, and has its turn when nothing new comes
            eventually(lambda: agent.metric("edgeloop_agent_dropped_total") > 0)
            gone = {f"{i:04}.csv" for i in range(many)} - names(inbox)
            assert gone <= answered(agent.lines)
            assert "queue full: recordings are dropped" in agent.log and 'action="kept",outcome="dropped"' in agent.get("/metrics")
        eventually(lambda: not names(inbox))
        assert answered(agent.lines) == {f"{i:04}.csv" for i in range(many)}
        assert max(Counter(line["input"] for line in agent.lines).values()) == 1
        assert f'edgeloop_agent_files_total{{action="deleted",outcome="answered"}} {many}.0' in agent.get("/metrics")


def test_what_was_not_answered_as_a_whole_is_kept_and_said(inbox: Path, tmp_path: Path) -> None:
    (inbox / "good.csv").write_text(ONE)
    (inbox / "short.csv").write_text("\n".join(ROWS[:50]))
    (inbox / "broken.csv").write_text("1,2\n3\n")
    holes = ["nan" + line[line.index(",") :] if i == 150 else line for i, line in enumerate(ROWS)]
    (inbox / "partly.csv").write_text("\n".join(holes))
    with serving(tmp_path, WATCH + DELETE) as agent:
        eventually(lambda: answered(agent.lines) == {"good.csv", "partly.csv"} and len(agent.lines) > 40)
        eventually(lambda: agent.log.count("file kept") == 3)
        assert names(inbox) == {"short.csv", "broken.csv", "partly.csv"}
        assert agent.metric("edgeloop_agent_files_total") == 4 and 'action="kept",outcome="refused"} 3.0' in agent.get("/metrics")
        (inbox / "short.csv").write_text(ONE)  # mended
        eventually(lambda: "short.csv" not in names(inbox))


def test_the_config_may_say_that_all_go(inbox: Path, tmp_path: Path) -> None:
    (inbox / "good.csv").write_text(ONE)
    (inbox / "broken.csv").write_text("1,2\n3\n")
    with serving(tmp_path, WATCH + 'after = "delete-all"\n') as agent:
        eventually(lambda: not names(inbox))
        assert 'action="deleted",outcome="refused"} 1.0' in agent.get("/metrics")


def test_what_cannot_be_written_is_kept_until_it_can(inbox: Path, tmp_path: Path) -> None:
    (inbox / "a.csv").write_text(ONE)
    with serving(tmp_path, WATCH + DELETE + '[output]\nwhere = "nowhere/out.jsonl"\n') as agent:
        eventually(lambda: agent.metric("edgeloop_agent_dropped_total") >= 1)
        eventually(lambda: "file kept" in agent.log)
        assert names(inbox) == {"a.csv"}
        (tmp_path / "nowhere").mkdir()
        eventually(lambda: not names(inbox))
        assert json.loads((tmp_path / "nowhere/out.jsonl").read_text())["input"] == "a.csv"


def test_a_disk_that_is_full_fills_no_log_and_costs_few_inferences(inbox: Path, tmp_path: Path) -> None:
    for number in range(100):
        (inbox / f"{number:03}.csv").write_text(ONE)
    with serving(tmp_path, WATCH + DELETE + '[output]\nwhere = "nowhere/out.jsonl"\n') as agent:
        eventually(lambda: agent.metric("edgeloop_agent_dropped_total") >= 100)
        time.sleep(2.5)
        assert agent.metric("edgeloop_agent_dropped_total") < 160 and agent.log.count("file kept") == 1
        assert 'outcome="unwritten"' in agent.get("/metrics") and len(names(inbox)) == 100


def test_a_file_that_is_being_written_is_waited_for(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + DELETE) as agent:
        with (inbox / "slow.csv").open("w") as file:
            for part in range(3):
                file.write("\n".join(ROWS[: 101 + part]) if not part else "\n" + ROWS[101 + part])
                file.flush()
                time.sleep(0.6)
                assert names(inbox) == {"slow.csv"} and not agent.lines
        eventually(lambda: not names(inbox))
        assert len(agent.lines) == 1


def test_links_out_of_the_folder_are_not_followed(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("root:x:0:0\nmore\n")
    (inbox / "a.csv").write_text(ONE)
    (inbox / "inside.csv").symlink_to("a.csv")
    (inbox / "outside.csv").symlink_to(tmp_path / "secret.csv")
    (inbox / "circle.csv").symlink_to("circle.csv")
    for name, recordings in {
        "folder": folder(inbox), "watch": WatchedFolder(Source(kind="watch", where=str(inbox), settle_seconds=0.01, poll_seconds=0.01)).recordings(Event(), lambda why: None)
    }.items():  # fmt: skip
        found = {}
        for recording in recordings:
            found[recording.name] = recording
            if len(found) == 3:
                break
        assert found["inside.csv"].values is not None and found["a.csv"].values is not None, name
        assert "a symbolic link to another folder" in found["outside.csv"].refused and "root" not in found["outside.csv"].refused


def test_who_has_a_file_open_for_writing_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w"):
        assert being_written(path)
    assert not being_written(path)
    with path.open():
        assert not being_written(path)
    assert not being_written(tmp_path / "gone.csv")


def test_a_worker_that_is_killed_leaves_every_file_that_it_did_not_answer(inbox: Path, tmp_path: Path) -> None:
    many = {f"{i:03}.csv" for i in range(60)}
    for name in many:
        (inbox / name).write_text(ONE)
    with serving(
        tmp_path, WATCH + DELETE + QUICK, SLOW="0.02", PYTHONPATH=str(HERE / "support" / "faults"), FAULT=str(tmp_path / "f")
    ) as agent:
        for times in range(2):
            eventually(lambda: len(agent.lines) > 5)
            os.kill(agent.worker(), signal.SIGKILL)
            assert many - names(inbox) <= answered(agent.lines)
            agent.wait_ready(times + 2)
        eventually(lambda: not names(inbox))
        assert answered(agent.lines) == many


@pytest.mark.parametrize(("poison", "kind"), [("segfault", "watch"), ("killed", "folder"), ("answered", "watch")])
def test_a_file_that_kills_the_worker_is_left_out_and_the_others_are_answered_once(
    poison: str, kind: str, inbox: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "y", "z"):
        (inbox / f"{name}.csv").write_text(ONE)
    worst = [ROWS[0], *(",".join(["60"] * 6) for _ in range(100))] if poison == "answered" else [ONE]
    (inbox / f"m-{poison}.csv" if poison == "answered" else inbox / f"{poison}.csv").write_text("\n".join(worst))
    with serving(
        tmp_path, WATCH.replace("watch", kind) + QUICK, PYTHONPATH=str(HERE / "support" / "faults"), FAULT=str(tmp_path / "f")
    ) as agent:
        eventually(lambda: any("is excluded now" in line.get("refused", "") for line in agent.lines), 90)
        eventually(lambda: answered(agent.lines) == {"a.csv", "b.csv", "y.csv", "z.csv"})
        assert agent.metric("edgeloop_agent_worker_restarts_total") <= 5
        time.sleep(0.5)
        assert Counter(line["input"] for line in agent.lines)["a.csv"] <= 2  # it may have been in hand as well
        assert "file excluded" in agent.log


def test_the_blame_is_put_where_it_belongs() -> None:
    deaths = DeathRecord()

    def worker(careful: bool = False) -> InFlight:
        return InFlight(*deaths.descriptors, careful)

    with worker().reading("innocent"), worker().answering("other"):
        assert deaths.blame(certain=True) == []  # either of them
    with worker(careful=True).reading("guilty"):
        assert deaths.blame(certain=False) == []  # the kernel, or somebody, killed it
    with worker(careful=True).reading("guilty"):
        assert deaths.blame(certain=False) == ["guilty"]
    in_flight = worker()
    assert in_flight.is_excluded("guilty") and not in_flight.is_excluded("innocent")
    for name in "abcde":
        in_flight.failed(name)
    for _ in range(3):
        with in_flight.answering("f"):
            assert deaths.blame(certain=False) == []
        in_flight = worker()
        for name in "abcde":
            in_flight.failed(name)
    with in_flight.answering("f"):
        assert deaths.blame(certain=False) == [*"abcdef"]
    in_flight.finish("done")
    assert worker().is_finished("done") and not worker().is_finished("other")
    deaths.forget()
    assert not worker().is_finished("done") and not worker().is_excluded("guilty")


def test_a_file_that_takes_long_to_read_is_no_hung_runtime() -> None:
    deaths, waited = DeathRecord(), []
    in_flight = InFlight(*deaths.descriptors, careful=True)
    begun, done = threading.Event(), threading.Event()

    def reads() -> None:
        with in_flight.reading("long"):
            begun.set()
            done.wait(5)

    thread = threading.Thread(target=reads)
    thread.start()
    begun.wait(5)
    with in_flight.answering("other", lambda: (waited.append(1), done.set())):  # type: ignore[func-returns-value, arg-type, return-value]
        assert waited
    thread.join()


def test_what_waits_in_files_is_not_dropped_by_itself(tmp_path: Path) -> None:
    from edgeloop_agent.sources import waits_when_full

    (tmp_path / "points.csv").write_text("1\n")
    assert all(waits_when_full(Source(kind=kind, where="x")) for kind in ("watch", "folder", "file", "video"))
    assert waits_when_full(Source(kind="lines", where=str(tmp_path / "points.csv")))
    assert not any(waits_when_full(Source(kind=kind, where="x")) for kind in ("camera", "microphone", "mqtt", "lines"))
    assert not waits_when_full(Source(kind="watch", where="x", when_full="drop-oldest")) and waits_when_full(
        Source(kind="mqtt", when_full="block")
    )


def test_names_that_are_no_utf8_go_everywhere(inbox: Path, tmp_path: Path) -> None:
    bad = os.fsencode(inbox) + b"/caf\xe9\n\x1b[31m.csv"
    Path(os.fsdecode(bad)).write_text(ONE)
    (inbox / "z.csv").write_text(ONE)
    Path(os.fsdecode(os.fsencode(inbox) + b"/\xff.csv")).write_text("1,2\n3\n")
    with serving(tmp_path, WATCH + DELETE) as agent:
        eventually(lambda: len(agent.lines) == 3)
        assert {line["input"] for line in agent.lines} == {"caf\\xe9\n\x1b[31m.csv", "z.csv", "\\xff.csv"}
        eventually(lambda: len(list(inbox.iterdir())) == 1)
        assert "recording=\\xff.csv" in agent.log and "\x1b" not in agent.log
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0
    shutil.copy(RECORDING, os.fsdecode(bad))
    done = command("edgeloop-agent", "run", GOLDEN, "--source", inbox)
    assert done.returncode == 0 and done.stdout.count("caf\\\\xe9") == 48
    lines = '{"name": "\\ud800", "values": [[1]]}\n' + json.dumps({"name": "n" * 5000, "values": [[1]]}) + "\n"
    done = command("edgeloop-agent", "run", GOLDEN, "--source", "-", stdin=lines)
    assert done.returncode == 3 and [len(json.loads(x)["input"]) for x in done.stdout.splitlines()] == [6, 500]
