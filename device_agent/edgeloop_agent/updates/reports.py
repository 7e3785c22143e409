"""Sends reports to the hub. A bounded number of undelivered ones is kept, and sent first in the next cycle."""

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
    """Send the undelivered reports, oldest first, then this one. Each has a key, so that the hub counts none twice.

    A refused report is not kept. Raises NetworkError; undelivered reports are kept then, without events, which the journal keeps.
    """
    waiting = _read(folder / FILE)
    for number, each in enumerate([*waiting, report]):
        try:
            post(each)
        except Refused:  # it would be refused for ever and block all others
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
    except (OSError, msgspec.MsgspecError):  # none, or damaged: only a gap in the statistics
        return []


def _write(path: Path, reports: list[Report]) -> None:
    with contextlib.suppress(OSError):
        if reports:
            publish(path, msgspec.msgpack.encode(reports))
        else:
            path.unlink(missing_ok=True)
