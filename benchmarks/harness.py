"""What every benchmark shares: rows with a peer and a ratio, a table, `--json`, `--quick`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Row:
    """One figure. `ratio`: value against peer, so that above 1 is better for us; `met`: None where there is no target."""

    name: str
    value: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


def faster(name: str, ours_us: float, peer_us: float, at_least: float) -> Row:
    """A latency against a peer's."""
    ratio = peer_us / ours_us
    return Row(name, ours_us, "µs", peer_us, round(ratio, 2), f"≥ {at_least}×", ratio >= at_least)


def at_least(name: str, value: float, unit: str, floor: float, peer: float | None = None) -> Row:
    return Row(name, value, unit, peer, round(value / peer, 3) if peer else None, f"≥ {floor:g}", value >= floor)


def at_most(name: str, value: float, unit: str, ceiling: float, peer: float | None = None) -> Row:
    return Row(name, value, unit, peer, round(peer / value, 3) if peer else None, f"≤ {ceiling:g}", value <= ceiling)


def main(measure: Callable[[bool], Iterator[Row]]) -> None:
    """Run a benchmark script. `measure` gets whether to be quick."""
    from edgeloop_agent.hardware import machine

    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="under a minute, with every row it can")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    options = parser.parse_args()
    if not options.json:
        print(f"{machine()}; {date.today()}; {' '.join(sys.argv)}")
        print(f"{'':46}{'ours':>12} {'unit':8}{'peer':>12}{'ratio':>8}  target")
    rows = []
    for row in measure(options.quick):
        rows.append(row)
        if not options.json:
            peer = f"{row.peer:12,.4g}" if row.peer is not None else " " * 12
            ratio = f"{row.ratio:7.2f}×" if row.ratio is not None else " " * 8
            verdict = {None: "", True: "met", False: "MISSED"}[row.met]
            print(f"{row.name:46}{row.value:12,.5g} {row.unit:8}{peer}{ratio}  {row.target} {verdict}", flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))


def edgeloop(*words: object) -> dict[str, object]:
    """`edgeloop … --json`, its progress passed on."""
    done = subprocess.run([BIN / "edgeloop", *map(str, words), "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def seconds(*words: object) -> float:
    """Wall time of a command, the best of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(list(map(str, words)), capture_output=True, check=True)
        taken.append(time.perf_counter() - start)
    return min(taken)
