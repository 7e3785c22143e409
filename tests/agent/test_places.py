"""The agent where devices stand: read-only roots, full and worn cards, no home, any locale. Inference goes on everywhere."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from commands import BIN, HERE, command, sentence
from edgeloop_agent.logs import Log, Recurring
from places import BARE, card, fill, in_namespaces, read_only, seen_by, worn_card
from programs import needs
from service import QUICK, WATCH, WINDOWS, arrive
from serving import GOLDEN, RECORDING, Agent, eventually, serving, write_config

DRIFTS = HERE / "goldens" / "v0.2" / "exercise_watch-1.edgeloop"  # has a drift reference: its samples go to the outbox
QUICKLY = "[runtime]\nmeasure_seconds = 0.01\n"
ANSWERS = '[[output]]\nwhere = "state/out.jsonl"\n[[output]]\nkind = "http"\nwhere = "http://127.0.0.1:9/hook"\n'
HUB = (
    '[updates]\nhub = "http://127.0.0.1:9"\npoll_seconds = 1\n[samples]\nsend = "samples"\nrandom_share = 1.0\nmax_per_hour = 1e5\n'
)
LOST = ("samples are lost", "answers are lost where=", "answers are lost: they cannot be kept")
BACK = ("samples are kept again", "answers are written again", "answers that wait are kept again")


def answered(agent: Agent, recordings: int) -> None:
    eventually(lambda: agent.metric("edgeloop_agent_samples_answered_total") == recordings * WINDOWS)


def said(agent: Agent, *sentences: str) -> list[int]:
    """How often the log has each of them."""
    return [agent.log.count(sentence) for sentence in sentences]


def loses_and_recovers(agent: Agent, inbox: Path, begin: object, end: object) -> None:
    """While a disk refuses, all is answered and each loss is one sentence; afterwards all is kept again, and that is said."""
    arrive(inbox, "before.csv")
    answered(agent, 1)
    begin()  # type: ignore[operator]
    for number in range(3):
        arrive(inbox, f"{number}.csv")
        answered(agent, 2 + number)
    eventually(lambda: said(agent, *LOST) == [1, 1, 1])
    assert agent.metric("edgeloop_agent_dropped_total") >= 3 * WINDOWS
    end()  # type: ignore[operator]
    arrive(inbox, "after.csv")
    answered(agent, 5)
    eventually(lambda: said(agent, *BACK) == [1, 1, 1])
    assert said(agent, *LOST, "Traceback") == [1, 1, 1, 0] and agent.metric("edgeloop_agent_worker_restarts_total") == 0


@in_namespaces
def test_a_read_only_root_with_one_writable_folder(inbox: Path, tmp_path: Path) -> None:
    """No /tmp, no home, no user: both runtimes are measured, their graphs are kept, and the next start knows what was measured."""
    (tmp_path / "state").mkdir()
    settings = WATCH + QUICK + QUICKLY + '[output]\nwhere = "state/out.jsonl"\n'
    arrive(inbox, "a.csv")
    for again in (False, True):
        with serving(tmp_path, settings, inside=[*read_only(tmp_path / "state"), *BARE]) as agent:
            answered(agent, 1)
            measured = 0 if again else 4
            assert (agent.log.count(" measured variant="), agent.log.count("refuses")) == (measured, 0), agent.log
    assert len(list((tmp_path / "state" / "graphs").glob("*.graph"))) == 4
    assert not list((tmp_path / "state" / "tmp").iterdir())


@in_namespaces
@pytest.mark.long
def test_nothing_at_all_can_be_written(inbox: Path, tmp_path: Path) -> None:
    """A card that the kernel mounted read-only at boot: what cannot be kept is said, and everything is answered."""
    (tmp_path / "empty").mkdir()
    arrive(inbox, "a.csv")
    with serving(tmp_path, WATCH + QUICK + ANSWERS + HUB, DRIFTS, inside=read_only(tmp_path / "empty")) as agent:
        answered(agent, 1)
        eventually(lambda: said(agent, *LOST) == [1, 1, 1])
        assert agent.log.count("the disk is read-only or worn out") >= 2 and "Traceback" not in agent.log


@in_namespaces
def test_a_full_card_costs_what_does_not_fit_and_nothing_else(inbox: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with serving(tmp_path, WATCH + QUICK + ANSWERS + HUB, DRIFTS, inside=card(state, "3m")) as agent:
        inside = seen_by(agent.process.pid, state)
        loses_and_recovers(agent, inbox, lambda: fill(inside), lambda: (inside / "fill").unlink())
        assert "make room" in agent.log and "worn out" not in agent.log


@needs("gcc", "libc6-dev")
@pytest.mark.long
@pytest.mark.parametrize("how", ["rofs", "io"])
def test_a_worn_card(how: str, inbox: Path, tmp_path: Path) -> None:
    """Read-only while it runs, or an error at every write."""
    state, told = tmp_path / "state", tmp_path / "how"
    state.mkdir()
    with serving(tmp_path, WATCH + QUICK + ANSWERS + HUB, DRIFTS, **worn_card(state, told)) as agent:
        loses_and_recovers(agent, inbox, lambda: told.write_text(how), told.unlink)
        assert "the disk is read-only or worn out" in agent.log and "make room" not in agent.log


@needs("gcc", "libc6-dev")
def test_a_card_that_hangs_makes_no_answer_later(tmp_path: Path) -> None:
    """Files are deleted, answers written, kept and sent, a hub asked, drift kept: nothing of it is waited for, and nothing lost."""
    card, told, names = tmp_path / "card", tmp_path / "how", [f"{number}.csv" for number in range(4)]
    (card / "in").mkdir(parents=True)
    outputs = ANSWERS.replace("state/", "card/") + '[[output]]\nwhere = "-"\n'
    source = WATCH.replace('"in"', '"card/in"') + 'after = "delete"\n'
    text = source + QUICK + outputs + HUB + "[thermal]\npoll_seconds = 0.1\n"
    with serving(tmp_path, text, DRIFTS, state="card/state", **worn_card(card, told)) as agent:
        for number, name in enumerate(names):
            began = time.monotonic()
            arrive(card / "in", name)
            eventually(lambda: agent.log.count('\n{"input"') == (number + 1) * WINDOWS)  # noqa: B023
            assert time.monotonic() - began < 10  # the card hangs until it is told otherwise
            if name == "0.csv":
                eventually(lambda: not list((card / "in").iterdir()))
                told.write_text("hangs")
        time.sleep(2)  # longer than hang_seconds
        assert {path.name for path in (card / "in").iterdir()} == set(names[1:])
        assert (card / "out.jsonl").read_text().count("\n") == WINDOWS
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0
        told.unlink()
        eventually(lambda: not list((card / "in").iterdir()))
        assert (card / "out.jsonl").read_text().count("\n") == 4 * WINDOWS
        assert 'dropped_total{reason="output"} 0.0' in agent.get("/metrics") and "Traceback" not in agent.log


def test_who_logs_waits_for_no_disk() -> None:
    """Lines for a disk that hangs wait in memory, with a bound; what found no room is counted in the log."""
    hangs = threading.Event()

    class Hanging(io.StringIO):
        def write(self, text: str) -> int:
            assert hangs.wait(20)
            return super().write(text)

    stream = Hanging()
    log = Log("info", stream)
    log.in_background()
    began = time.monotonic()
    for number in range(1_200):
        log("info", f"line {number}")
    assert time.monotonic() - began < 1 and not stream.getvalue() and "line 1199" in log.recent[-1]
    hangs.set()
    log.flush(10)
    said = stream.getvalue()
    assert said.count(" line ") == 1_000 and "log lines are lost: nothing took them count=200" in said


@needs("gcc", "libc6-dev")
@pytest.mark.long
def test_a_card_that_takes_seconds_for_every_sync(inbox: Path, tmp_path: Path) -> None:
    """Longer than `hang_seconds`: the worker is not taken for hung."""
    state, told = tmp_path / "state", tmp_path / "how"
    state.mkdir()
    with serving(tmp_path, WATCH + QUICK + ANSWERS + HUB, DRIFTS, **worn_card(state, told)) as agent:
        arrive(inbox, "before.csv")
        answered(agent, 1)
        told.write_text("slow")
        for number in range(6):
            arrive(inbox, f"{number}.csv")
            time.sleep(1)
        answered(agent, 7)
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0 and "no progress" not in agent.log


BEYOND = "Küche 台所"


@pytest.mark.parametrize(
    "locale", ["PYTHONUTF8=0", *(pytest.param(name, marks=pytest.mark.long) for name in ("LANG=C", "LC_ALL=POSIX"))]
)
def test_names_beyond_ascii_in_any_locale(locale: str, tmp_path: Path) -> None:
    """In the config, of the bundle, its folder, recordings and answers; without a home and a user. The last one knows ASCII alone."""
    folder = tmp_path / BEYOND
    (folder / "in").mkdir(parents=True)
    bundle = folder / "Modell ü.edgeloop"
    shutil.copy(GOLDEN, bundle)
    environment = [*BARE, locale, *(["LC_ALL=C", "PYTHONCOERCECLOCALE=0"] if locale == "PYTHONUTF8=0" else [])]
    with serving(folder, WATCH + QUICK, bundle, inside=environment) as agent:
        shutil.copy(RECORDING, folder / "in" / "Übung 台.csv")
        (folder / "in" / "nichts ß.csv").write_text("1,2\n3\n")
        (folder / "in" / os.fsdecode(b"latin\xfc.csv")).write_text("1,2\n3\n")
        eventually(lambda: len(agent.lines) == WINDOWS + 2)
        assert {line["input"] for line in agent.lines} == {"Übung 台.csv", "nichts ß.csv", "latin\\xfc.csv"}
    words = [*environment, BIN / "edgeloop-agent", "check", folder / "agent.toml"]
    checked = subprocess.run(words, capture_output=True, text=True, check=False)
    if locale == "PYTHONUTF8=0":
        assert "this locale has no such letters; set LC_ALL=C.UTF-8" in sentence(checked, 2)
    else:
        assert checked.returncode == 0 and f"bundle {bundle}: exercise_watch version 1" in checked.stdout, checked.stderr


@in_namespaces
@pytest.mark.long
def test_commands_on_a_read_only_root_say_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = write_config(tmp_path, HUB)
    inside = [*read_only(tmp_path / "empty"), *BARE, BIN / "edgeloop-agent"]
    for words in (("enrol", path, "--name", "pi", "--token", "x"), ("update", path)):
        done = subprocess.run([*map(str, inside), *words], capture_output=True, text=True, check=False)
        assert "read-only or worn out" in sentence(done, 7)
    done = subprocess.run([*map(str, inside), "bench", GOLDEN, "--seconds", "0.01"], capture_output=True, text=True, check=False)
    assert "/.local/state/edgeloop-agent" in sentence(done, 7)
    assert command("edgeloop-agent", "check", path).returncode == 0


def test_a_fault_that_comes_and_goes_is_said_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr("edgeloop_agent.logs.time.monotonic", lambda: now[0])
    fault = Recurring(Log("info", stream), "lost", "kept again")
    for second in range(121):
        now[0] = float(second)
        fault.fails("full")
        if second % 10 == 9:
            fault.works()
    assert (stream.getvalue().count(" lost "), stream.getvalue().count("kept again")) == (3, 2)
    fault.fails("read-only")
    assert "why=read-only" in stream.getvalue()
    fault.works()
    fault.works()
    assert stream.getvalue().count("kept again") == 3
