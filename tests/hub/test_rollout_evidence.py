"""What a rollout's gates judge by is added up with each report: the same verdicts, whatever the rollout's age."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select

from edgeloop_contract.messages import Moments
from edgeloop_contract.rollout import RolloutPlan, Step
from edgeloop_hub.rollouts import evidence, rollout_store, service
from edgeloop_hub.rollouts.policy import Rollout, is_in
from edgeloop_hub.storage.schema import heartbeats, rollout_evidence, rollouts
from hub_parts import NEW, OLD, Parts, beat, parts

DEVICES = 40


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    found = parts(tmp_path)
    found.bundle("m-2.edgeloop", NEW)
    for i in range(DEVICES):
        found.device(f"pi-{i}", sha256=NEW if i % 2 else OLD)
    return found


def spoken(rng: random.Random, sha256: str, crashes: int) -> Any:
    walked = rng.randrange(30, 70)
    return beat(
        sha256, answered=100, latency_us_p95=rng.uniform(800, 1000), confidence=Moments(100, rng.uniform(0.8, 0.9), 0.01),
        labels={"walk": walked, "run": 100 - walked}, drift=rng.uniform(0, 1), crashes=crashes, right=90, labelled=100,
    )  # fmt: skip


def assessed(hub: Parts, number: int) -> Any:
    with hub.hub.database.reading() as database:
        return service.assess(database, rollout_store.find(database, number))


def verdicts(found: Any) -> list[tuple[str, bool | None, str]]:
    return [(f.gate, f.breached, f.text) for f in found.findings]


def test_sums_give_the_verdicts_that_the_reports_give(hub: Parts) -> None:
    number, rng = hub.rollout("m-2.edgeloop", [Step(devices=[f"pi-{i}" for i in range(1, DEVICES, 2)])]), random.Random(0)
    crashes = [0] * DEVICES
    for turn in range(6):
        for i in range(DEVICES):
            crashes[i] += rng.random() < 0.2
            hub.report(f"pi-{i}", f"{i:04}-{turn:04}", spoken(rng, NEW if i % 2 else OLD, crashes[i]))
            hub.report(f"pi-{i}", f"{i:04}-{turn:04}", spoken(rng, NEW, 10**6))  # sent twice: stored once, added once
    by_sums = verdicts(assessed(hub, number))
    mark = rollout_evidence.c.device == ""
    hub.change(rollout_evidence, mark, device="nobody")  # as if it began with an earlier release
    assert by_sums == verdicts(assessed(hub, number)) and sum(breached is not None for _, breached, _ in by_sums) >= 6
    hub.change(rollout_evidence, rollout_evidence.c.device == "nobody", device="")
    with hub.hub.database.writing() as database:
        database.execute(delete(heartbeats))  # kept for the pages alone
    assert verdicts(assessed(hub, number)) == by_sums


def test_rows_do_not_grow_with_the_age_or_with_what_a_device_makes_up(hub: Parts) -> None:
    number, rng = hub.rollout("m-2.edgeloop", [Step(percent=50.0)]), random.Random(0)
    for turn in range(30):
        for i in range(3):
            hub.report(f"pi-{i}", f"{i:04}-{turn:04}", spoken(rng, NEW if i else f"{turn:064x}", 0))
    rows = hub.value(select(func.count()).select_from(rollout_evidence).scalar_subquery())
    assert rows == evidence.MAX_BUNDLES + 2 + 1  # and the mark
    hub.change(rollouts, rollouts.c.id == number, state="aborted", began=0.0)
    for turn in range(30, 33):
        hub.report("pi-1", f"0001-{turn:04}", spoken(rng, NEW, 0))  # of no open rollout: nothing is added
    hub.tick()
    assert hub.value(select(func.count()).select_from(rollout_evidence).scalar_subquery()) == 0  # long over


def test_rows_of_another_release_are_passed_over(hub: Parts) -> None:
    number, rng = hub.rollout("m-2.edgeloop", [Step(percent=100.0)]), random.Random(0)
    for i in range(1, 6):
        hub.report(f"pi-{i}", f"{i:04}-0000", spoken(rng, NEW, 0))
    hub.change(rollout_evidence, rollout_evidence.c.device == "pi-1", body='{"hours": "many"}')
    assert assessed(hub, number).reported == 4
    assert hub.report("pi-1", "0001-0001", spoken(rng, NEW, 0)) and assessed(hub, number).reported == 5


def test_who_is_in_the_steps_so_far_is_in_one_of_them() -> None:
    """Shares, names and labels, in any order: by all steps at once as by each."""
    rng = random.Random(0)
    for turn in range(300):
        kinds = (Step(percent=rng.choice([0.5, 30.0, 70.0, 100.0])), Step(devices=["d-3", "d-7"]), Step(label="pilot"))
        steps = rng.choices(kinds, k=3)
        step = rng.randrange(3)
        rollout = Rollout(1, "stable", "m", f"m-{turn}", NEW, RolloutPlan(steps), "running", step, 0.0)
        for i in range(10):
            labels = ("pilot", "roof")[: rng.randrange(3)]
            by_each = any(is_in(one, f"d-{i}", labels, rollout.target) for one in steps[: step + 1])
            assert rollout.cohort_has(f"d-{i}", labels) == by_each
