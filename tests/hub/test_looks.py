"""Looks at gates: their error rate over a rollout, what they wait for, how they are kept and shown, and power before a rollout."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from edgeloop_contract.gate_messages import GateLook
from edgeloop_contract.messages import Moments
from edgeloop_contract.rollout import GateLimits, RolloutPlan, Step
from edgeloop_hub.rollouts import forecast, looks, power, rollout_store, service
from edgeloop_hub.rollouts.device_evidence import DeviceEvidence
from edgeloop_hub.rollouts.gates import judge
from edgeloop_hub.rollouts.looks import Moment
from edgeloop_hub.rollouts.power import Baseline
from edgeloop_hub.storage.schema import rollout_looks, rollouts
from hub_parts import NEW, OLD, Parts, beat, parts

HOUR = 3600.0


def look(number: int, amount: float, at: float = 0.0, breached: bool = False) -> GateLook:
    return GateLook(number, at, amount, 0.001, 0.5, breached)


def test_all_looks_together_spend_no_more_than_alpha() -> None:
    shares = [looks.share(number) for number in range(1, 100_000)]
    assert 0.999 < sum(shares) <= 1 and shares == sorted(shares, reverse=True) and shares[19] > 0.01


@pytest.mark.parametrize(
    ("past", "amount", "moment", "due"),
    [
        ([], 0.0, Moment(), False),
        ([], 0.1, Moment(), True),
        ([look(1, 5.0)], 9.9, Moment(), False),
        ([look(1, 5.0)], 10.0, Moment(), True),
        ([look(1, 5.0, breached=True)], 5.0, Moment(), True),  # a person resumed it
        ([look(1, 5.0, at=100.0)], 5.1, Moment(now=200.0, step_began=150.0, ends=True), True),  # none in this step yet
        ([look(1, 5.0, at=160.0)], 5.1, Moment(now=200.0, step_began=150.0, ends=True), False),
        ([look(1, 5.0, at=160.0)], 6.3, Moment(now=200.0, step_began=150.0, ends=True), True),
        ([look(1, 5.0, at=160.0)], 6.3, Moment(now=200.0, step_began=150.0), False),
    ],
)
def test_when_a_gate_looks(past: list[GateLook], amount: float, moment: Moment, due: bool) -> None:
    assert looks.is_due(past, amount, moment) is due


def crashing(rng: np.random.Generator, count: int) -> dict[str, DeviceEvidence]:
    return {f"{rng.random()}": DeviceEvidence(worked=True) for _ in range(count)}


@pytest.mark.parametrize(("worse", "least", "most"), [(1.0, 0, 6), (3.0, 30, 40)])
def test_a_week_of_looks_keeps_the_error_rate(worse: float, least: int, most: int) -> None:
    """Forty rollouts, asked each hour for a week; alpha is a tenth, and nothing is tolerated."""
    limits, halted, unguarded = GateLimits(alpha=0.1, max_crashes_per_hour=0.0), 0, 0
    for run in range(40):
        rng = np.random.default_rng(run)
        sides = [crashing(rng, n) for n in (10, 30)]
        past: dict[str, list[GateLook]] = {}
        stopped = naive = False
        for hour in range(1, 169):
            for side, rate in zip(sides, (0.05 * worse, 0.05), strict=True):
                for device, crashes in zip(side.values(), rng.poisson(rate, len(side)), strict=True):
                    device.hours += 1
                    device.crashes += int(crashes)
            moment = Moment(hour * HOUR, 0.0, hour == 168)
            found = next(f for f in judge(limits, sides[0], sides[1], 0, 10, past, moment) if f.gate == "crash rate")
            if found.look is not None:
                past.setdefault(found.gate, []).append(found.look)
                stopped |= found.look.breached
            if stopped:
                break
            if worse == 1.0 and hour % 8 == 0:
                naive |= bool(next(f for f in judge(limits, sides[0], sides[1], 0, 10) if f.gate == "crash rate").breached)
        halted, unguarded = halted + stopped, unguarded + naive
        assert len(past["crash rate"]) <= 9
    assert least <= halted <= most
    assert worse != 1.0 or unguarded > 6  # what a test that is repeated, and not corrected, does


def test_a_device_that_reports_without_end_brings_no_look_forward() -> None:
    def side(count: int, many: int) -> dict[str, DeviceEvidence]:
        return {f"d{i}": DeviceEvidence(hours=1.0, latency_us_p95=9e9, latency_reports=many if i == 0 else 5) for i in range(count)}

    found = {f.gate: f for f in judge(GateLimits(), side(10, 10**9), side(30, 5), 0, 10, {}, Moment())}
    assert found["p95 latency"].look is not None and found["p95 latency"].look.amount == 9 * 5 + 50


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    found = parts(tmp_path)
    found.bundle("m-2.edgeloop", NEW)
    for i in range(24):
        found.device(f"pi-{i}", sha256=NEW if i % 2 else OLD)
    return found


INSIDE = [Step(devices=[f"pi-{i}" for i in range(1, 24, 2)]), Step(percent=100.0)]


def turn(hub: Parts, number: int, slow: float = 1.0, **more: Any) -> None:
    rng = np.random.default_rng(number)
    for i in range(24):
        new = i % 2 == 1
        told = {"answered": 100, "confidence": Moments(100, 0.9, 0.01), "labels": {"walk": 60, "run": 40}}
        latency = float(rng.uniform(800, 1000)) * (slow if new else 1.0)
        hub.report(f"pi-{i}", f"{number:04}-{i:04}", beat(NEW if new else OLD, latency_us_p95=latency, **{**told, **more}))


def gate(hub: Parts, number: int, name: str) -> Any:
    with hub.hub.database.reading() as database:
        return next(g for g in service.status(database, number).gates if g.gate == name)


def test_looks_are_kept_and_shown_with_both_sides(hub: Parts) -> None:
    number = hub.rollout("m-2.edgeloop", INSIDE, soak_seconds=9e4)
    for turns in range(4):
        turn(hub, turns)
        hub.tick()
        hub.tick()
    shown = gate(hub, number, "p95 latency")
    assert [one.amount for one in shown.looks] == [12.0, 24.0, 48.0] and shown.breached is False
    assert (shown.unit, shown.devices, shown.needed, shown.next_look) == ("reports", 12, 10, 96.0)
    assert shown.new.endswith("µs") and shown.old.endswith("µs") and shown.limit == "1.5×"
    turn(hub, 9, slow=40.0)
    hub.tick()
    assert hub.value(rollouts.c.state) == "running"  # no look is due: nothing is decided between looks
    for turns in range(10, 14):
        turn(hub, turns, slow=40.0)
    assert "p95 latency" in hub.tick().actions[0] and hub.value(rollouts.c.state) == "halted"
    shown = gate(hub, number, "p95 latency")
    assert shown.breached and shown.looks[-1].p < shown.looks[-1].level and len(shown.looks) == 4
    with hub.hub.database.writing() as database:
        service.change(database, number, "resume", "ada")
    hub.tick()
    assert hub.value(rollouts.c.state) == "halted"  # it is as slow as before


def test_the_last_step_compares_with_what_its_devices_did_before(hub: Parts) -> None:
    number = hub.rollout("m-2.edgeloop", [Step(percent=100.0)], soak_seconds=9e4)
    turn(hub, 1)
    for i in range(0, 24, 2):
        hub.report(f"pi-{i}", f"later-{i:04}", beat(NEW, answered=9, latency_us_p95=9e6, confidence=Moments(9, 0.9, 0.01)))
    assert "p95 latency" in hub.tick().actions[0] and hub.value(rollouts.c.state, rollouts.c.id == number) == "halted"


def test_a_step_without_evidence_waits_then_halts(hub: Parts) -> None:
    number = hub.rollout("m-2.edgeloop", INSIDE, gates=GateLimits(max_wait_hours=2.0))
    for i in range(24):
        told: dict[str, Any] = {"latency_us_p95": 900.0} if i % 2 == 0 or i < 9 else {}
        hub.report(f"pi-{i}", f"key-{i:04}", beat(NEW if i % 2 else OLD, answered=9, **told))
    assert "p95 latency: 4 of 10 devices" in hub.tick().actions[0]
    assert gate(hub, number, "p95 latency").waits and hub.value(rollouts.c.step) == 0
    hub.change(rollouts, rollouts.c.id == number, step_began=time.time() - 3 * HOUR)
    assert "still lacks evidence: p95 latency" in hub.tick().actions[0] and hub.value(rollouts.c.state) == "halted"


def test_two_ticks_make_one_look(hub: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    number = hub.rollout("m-2.edgeloop", INSIDE, soak_seconds=9e4)
    turn(hub, 1)
    keep = rollout_store.keep_looks

    def another_first(connection: Any, rollout: int, new: Any) -> bool:
        assert keep(connection, rollout, new)
        return keep(connection, rollout, new)

    monkeypatch.setattr(rollout_store, "keep_looks", another_first)
    assert "looked at meanwhile" in hub.tick().actions[0]
    assert len(gate(hub, number, "crash rate").looks) == 1


def test_power_is_said_before_a_rollout_begins(hub: Parts) -> None:
    plan = RolloutPlan(INSIDE, soak_seconds=HOUR)
    with hub.hub.database.reading() as database:
        told = forecast.of_plan(database, "m-2.edgeloop", plan)
    first = {one.gate: one for one in told if one.step == 1}
    assert {one.step for one in told} == {1, 2} and len(first) == 6
    assert "with 12 devices against 12 for 1 h, a latency 2 times as long is found in" in first["p95 latency"].text
    assert "assumed" in first["p95 latency"].text and first["accuracy"].found is None
    with hub.hub.database.writing() as database:
        number = service.start(database, "m-2.edgeloop", plan, None, told)
        database.execute(select(rollout_looks))
    assert gate(hub, number, "p95 latency").power == first["p95 latency"].text


@pytest.mark.parametrize("new, old, hours", [(2, 8, 1.0), (2, 8, 168.0), (3, 3, 1.0), (1, 1, 1.0), (1, 0, 2.0), (25, 75, 2.0)])
def test_what_would_help_a_weak_gate_does(new: int, old: int, hours: float) -> None:
    fleet = Baseline(crashes_per_hour=0.1, crashes=0.05, known=True)

    def found(gate: str, new: int, old: int, hours: float) -> float:
        return next(one.found or 0.0 for one in power.of_step(GateLimits(), fleet, 1, new, old, hours) if one.gate == gate)

    for one in power.of_step(GateLimits(), fleet, 1, new, old, hours):
        devices = re.search(r"(?:; | or )([\d,]+) devices against ([\d,]+) would", one.text)
        soak = re.search(r"; a soak of (\d+) h", one.text)
        assert bool(devices or soak) == (one.found is not None and one.found < 0.5), one.text
        if devices:
            many, others = (int(word.replace(",", "")) for word in devices.groups())
            assert found(one.gate, many, others, hours) >= 0.8
        if soak:
            assert found(one.gate, new, old, float(soak[1])) >= 0.8
        if "a longer soak alone would not" in one.text:
            assert found(one.gate, new, old, 168.0) < 0.8 and hours < 168


@pytest.mark.parametrize("name", ["crash rate", "p95 latency", "mean confidence", "label mix", "install failures"])
def test_power_grows_with_devices_and_agrees_with_the_gates(name: str) -> None:
    fleet = Baseline(crashes_per_hour=0.1, known=True)
    found = [
        next(one.found for one in power.of_step(GateLimits(), fleet, 1, n, 3 * n, 24.0) if one.gate == name) or 0.0
        for n in (1, 8, 25, 1000, 100_000)
    ]
    assert found[2] <= found[3] <= found[4] and found[4] > 0.99 and found[1] < 1.0001
    if name != "crash rate":
        return
    rng, halted = np.random.default_rng(0), 0
    expected = next(one.found for one in power.of_step(GateLimits(), fleet, 1, 4, 12, 24.0) if one.gate == name)
    level = 0.01 * looks.share(1 + int(np.ceil(np.log2(24 * 12))))
    for _ in range(100):
        sides = [
            {f"{rate}-{i}": DeviceEvidence(hours=24.0, crashes=int(rng.poisson(rate * 24)), worked=True) for i in range(n)}
            for n, rate in ((4, 0.4), (12, 0.1))
        ]
        halted += bool(judge(GateLimits(alpha=max(level, 0.001)), sides[0], sides[1], 0, 4)[1].breached)
    assert expected is not None and abs(halted / 100 - expected) < 0.2
