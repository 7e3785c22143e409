"""A hub behind a shaped link, and agents that go one way each or plan."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeloop_agent.offload.planning import LOSSY
from edgeloop_contract import inference
from edgeloop_contract.archive import Bundle
from shaped import Agent, Link, hub_with, in_namespace, pace, shaped_link, start_agent

PORT = 8799
WAKE_SECONDS = 2.0  # after a halt: what was due meanwhile, a probe of the link say, is done at once
WAIT_MS = 60_000
SLOW_MS = 2_000  # a way that takes longer is measured once
TURNS_MS = 3_000  # of one agent's answers: enough of them
FIXED = f'route = "{{}}"\nhedge = "late"\ndeadline_ms = {WAIT_MS}\nprobe_seconds = 3600'


@dataclass
class Bench:
    folder: Path
    bundle: Path
    model: str
    token: str
    link: Link
    ways: list[str]
    lossy: set[str]
    body: bytes
    length: int

    def start(self, name: str, split: str) -> Agent:
        return start_agent(self.folder / name.replace("/", "-"), self.bundle, PORT, split, self.token)

    def fixed(self) -> dict[str, Agent]:
        """One agent a way, each always going that way; all of them halted."""
        found = {}
        for way in self.ways:
            agent = self.start(way, FIXED.format(way))
            in_namespace(lambda agent=agent, way=way: goes(agent, way))
            agent.halt(True)
            found[way] = agent
        return found

    def ask(self, agent: Agent) -> tuple[float, str]:
        return agent.infer(self.model, self.body, self.length)

    def median(self, agent: Agent, seconds: float, way: str = "") -> tuple[float, str]:
        """Milliseconds of a request, and where most answers came from. `way`: what the agent is to be waited for to do."""
        agent.halt(False)
        if way:
            in_namespace(lambda: goes(agent, way))

        def measure() -> tuple[float, str]:
            taken, places = [], []
            first, place = self.ask(agent)
            if first > SLOW_MS:
                return first, place.partition("@")[0]
            deadline = time.monotonic() + seconds
            while len(taken) < 2 or (time.monotonic() < deadline and len(taken) < 60):
                took, place = self.ask(agent)
                taken.append(took)
                places.append(place.partition("@")[0])
            return statistics.median(taken), Counter(places).most_common(1)[0][0]

        found = in_namespace(measure)
        agent.halt(True)
        return found

    def by_turns(self, agents: dict[str, Agent], rounds: int, seconds: float = 0.15) -> dict[str, tuple[float, str]]:
        """The same of several, a little of each at a time, so that all of them see the same machine. A slow one has few turns.

        None is halted between its turns: what an agent measures of a link while it stands still would be wrong. Turns are short, so
        that none takes itself for idle, and explores the link while another one is measured.
        """
        taken: dict[str, list[float]] = defaultdict(list)
        places: dict[str, Counter[str]] = defaultdict(Counter)

        def turn(name: str, agent: Agent) -> None:
            deadline = time.monotonic() + seconds
            first = len(taken[name])
            while len(taken[name]) == first or time.monotonic() < deadline:
                took, place = self.ask(agent)
                taken[name].append(took)
                places[name][place.partition("@")[0]] += 1

        def turns() -> None:
            for number in range(rounds):
                for name, agent in agents.items():
                    if not number or sum(taken[name]) < TURNS_MS:
                        turn(name, agent)

        for agent in agents.values():
            agent.halt(False)
        in_namespace(lambda: [self.ask(agent) for agent in agents.values()])
        time.sleep(WAKE_SECONDS)
        in_namespace(turns)
        for agent in agents.values():
            agent.halt(True)
        return {name: (statistics.median(taken[name]), places[name].most_common(1)[0][0]) for name in agents}


def goes(agent: Agent, way: str) -> None:
    deadline = time.monotonic() + 120
    while agent.split()["route"] != way or not agent.split()["rows"]:
        if time.monotonic() > deadline:
            raise SystemExit(f"{way}: {agent.split()}")
        time.sleep(0.1)


def settled(bench: Bench, agent: Agent, seconds: float) -> None:
    """It answers, and looks at its ways meanwhile, as it does in its first seconds."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        bench.ask(agent)
        time.sleep(0.1)


def link_measured(agent: Agent) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state = agent.split()
        if state["rows"] and state["links"][0]["mbit_per_second"]:
            return
        time.sleep(0.1)
    raise SystemExit(f"the link was not measured: {agent.split()}")


@contextlib.contextmanager
def bench_of(bundle: Path) -> Iterator[Bench]:
    """It is published by a hub behind a shaped link."""
    with Bundle.open(bundle) as opened:
        samples = opened.array(opened.manifest.canary.input)[:1]
        assert opened.manifest.split is not None
        model = opened.manifest.name
        crossings = [(c, p) for c in opened.manifest.split.cuts for p in c.packed if p.coding != "4bit"]
    ways = ["device", *(f"{c.name}/{p.coding}" for c, p in crossings)]
    lossy = {f"{c.name}/{p.coding}" for c, p in crossings if c.decoder or p.coding in LOSSY}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with hub_with([bundle], folder) as (port, token), shaped_link(port, PORT) as link:
            yield Bench(folder, bundle, model, token, link, ways, lossy, *inference.encode_request("input", samples, {}))
        pace(1)
