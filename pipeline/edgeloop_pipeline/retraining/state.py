"""What retraining remembers: the champion, the last attempt, which recordings judge; and a line for each decision."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from edgeloop_contract.errors import GateError, UsageError
from edgeloop_pipeline.cache.store import write
from edgeloop_pipeline.retraining.gate import Verdict

EXIT_NOTHING, EXIT_LOCKED = 10, 11


class Champion(msgspec.Struct, frozen=True):
    """The model to beat. `labels`: keys of the field samples that it learnt from or was judged by."""

    bundle: str
    sha256: str
    version: int
    weights: str
    made: float
    labels: list[str] = []


class Attempt(msgspec.Struct, frozen=True):
    """A challenger that is being made, or was refused."""

    version: int
    data: str
    at: float
    labels: list[str] = []
    refused: bool = False


class State(msgspec.Struct, frozen=True):
    """`sides`: for each group of field samples (a recording) train, validation or test; a group never changes its side."""

    champion: Champion | None = None
    last: Attempt | None = None
    sides: dict[str, str] = {}


class Outcome(msgspec.Struct, frozen=True):
    """One line of decisions.jsonl. `action`: what the cycle did. `labels`, `new_labels` and the others count samples."""

    at: float
    action: Literal["nothing", "would retrain", "refused", "published"] = msgspec.field(name="what")
    reason: str = msgspec.field(name="why")
    labels: int = 0
    new_labels: int = 0
    drifting: list[str] = []
    data: str = ""
    version: int = 0
    bundle: str = ""
    target: str = ""
    rollout: int | None = None
    champion: str = ""
    verdict: Verdict | None = None
    random_labels: int = 0
    context_labels: int = msgspec.field(name="rest_labels", default=0)  # samples sent because their recording had a label
    pseudo_labels: int = 0
    pseudo_accuracy: float | None = msgspec.field(name="pseudo_right", default=None)  # of the teacher, on held-out field labels

    @property
    def exit_code(self) -> int:
        return {"nothing": EXIT_NOTHING, "refused": GateError.exit_code}.get(self.action, 0)


def refused(attempt: Attempt) -> Attempt:
    return msgspec.structs.replace(attempt, refused=True)


def load(folder: Path) -> State:
    """Raises UsageError for a state that cannot be read."""
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
