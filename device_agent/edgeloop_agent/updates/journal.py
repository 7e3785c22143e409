"""The journal of updates: one small file, replaced as a whole, and the rules for changing it.

    idle ─ staged ─▶ trial ─ healthy ─▶ idle (the new slot is the active one)
                      └── crashes, bad answers ─▶ idle (the old slot still is), the bundle is remembered as bad

A bundle file is only ever written into the slot that is not active, and the journal names it only once it is whole on the disk.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from edgeloop_agent.config import Config
from edgeloop_agent.launcher import BOOTS_IN_TRIAL
from edgeloop_contract.errors import StorageError
from edgeloop_contract.files import publish, remedy_of
from edgeloop_contract.messages import Event
from edgeloop_contract.publications import AGENT_MODEL, CONFIG_MODEL

__all__ = ["BOOTS_IN_TRIAL", "Journal", "Running", "Slot", "SlotName", "UpdateFolder", "update_folder"]

MAX_BAD, MAX_EVENTS = 32, 64
OTHERS = "others"  # the folder of further bundles' folders

SlotName = Literal["a", "b"]


class Running(msgspec.Struct, frozen=True):
    """The bundle that runs now, from a slot or from the config."""

    model: str
    version: int
    sha256: str


class Slot(msgspec.Struct, frozen=True):
    """A verified bundle file in a slot. `shipped`: no file, and instead the packaged agent, or the device's own config."""

    target: str
    name: str
    version: int
    sha256: str
    bytes: int
    shipped: bool = False


class Trial(msgspec.Struct, frozen=True):
    """A staged bundle that runs, or is about to, and is not trusted yet. `seconds`: of the packaged agent's start and trial."""

    slot: SlotName
    since: float
    boots: int = 0
    seconds: float = 0.0


class RejectedBundle(msgspec.Struct, frozen=True):
    """A bundle that failed here. This version of the agent does not try it again; "": no version does, as it failed in use."""

    sha256: str
    why: str
    agent: str = ""


class Journal(msgspec.Struct, frozen=True):
    """`active`: the slot that is trusted; None: the bundle that the config names. `generation`: the folder of trusted metadata."""

    active: SlotName | None = None
    a: Slot | None = None
    b: Slot | None = None
    trial: Trial | None = None
    bad: list[RejectedBundle] = []
    generation: int = 0
    clock_floor: float = 0.0
    refreshed: float = 0.0
    events: list[Event] = []

    def slot(self, name: str | None) -> Slot | None:
        return {"a": self.a, "b": self.b}.get(name or "")

    @property
    def free(self) -> SlotName:
        """The slot for the next bundle: never the trusted one's."""
        return "b" if self.active == "a" else "a"

    @property
    def running(self) -> Slot | None:
        """On trial, else trusted; None: the config's bundle."""
        return self.slot(self.trial.slot if self.trial else self.active)

    def rejected(self, sha256: str, agent: str = "") -> RejectedBundle | None:
        """The rejection of a bundle, if any. `agent`: this version; a bundle that another version rejected may work with it."""
        return next((b for b in self.bad if b.sha256 == sha256 and b.agent in ("", agent)), None)

    def noted(self, event: Event) -> Journal:
        """With one more event to report; the oldest are dropped first."""
        return replace(self, events=[*self.events, event][-MAX_EVENTS:])

    def staged(self, slot: Slot, at: float, seconds: float = 0.0) -> Journal:
        return replace(self, **{self.free: slot}, trial=Trial(self.free, at, seconds=seconds))

    def booted(self) -> Journal:
        """Count one start of the bundle on trial, before it is loaded."""
        assert self.trial is not None
        return replace(self, trial=replace(self.trial, boots=self.trial.boots + 1))

    def committed(self) -> Journal:
        assert self.trial is not None
        return replace(self, active=self.trial.slot, trial=None)

    def rolled_back(self, why: str) -> Journal:
        """End the trial; the bundle is not tried again."""
        assert self.trial is not None
        slot = self.slot(self.trial.slot)
        return replace(self, trial=None).with_rejected(slot.sha256, why) if slot else replace(self, trial=None)

    def with_rejected(self, sha256: str, why: str, agent: str = "") -> Journal:
        others = [b for b in self.bad if b.sha256 != sha256]
        return replace(self, bad=[*others, RejectedBundle(sha256, why, agent)][-MAX_BAD:])

    def without(self, name: SlotName) -> Journal:
        """Without a slot whose file is damaged."""
        trial = None if self.trial and self.trial.slot == name else self.trial
        active = None if self.active == name else self.active
        return replace(self, **{name: None}, trial=trial, active=active)


def update_folder(config: Config) -> Path:
    """Where this device keeps its updates."""
    from edgeloop_agent import device_state

    return (Path(config.state) if config.state else device_state.default_folder()) / "updates"


class UpdateFolder:
    """The updates' folder on disk: the journal, two slots, a download under way, trusted metadata, the credential.

    Each bundle beside the first has a folder in it with a journal, slots and a download of its own.
    """

    def __init__(self, path: Path, suffix: str = ".edgeloop") -> None:
        self.path, self.suffix = path, suffix
        self.credential = path / "credential.json"
        self.root = path / "root.json"
        self.download = path / "download.partial"
        self.lock = path / "lock"

    def of_model(self, name: str) -> UpdateFolder:
        """The folder of a further bundle, by its model's name."""
        return UpdateFolder(self.path / OTHERS / quote(name, safe="")[:200])

    def of_config(self, name: str) -> UpdateFolder:
        """The folder of the config of this name."""
        return UpdateFolder(self.path / OTHERS / quote(CONFIG_MODEL + name, safe=""), ".toml")

    def of_agent(self, name: str) -> UpdateFolder:
        """The folder of the agent of this name; its slots are downloads, and the environments stand beside them."""
        return UpdateFolder(self.path / OTHERS / quote(AGENT_MODEL + name, safe=""), ".wheelhouse")

    def all(self) -> list[UpdateFolder]:
        """This one, then those of further bundles."""
        return [self, *(UpdateFolder(path) for path in sorted(self.path.glob(f"{OTHERS}/*")) if path.is_dir())]

    def slot(self, name: str) -> Path:
        return self.path / f"slot-{name}{self.suffix}"

    def metadata(self, generation: int) -> Path:
        return self.path / f"metadata-{generation}"

    def load(self) -> Journal:
        """The journal; a missing or damaged file counts as an empty one: the config's bundle runs."""
        try:
            return msgspec.json.decode((self.path / "journal.json").read_bytes(), type=Journal)
        except (OSError, msgspec.MsgspecError):
            return Journal()

    def change(self, rule: Callable[[Journal], Journal]) -> Journal:
        """Load, apply, save, with no other process in between. Raises StorageError, and then the old journal stands."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self.path / "journal.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                old = self.load()
                new = rule(old)
                if new != old:
                    self._save(new)
                return new
        except OSError as error:
            raise StorageError(f"{self.path}: the journal cannot be written ({error.strerror}); {remedy_of(error)}") from error

    def _save(self, journal: Journal) -> None:
        publish(self.path / "journal.json", msgspec.json.encode(journal))
