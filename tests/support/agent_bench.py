"""A device that follows an agent from a folder. Its agents are stand-ins of a few small modules, which check themselves and start.

`python agent_bench.py CONFIG [passes|fails]` does what a device does of an update, in one process: the updater, the start on trial,
and its end, with the next start.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_agent import launcher
from edgeloop_agent.config import load
from edgeloop_agent.logs import Log
from edgeloop_agent.updates import __main__ as updater
from edgeloop_agent.updates.agent_slots import folder_of_agent, running_agent
from edgeloop_agent.updates.cycle import UpdateCycle
from edgeloop_agent.updates.cycle_messages import CycleRequest
from edgeloop_agent.updates.journal import BOOTS_IN_TRIAL, Running, UpdateFolder
from edgeloop_agent.updates.slots import committed
from edgeloop_contract.wheelhouse import Wheel, WheelhouseManifest, opened, write
from edgeloop_pipeline.fleet.agent_package import pack
from update_bench import Bench
from wheels import wheel

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CHECKS = 'import json\nprint(json.dumps({{"version": "{version}", "problem": "{problem}"}}))\n'
SERVES = "import sys\nfrom edgeloop_agent import NUMBER\nprint(sys.argv[1], NUMBER)\n"


def stand_in(number: int, problem: str = "") -> dict[str, str | bytes]:
    """The modules of an agent that says which one it is."""
    return {
        "edgeloop_agent/__init__.py": f"NUMBER = {number}\n",
        "edgeloop_agent/cli.py": SERVES,
        "edgeloop_agent/updates/__init__.py": "",
        "edgeloop_agent/updates/self_check.py": CHECKS.format(version=f"9.0.{number}", problem=problem),
        "edgeloop_agent/reads.json": '{"reads": 3, "journal": 1}',
        "edgeloop_agent/data.bin": bytes(3000),
    }


STEADY: dict[str, str | bytes] = {"steady/__init__.py": "STEADY = 1\n", "steady/data.bin": bytes(range(256)) * 100}


def wheelhouse(folder: Path, number: int, files: dict[str, str | bytes] | None = None) -> Path:
    """Two wheels: edgeloop, and one that is the same in all of them."""
    wheels, out = folder / f"wheels-{number}", folder / f"agent-pi-{number}.wheelhouse"
    wheel(wheels, "steady", "1.0", STEADY)
    wheel(wheels, "edgeloop", f"9.0.{number}", stand_in(number) if files is None else files)
    pack(wheels, out, PYTHON, "x86_64")
    return out


def needs_of(house: Path) -> Any:
    with opened(house, 1 << 30) as found:
        return msgspec.to_builtins(found.manifest.needs)


def manifest_of(house: Path) -> Any:
    """What is signed of the list of wheels."""
    with opened(house, 1 << 30) as found:
        return {"bytes": len(found.manifest_bytes), "sha256": hashlib.sha256(found.manifest_bytes).hexdigest()}


def house_of(folder: Path, wheels: list[Path], spoil: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """A wheelhouse that `pack-agent` would not make."""
    described = [
        Wheel(w.name, w.name.partition("-")[0], "1", w.stat().st_size, hashlib.sha256(w.read_bytes()).hexdigest()) for w in wheels
    ]
    fields: dict[str, Any] = {
        "version": "9.0.2", "python": PYTHON, "machine": "", "glibc": "", "reads": 3, "journal": 1, "unpacked_bytes": 100_000,
        "wheels": described,
    }  # fmt: skip
    spoil(fields)
    write(folder / "agent-pi-2.wheelhouse", WheelhouseManifest(**fields), wheels)
    return folder / "agent-pi-2.wheelhouse"


class AgentBench(Bench):
    """Agents 9.0.N, of which N is the published version too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "agent.toml"
        self.path.write_text(self.path.read_text().replace("[updates]\n", '[updates]\nagent = "pi"\n'))
        self.config = load(self.path)
        self.started: str | None = None

    def offer(self, number: int, **more: Any) -> str:
        return self.offer_house(wheelhouse(self.bundles, number), number)

    def offer_house(self, house: Path, number: int, needs: Any = None) -> str:
        signed = needs or needs_of(house)
        return self.repository.add(house, number, "agent:pi", kind="agent", agent=signed, manifest=manifest_of(house))

    def running(self) -> Running:
        """What a start now runs: the stand-in is really started."""
        for installed in launcher.chosen(self.path, launcher._table(self.path), Log("error")):
            if installed.shipped:
                self.started, slot = installed.sha256, self.journal.load().slot(installed.slot)
                assert slot is not None
                return Running("agent:pi", slot.version, slot.sha256)
            words = [sys.executable, "-m", "edgeloop_agent.cli", "serve", str(self.path)]
            done = subprocess.run(words, env=launcher.environment_of(installed.path), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            number = int(done.stdout.removeprefix("serve "))
            assert installed.version == f"9.0.{number}"
            self.started = installed.sha256
            return Running("agent:pi", number, installed.sha256)
        self.started = ""
        return Running("agent:pi", 0, "")

    def request(self) -> CycleRequest:
        """As the worker of the last start asks."""
        if self.started is not None:
            os.environ[launcher.AGENT] = self.started
        try:
            return CycleRequest(self.everything()[0], [running_agent(self.config)[0]])
        finally:
            os.environ.pop(launcher.AGENT, None)

    def turn(self, tries: Any = lambda _: None) -> str:
        told = self.request()
        cycle = UpdateCycle(self.config, self.folder, told.running, tries, now=lambda: self.now(), others=told.others)
        cycle.config_path = self.path
        return cycle(None)

    @property
    def journal(self) -> UpdateFolder:
        return self.folder.of_agent("pi")

    def words(self, ending: str) -> list[str]:
        return [sys.executable, str(Path(__file__)), str(self.path), ending]


def offered(device: AgentBench, number: int) -> str:
    device.offer(number)
    device.repository.publish()
    return device.turn()


def taken(device: AgentBench, number: int) -> None:
    assert "is staged" in offered(device, number)
    assert device.running().version == number
    device.taken()


def left(device: AgentBench) -> set[str]:
    """Environments, downloads and what was not finished."""
    return {p.name for pattern in ("env-*", "*.partial", "slot-*") for p in device.journal.path.glob(pattern)}


def follow(path: Path, ending: str) -> None:
    updater.main(path)
    sys.stdout.flush()
    start = partial(launcher.chosen, path, launcher._table(path), Log("error"))
    for _ in range(1 if ending == "passes" else BOOTS_IN_TRIAL):
        next(start(), None)
    if ending == "passes":
        folder_of_agent(load(path)).change(committed)
    next(start(), None)


if __name__ == "__main__":
    follow(Path(sys.argv[1]), sys.argv[2])
