"""One pass of the alerts: look, decide, write messages. Safe beside others: it is one transaction."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, insert, select, update

from edgeloop_hub.alerts import causes, lifecycle, outbox
from edgeloop_hub.alerts.causes import Cause, Look
from edgeloop_hub.alerts.lifecycle import Alert
from edgeloop_hub.alerts.settings import AlertSettings
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.alert_tables import alert_messages, alerts
from edgeloop_hub.storage.database import Database


def update_alerts(database: Database, hub: Settings, told: AlertSettings, only: Sequence[str] = ()) -> list[str]:
    """What people are told now, in words. `only`: rules that are looked at; the alerts of others stay as they are."""
    now = time.time()
    with database.reading() as connection:  # the pass over all devices keeps no writer waiting
        found = causes.find(Look(connection, now, hub, told), only)
    with database.writing() as connection:
        return _apply(connection, found, told, only, now)


def _apply(connection: Connection, found: list[Cause], told: AlertSettings, only: Sequence[str], now: float) -> list[str]:
    by_key, said = {cause.key: cause for cause in found}, []
    for alert in open_alerts(connection):
        if only and alert.rule not in only:
            continue
        stepped, what = lifecycle.step(alert, by_key.pop(alert.cause, None), now, told)
        if stepped != alert:
            connection.execute(update(alerts).where(alerts.c.id == alert.id).values(**asdict(stepped)))
        said += _tell(connection, stepped, what, told, now)
    for cause in by_key.values():
        begun = lifecycle.begin(cause, secrets.token_hex(16), now)
        stepped, what = lifecycle.step(begun, cause, now, told)
        connection.execute(insert(alerts).values(**asdict(stepped)))
        said += _tell(connection, stepped, what, told, now)
    if told.channel:
        outbox.forget_unknown(connection, told, now)
    return said


def _tell(connection: Connection, alert: Alert, what: lifecycle.What | None, told: AlertSettings, now: float) -> list[str]:
    if what is None:
        return []
    outbox.write(connection, alert, what, told, now)
    return [f"alert {what}: {alert.text}"]


def open_alerts(connection: Connection) -> list[Alert]:
    """The oldest first."""
    rows = connection.execute(select(alerts).where(alerts.c.ended.is_(None)).order_by(alerts.c.began, alerts.c.id))
    return [Alert(**row._mapping) for row in rows]


def ended_alerts(connection: Connection, limit: int) -> list[Alert]:
    """Those that people were told of, the newest first."""
    ended = select(alerts).where(alerts.c.ended.is_not(None), alerts.c.told.is_not(None)).order_by(alerts.c.ended.desc())
    return [Alert(**row._mapping) for row in connection.execute(ended.limit(limit))]


def messages(connection: Connection, limit: int) -> list[tuple[outbox.Message, object]]:
    """Messages and their rows, the newest first."""
    import msgspec

    rows = connection.execute(select(alert_messages).order_by(alert_messages.c.at.desc(), alert_messages.c.id).limit(limit)).all()
    return [(msgspec.json.decode(row.body, type=outbox.Message), row) for row in rows]
