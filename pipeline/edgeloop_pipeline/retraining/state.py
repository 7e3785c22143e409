"""What retraining remembers between turns: the champion, the last try, which recordings judge; and one line for each decision."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_contract.errors import GateError, UsageError
from edgeloop_pipeline.cache.store import write

EXIT_NOTHING, EXIT_LOCKED = 10, 11


class Champion(msgspec.Struct, frozen=True):
    """The model that is to be beaten. `labels`: keys of the field samples it learnt from or was judged by."""

    bundle: str
    sha256: str
    version: int
    weights: str
    made: float
    labels: list[str] = []


class Try(msgspec.Struct, frozen=True):
    """A challenger that is being made, or was refused."""

    version: int
    data: str
    at: float
    labels: list[str] = []
    refused: bool = False


class State(msgspec.Struct, frozen=True):
    champion: Champion | None = None
    last: Try | None = None
    sides: dict[str, str] = {}  # group of field samples → what it is for: a recording never changes sides


class Outcome(msgspec.Struct, frozen=True):
    """One line of decisions.jsonl. `what`: nothing, would retrain, refused or published."""

    at: float
    what: str
    why: str
    labels: int = 0
    new_labels: int = 0
    drifting: list[str] = []
    data: str = ""
    version: int = 0
    bundle: str = ""
    target: str = ""
    rollout: int | None = None
    champion: str = ""
    verdict: dict[str, Any] = {}
    random_labels: int = 0
    rest_labels: int = 0  # of samples that were sent because their recording had a label
    pseudo_labels: int = 0
    pseudo_right: float | None = None  # of the teacher's answers to held-out field samples of which it is as sure

    @property
    def exit_code(self) -> int:
        return {"nothing": EXIT_NOTHING, "refused": GateError.exit_code}.get(self.what, 0)


def refused(begun: Try) -> Try:
    return msgspec.structs.replace(begun, refused=True)


def load(folder: Path) -> State:
    try:
        return msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    except FileNotFoundError:
        return State()
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{folder / 'state.json'}: cannot be read ({error}); remove it to begin anew") from error


def keep(folder: Path, state: State) -> None:
    write(folder / "state.json", msgspec.json.encode(state))


@contextlib.contextmanager
def locked(runs: Path, name: str) -> Iterator[bool]:
    """Whether the lock is ours: one retraining of a model at a time."""
    folder = runs / "retrain" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
