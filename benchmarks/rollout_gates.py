"""A rollout's gates by simulation: false halts and misses of a rollout that is watched for a week, over fleets of three sizes.

Devices differ from each other, as boards and places do; each reports each hour (the hub is asked as often here; by cron it is
asked each minute, and looks as often). A quarter of the fleet has the new bundle. `ours`: with looks that share alpha, as the hub
does it. Peer: the same tests at the whole alpha at each of these hours, as the hub did before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from harness import Row, at_most, each, main

ALPHA, WEEK = 0.01, 168
GATES = ("crash rate", "p95 latency", "mean confidence", "label mix")
RUNS = {10: 200, 1_000: 40, 100_000: 4}
PEER_HOURS = {4: 4, 10: 4, 100: 24, 1_000: 24, 100_000: 56}  # between two looks of the test that is repeated
WORSE = {"crash rate": "three times the crashes", "p95 latency": "2× the latency", "mean confidence": "a drop of 0.1",
         "label mix": "30 % moved"}  # fmt: skip
SEVERE = {"crash rate": "12 crashes an hour", "p95 latency": "4× the latency", "mean confidence": "a drop of 0.3",
          "label mix": "one label alone"}  # fmt: skip


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, false_halts, misses, severe_ones, one_look)


class Fleet:
    """Sums of devices, an hour at a time. `worse`: the gate by which the new bundle is worse; "": it is as good."""

    def __init__(self, rng: np.random.Generator, count: int, worse: str, severe: bool = False) -> None:
        from edgeloop_hub.rollouts.device_evidence import DeviceEvidence

        self.rng, self.count, self.inside = rng, count, max(1, count // 4)
        new = np.arange(count) < self.inside
        factor = np.where(new & (worse == "crash rate"), 120.0 if severe else 3.0, 1.0)
        self.rates = 0.1 * rng.gamma(4, 0.25, count) * factor  # crashes an hour
        self.latency = 900 * rng.lognormal(0, 0.2, count) * np.where(new & (worse == "p95 latency"), 4.0 if severe else 2.0, 1.0)
        self.sure = rng.normal(0.85, 0.02, count) - np.where(new & (worse == "mean confidence"), 0.3 if severe else 0.1, 0.0)
        moved = np.where(new & (worse == "label mix"), 0.9 if severe else 0.3, 0.0)
        self.walks = np.clip(rng.normal(0.5, 0.1, count) + moved, 0.02, 0.98)
        made = {f"d{i}": DeviceEvidence(worked=True) for i in range(count)}
        names = list(made)
        self.new = {name: made[name] for name in names[: self.inside]}
        self.old = {name: made[name] for name in names[self.inside :]}
        self.devices = list(made.values())

    def run(self, hours: int) -> None:
        """So many hours pass. Answers of one report resemble each other: they are windows of a recording."""
        rng, n = self.rng, self.count
        crashes = rng.poisson(self.rates * hours)
        latency = self.latency * hours + rng.normal(0, 50 * hours**0.5, n)
        sure = self.sure * hours + rng.normal(0, 0.05 * hours**0.5, n)
        walked = np.clip(self.walks + rng.normal(0, 0.2 / hours**0.5, n), 0, 1)
        reports = min(hours, 8)
        walk = np.rint(100 * np.clip(walked[:, None] + rng.normal(0, 0.2, (n, reports)), 0, 1))
        mixes = [walk.sum(1), (100 - walk).sum(1), (walk**2).sum(1), ((100 - walk) ** 2).sum(1)]
        columns = (crashes, latency, sure, np.rint(100 * hours * walked), *mixes)
        for device, c, us, s, first, walks, runs, walks2, runs2 in zip(self.devices, *(x.tolist() for x in columns), strict=True):
            device.hours += hours
            device.crashes += c
            device.latency_us_p95 += us
            device.latency_reports += hours
            device.answers += 100 * hours
            device.confidence_sum += 100 * s
            device.confidence_reports += hours
            device.confidence_means += s
            device.confidence_mean_squares += s**2 / hours + 0.0025 * (hours - 1)
            device.labels["walk"] = device.labels.get("walk", 0) + int(first)
            device.labels["run"] = device.labels.get("run", 0) + 100 * hours - int(first)
            mix = device.mixes
            mix.reports += reports
            mix.squares += reports * 100.0**2
            for name, count, squares in (("walk", walks, walks2), ("run", runs, runs2)):
                mix.by_label[name] = mix.by_label.get(name, 0) + int(count)
                mix.squares_by_label[name] = mix.squares_by_label.get(name, 0.0) + squares
                mix.products_by_label[name] = mix.products_by_label.get(name, 0.0) + 100 * count


def week(rng: np.random.Generator, count: int, worse: str, peer: bool, severe: bool = False) -> tuple[set[str], set[str], float]:
    """Gates that halt the rollout within a week: by shared looks, by the whole alpha each time.

    Third: seconds of the longest look; hours until the rollout was halted, where it was by the gate that is `worse`.
    """
    from edgeloop_contract.rollout import GateLimits
    from edgeloop_hub.rollouts.gates import judge
    from edgeloop_hub.rollouts.looks import Moment

    # Nothing is tolerated, where there is nothing to find: tolerance would hide what the tests do by themselves.
    limits = (
        GateLimits() if worse else GateLimits(max_crashes_per_hour=0, max_latency_ratio=1, max_confidence_drop=0, max_label_shift=0)
    )
    fleet, past, halted, naive, longest = Fleet(rng, count, worse, severe), dict[str, Any](), set[str](), set[str](), 0.0
    hours = sorted({*(2**i for i in range(8)), *range(PEER_HOURS[count], WEEK + 1, PEER_HOURS[count]), WEEK} - {0})
    before = 0
    for hour in hours:
        fleet.run(hour - before)
        before = hour
        start = time.perf_counter()
        for found in judge(limits, fleet.new, fleet.old, 0, fleet.inside, past, Moment(hour * 3600.0, 0.0, hour == WEEK)):
            if found.look is not None:
                past.setdefault(found.gate, []).append(found.look)
                halted |= {found.gate} if found.look.breached and found.gate in GATES else set()
        longest = max(longest, time.perf_counter() - start)
        if peer and hour % PEER_HOURS[count] == 0:
            naive |= {f.gate for f in judge(limits, fleet.new, fleet.old, 0, fleet.inside) if f.breached and f.gate in GATES}
        if worse in halted:
            return halted, naive, float(hour)
    return halted, naive, longest


def false_halts(quick: bool) -> Iterator[Row]:
    for count, most in RUNS.items():
        runs = max(2, most // 20) if quick else most
        seen: dict[str, list[int]] = {gate: [0, 0] for gate in GATES}
        for run in range(runs):
            halted, naive, _ = week(np.random.default_rng(run), count, "", True)
            for gate in GATES:
                seen[gate][0] += gate in halted
                seen[gate][1] += gate in naive
        error = 3 * (ALPHA * (1 - ALPHA) / runs) ** 0.5
        for gate in GATES:
            ours, peer = (100 * number / runs for number in seen[gate])
            name = f"{count:,} devices, as good as before, {gate}: halted in a week ({runs} times)"
            most_wrong = round(100 * (ALPHA + error), 1)
            yield Row(name, ours, "%", peer, None, f"≤ {most_wrong:g}", ours <= most_wrong)


def misses(quick: bool) -> Iterator[Row]:
    for count, most in RUNS.items():
        runs = max(2, most // 40) if quick else max(4, most // 4)
        for gate in GATES:
            found = sum(gate in week(np.random.default_rng(1000 + run), count, gate, False)[0] for run in range(runs))
            name = f"{count:,} devices, {WORSE[gate]}: missed in a week ({runs} times)"
            missed = 100 * (1 - found / runs)
            yield at_most(name, missed, "%", 5.0) if count > 10 else Row(name, missed, "%")


def severe_ones(quick: bool) -> Iterator[Row]:
    """What must not be missed in the smallest fleets: how long it takes."""
    runs = 10 if quick else 100
    for count in (4, 10):
        for gate in GATES:
            weeks = [week(np.random.default_rng(run), count, gate, False, severe=True) for run in range(runs)]
            hours = sorted(hour for halted, _, hour in weeks if gate in halted)
            name = f"{count} devices, {SEVERE[gate]}: median hours until it is halted; {runs - len(hours)} of {runs} missed"
            yield Row(name, hours[len(hours) // 2] if hours else None, "h")


def one_look(quick: bool) -> Iterator[Row]:
    """How long a look takes, and what is said of it beforehand."""
    from edgeloop_contract.rollout import GateLimits
    from edgeloop_hub.rollouts import power

    _, _, longest = week(np.random.default_rng(0), 1_000 if quick else 100_000, "", False)
    yield at_most(f"{1_000 if quick else 100_000:,} devices: the longest look of a week", round(longest, 2), "s", 2.0)
    for count, runs in ((10, 20 if quick else 200), (100, 10 if quick else 100)):
        for gate in GATES:
            known = Fleet(np.random.default_rng(7), 1_000, "")
            known.run(24)
            told = power.of_step(GateLimits(), power.baseline(known.old), 1, max(1, count // 4), count - max(1, count // 4), WEEK)
            said = next(one for one in told if one.gate == gate)
            found = sum(gate in week(np.random.default_rng(run), count, gate, False)[0] for run in range(runs))
            yield Row(
                f"said beforehand: {said.text}; found in {runs} simulations", 100 * found / runs, "%", 100 * (said.found or 0.0)
            )


if __name__ == "__main__":
    main(measure)
