"""A fleet of simulated devices, each with the agent's real updater, against a real hub."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from harness import Row, at_most
from hubs import Hub, running_hub, version
from serving import write_config

FAILING = 0.05  # share of devices that fail the canary
DROPPED = 0.1  # share of requests that the network drops
LATER_POLLS = 10  # of devices that are not there yet, after the rollout ended


def new(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@dataclass
class Simulated:
    """The agent's real updater on a folder of its own."""

    name: str
    turn: Any
    folder: Any
    current: Any

    def poll(self) -> None:
        from edgeloop_agent.updates.journal import Running
        from edgeloop_contract.errors import NetworkError
        from edgeloop_contract.messages import Heartbeat, Moments

        slot = self.folder.load().running
        if slot is not None:
            self.current = Running(slot.name, slot.version, slot.sha256)
        self.turn.running = self.current
        beat = Heartbeat(
            model=self.current.model, version=self.current.version, sha256=self.current.sha256, answered=100, seconds=60.0,
            latency_us_p95=40.0, confidence=Moments(count=100, mean=0.8, variance=0.02), labels={"A": 50, "B": 50},
        )  # fmt: skip
        try:
            self.turn(beat)
        except NetworkError:
            return
        if self.folder.load().trial is not None:
            self.folder.change(lambda j: j.committed())  # its window went well


def fleet(folder: Path, size: int, bad: bool) -> Iterator[Row]:
    """A pilot of ten, then a quarter, then all; requests are dropped at random. `bad`: every device refuses the bundle."""
    from edgeloop_agent import hub_client

    rng = random.Random(2)
    with running_hub(folder) as hub:
        failing = set(rng.sample(range(10 if not bad else 0, size), int(size * FAILING)))
        devices = [_simulated(hub, folder / f"d{i}", f"d-{i}", bad or i in failing) for i in range(size)]
        real = hub_client.HubClient._ask

        def dropping(self: Any, *words: Any, **more: Any) -> Any:
            if rng.random() < DROPPED:
                raise hub_client.NetworkError("dropped")
            return real(self, *words, **more)

        hub_client.HubClient._ask = dropping  # type: ignore[method-assign]
        try:
            start = time.perf_counter()
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(Simulated.poll, devices))
                list(pool.map(Simulated.poll, devices))
                target = hub.publish(version(folder, 2))
                pilot = "+".join(f"d-{i}" for i in range(10))
                steps = ("--steps", f"{pilot}, 25%, 100%", "--soak-minutes", "0", "--gate", "min_reported=0.95")
                hub.edgeloop("rollout", "start", target, *steps)
                for _ in range(60):
                    list(pool.map(Simulated.poll, devices))
                    hub.run("tick")
                    state = get(hub, "/api/v1/rollouts")[0]["state"]
                    if state != "running":
                        break
                for _ in range(LATER_POLLS):  # who lost a request asks again, as it would in the field
                    list(pool.map(Simulated.poll, [d for d in devices if d.folder.load().running is None]))
            took = time.perf_counter() - start
        finally:
            hub_client.HubClient._ask = real  # type: ignore[method-assign]
        new = {d.name for d in devices if d.folder.load().running is not None}
        touched = {d.name for d in devices if d.folder.load().bad or d.folder.load().running is not None}
        outside = touched - {f"d-{i}" for i in range(10)}
    if bad:
        yield at_most(f"{size} devices, a bad bundle: {state} in the pilot; devices outside it touched", len(outside), "", 0)
        return
    wanted = {f"d-{i}" for i in range(size) if i not in failing}
    said = f"{size} devices, {len(failing)} failing, rollout {state}: not where the plan says"
    yield at_most(said, len(new ^ wanted), "", 0)
    yield Row(f"{size} devices: wall time of the rollout", took, "s")


def _simulated(hub: Hub, folder: Path, name: str, fails: bool) -> Simulated:
    from edgeloop_agent.config import load
    from edgeloop_agent.credential import Credential
    from edgeloop_agent.updates.cycle import UpdateCycle
    from edgeloop_agent.updates.journal import Running, UpdateFolder, update_folder

    config = load(write_config(new(folder), f'[updates]\nhub = "{hub.address}"\n'))
    there = UpdateFolder(update_folder(config))
    there.path.mkdir(parents=True)
    told = enrolled(hub, name)
    there.root.write_text(told["root"])
    there.credential.write_bytes(msgspec.json.encode(Credential(hub.address, name, told["credential"])))
    running = Running("exercise_watch", 1, "1" * 64)
    return Simulated(name, UpdateCycle(config, there, running, lambda _: "it fails here" if fails else None), there, running)


def enrolled(hub: Hub, name: str) -> Any:
    """Straight into the hub's database: hundreds of commands would take longer than what is measured."""
    from edgeloop_contract.messages import Enrolment
    from edgeloop_hub.auth import accounts
    from edgeloop_hub.storage.database import Database
    from edgeloop_hub.updates import signing

    if not hasattr(hub, "opened"):
        words = dict(zip(hub.words[::2], hub.words[1::2], strict=True))
        hub.opened = Database(words.get("--database") or f"sqlite:///{words['--data']}/hub.sqlite")  # type: ignore[attr-defined]
    with hub.opened.writing() as connection:  # type: ignore[attr-defined]
        token = accounts.make_token(connection, "enrol", name, [], 3600)
        root = signing.latest(connection, "root")
        assert root is not None
        found = accounts.enrol(connection, Enrolment(token=token, device=name), root[1])
    assert found is not None
    return {"credential": found.credential, "root": found.root}


def get(hub: Hub, path: str) -> Any:
    return urllib3.request("GET", hub.address + path, headers={"Authorization": f"Bearer {hub.token}"}).json()
