"""Work split between a device and a server: against doing all of it in one place, when the link changes, and when the server fails.

Needs root (a network namespace, a CPU quota). The hub and the agents are real processes; the link is shaped by tc tbf (bandwidth)
and a relay (delay, faults); the device's pace is a CPU quota. The network is EfficientNet-Lite0 int8 of `edgeloop run photos`,
in `large` its second size. $ONLY: some of the parts; $SHARES: the paces of the sweeps.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import NotRun, Row, at_most, each, edgeloop, main
from shaped import CGROUP, Agent, in_namespace, pace
from split_bench import WAIT_MS, Bench, bench_of, goes, link_measured
from split_learned import bottlenecks, cascade
from split_serving import overhead, tails
from split_sweep import large, sweep

LARGE = [  # plainly calibrated: what it takes is of interest here, not what it knows
    word
    for change in (
        "network=network.py:efficientnet_lite2", "data=data.py:photos_of_lite2",
        "target={max_drop: 1, max_lsb: 255, min_agreement: 0}", "quantize.calibration=minmax",
        "quantize.equalize=never", "quantize.max_float_layers=0", "quantize.calibration_samples=64",
    )
    for word in ("--set", change)
]  # fmt: skip
SMALL = ["exercise_watch"]  # in a minute, with a network of microseconds: what does not depend on its work
SMALL += [
    word
    for change in (
        "train.epochs=1", "prune=off", "distill=off", "split={seconds: 0.05}", "export.runtimes=[onnx]", "export.float32=false",
        "quantize.qat=never", "profile.seconds=0.05", "report=off", "target={max_drop: 1, min_accuracy: 0}",
    )
    for word in ("--set", change)
]  # fmt: skip
MODEL = "photos"
QUICK = ("faults", "overhead", "tails")
PARTS = (*QUICK, "sweep", "trace", "large", "cascade", "bottlenecks")


def trace(bench: Bench, quick: bool) -> Iterator[Row]:
    """Bandwidth that changes every second: total latency against the best way of each second, known beforehand."""
    seconds = 10 if quick else 20
    rng, mbit, moves = random.Random(4), 20.0, []
    for _ in range(seconds):
        mbit = min(100.0, max(0.5, mbit * float(np.exp(rng.gauss(0, 0.7)))))
        moves.append(round(mbit, 2))
    pace(1)
    bench.link.shape(100, 0.01)
    agents = bench.fixed()
    pace(0.125)
    totals: dict[str, list[float]] = {way: _over(bench, agent, moves) for way, agent in agents.items() if way not in bench.lossy}
    for agent in agents.values():
        agent.stop()
    bench.link.shape(moves[0], 0.01)
    agent = bench.start("ours-trace", f"deadline_ms = {WAIT_MS}\nprobe_seconds = 1")
    in_namespace(lambda: link_measured(agent))
    before = in_namespace(agent.split)["replans"]
    agent.halt(True)
    ours = _over(bench, agent, moves)
    agent.halt(False)
    replans = in_namespace(agent.split)["replans"] - before
    agent.stop()
    oracle = sum(min(row[second] for row in totals.values()) for second in range(seconds))
    alone = {way: sum(row) for way, row in totals.items()}
    best = min(alone, key=lambda way: alone[way])
    yield at_most(f"trace of {seconds} s: ours over the oracle", sum(ours) / oracle, "×", 1.15)
    yield Row(f"  best single way ({best}) over the oracle", alone[best] / oracle, "×")
    yield Row("  changes of plan", replans, "")


def _over(bench: Bench, agent: Agent, moves: list[float]) -> list[float]:
    """Mean milliseconds in each second of the trace."""
    agent.halt(False)

    def measure() -> list[float]:
        means, begun = [], time.monotonic()
        for second, mbit in enumerate(moves):
            bench.link.shape(mbit)
            taken = []
            while not taken or time.monotonic() < begun + second + 1:
                taken.append(bench.ask(agent)[0])
                time.sleep(0.02)
            means.append(statistics.mean(taken))
        return means

    found = in_namespace(measure)
    agent.halt(True)
    return found


def faults(bench: Bench, quick: bool) -> Iterator[Row]:
    """The server goes away in every way; each request is answered by its deadline, and the tail is used again when it is back.

    The deadline is some three times what the device takes at that pace: closer to it, hardly a tail is ever waited for.
    """
    deadline_ms, seconds = 250.0, 1.0 if quick else 8.0
    pace(0.25)
    bench.link.shape(50, 0.005)
    agent = bench.start("faults", f'deadline_ms = {deadline_ms}\nroute = "input/raw"\nprobe_seconds = 1')
    in_namespace(lambda: goes(agent, "input/raw"))

    def over(duration: float, until_back: bool = False) -> tuple[list[float], list[str], float]:
        taken, places, begun = [], [], time.monotonic()
        while time.monotonic() - begun < duration:
            took, place = bench.ask(agent)
            taken.append(took)
            places.append(place)
            if until_back and place.startswith("input"):
                break
            time.sleep(0.02)
        return taken, places, time.monotonic() - begun

    worst, answered, asked, back = 0.0, 0, 0, []
    in_namespace(lambda: over(60.0, until_back=True))  # the hub loads the tail when it is first asked for it
    for mode in ("refuse", "drop", "hang", "503", "garbage"):
        taken, places, _ = in_namespace(lambda: over(1.0))
        assert any(place.startswith("input") for place in places), places
        bench.link.shape(mode=mode)
        gone, gone_places, _ = in_namespace(lambda: over(seconds))
        bench.link.shape(mode="pass")
        later, _, returned = in_namespace(lambda: over(60.0, until_back=True))
        for ms in (*taken, *gone, *later):
            worst = max(worst, ms)
        asked += len(taken) + len(gone) + len(later)
        answered += sum(bool(p) for p in gone_places) + len(taken) + len(later)
        back.append(returned)
        print(
            f"  {mode:8} longest {max(gone):6.1f} ms, first {gone[0]:6.1f} ms, median {statistics.median(gone):6.1f} ms;"
            f" used again after {returned:4.1f} s; {Counter(p.partition('@')[0] for p in gone_places).most_common(3)}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    agent.stop()
    yield at_most("server away: longest answer over the deadline", worst - deadline_ms, "ms", 10)
    yield at_most("  requests without an answer", asked - answered, "", 0)
    yield Row("  until the tail is used again, worst", max(back), "s")


def measure(quick: bool) -> Iterator[Row]:
    only = os.environ.get("ONLY", " ".join(QUICK if quick else PARTS)).split()
    if quick and "ONLY" not in os.environ:
        print(f"left out by --quick: {', '.join(p for p in PARTS if p not in QUICK)}", file=sys.stderr)

    def asked(*parts: Callable[..., Iterator[Row]]) -> list[Callable[..., Iterator[Row]]]:
        return [part for part in parts if part.__name__ in only]

    def on_the_model(quick: bool) -> Iterator[Row]:
        yield from on_bundle(SMALL if quick else [MODEL], quick, asked(overhead, tails), asked(faults, sweep, trace))

    def on_the_larger_model(quick: bool) -> Iterator[Row]:
        yield from on_bundle([MODEL, *LARGE], quick, [], asked(large))

    trained = asked(cascade, bottlenecks)
    models = [on_the_model] if asked(overhead, tails, faults, sweep, trace) else []
    yield from each(quick, *trained, *models, *([on_the_larger_model] if asked(large) else []))


def on_bundle(words: list[str], quick: bool, alone: list[Any], linked: list[Any]) -> Iterator[Row]:
    """What needs a bundle, and of it what needs a shaped link. Each part by itself."""
    bundle = Path(str(edgeloop("run", *words, "--runs", "runs")["bundle"])).resolve()

    def by_itself(part: Any, *given: Any) -> Callable[[bool], Iterator[Row]]:
        def rows(quick: bool) -> Iterator[Row]:
            yield from part(*given, quick)

        rows.__name__ = part.__name__
        return rows

    yield from each(quick, *(by_itself(part, bundle) for part in alone))
    if not linked:
        return
    if os.geteuid() != 0:
        raise NotRun("a shaped link needs root: it makes a network namespace and a CPU quota")
    if not CGROUP.parent.is_dir():
        raise NotRun(f"the device's pace is set by {CGROUP.parent} (cgroup v1), which is not here")
    with bench_of(bundle) as bench:
        yield from each(quick, *(by_itself(part, bench) for part in linked))


if __name__ == "__main__":
    main(measure)
