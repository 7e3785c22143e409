"""Requests of several devices that are served together: none spoils another's, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

from edgeloop_contract.messages import Report
from edgeloop_contract.rollout import Step
from edgeloop_hub.auth import accounts
from edgeloop_hub.fleet import reports
from edgeloop_hub.http.together import Together
from edgeloop_hub.storage.schema import devices, heartbeats
from hub_parts import NEW, OLD, Parts, beat, with_two_versions
from hubs import Hub, running_hub
from programs import needs
from test_hub_stores import postgres


def test_a_question_without_an_answer_spoils_no_other() -> None:
    calls: list[list[int]] = []

    def halves(numbers: Sequence[int]) -> list[int]:
        calls.append(list(numbers))
        time.sleep(0.02)
        if any(number % 2 for number in numbers):
            raise ValueError("odd")
        return [number // 2 for number in numbers]

    async def ask() -> list[Any]:
        together = Together(halves, most=4)
        return await asyncio.gather(*(together(number) for number in (2, 4, 5, 8, 10, 12)), return_exceptions=True)

    answers = asyncio.run(ask())
    assert [a if isinstance(a, int) else str(a) for a in answers] == [1, 2, "odd", 4, 5, 6]
    assert calls == [[2, 4, 5, 8], [2], [4], [5], [8], [10, 12]]


def test_an_error_that_is_everybodys_is_not_tried_again_and_the_next_question_is_served() -> None:
    calls: list[list[int]] = []

    def away_once(numbers: Sequence[int]) -> list[int]:
        calls.append(list(numbers))
        if len(calls) == 1:
            raise TimeoutError("away")
        return list(numbers)

    async def ask() -> tuple[list[Any], int]:
        together = Together(away_once, most=8, common=(TimeoutError,))
        first = await asyncio.gather(*(together(number) for number in range(3)), return_exceptions=True)
        return first, await together(7)

    first, then = asyncio.run(ask())
    assert [str(error) for error in first] == ["away"] * 3 and then == 7 and calls == [[0, 1, 2], [7]]


def test_two_calls_at_once_and_no_question_is_left_waiting() -> None:
    """Who comes while a call waits for the disk begins the second one; who comes at the very end of a call is served too."""
    under_way, most_under_way, sizes = 0, 0, list[int]()
    lock = threading.Lock()

    def slow(numbers: Sequence[int]) -> list[int]:
        nonlocal under_way, most_under_way
        with lock:
            under_way += 1
            most_under_way = max(most_under_way, under_way)
            sizes.append(len(numbers))
        time.sleep(0.002 * (numbers[0] % 3))
        with lock:
            under_way -= 1
        return list(numbers)

    async def ask() -> list[int]:
        together = Together(slow, most=8, calls=2)

        async def one(number: int) -> int:
            await asyncio.sleep(0.001 * (number % 37))
            return await together(number)

        return list(await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(600))), 20))

    assert asyncio.run(ask()) == list(range(600))
    assert most_under_way == 2 and sum(sizes) == 600 and max(sizes) <= 8


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    return with_two_versions(tmp_path)


def test_reports_together_are_stored_as_each_alone(hub: Parts) -> None:
    for name in ("a", "b", "c"):
        hub.device(name)
    hub.rollout("m-2", [Step(percent=100.0)], soak_seconds=1e6)
    mine = {name: accounts.EnrolledDevice(name, [], "stable", "m", OLD) for name in ("a", "b", "c", "gone")}
    now = time.time()
    came = [
        reports.Came(mine[name], Report(key=f"key-{key:06}", at=now, heartbeat=beat(NEW, crashes=crashes, answered=10)))
        for name, key, crashes in (("b", 1, 0), ("a", 1, 0), ("b", 2, 3), ("b", 1, 0), ("c", 1, 1), ("gone", 1, 0))
    ]
    assert reports.store_together(hub.hub.database, came, hub.hub.settings) == [True] * 6
    assert hub.value(devices.c.quota_used, devices.c.name == "b") == 3  # one came twice
    with hub.hub.database.reading() as database:
        stored = database.execute(heartbeats.select()).all()
    assert sorted((row.device, row.key) for row in stored) == [
        (n, f"key-{k:06}") for n, k in (("a", 1), ("b", 1), ("b", 2), ("c", 1))
    ]
    from edgeloop_hub.storage.fleet_tables import device_states
    from edgeloop_hub.storage.schema import rollout_evidence

    assert hub.value(device_states.c.crashes_of_day, device_states.c.device == "b") == 3
    assert hub.value(rollout_evidence.c.crashes, rollout_evidence.c.device == "b") == 3
    over = Parts(hub.hub, hub.keys)
    hub.change(devices, devices.c.name == "a", quota_used=10**6)
    again = [reports.Came(mine[name], Report(key="key-000009", at=now, heartbeat=beat(OLD))) for name in ("a", "c")]
    assert reports.store_together(over.hub.database, again, hub.hub.settings) == [False, True]


def a_hub_with_devices(hub: Hub, count: int) -> list[str]:
    """The credentials of so many devices."""
    secrets = []
    for number in range(count):
        body = {"token": hub.run("token", "enrol", f"pi-{number}"), "device": f"pi-{number}"}
        answer = urllib3.request("POST", f"{hub.address}/api/v1/enrol", json=body)
        secrets.append(str(answer.json()["credential"]))
    return secrets


def sent_at_once(hub: Hub, secrets: list[str]) -> Iterator[tuple[str, int]]:
    """Each device sends each report twice at once, among reports that no table can hold; the key and the status of each."""
    with urllib3.PoolManager(maxsize=16, retries=False) as http, ThreadPoolExecutor(16) as pool:

        def send(secret: str, key: str, model: str) -> tuple[str, int]:
            body = {"key": key, "at": time.time(), "heartbeat": {"model": model, "version": 1, "crashes": 1}}
            headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
            answer = http.request("POST", f"{hub.address}/api/v1/report", body=json.dumps(body), headers=headers)
            return key, answer.status

        sent = []
        for turn in range(10):
            for secret in secrets:
                key = os.urandom(8).hex()
                sent += [pool.submit(send, secret, key, "exercise_watch") for _ in range(2)]
                sent.append(pool.submit(send, secret, f"bad-{turn:08}", "a\0b"))
            sent.append(pool.submit(send, "no such secret", f"none-{turn:08}", "exercise_watch"))
        yield from (one.result() for one in sent)


@pytest.mark.long
@needs("postgresql")
def test_devices_that_report_at_once_on_postgresql(tmp_path: Path) -> None:
    from edgeloop_hub.storage.database import Database

    with postgres() as address, running_hub(tmp_path, "--database", address, serve=("--workers", "2")) as hub:
        secrets = a_hub_with_devices(hub, 4)
        sent = list(sent_at_once(hub, secrets))
        assert {status for key, status in sent if len(key) == 16} == {200}
        assert {status for key, status in sent if key.startswith("bad")} == {400}
        assert {status for key, status in sent if key.startswith("none")} == {401}
        database = Database(address)
        with database.reading() as connection:
            stored = connection.execute(heartbeats.select()).all()
            assert {row.key for row in stored} == {key for key, _ in sent if len(key) == 16} and len(stored) == 40
            # A retry is counted too, and nothing is lost between two workers.
            assert set(connection.execute(devices.select().with_only_columns(devices.c.quota_used)).scalars()) == {20}
        database.engine.dispose()
