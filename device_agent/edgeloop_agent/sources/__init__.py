"""Where recordings come from: one small protocol; config/source_kinds.py is the table of who speaks it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.config.source_kinds import SOURCES

if TYPE_CHECKING:  # the supervisor reads the table, and does without numpy
    from edgeloop_agent.in_flight import InFlight
    from edgeloop_contract.arrays import Array
    from edgeloop_contract.preprocessing import TextOrArray

__all__ = [
    "Outcome", "Recording", "ReportAway", "Source", "Wanted", "acknowledge_nothing", "open_source", "waits_when_full",
]  # fmt: skip

ReportUnavailable = Callable[[str], None]  # called with the reason why the source is not available; '' when it is available again


# Outcome of a recording. "refused": all or a part of it; "failed": the runtime failed, not the recording; "unwritten": it was
# answered, but the answer could not be written.
Outcome = Literal["answered", "refused", "failed", "unwritten", "dropped"]
MAX_TEXT_LENGTH = 500
Wanted = Mapping[str, bool]  # inputs of a model that has several: whether each takes a text


def acknowledge_nothing(outcome: Outcome) -> str:
    """For sources that keep no files."""
    return ""


ESCAPED_BYTES = re.compile("[\udc80-\udcff]")  # how Python represents bytes of a file name that are not UTF-8


class Recording(msgspec.Struct, frozen=True):
    """One input: its values, or why it could not be read.

    `inputs`: instead of `values`, an array or a text for each input of a model that has several; `text`: instead of `values`.
    `by_input`: for such a model, a recording for each row of a table, or the one of an object; may raise DataError.
    `times`: (T,) seconds of each point.
    `label`: the truth, where known. `rate_hz`: of sound, where the source knows it.
    `key`: identifies the file, so that a file which kills the worker can be excluded. `acknowledge`: call it with the outcome;
    until then the source keeps the file, so that a power cut loses nothing. It returns what it did with the file ("kept",
    "deleted"), "" without a file. `by_name`: columns of a table by name, None where it has none
    of them; may raise DataError. `stream`: frames that follow each other have the same number. `captured`: monotonic seconds, of a
    live source. `region`: left, top, right and bottom of the part of a picture that the model sees, in pixels.
    """

    name: str
    values: Array | None
    refused: str = ""
    times: Array | None = None
    label: str = ""
    rate_hz: int | None = None
    key: str = ""
    acknowledge: Callable[[Outcome], str] = acknowledge_nothing
    by_name: Callable[[Sequence[str]], Array | None] | None = None
    inputs: dict[str, TextOrArray] | None = None
    by_input: Callable[[Wanted], Iterator[Recording]] | None = None
    text: str | None = None
    stream: int = 0
    captured: float | None = None
    region: tuple[int, int, int, int] | None = None

    @property
    def is_read(self) -> bool:
        return self.values is not None or self.inputs is not None or self.text is not None

    def __post_init__(self) -> None:
        """Make texts from outside printable: surrogates would raise where they are written."""
        for field in ("name", "refused", "label"):
            text = getattr(self, field)
            if not text.isascii() or len(text) > MAX_TEXT_LENGTH:
                msgspec.structs.force_setattr(self, field, printable(text))


def printable(text: str) -> str:
    """Valid text of bounded length; bytes that are not UTF-8 become \\xe9."""
    if len(text) > MAX_TEXT_LENGTH:
        text = text[: MAX_TEXT_LENGTH - 1] + "…"
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = ESCAPED_BYTES.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
        return shown.encode("utf-8", "backslashreplace").decode()
    return text


class Source(Protocol):
    """Yields recordings until it is done or `stop` is set; it checks `stop` about once a second.

    A source that cannot make its sender wait counts what it dropped in an attribute `lost`, a device's losses in `overruns`; one of
    frames counts in `frames` what became of them. `described`: what was opened, where the source knows.
    """

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]: ...


def open_source(
    settings: Settings, in_flight: InFlight | None = None, texts: bool = False, model_hz: int | None = None
) -> Source | None:
    """The source that the settings name; None for "none". `texts`: the model takes texts.
    `model_hz`: the rate of the sound that it takes.

    Raises DeviceError where a library is missing.
    """
    kind = SOURCES[settings.kind]
    module, _, name = kind.path.partition(":")
    if not module:
        return None
    maker = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    source: Source = maker(settings, in_flight) if kind.of_files and in_flight is not None else maker(settings)
    if texts and kind.of_texts:
        source.texts = True  # type: ignore[attr-defined]
    if kind.of_sound:
        source.model_hz = model_hz  # type: ignore[attr-defined]
    return source


def waits_when_full(settings: Settings) -> bool:
    """Whether the source waits while the queue is full: as configured; by default files wait, live sources do not."""
    if settings.when_full:
        return settings.when_full == "block"
    kind = settings.kind
    return SOURCES[kind].of_files or kind == "video" or (kind in ("lines", "pcm") and Path(settings.where).is_file())
