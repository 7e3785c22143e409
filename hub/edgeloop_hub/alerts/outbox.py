"""Messages that wait for their channels, in the database: bounded, each sent once as far as its receiver says that it has it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select, update

from edgeloop_hub.alerts.lifecycle import Alert, What
from edgeloop_hub.alerts.settings import SEVERITIES, AlertSettings, Channel, Severity, quiet_hours
from edgeloop_hub.storage.alert_tables import alert_messages, alerts
from edgeloop_hub.storage.deletion import Old

FIRST_WAIT, LONGEST_WAIT = 60.0, 3600.0  # seconds after a try that failed
GIVE_UP_SECONDS = 2 * 86400.0  # since the message was due
MAX_WAITING = 500  # of one channel; then the oldest is given up
LEASE_SECONDS = 300.0  # that a message belongs to the process that took it
BATCH = 20  # messages of one channel at a time
m = alert_messages.c


class Message(msgspec.Struct, frozen=True):
    """What a channel sends. `at`: when it was written, in seconds since 1970; `began`: when the cause began."""

    id: str
    alert: str
    what: str
    rule: str
    severity: Severity
    cause: str
    text: str
    count: int
    at: float
    began: float
    address: str = ""  # the hub's pages

    @property
    def title(self) -> str:
        """One line."""
        begins = {"resolved": "resolved", "worse": f"{self.severity}, worse"}.get(self.what, self.severity)
        return " ".join(f"[{begins}] {self.text}".split())[:180]

    @property
    def link(self) -> str:
        return f"{self.address.rstrip('/')}/alerts" if self.address else ""


def write(connection: Connection, alert: Alert, what: What, settings: AlertSettings, now: float) -> None:
    """A message for each channel that wants it. What still waits when its cause has ended is taken back, and so is its end."""
    for channel in settings.channel:
        severity = max(alert.severity, alert.told_severity, key=SEVERITIES.index)
        if not wants(channel, alert.rule, severity) or alert.cause == f"receiver:{channel.name}":
            continue
        said = what
        mine = (m.alert == alert.id, m.channel == channel.name)
        waits = (*mine, m.state == "waiting", m.tries == 0)
        if what == "resolved":
            connection.execute(delete(alert_messages).where(*waits))
            if connection.execute(select(m.id).where(*mine).limit(1)).first() is None:
                continue
        elif what == "worse":
            connection.execute(delete(alert_messages).where(*waits))
            told = connection.execute(select(m.id).where(*mine).limit(1)).first()
            said = what if told is not None else "opened"
        identity = secrets.token_hex(16)
        message = Message(
            identity, alert.id, said, alert.rule, severity, alert.cause, alert.text, alert.count, now, alert.began, settings.address
        )
        due = due_at(channel, severity, now, settings.time_zone)
        connection.execute(
            insert(alert_messages).values(
                id=identity, alert=alert.id, channel=channel.name, what=said, body=msgspec.json.encode(message).decode(), at=now,
                due=due, tries=0, state="waiting", reason="",
            )
        )  # fmt: skip
        _bound(connection, channel.name, now)


def wants(channel: Channel, rule: str, severity: Severity) -> bool:
    return SEVERITIES.index(severity) >= SEVERITIES.index(channel.min_severity) and (not channel.rules or rule in channel.rules)


def due_at(channel: Channel, severity: Severity, now: float, time_zone: str) -> float:
    """When a message may go: at once, or when the channel's quiet hours are over."""
    hours = quiet_hours(channel)
    if hours is None or SEVERITIES.index(severity) >= SEVERITIES.index(channel.quiet_below):
        return now
    begins, ends = hours
    local = datetime.fromtimestamp(now, ZoneInfo(time_zone))
    at = local.time().replace(tzinfo=None)
    is_quiet = begins <= at < ends if begins < ends else at >= begins or at < ends
    if not is_quiet:
        return now
    day = local.date() if at < ends else local.date() + timedelta(days=1)
    return datetime.combine(day, ends, local.tzinfo).timestamp()


def _bound(connection: Connection, channel: str, now: float) -> None:
    waiting = (m.channel == channel, m.state == "waiting")
    over = connection.execute(select(func.count()).select_from(alert_messages).where(*waiting)).scalar_one() - MAX_WAITING
    if over > 0:
        oldest = select(m.id).where(*waiting).order_by(m.at).limit(over)
        given_up = {"state": "failed", "done": now, "reason": f"more than {MAX_WAITING} messages waited"}
        connection.execute(update(alert_messages).where(m.id.in_(list(connection.execute(oldest).scalars()))).values(**given_up))


def _due(now: float) -> tuple[ColumnElement[bool], ...]:
    """A message that was written in the future was written by a clock that has been set right since."""
    return (m.state == "waiting", or_(m.due <= now, m.at > now + LONGEST_WAIT))


def channels_due(connection: Connection, now: float) -> set[str]:
    return set(connection.execute(select(m.channel).where(*_due(now)).distinct()).scalars())


def take(connection: Connection, channel: str, now: float) -> list[Message]:
    """Messages of a channel that are due, the oldest first; for some time nobody else takes them."""
    due = select(m.id, m.body).where(m.channel == channel, *_due(now)).order_by(m.at).limit(BATCH)
    rows = connection.execute(due).all()
    taken = [row.id for row in rows]
    connection.execute(update(alert_messages).where(m.id.in_(taken)).values(due=now + LEASE_SECONDS))
    return [msgspec.json.decode(row.body, type=Message) for row in rows]


def sent(connection: Connection, identity: str, now: float) -> None:
    connection.execute(update(alert_messages).where(m.id == identity).values(state="sent", done=now, reason="", tries=m.tries + 1))


def put_back(connection: Connection, messages: Sequence[Message], now: float) -> None:
    """Messages that were taken, and not tried."""
    connection.execute(update(alert_messages).where(m.id.in_([message.id for message in messages])).values(due=now))


def not_sent(connection: Connection, message: Message, reason: str, never: bool, wait: float, now: float) -> None:
    """Try again later, after a longer wait each time; or give up. `never`: the receiver said that it will not take it."""
    row = connection.execute(select(m.tries, m.at).where(m.id == message.id)).first()
    if row is None:
        return
    given_up = never or now - row.at > GIVE_UP_SECONDS
    pause = max(min(FIRST_WAIT * 2**row.tries, LONGEST_WAIT), min(wait, LONGEST_WAIT))
    state = {"state": "failed", "done": now} if given_up else {"due": now + pause}
    connection.execute(update(alert_messages).where(m.id == message.id).values(tries=row.tries + 1, reason=reason[:500], **state))


def forget_unknown(connection: Connection, settings: AlertSettings, now: float) -> None:
    """Messages of channels that the file names no more."""
    names = [channel.name for channel in settings.channel]
    gone = {"state": "failed", "done": now, "reason": "the channel is not in alerts.toml any more"}
    connection.execute(update(alert_messages).where(m.state == "waiting", m.channel.not_in(names)).values(**gone))


def old(before: float) -> list[Old]:
    return [
        Old(alert_messages, m.at < before),
        Old(alerts, alerts.c.ended < before),
    ]
