"""Where recordings come from: one small protocol; config/source_kinds.py is the table of who speaks it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.config.source_kinds import SOURCES

if TYPE_CHECKING:  # the supervisor reads the table, and does without numpy
    from edgeloop_agent.in_flight import Hand
    from edgeloop_contract.arrays import Array

Away = Callable[[str], None]  # told why the source is away, or '' when it is there; called as often as is convenient


# What became of a recording. "refused": of a part of it too; "failed": the runtime's, not its own, fault; "unwritten": it was
# answered, and the answer could not be written.
Outcome = Literal["answered", "refused", "failed", "unwritten", "dropped"]
MOST_NAME = 500


def nothing(outcome: Outcome) -> str:
    """What a source does that keeps nothing."""
    return ""


ESCAPED = re.compile("[\udc80-\udcff]")  # how Python shows bytes of a file name that are no UTF-8


class Recording(msgspec.Struct, frozen=True):
    """One input: its values, or why it could not be read. `times`: seconds of each point, `label`: the truth, where known.

    `rate_hz`: of sound, where the source knows it. `key`: which file it is of, so that one that kills the worker is found out.
    `done`: to be called with what became of it: until then the source keeps it, so that a power cut loses nothing. It says what it
    did with the file (kept, deleted), or "" where there is none. `by_name`: of a table, the columns of these names, or None where
    it has none of them; it may raise DataError.
    """

    name: str
    values: Array | None
    refused: str = ""
    times: Array | None = None
    label: str = ""
    rate_hz: int | None = None
    key: str = ""
    done: Callable[[Outcome], str] = nothing
    by_name: Callable[[Sequence[str]], Array | None] | None = None

    def __post_init__(self) -> None:
        """Texts that came from outside are text from here on: what is no UTF-8 would stop whoever writes it."""
        for field in ("name", "refused", "label"):
            text = getattr(self, field)
            if not text.isascii() or len(text) > MOST_NAME:
                msgspec.structs.force_setattr(self, field, printable(text))


def printable(text: str) -> str:
    """As valid text of bounded length: bytes that are no UTF-8 as \\xe9."""
    if len(text) > MOST_NAME:
        text = text[: MOST_NAME - 1] + "…"
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = ESCAPED.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
        return shown.encode("utf-8", "backslashreplace").decode()
    return text


class Source(Protocol):
    """Yields recordings until it is done or `stop` is set, which it looks at about once a second.

    One that cannot make its other side wait counts in an attribute `lost` what it let go before it could be yielded.
    """

    def recordings(self, stop: Event, away: Away) -> Iterator[Recording]: ...


def open_source(settings: Settings, hand: Hand | None = None) -> Source | None:
    """The source that the settings name; None for "none". Raises DeviceError where a library is missing."""
    kind = SOURCES[settings.kind]
    module, _, name = kind.path.partition(":")
    if not module:
        return None
    maker = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    found: Source = maker(settings, hand) if kind.of_files and hand is not None else maker(settings)
    return found


def waits(settings: Settings) -> bool:
    """Whether a full queue makes the source wait: as configured; else what lies in files waits there, and what is live does not."""
    if settings.when_full:
        return settings.when_full == "block"
    return (
        SOURCES[settings.kind].of_files or settings.kind == "video" or (settings.kind == "lines" and Path(settings.where).is_file())
    )
