"""What every benchmark shares: rows with a peer and a ratio, a table, `--json`, `--quick`."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from edgeloop_contract.errors import DataError, DeviceError

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent
# Agents and hubs under test are started as the tests start them; the loop's devices and data are those of `make loop`.
sys.path += [str(ROOT / folder) for folder in ("tests/support", "tests/agent", "tests/hub", "scripts")]


class NotRun(Exception):
    """This part cannot run here: what is missing, and the command that brings it."""


@dataclass(frozen=True)
class Row:
    """One figure. `ratio`: value against peer, so that above 1 is better for us; `met`: None where there is no target.

    `value` is None where nothing was measured, and `target` then says why. Numbers are Python's own, whatever was given.
    """

    name: str
    value: float | None
    unit: str
    peer: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None

    def __post_init__(self) -> None:
        for name in ("value", "peer", "ratio"):
            given = getattr(self, name)
            plain = None if given is None or math.isnan(given) else float(given)
            object.__setattr__(self, name, plain)
        object.__setattr__(self, "met", None if self.met is None else bool(self.met))


def against(name: str, value: float, unit: str, peer: float | None, what: str, missing: str) -> Row:
    """Where less is better than a peer's; a peer that did not run is not held against us, nor for us. `missing`: why it did not."""
    if peer is None or math.isnan(peer):
        return Row(name, value, unit, None, None, f"{what}; peer not run: {missing}")
    return Row(name, value, unit, peer, round(peer / value, 2) if value else None, what, value <= peer)


def each(quick: bool, *parts: Callable[[bool], Iterator[Row]]) -> Iterator[Row]:
    """The rows of every part. One that cannot run here is a row that says why, one that breaks says so too; the others go on."""
    for part in parts:
        name = part.__name__.replace("_", " ")
        try:
            yield from part(quick)
        except (NotRun, DataError, DeviceError, ImportError) as error:
            yield Row(name, None, "", None, None, f"not run: {error}")
        except (Exception, SystemExit) as error:  # whatever it is, it is of this part
            traceback.print_exc()
            broken.append(name)
            yield Row(name, None, "", None, None, f"FAILED: {type(error).__name__}: {error}")


broken: list[str] = []  # parts that failed, for the exit code


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
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="under a minute, with every row it can")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    options = parser.parse_args()
    report(measure(options.quick), options.json)


def report(rows: Iterable[Row], as_json: bool) -> None:
    """Print rows as they come, or as JSON at the end. Leaves with an error where a part broke."""
    from edgeloop_agent.hardware import machine

    if not as_json:
        print(f"{machine()}; {date.today()}; {' '.join(sys.argv)}")
        print(f"{'':46}{'ours':>12} {'unit':8}{'peer':>12}{'ratio':>8}  target")
    found = []
    for row in rows:
        found.append(row)
        if not as_json:
            peer = f"{row.peer:12,.4g}" if row.peer is not None else " " * 12
            ratio = f"{row.ratio:7.2f}×" if row.ratio is not None else " " * 8
            verdict = {None: "", True: "met", False: "MISSED"}[row.met]
            value = f"{row.value:12,.5g}" if row.value is not None else f"{'–':>12}"
            print(f"{row.name:46}{value} {row.unit:8}{peer}{ratio}  {row.target} {verdict}", flush=True)
    if as_json:
        print(json.dumps([asdict(row) for row in found]))
    if broken:
        sys.exit(f"failed: {', '.join(broken)}")


def edgeloop(*words: object) -> dict[str, object]:
    """`edgeloop … --json`, its progress passed on."""
    done = subprocess.run([BIN / "edgeloop", *map(str, words), "--json"], stdout=subprocess.PIPE, text=True, check=False)
    found: dict[str, object] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    if done.returncode in (DataError.exit_code, DeviceError.exit_code):
        raise NotRun(str(found.get("error", "see above")))
    if done.returncode:
        raise RuntimeError(f"edgeloop {words[0]} ended with {done.returncode}: {found.get('error', 'see above')}")
    return found


def seconds(*words: object) -> float:
    """Wall time of a command, the best of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(list(map(str, words)), capture_output=True, check=True)
        taken.append(time.perf_counter() - start)
    return min(taken)
