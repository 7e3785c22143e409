"""Types of the fields of messages, each with its bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = [
    "Amount", "Celsius", "Count", "Device", "Key", "Microseconds", "Number", "Seconds", "Sha256", "Short", "Target", "Text", "Time",
]  # fmt: skip

# (?!\n)$ is the very end, in Python's words and in OpenAPI's: $ alone lets a line's end through.
Device = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}(?!\n)$", max_length=63)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}(?!\n)$", max_length=64)]
Target = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}(?!\n)$", max_length=200)]
Key = Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
Short = Annotated[str, msgspec.Meta(max_length=200)]
Text = Annotated[str, msgspec.Meta(max_length=2000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
Number = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]
Time = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]  # to the end of the year 9999, as calendars have it
Seconds = Annotated[float, msgspec.Meta(ge=0, le=366 * 86_400)]
Microseconds = Annotated[float, msgspec.Meta(ge=0, le=3.6e9)]
Celsius = Annotated[float, msgspec.Meta(ge=-1e4, le=1e4)]
