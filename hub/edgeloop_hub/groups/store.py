"""Groups as they are stored, who is in them, and the channel that each device follows.

A device may be in several groups: each setting comes from the first of them, by name, that has it.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, and_, case, delete, exists, false, func, insert, literal, or_, select, update

from edgeloop_contract.device_groups import GroupRequest
from edgeloop_contract.errors import UsageError
from edgeloop_hub import event_log
from edgeloop_hub.auth.accounts import checked_name
from edgeloop_hub.groups import expression, windows
from edgeloop_hub.storage.fleet_tables import (
    device_channels,
    device_group_pins,
    device_groups,
    device_states,
    device_tags,
    group_devices,
    group_pins,
)
from edgeloop_hub.storage.schema import devices

MARK = "group:"  # before a group's name it is a label of a rollout's steps, which no enrolment can give
MAX_GROUPS, MAX_NAME, USUAL_CHANNEL = 200, 57, "stable"
g = device_groups.c


@dataclass(frozen=True)
class Group:
    """`tags`: an expression, or nothing. `channel`, `windows`: empty: the group says nothing of them."""

    name: str
    tags: str
    channel: str
    windows: tuple[str, ...]
    time_zone: str
    who: str
    at: float

    def closes_at(self, now: float) -> float | None:
        """None too where its windows cannot be read: its devices wait until they are mended."""
        return None if self.problem else windows.closes_in_minute(self.windows, self.time_zone, int(now // 60))

    def opens_at(self, now: float) -> float | None:
        return None if self.problem else windows.opens_at([windows.parse(text) for text in self.windows], self.zone, now)

    @property
    def zone(self) -> ZoneInfo:
        return windows.zone_of(self.time_zone)

    @functools.cached_property
    def rule(self) -> expression.Expression | None:
        """None: no tags, or tags that cannot be read."""
        try:
            return expression.parse(self.tags) if self.tags else None
        except UsageError:
            return None

    @functools.cached_property
    def problem(self) -> str:
        """Why this hub cannot read it; another version wrote it, or this machine has lost its time zone. "": it can.

        One such group fails no poll: by tags that cannot be read it has nobody, and windows that cannot be read never open.
        """
        try:
            if self.tags:
                expression.parse(self.tags)
            for text in self.windows:
                windows.parse(text)
            windows.zone_of(self.time_zone)
        except UsageError as error:
            return str(error)
        return ""


def listed(connection: Connection) -> list[Group]:
    """All, by name."""
    return [_group(*row) for row in connection.execute(select(device_groups).order_by(g.name))]


@functools.lru_cache(2 * MAX_GROUPS)
def _group(name: str, tags: str, channel: str, texts: str, time_zone: str, who: str, at: float) -> Group:
    """By all that its row says: equal rows are one group, whose rule is parsed once."""
    return Group(name, tags, channel, tuple(json.loads(texts)), time_zone, who, at)


def find(connection: Connection, name: str) -> Group:
    """Raises UsageError where there is none."""
    found = next((group for group in listed(connection) if group.name == name), None)
    if found is None:
        raise UsageError(f"there is no group {name[:80]!r}; edgeloop-hub group list shows them")
    return found


def save(connection: Connection, name: str, asked: GroupRequest, who: str) -> None:
    """Make a group, or change it: what is not asked for is empty then. Raises UsageError."""
    if len(checked_name(name, "group")) > MAX_NAME:
        raise UsageError(f"group {name!r}: use up to {MAX_NAME} letters")
    if name == "new":
        raise UsageError("group 'new': the pages use this name; choose another")
    if not asked.tags and not asked.devices:
        raise UsageError(f"group {name}: name devices, or tags such as line-3 and not spare")
    if asked.tags:
        expression.parse(asked.tags)
    if asked.channel:
        checked_name(asked.channel, "channel")
    if len(asked.windows) > windows.MAX_WINDOWS:
        raise UsageError(f"group {name}: {len(asked.windows)} windows; {windows.MAX_WINDOWS} are allowed")
    for text in asked.windows:
        windows.parse(text)
    windows.zone_of(asked.time_zone)
    known = set(connection.execute(select(devices.c.name).where(devices.c.name.in_(asked.devices))).scalars())
    if unknown := [device for device in asked.devices if device not in known]:
        raise UsageError(f"group {name}: there is no device {unknown[0][:80]!r}")
    connection.execute(delete(device_groups).where(g.name == name))
    if int(connection.execute(select(func.count()).select_from(device_groups)).scalar_one()) >= MAX_GROUPS:
        raise UsageError(f"group {name}: there are {MAX_GROUPS} groups already")
    values = {"tags": asked.tags, "channel": asked.channel, "windows": json.dumps(asked.windows), "time_zone": asked.time_zone}
    connection.execute(insert(device_groups).values(name=name, who=who[:63], at=time.time(), **values))
    connection.execute(delete(group_devices).where(group_devices.c.name == name))
    if asked.devices:
        connection.execute(insert(group_devices), [{"name": name, "device": device} for device in dict.fromkeys(asked.devices)])
    apply(connection)
    event_log.record(connection, "group changed", f"{name} by {who}: {words(asked)}"[:500])


def remove(connection: Connection, name: str, who: str) -> None:
    """Its devices stay; rollouts to it reach nobody any more. Raises UsageError."""
    find(connection, name)
    connection.execute(delete(device_groups).where(g.name == name))
    connection.execute(delete(group_devices).where(group_devices.c.name == name))
    connection.execute(delete(group_pins).where(group_pins.c.name == name))
    apply(connection)
    event_log.record(connection, "group deleted", f"{name} by {who}")


def set_channel(connection: Connection, device: str, channel: str, who: str) -> str:
    """The channel of this device, whatever its groups say; empty: by them again. Returns the one that it has now.

    Raises UsageError.
    """
    if connection.execute(select(devices.c.name).where(devices.c.name == device)).first() is None:
        raise UsageError(f"there is no device {device[:80]!r}")
    connection.execute(delete(device_channels).where(device_channels.c.device == device))
    if channel:
        values = {"channel": checked_name(channel, "channel"), "who": who[:63], "at": time.time()}
        connection.execute(insert(device_channels).values(device=device, **values))
    _apply_channels(connection, device)
    now = str(connection.execute(select(devices.c.channel).where(devices.c.name == device)).scalar_one())
    event_log.record(connection, "channel changed", f"{device} by {who}: {now}")
    return now


def apply(connection: Connection, device: str | None = None) -> None:
    """Groups or tags changed: bring each device's channel and its groups' pins up to date, or those of this one."""
    _apply_channels(connection, device)
    _apply_pins(connection, device)


def _apply_channels(connection: Connection, device: str | None = None) -> None:
    """Bring each device's channel up to date: its own, else the first group's that has one, else `stable`.

    While the tags of a group with a channel cannot be read, a device that no other group has keeps the channel that it has.
    """
    groups = [group for group in listed(connection) if group.channel]
    is_known = all(group.rule or not group.tags for group in groups)
    for table, name in ((devices, devices.c.name), (device_states, device_states.c.device)):
        own = select(device_channels.c.channel).where(device_channels.c.device == name).scalar_subquery()
        by_group = [(condition(group, name), literal(group.channel)) for group in groups]
        other: Any = literal(USUAL_CHANNEL) if is_known else table.c.channel
        usual: Any = case(*by_group, else_=other) if by_group else other
        wanted = func.coalesce(own, usual)
        changed = update(table).where(table.c.channel != wanted).values(channel=wanted)
        connection.execute(changed.where(name == device) if device is not None else changed)


def _apply_pins(connection: Connection, device: str | None) -> None:
    """Of each model a device has the pin of the first group, by name, that pins one.

    While the tags of a group cannot be read, those that it pins stay pinned.
    """
    groups, p = {group.name: group for group in listed(connection)}, device_group_pins.c
    unread = [group.name for group in groups.values() if group.tags and not group.rule]
    doomed = delete(device_group_pins).where(p.name.not_in(unread))
    connection.execute(doomed.where(p.device == device) if device is not None else doomed)
    by_model: dict[str, list[Any]] = {}
    for row in connection.execute(select(group_pins).order_by(group_pins.c.name)):
        if row.name in groups and row.name not in unread:
            by_model.setdefault(row.model, []).append(row)
    for model, rows in by_model.items():
        has = [condition(groups[row.name], devices.c.name) for row in rows]
        stays = select(p.device).where(p.device == devices.c.name, p.model == model).exists()
        target, name = (
            case(*((one, literal(row._mapping[column])) for one, row in zip(has, rows, strict=True)))
            for column in ("target", "name")
        )
        wanted = select(devices.c.name, literal(model), target, name).where(or_(*has), ~stays)
        wanted = wanted.where(devices.c.name == device) if device is not None else wanted
        connection.execute(insert(device_group_pins).from_select(["device", "model", "target", "name"], wanted))


def condition(group: Group, device: Any) -> ColumnElement[bool]:
    """That the device of a row, whose name is the column `device`, is in the group."""

    def has(tag: str) -> ColumnElement[bool]:
        return select(device_tags.c.tag).where(device_tags.c.device == device, device_tags.c.tag == tag).exists()

    listed_there = group_devices.c.name == group.name, group_devices.c.device == device
    named = select(group_devices.c.device).where(*listed_there).exists()
    return or_(named, expression.condition(group.rule, has)) if group.rule else named


def marked_condition(connection: Connection, label: str, device: Any) -> ColumnElement[bool]:
    """As `condition`, of a rollout's label `group:NAME`; false for a group that was deleted."""
    group = next((one for one in listed(connection) if one.name == label.removeprefix(MARK)), None)
    return condition(group, device) if group is not None else false()


def of_device(connection: Connection, device: str) -> list[Group]:
    """The groups that a device is in, by name. Where there are no groups, one small query."""
    groups = listed(connection)
    if not groups:
        return []
    tags = set(connection.execute(select(device_tags.c.tag).where(device_tags.c.device == device)).scalars())
    named = set(connection.execute(select(group_devices.c.name).where(group_devices.c.device == device)).scalars())
    return chosen(groups, named, tags)


def chosen(groups: Sequence[Group], named: Collection[str], tags: Collection[str]) -> list[Group]:
    """Those that a device with these tags is in; `named`: the groups that name it."""
    return [one for one in groups if one.name in named or (one.rule and expression.matches(one.rule, tags))]


# Of a device of `devices`: its tags, and the groups that name it, with spaces between; nothing where there are no groups.
TAGS = select(func.aggregate_strings(device_tags.c.tag, " ")).where(device_tags.c.device == devices.c.name).correlate(devices)
NAMED = select(func.aggregate_strings(group_devices.c.name, " ")).where(group_devices.c.device == devices.c.name).correlate(devices)
HAS_GROUPS = exists().select_from(device_groups)
OF_A_DEVICE = (
    HAS_GROUPS.label("has_groups"),
    case((HAS_GROUPS, TAGS.scalar_subquery())).label("tags"), case((HAS_GROUPS, NAMED.scalar_subquery())).label("named"),
)  # fmt: skip


def with_windows(groups: Sequence[Group]) -> Group | None:
    """The group whose windows hold for a device of these groups."""
    return next((group for group in groups if group.windows), None)


def members(connection: Connection, group: Group, after: str = "", limit: int = 1000) -> list[str]:
    """Names of devices that are not revoked, those behind the name `after`."""
    mine = and_(condition(group, devices.c.name), devices.c.name > after, devices.c.revoked.is_(None))
    return list(connection.execute(select(devices.c.name).where(mine).order_by(devices.c.name).limit(limit)).scalars())


def count(connection: Connection, group: Group) -> int:
    mine = and_(condition(group, devices.c.name), devices.c.revoked.is_(None))
    return int(connection.execute(select(func.count()).select_from(devices).where(mine)).scalar_one())


def named_devices(connection: Connection, name: str) -> list[str]:
    """Those that the group names, not those by tags."""
    rows = select(group_devices.c.device).where(group_devices.c.name == name).order_by(group_devices.c.device)
    return list(connection.execute(rows).scalars())


def words(asked: GroupRequest) -> str:
    """What was asked, for the audit log."""
    named = f"{len(asked.devices)} by name" if asked.devices else ""
    windows = f"{', '.join(asked.windows)} {asked.time_zone}" if asked.windows else ""
    return "; ".join(filter(None, (asked.tags, named, asked.channel and f"channel {asked.channel}", windows)))


def state_words(group: Group, now: float) -> str:
    """Whether its devices take updates now, and until or from when, by the clock of its time zone."""
    if group.problem:
        return f"this hub cannot read it ({group.problem}): set it anew"
    if not group.windows:
        return "updates at any time"
    closes = group.closes_at(now)
    at = closes if closes is not None else group.opens_at(now)
    local = f"{datetime.fromtimestamp(at, group.zone):%a %d %b %H:%M} {group.time_zone}" if at is not None else "never"
    return f"updates now, until {local}" if closes is not None else f"no updates until {local}"
