"""Faults between an answer and its place: nothing is called safe that is not, and no thread ends unseen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop_agent.answering import AnswerLine
from edgeloop_agent.config import Output
from edgeloop_agent.errand import Errand
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.outputs import delivery as deliveries
from edgeloop_agent.outputs.delivery import Delivery
from edgeloop_agent.outputs.lines import LineOutput
from edgeloop_agent.outputs.messages import Message, Speaker, as_jpeg
from edgeloop_agent.outputs.sending import Delivered
from edgeloop_agent.outputs.ticket import Ticket
from edgeloop_agent.settling import Settling
from edgeloop_agent.sources import Recording
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import StorageError
from serving import GOLDEN, eventually


class Other:
    """The other side. `there`: whether it takes messages."""

    where = "nowhere"

    def __init__(self, there: bool) -> None:
        self.there, self.got = there, list[str]()

    def send(self, messages: list[Message]) -> Delivered:
        if not self.there:
            return Delivered(0, why="away")
        self.got += [message.id for message in messages]
        return Delivered(len(messages))

    def use(self, manifest: object) -> None: ...
    def close(self) -> None: ...


def delivering(path: Path, other: Other) -> tuple[Delivery, Counts]:
    with Bundle.open(GOLDEN) as bundle:
        manifest = bundle.manifest
    counts = Counts()
    return Delivery(other, Speaker("d", manifest), path / "q.sqlite", 1 << 24, counts, Log("error")), counts


def line(number: int) -> AnswerLine:
    return AnswerLine(f"frame {number}", 0, "walk", {"walk": 1.0})


def test_answers_that_found_no_room_are_not_called_safe(tmp_path: Path) -> None:
    delivery, counts = delivering(tmp_path, Other(there=False))  # its thread does not run: the disk is slow
    held = threading.Event()
    with delivery._storing:
        for number in range(2 * deliveries.MAX_PENDING + 5):
            delivery.put(line(number), None)
        waited = threading.Thread(target=lambda: (delivery.put(line(0), None, lambda: not held.is_set()), held.set()))
        waited.start()
        time.sleep(0.1)
        assert waited.is_alive()  # a source that may wait loses nothing
    waited.join(5)
    assert not waited.is_alive()
    assert delivery.sync() is False and counts.dropped["output"] == 5
    assert delivery.sync() is True


def test_a_picture_that_is_no_jpeg_costs_the_picture_alone(tmp_path: Path) -> None:
    assert as_jpeg(np.zeros((2, 70_000, 3), np.uint8)) == b"" and as_jpeg(np.zeros((0, 4, 3), np.uint8)) == b""
    other = Other(there=True)
    delivery, _ = delivering(tmp_path, other)
    delivery.start()
    delivery.put(line(0), np.zeros((2, 70_000, 3), np.uint8))
    delivery.put(line(1), None)
    eventually(lambda: len(other.got) == 2)
    delivery.stop()
    delivery.close(time.monotonic() + 1)


def test_what_was_sent_is_not_sent_again_while_the_disk_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other(there=False)
    delivery, counts = delivering(tmp_path, other)
    for number in range(3):
        delivery.put(line(number), None)
    assert delivery.sync()
    remove, failing = delivery._queue.remove, [True]

    def read_only(messages: Any) -> None:
        if failing[0]:
            raise StorageError("read-only")
        remove(messages)

    monkeypatch.setattr(delivery._queue, "remove", read_only)
    other.there, delivery._next_try = True, 0.0
    delivery.start()
    eventually(lambda: len(other.got) == 3)
    time.sleep(1.5)
    assert len(other.got) == 3  # and not 64 times
    failing[0] = False
    delivery.put(line(3), None)
    eventually(lambda: counts.outputs_waiting["nowhere"] == 0 and len(other.got) == 4)
    assert len(set(other.got)) == 4
    delivery.stop()
    delivery.close(time.monotonic() + 1)


def settled(sync: Callable[[], bool], count: int) -> tuple[list[str], list[Exception]]:
    outcomes: list[str] = []
    failed: list[Exception] = []
    settling = Settling(sync, lambda _, outcome: outcomes.append(outcome), failed.append)
    for number in range(count):
        settling.begin(lambda: True)
        settling.ready(Recording(key=str(number), name=str(number), values=None), "answered")
    eventually(lambda: len(outcomes) == count)
    settling.close(lambda: False)
    return outcomes, failed


def test_a_sync_that_fails_once_is_of_all_that_was_written_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk says once that it lost something: later recordings are no safer by the next sync."""
    calls, hold = [0], threading.Event()

    def sync() -> bool:
        calls[0] += 1
        hold.wait(5)
        return calls[0] > 1

    threading.Timer(0.5, hold.set).start()
    outcomes, _ = settled(sync, 201)
    assert outcomes.count("unwritten") >= 64 and outcomes[0] == "unwritten"
    first_safe = outcomes.index("answered") if "answered" in outcomes else 201
    assert "unwritten" not in outcomes[first_safe:] and first_safe >= 200  # all were begun before the first sync ended


def test_a_fault_ends_no_thread(tmp_path: Path) -> None:
    def sync() -> bool:
        raise RuntimeError("a fault of ours")

    outcomes, failed = settled(sync, 3)
    assert outcomes == ["unwritten"] * 3 and failed
    done: list[int] = []

    def errand() -> None:
        done.append(1)
        if len(done) == 1:
            raise KeyError("once")

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        work = Errand("test", errand)
        work.ask()
        assert work.wait(5)
        work.ask()
        assert work.wait(5) and len(done) == 2
    finally:
        threading.excepthook = hook

    def broken(_: bool) -> None:
        raise RuntimeError("of a ticket")

    output, ended = LineOutput(Output(where=str(tmp_path / "out.jsonl"), max_bytes=1 << 20), Counts(), Log("error")), list[bool]()
    output.put([{"n": 1}], Ticket(broken, 1), last=True)
    output.put([{"n": 2}], Ticket(ended.append, 1), last=True)
    eventually(lambda: ended == [True])
    output.close(time.monotonic() + 1)


def test_recordings_without_lines_have_a_bound_too(tmp_path: Path) -> None:
    """Rules may choose none of them, and each still waits for those before it."""
    import os

    os.mkfifo(tmp_path / "pipe")
    counts, ended = Counts(), list[bool]()
    output = LineOutput(Output(where=str(tmp_path / "pipe"), max_bytes=1 << 40), counts, Log("error"))
    output.put([{"n": 0}], Ticket(ended.append, 1), last=True)  # nobody reads: the thread waits with it
    for _ in range(40_000):
        output.put([], Ticket(ended.append, 1), last=True)
    assert len(output._waiting) < 20_000 and len(ended) > 20_000
    output.close(time.monotonic())
    with (tmp_path / "pipe").open("rb"):
        pass
