"""What pruning buys: the int8 files of two bundles, before and after: accuracy as verified, and latencies in turn.

$BEFORE, $AFTER: the bundles, such as runs/blood_cells/blood_cells-1.edgeloop and that of `pruned.yaml`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness import Row, at_least, at_most, each, main

ROUNDS, CALLS = 25, 15
FAST_SHARE = 20  # percentile of a round's calls: others are work of somebody else


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, files)


def files(_: bool) -> Iterator[Row]:
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.errors import DataError

    places = [os.environ.get(name, "") for name in ("BEFORE", "AFTER")]
    if not all(places):
        raise DataError("set BEFORE and AFTER to two bundles")
    with Bundle.open(Path(places[0])) as before, Bundle.open(Path(places[1])) as after:
        calls = {
            (side, variant.name): call(bundle, variant)
            for side, bundle in (("before", before), ("after", after))
            for variant in bundle.manifest.variants
            if variant.name.endswith("-int8")
        }
        took = fastest(calls)
        accuracy = {
            (side, v.name): 100 * v.accuracy.value
            for side, bundle in (("before", before), ("after", after))
            for v in bundle.manifest.variants
            if v.accuracy is not None
        }
    for name in sorted({name for _, name in calls}):
        first, last = took["before", name], took["after", name]
        yield at_least(f"{name}: before ÷ after", round(first / last, 2), "×", 1.6)
        yield Row(f"{name}: latency", last, "µs", first)
        lost = accuracy["before", name] - accuracy["after", name]
        yield at_most(f"{name}: lost", round(lost, 2), "points", 0.3)
        yield Row(f"{name}: on the test set", accuracy["after", name], "%", accuracy["before", name])


def call(bundle: Any, variant: Any) -> Callable[[], object]:
    from edgeloop_agent.bench.measure import samples_of
    from edgeloop_agent.runtimes import open_runtime
    from edgeloop_agent.runtimes.named import calls

    run, rows = calls(open_runtime(variant, bundle.read(variant.file), 1), samples_of(bundle, variant))
    return partial(run, rows[0])


def fastest(calls: dict[Any, Callable[[], object]]) -> dict[Any, float]:
    """Microseconds: the files in turn, one thread, the least of the rounds."""
    best = dict.fromkeys(calls, float("inf"))
    for one in calls.values():
        one()
    for _ in range(ROUNDS):
        for key, one in calls.items():
            taken = []
            for _ in range(CALLS):
                start = time.perf_counter()
                one()
                taken.append(time.perf_counter() - start)
            best[key] = min(best[key], 1e6 * float(np.percentile(taken, FAST_SHARE)))
    return best


if __name__ == "__main__":
    main(measure)
