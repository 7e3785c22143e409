"""Reports on their way to the hub: what did not arrive is kept, a bounded number of them, and sent first at the next turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeloop_agent.hub_client import Refused
from edgeloop_contract.errors import NetworkError
from edgeloop_contract.files import publish
from edgeloop_contract.messages import Report

MAX_UNSENT = 48  # four hours of a hub that is away, at a poll every five minutes
FILE = "unsent.msgpack"


def send(folder: Path, report: Report, post: Callable[[Report], None]) -> None:
    """This one, after those that wait, oldest first. Each has its key, so one that arrived unnoticed is not counted twice.

    What is refused is not kept. Raises NetworkError; then all that did not arrive is kept, without events, which are the journal's.
    """
    waiting = _read(folder / FILE)
    for number, each in enumerate([*waiting, report]):
        try:
            post(each)
        except Refused:  # it would be refused again, for ever, and nothing behind it would arrive
            if each is report:
                raise
        except NetworkError:
            left = [*waiting, msgspec.structs.replace(report, events=[])][number:][-MAX_UNSENT:]
            _write(folder / FILE, left)
            raise
    if waiting:
        _write(folder / FILE, [])


def _read(path: Path) -> list[Report]:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=list[Report])
    except (OSError, msgspec.MsgspecError):  # none, or damaged: a gap in the figures, nothing else
        return []


def _write(path: Path, reports: list[Report]) -> None:
    with contextlib.suppress(OSError):
        if reports:
            publish(path, msgspec.msgpack.encode(reports))
        else:
            path.unlink(missing_ok=True)
