"""Maintenance windows: `mon-fri 22:00-05:00`, by the clock of a time zone. Rules over values, without I/O."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from edgeloop_contract.errors import UsageError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FORM = re.compile(r"(\S+)\s+([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
MAX_WINDOWS = 20
DAY_MINUTES = 1440
AHEAD_DAYS = 9


@dataclass(frozen=True)
class Window:
    """`days`: 0 is Monday, on which it begins. Minutes of the day; one that ends earlier than it begins ends on the next day."""

    days: frozenset[int]
    begins: int
    ends: int


def parse(text: str) -> Window:
    """Raises UsageError."""
    found = FORM.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(f"window {text[:60]!r}: write days and hours, such as mon-fri 22:00-05:00, or daily 02:00-04:00")
    begins, ends = int(found[2]) * 60 + int(found[3]), int(found[4]) * 60 + int(found[5])
    if ends > DAY_MINUTES or begins == ends:
        raise UsageError(f"window {text[:60]!r}: its hours are none; a whole day is 00:00-24:00")
    return Window(_days(found[1], text), begins, ends)


def _days(words: str, text: str) -> frozenset[int]:
    found: set[int] = set()
    for word in ["mon-sun"] if words == "daily" else words.split(","):
        first, _, last = word.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise UsageError(f"window {text[:60]!r}: {word!r} is no day; days are daily, {', '.join(DAYS)}, or two with - between")
        begin = DAYS.index(first)
        found |= {(begin + n) % 7 for n in range((DAYS.index(last or first) - begin) % 7 + 1)}
    return frozenset(found)


def zone_of(name: str) -> ZoneInfo:
    """Raises UsageError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"time zone: there is no {name[:60]!r}; write one such as Europe/Berlin, or UTC") from error


def closes_at(windows: Sequence[Window], zone: ZoneInfo, now: float) -> float | None:
    """When the window that is open at `now` closes, one that follows without a gap included; None: none is open.

    Seconds since 1970.
    """
    times, ends = sorted(_times(windows, zone, now)), None
    for begin, end in times:
        if begin <= (now if ends is None else ends) and end > (now if ends is None else ends):
            ends = end
    return ends


@functools.lru_cache(1024)
def closes_in_minute(texts: tuple[str, ...], zone: str, minute: int) -> float | None:
    """As `closes_at` within a minute since 1970: windows begin and end at whole ones. Each device that polls asks.

    Raises UsageError.
    """
    return closes_at([parse(text) for text in texts], zone_of(zone), minute * 60.0)


def opens_at(windows: Sequence[Window], zone: ZoneInfo, now: float) -> float | None:
    """When the next window begins; None: there are none."""
    return min((begin for begin, _ in _times(windows, zone, now) if begin > now), default=None)


def _times(windows: Sequence[Window], zone: ZoneInfo, now: float) -> Iterator[tuple[float, float]]:
    """Beginning and end of each window from yesterday on. Hours that a change of the clock leaves out are those before it."""
    today = datetime.fromtimestamp(now, zone).date()
    for offset in range(-1, AHEAD_DAYS):
        day = today + timedelta(days=offset)
        for window in windows:
            if day.weekday() in window.days:
                until = window.ends + (DAY_MINUTES if window.ends <= window.begins else 0)
                yield _at(day, window.begins, zone), _at(day, until, zone)


def _at(day: date, minutes: int, zone: ZoneInfo) -> float:
    days, minutes = divmod(minutes, DAY_MINUTES)
    return datetime.combine(day + timedelta(days=days), time(minutes // 60, minutes % 60), zone).timestamp()
