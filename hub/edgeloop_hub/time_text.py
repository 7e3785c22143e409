"""Times in words, also those that no calendar has."""

from __future__ import annotations

import time
from datetime import datetime, timezone


def ago(at: float | None) -> str:
    """'3 min ago'."""
    if at is None:
        return "never"
    seconds = max(0.0, time.time() - at)
    if not seconds < 1e11:
        return "at no known time"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"


def when(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return "at no known time"


def duration(seconds: float) -> str:
    """'2 h 5 min'."""
    if not 0 <= seconds < 1e9:
        return "a time that no calendar has"
    minutes = round(seconds / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min" if rest else f"{seconds:.0f} s"
