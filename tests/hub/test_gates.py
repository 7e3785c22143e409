"""GateLimits of a rollout over fleets of any size, with devices among them that claim anything."""

from __future__ import annotations

import resource
import time
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from commands import command, sentence
from edgeloop_contract.rollout import GateLimits, RolloutPlan, Step
from edgeloop_hub.rollouts.gates import DeviceEvidence, Finding, judge
from edgeloop_hub.rollouts.policy import Assessment, Rollout, next_move

TOLD = ("crash rate", "p95 latency", "mean confidence", "label mix", "accuracy")


def fleet(
    n: int, seed: int, slow: float = 1.0, shift: float = 0.0, crashes: float = 0.0, sure: float = 0.9
) -> dict[str, DeviceEvidence]:
    rng, found = np.random.default_rng(seed), {}
    for i in range(n):
        answers, confidence = int(rng.integers(50, 500)), float(np.clip(rng.normal(sure, 0.02), 0, 1))
        right = int(rng.binomial(answers, sure))
        first = int(rng.binomial(answers, 0.5 + shift))
        found[f"d{seed}-{i}"] = DeviceEvidence(
            hours=4, crashes=int(rng.poisson(crashes * 4)), latency_us_p95=slow * float(rng.lognormal(9, 0.2)), latency_reports=1,
            answers=answers,
            confidence_sum=answers * confidence, confidence_reports=3, confidence_means=3 * confidence,
            confidence_mean_squares=3 * (confidence**2 + 0.0001),
            labels=Counter(walk=first, run=answers - first), right=right, labelled=answers, worked=True,
        )  # fmt: skip
        for walked in (first // 3,) * 3:  # three reports
            found[f"d{seed}-{i}"].mixes.add(Counter(walk=walked, run=answers // 3 - walked))
    return found


def verdicts(new: dict[str, DeviceEvidence], old: dict[str, DeviceEvidence], **gates: Any) -> dict[str, Finding]:
    return {f.gate: f for f in judge(GateLimits(**gates), new, old, 0, len(new))}


@pytest.mark.parametrize(
    ("devices", "share"),
    [(n, s) for n in (40, 1030, 1270, 2195) for s in (0.05, 0.1, 0.25, 0.5, 0.99)]
    + [(20_000, s) for s in (0.1, 0.5)]
    + [pytest.param(100_000, 0.25, marks=pytest.mark.long)],
)
def test_no_number_of_devices_is_too_many(devices: int, share: float) -> None:
    new = max(1, int(devices * share))
    began, old = time.monotonic(), fleet(devices - new, 1)
    made = time.monotonic() - began
    told = [f for f in judge(GateLimits(), fleet(new, 2), old, 0, new) if f.gate in TOLD]
    assert [f.breached for f in told] == [False] * len(TOLD)
    if 40 < devices <= 2195 or share == 0.25:
        worse = judge(GateLimits(), fleet(new, 3, slow=2, shift=0.4, crashes=1, sure=0.7), old, 0, new)
        assert all(f.breached for f in worse if f.gate in TOLD)
    assert time.monotonic() - began < 10 * made + 15


def test_what_one_device_claims_neither_stops_nor_hides_nor_costs_memory() -> None:
    mad = DeviceEvidence(
        hours=1e9, crashes=9e15, latency_us_p95=[1e18], answers=2**53, confidence_sum=2.0**53, confidence_reports=1, confidence_means=1.0,
        confidence_mean_squares=1.0,
        labels=Counter({f"made-up-{i}": 2**53 for i in range(1000)}), drift=[1e9], right=2**53, labelled=2**53, worked=True,
    )  # fmt: skip
    good, worse, old = fleet(50, 1), fleet(50, 2, slow=2, shift=0.4, crashes=1, sure=0.7), fleet(150, 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    assert not any(f.breached for f in verdicts({**good, "mad": mad}, old, max_drift=0.5).values())
    told = verdicts(worse, {**old, "mad": mad})
    assert {
        gate: told[gate].text
        for gate in ("p95 latency", "mean confidence", "label mix", "accuracy", "crash rate")
        if not told[gate].breached
    } == {}
    for sides in (
        ({"mad": mad}, {"mad": mad}),
        ({"mad": mad}, old),
        (good, {"mad": mad}),
        ({"mad": mad}, {"idle": DeviceEvidence()}),
    ):
        judge(GateLimits(), *sides, 0, 1)
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.long
def test_sound_versions_are_stopped_no_more_often_than_by_alpha() -> None:
    breached = Counter[str]()
    strict = GateLimits(
        0.1, max_crashes_per_hour=0, max_latency_ratio=1, max_confidence_drop=0, max_label_shift=0, max_accuracy_drop=0
    )
    for seed in range(30):
        new, old = fleet(12, 2 * seed + 100, crashes=0.3), fleet(40, 2 * seed + 101, crashes=0.3)
        breached.update(f.gate for f in judge(strict, new, old, 0, 12) if f.breached)
    assert all(n <= 9 for n in breached.values()), breached  # 30 × 0.1 is 3; ten or more come once in a thousand times


@pytest.mark.parametrize(("old_us", "new_us", "breached"), [(20.0, 90.0, False), (20.0, 200.0, True), (2000.0, 5000.0, True)])
def test_microseconds_of_a_small_model_are_no_slowness(old_us: float, new_us: float, breached: bool) -> None:
    sides = [
        {f"{name}{i}": DeviceEvidence(hours=5, latency_us_p95=60 * us, latency_reports=60, worked=True) for i in range(count)}
        for name, us, count in (("new", new_us, 8), ("old", old_us, 8))
    ]
    told = verdicts(*sides)["p95 latency"]
    assert bool(told.breached) is breached and "or 100 µs more, is tolerated" in told.text


def test_counts_without_a_sum_are_no_report() -> None:
    nothing = {"a": DeviceEvidence(hours=1, labels=Counter(walk=0), worked=True)}
    assert verdicts(nothing, fleet(5, 1))["label mix"].breached is None
    assert verdicts(nothing, nothing)["label mix"].waits is False


def rollout(step: int = 0, steps: int = 2) -> Rollout:
    plan = RolloutPlan([Step(percent=100.0)] * steps, soak_seconds=10)
    return Rollout(1, "stable", "m", "m-2.edgeloop", "x" * 64, plan, "running", step, step_began=0.0)


def test_a_step_waits_for_gates_that_cannot_tell_yet() -> None:
    old, silent = fleet(20, 1), {f"s{i}": DeviceEvidence(hours=1, worked=True) for i in range(20)}
    told = judge(GateLimits(), silent, old, 0, 20)
    assert {f.gate for f in told if f.waits} == {"p95 latency", "mean confidence", "label mix"}
    move = next_move(rollout(), 1e6, Assessment(told, 20, 20, 0))
    assert move.action == "wait" and "p95 latency" in move.reason
    # Where the old bundle's devices have no such figure either, there is nothing to wait for.
    assert next_move(rollout(), 1e6, Assessment(judge(GateLimits(), silent, {}, 0, 20), 20, 20, 0)).action == "advance"
    assert next_move(rollout(1), 1e6, Assessment(judge(GateLimits(), fleet(20, 2), old, 0, 20), 20, 20, 0)).action == "finish"
    assert next_move(rollout(), 1e6, Assessment(judge(GateLimits(), fleet(3, 2), old, 0, 3), 20, 3, 0)).action == "wait"


@pytest.mark.parametrize("gates", [{"alpha": 0}, {"alpha": 1e-300}, {"alpha": 2}, {"max_latency_ratio": -1}, {"min_reported": 5}])
def test_gates_that_could_tell_nothing_are_refused(gates: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(gates, GateLimits)


@pytest.mark.parametrize(
    ("gate", "sentence_part"),
    [("max_latncy_ratio=2", "did you mean max_latency_ratio?"), ("alpha=7", "--gate.alpha"), ("alpha=much", "write NAME=NUMBER")],
)
def test_a_gate_that_no_rollout_has_is_refused_before_the_hub_is_asked(gate: str, sentence_part: str) -> None:
    done = command(
        "edgeloop", "rollout", "start", "x.edgeloop", "--gate", gate, EDGELOOP_HUB="http://127.0.0.1:1", EDGELOOP_HUB_TOKEN="x"
    )
    assert sentence_part in sentence(done, 2)


def correlated(devices: int, reports: int, seed: int, shift: float = 0.0, spread: float = 0.35) -> dict[str, DeviceEvidence]:
    """Few devices, whose reports hold whole recordings: within a report, answers are alike. `shift`: of the first label's share."""
    rng, found = np.random.default_rng(seed), {}
    for i in range(devices):
        seen = DeviceEvidence(hours=4, answers=200 * reports, worked=True)
        for _ in range(reports):
            share = float(np.clip(0.5 + shift + rng.normal(0, spread), 0, 1))
            first = int(rng.binomial(200, share))
            mix = Counter(walk=first, run=200 - first)
            seen.labels.update(mix)
            seen.mixes.add(mix)
        found[f"c{seed}-{i}"] = seen
    return found


@pytest.mark.parametrize(("devices", "reports"), [(1, 4), (1, 30), (2, 10), (4, 6)])
def test_reports_that_resemble_themselves_halt_no_good_rollout(devices: int, reports: int) -> None:
    """The same bundle on both sides: wrong halts stay near the gate's error rate, whatever windows a report has."""
    halted = [
        verdicts(correlated(devices, reports, 2 * i), correlated(devices, 3 * reports, 2 * i + 1), max_label_shift=0.05)[
            "label mix"
        ].breached
        for i in range(300)
    ]
    assert sum(map(bool, halted)) <= 300 * 2.5 * GateLimits().alpha


def test_a_model_with_one_answer_is_halted_on_one_device_and_too_few_reports_wait() -> None:
    old = correlated(3, 20, 1)
    stuck = correlated(1, 8, 2, shift=9.0)
    assert verdicts(stuck, old)["label mix"].breached
    early = verdicts(correlated(1, 2, 3, shift=9.0), old)["label mix"]
    assert early.breached is None and early.waits and "2 reports" in early.text


def test_a_fleet_that_has_changed_as_a_whole_waits_for_no_more_of_the_old_bundle() -> None:
    """One device answered once with the old bundle and took the new one: it waited two weeks for what could not come."""
    before, since = correlated(1, 1, 5), correlated(1, 6, 5)
    for alone in (True, False):  # False: another one has not changed, and has not reported yet
        told = next(f for f in judge(GateLimits(), since, before, 0, 1, alone=alone) if f.gate == "label mix")
        assert told.breached is None and told.waits is not alone
        assert ("nobody to compare with" in told.text) is alone
