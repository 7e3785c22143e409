"""What a gate can find, said before the rollout begins: in which share of such rollouts it finds a bundle that is so much worse.

By the limits of the gates' own tests, at the level of the best of a step's looks, with the spread between devices that the fleet
reported in the last day; exact where failures or few crashes are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgeloop_contract.gate_messages import GatePower
from edgeloop_contract.rollout import GateLimits
from edgeloop_hub.rollouts import comparison, looks
from edgeloop_hub.rollouts.device_evidence import ByDevice
from edgeloop_hub.rollouts.measures import NOBODY

REPORTS_PER_HOUR = 12.0  # of an agent with the usual settings
MIN_DEVICES = 5  # with figures, for a spread to be known
DRAWN, MAX_OTHERS = 400, 1000  # by draws where devices are few
FEW_CRASHES = 100.0  # expected ones, up to which they are counted exactly
WEAK, GOOD = 0.5, 0.8  # shares of rollouts: below the first one it is said what would find it in the second
SOAKS = (6.0, 24.0, 72.0, 168.0)  # hours that are tried
NOTHING_HELPS = "; neither a week's soak nor more devices would find it in most rollouts"
MAX_DOUBLINGS = 11  # of the step's devices
MORE = 3.0  # times as many crashes, or failures, as an example of a bundle that is worse


@dataclass(frozen=True)
class Baseline:
    """How the fleet does on the old bundle. Spreads are standard deviations between devices; `latency` as a share of its mean.

    `known`: figures were reported; else these values are assumed.
    """

    latency: float = 0.2
    confidence: float = 0.03
    confidence_of_reports: float = 0.05
    label: float = 0.15
    crashes_per_hour: float = 0.0
    crashes: float = 0.0
    labelled_per_hour: float = 0.0
    accuracy: float = 0.9
    known: bool = False


def baseline(old: ByDevice) -> Baseline:
    """From a day of reports."""
    some = [s for s in old.values() if s.hours > 0]
    if len(some) < MIN_DEVICES:
        return Baseline()
    usual, hours = Baseline(), sum(s.hours for s in some)
    latencies = np.array([s.latency_us_p95 / s.latency_reports for s in some if s.latency_reports])
    confidences = np.array([s.confidence_sum / s.answers for s in some if s.answers])
    reports = sum(s.confidence_reports for s in some)
    squares = sum(s.confidence_mean_squares for s in some) / reports if reports else 0.0
    mean = sum(s.confidence_means for s in some) / reports if reports else 0.0
    answers = [s.labels for s in some if sum(s.labels.values())]
    counted = Counter(name for labels in answers for name in labels)
    usual_one = counted.most_common(1)[0][0] if counted else ""
    shares = np.array([labels.get(usual_one, 0) / sum(labels.values()) for labels in answers])
    rates = np.array([s.crashes / max(1.0, s.hours) for s in some])
    labelled, right = sum(s.labelled for s in some), sum(s.right for s in some)
    rate = sum(s.crashes for s in some) / hours
    return Baseline(
        _spread(latencies, usual.latency) / (float(latencies.mean()) if len(latencies) >= MIN_DEVICES else 1.0),
        _spread(confidences, usual.confidence),
        math.sqrt(max(0.0, squares - mean**2)) if reports >= MIN_DEVICES else usual.confidence_of_reports,
        _spread(shares, usual.label), rate,
        math.sqrt(max(0.0, float(rates.var()) - rate * len(some) / hours)), labelled / hours,
        right / labelled if labelled else usual.accuracy, True,
    )  # fmt: skip


def _spread(values: np.ndarray, usual: float) -> float:
    return float(values.std(ddof=1)) if len(values) >= MIN_DEVICES else usual


def of_step(gates: GateLimits, fleet: Baseline, step: int, new: int, old: int, hours: float) -> list[GatePower]:
    """Of each gate, for so many devices on each side, each with so many hours of reports. `step`: from 1.

    A gate that more likely misses such a bundle says what would help: a longer soak, or more devices.
    """
    if not new:
        return []
    hours = max(hours, 1 / REPORTS_PER_HOUR)
    here = _found(gates, fleet, step, new, old, hours)
    weak = [gate for gate, (_, found) in here.items() if found is not None and found < WEAK]
    helps = _helps(partial(_found, gates, fleet, step), weak, new, old, hours) if weak else {}
    made = []
    for gate, (what, found) in here.items():
        sides = f"{new:,} {'device' if new == 1 else 'devices'} against {old:,} for {hours:,.3g} h"
        text = f"with {sides}, {what} is found in {found:.0%}{helps.get(gate, '')}" if found is not None else what
        assumed = "" if fleet.known or found is None else " (spreads are assumed: no reports yet)"
        made.append(GatePower(step=step, gate=gate, found=found, text=text + assumed))
    return made


Found = dict[str, tuple[str, float | None]]  # by gate: what is worse, and in which share of rollouts that is found


def _found(gates: GateLimits, fleet: Baseline, step: int, new: int, old: int, hours: float) -> Found:
    """Of all its looks a gate has at least the power of the best one; early ones ask for less evidence, and have less."""
    doublings = math.ceil(math.log2(max(1.0, hours * REPORTS_PER_HOUR)))
    best: Found = {}
    for i in range(doublings + 1):
        case = _Case(gates, fleet, new, old, hours / 2 ** (doublings - i), gates.alpha * looks.share(step + i))
        for gate, what, found in case.gates_found():
            best[gate] = (what, found if found is None else max(found, best.get(gate, ("", 0.0))[1] or 0.0))
    return best


def _helps(found: Callable[[int, int, float], Found], weak: Sequence[str], new: int, old: int, hours: float) -> dict[str, str]:
    """What would find it in most rollouts, in words, by gate: the shortest soak, and the fewest devices that do."""
    soaks = {f"a soak of {soak:g} h": found(new, old, soak) for soak in SOAKS if soak > hours}
    more: dict[str, Found] = {}
    for count in (new * 2**i for i in range(1, MAX_DOUBLINGS) if new * 2**i <= MAX_OTHERS):
        others = max(new + old - count, count) if old else 0
        more[f"{count:,} devices against {others:,}"] = found(count, others, hours)
    said = {}
    for gate in weak:
        first = [next((words for words, by in options.items() if (by[gate][1] or 0) >= GOOD), "") for options in (soaks, more)]
        better = " or ".join(filter(None, first))
        alone = ", a longer soak alone would not" if soaks and not first[0] else ""
        said[gate] = f"; {better} would find it in {GOOD:.0%} or more{alone}" if better else NOTHING_HELPS
    return said


@dataclass(frozen=True)
class _Case:
    gates: GateLimits
    fleet: Baseline
    new: int
    old: int
    hours: float
    level: float

    @property
    def _by_spread(self) -> bool:
        """Whether devices that are too few for a permutation are enough for Student's t."""
        return self.new + self.old - 2 >= comparison.MIN_FREEDOM

    def gates_found(self) -> Iterator[tuple[str, str, float | None]]:
        """Gate, what is worse by how much, and how often that is found; None where the gate can find nothing."""
        share = min(1.0, MORE * self.gates.max_install_failures)
        yield "install failures", f"a bundle that fails on {share:.0%} of them", self._failures(share)
        names = ("crash rate", "p95 latency", "mean confidence", "label mix", "accuracy")
        if not self.old:
            yield from ((name, NOBODY, None) for name in names)
            return
        rate, limit = self.fleet.crashes_per_hour, self.gates.max_crashes_per_hour
        worse = max(MORE * rate, rate + MORE * limit)
        yield names[0], f"a rate of {worse:.2g} in place of {rate:.2g} crashes an hour", self._crashes(rate, worse)
        ratio = self.gates.max_latency_ratio * 4 / 3
        yield names[1], f"a latency {ratio:.2g} times as long", self._latency(ratio)
        drop = 2 * self.gates.max_confidence_drop
        yield names[2], f"a drop of {drop:.2g}", self._shift(drop, self.fleet.confidence, self.fleet.confidence_of_reports)
        shift = min(1.0, 2 * self.gates.max_label_shift)
        yield (
            names[3],
            f"a shift of {shift:.0%} of the answers",
            replace(self, level=self.level / 2)._shift(shift, self.fleet.label, self.fleet.label),
        )
        drop = 2 * self.gates.max_accuracy_drop
        labelled = self.fleet.labelled_per_hour * self.hours
        if labelled * self.new < 1:
            yield names[4], "no answer is labelled in the field: it finds nothing", None
        else:
            spread = math.sqrt(self.fleet.accuracy * (1 - self.fleet.accuracy) / labelled)
            yield names[4], f"a drop of {drop:.0%}", self._normal(drop, self.gates.max_accuracy_drop, spread, spread)

    def _failures(self, share: float) -> float:
        from scipy.stats import binom

        tolerated = self.gates.max_install_failures
        least = max(int(binom.isf(self.level, self.new, tolerated)) + 1, math.floor(tolerated * self.new) + 1)
        return float(binom.sf(min(least, self.new) - 1, self.new, share))  # all of them: breached whatever their number

    def _crashes(self, rate: float, worse: float) -> float:
        from scipy.special import betainc
        from scipy.stats import poisson

        expected = worse * self.new * self.hours
        if expected > FEW_CRASHES and comparison.plenty(self.new, self.old, self.level):
            spreads = [math.sqrt(each / self.hours + (self.fleet.crashes * each / max(rate, 1e-12)) ** 2) for each in (worse, rate)]
            return self._normal(worse - rate, self.gates.max_crashes_per_hour, spreads[0], spreads[1])
        most = min(expected, 1e6)
        counts = np.arange(1, int(most + 10 * math.sqrt(most) + 20))
        apart = self.fleet.crashes / (2 * math.sqrt(max(rate, 1e-12)))
        chance = 0.5 / math.sqrt(self.hours)
        # Of the rates' roots. A bundle that crashes more often does so as many times on each device: these lie further apart.
        spreads = [math.hypot(apart * math.sqrt(each / max(rate, 1e-12)), chance) for each in (worse, rate)]
        by_spread = self._normal(math.sqrt(worse) - math.sqrt(rate), 0.0, *spreads) if self._by_spread else 1.0
        before, share = rate * self.old * self.hours, self.new / (self.new + self.old)
        tested = betainc(counts, before + 1, share) < self.level
        tested &= counts / (self.new * self.hours) - rate > self.gates.max_crashes_per_hour
        return min(by_spread, float(poisson.pmf(counts, most)[tested].sum()))

    def _latency(self, ratio: float) -> float:
        limit, spread = self.gates.max_latency_ratio, self.fleet.latency
        if comparison.enough(self.new, self.old, self.level):
            return self._normal(ratio - 1, limit - 1, ratio * spread, spread)
        width = math.sqrt(math.log1p(spread**2))
        if self._by_spread:
            return self._normal(math.log(ratio), math.log(max(limit, 1e-9)), width, width)
        rng = np.random.default_rng(0)
        mine, others = (rng.lognormal(0, width, (DRAWN, min(n, MAX_OTHERS))) for n in (self.new, self.old))
        return float((ratio * mine.min(axis=1) > limit * others.max(axis=1)).mean())

    def _shift(self, effect: float, spread: float, spread_of_reports: float) -> float:
        """Twice what is tolerated; over devices, or over reports where devices are few."""
        if not comparison.plenty(self.new, self.old, self.level) and not self._by_spread:
            spread = spread_of_reports / math.sqrt(max(1.0, self.hours * REPORTS_PER_HOUR))
        return self._normal(effect, effect / 2, spread, spread)

    def _normal(self, effect: float, limit: float, spread: float, old_spread: float) -> float:
        """The share of rollouts in which the difference is larger than tolerated, and its p below the level."""
        from scipy.special import ndtr, ndtri

        wide = math.sqrt(spread**2 / self.new + old_spread**2 / self.old)
        if not comparison.plenty(self.new, self.old, self.level) and self._by_spread:
            return float(min(self._by_student(effect, spread, old_spread), ndtr((effect - limit) / max(1e-9, wide))))
        quantile = -float(ndtri(self.level))
        by_chance = old_spread * math.sqrt(1 / self.new + 1 / self.old)
        least = max(limit, quantile * by_chance)
        return float(ndtr((effect - least) / max(1e-9, wide)))

    def _by_student(self, effect: float, spread: float, old_spread: float) -> float:
        """The share in which Student's t with a common variance is beyond its level, where the sides' spreads differ."""
        from scipy.special import nctdtr, stdtrit

        free = self.new + self.old - 2
        error = max(1e-9, math.sqrt(spread**2 / self.new + old_spread**2 / self.old))
        common = ((self.new - 1) * spread**2 + (self.old - 1) * old_spread**2) / free
        believed = max(1e-9, math.sqrt(common * (1 / self.new + 1 / self.old)))
        return float(1 - nctdtr(free, effect / error, -stdtrit(free, self.level) * believed / error))
