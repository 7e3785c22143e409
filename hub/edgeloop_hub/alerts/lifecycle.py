"""When a cause is told: once when it is there, again when it is clearly worse, once when it has ended. Pure decisions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgeloop_hub.alerts.causes import GATHERED, Cause
from edgeloop_hub.alerts.settings import SEVERITIES, AlertSettings, Severity

What = Literal["opened", "worse", "resolved"]


@dataclass(frozen=True)
class Alert:
    """A cause from its beginning to its end. `told`: when people were told for the last time, and of what."""

    id: str
    cause: str
    rule: str
    severity: Severity
    text: str
    count: int
    level: int
    began: float
    seen: float
    told: float | None = None
    told_count: int = 0
    told_level: int = 0
    told_severity: Severity = "info"
    ended: float | None = None


def begin(cause: Cause, identity: str, now: float) -> Alert:
    return Alert(identity, cause.key, cause.rule, cause.severity, cause.text, cause.count, cause.level, now, now)


def step(alert: Alert, cause: Cause | None, now: float, settings: AlertSettings) -> tuple[Alert, What | None]:
    """An open alert after another look, and what people are told now. `cause`: None where it was not found."""
    if cause is None:
        if 0 <= now - alert.seen < settings.clear_seconds and alert.told is not None:
            return alert, None
        # What ended before anybody was told of it is told to nobody.
        return replace(alert, ended=now), "resolved" if alert.told is not None else None
    here = replace(
        alert, severity=cause.severity, text=cause.text, count=cause.count, level=cause.level, seen=now,
        told_count=min(alert.told_count, cause.count), told_level=min(alert.told_level, cause.level),
    )  # fmt: skip
    if alert.told is None:
        waits = settings.gather_seconds if cause.rule in GATHERED else 0.0
        return (_told(here, now), "opened") if now - alert.began >= waits else (here, None)
    graver = here.level > here.told_level or SEVERITIES.index(here.severity) > SEVERITIES.index(here.told_severity)
    grown = here.count >= here.told_count + max(1, here.told_count // 2) and now - alert.told >= settings.repeat_seconds
    return (_told(here, now), "worse") if graver or grown else (here, None)


def _told(alert: Alert, now: float) -> Alert:
    return replace(alert, told=now, told_count=alert.count, told_level=alert.level, told_severity=alert.severity)
