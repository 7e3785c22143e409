"""What is wrong now, as causes: one for all devices that are silent, one for a bundle that crashes, one for a rollout."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, or_, select

from edgeloop_hub import health
from edgeloop_hub.alerts.settings import RULES, AlertSettings, Severity
from edgeloop_hub.fleet.finding import REFUSAL_SECONDS, conditions, since
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.alert_tables import alert_messages, quota_refusals
from edgeloop_hub.storage.fleet_tables import device_states
from edgeloop_hub.storage.schema import bundles, rollouts
from edgeloop_hub.updates import signing

DAY = 86400.0
CRASH_LOOP = 3  # crashes of one device in a day
MAX_KEYS = 20  # causes of one rule; the others are one cause together
NAMED = 5  # devices that a message names
MIN_SILENT = 10  # devices, before a share of the fleet makes silence an error
QUOTA_SECONDS = 6 * 3600.0  # since the last upload that was refused
TRIES = 4  # that failed, then a receiver is said to be away
OTHER = "other"
GATHERED = ("silent", "crashing", "drifting", "refused", "quota")  # rules over devices, of which more may follow at once
s = device_states.c


@dataclass(frozen=True)
class Cause:
    """`key`: what makes it the same one at the next look. `count`: devices, or 1.

    `level`: rises as the end of a time comes nearer.
    """

    key: str
    rule: str
    severity: Severity
    text: str
    count: int = 1
    level: int = 0


@dataclass(frozen=True)
class Look:
    """What the rules look at."""

    connection: Connection
    now: float
    hub: Settings
    told: AlertSettings


def find(look: Look, only: Sequence[str] = ()) -> list[Cause]:
    """Every cause of the rules that are on. `only`: of these rules."""
    found: list[Cause] = []
    for rule, causes in RULE_FUNCTIONS.items():
        if look.told.is_on(rule) and (not only or rule in only):
            found += causes(look)
    return found


def _silent(look: Look) -> Iterable[Cause]:
    silent = conditions(look.now)["silent"]
    count = look.connection.execute(select(func.count()).select_from(device_states).where(silent)).scalar_one()
    if not count:
        return
    active = look.connection.execute(select(func.count()).select_from(device_states).where(s.revoked.is_(None))).scalar_one()
    many = count >= MIN_SILENT and count >= look.told.silent_share * active
    devices = _devices(count, _names(look, silent))
    share = f" of {active:,}; can they reach the hub?" if many else ""
    yield Cause("silent", "silent", _severity(look, "silent", "error" if many else "warning"), f"{devices} silent{share}", count)


def _crashing(look: Look) -> Iterable[Cause]:
    crashing = and_(conditions(look.now)["crashing"], s.crashes_of_day >= CRASH_LOOP)
    target = select(func.min(bundles.c.target)).where(bundles.c.sha256 == s.sha256).scalar_subquery()
    for key, count, names in _grouped(look, crashing, target):
        text = f"{_devices(count, names)} in a crash loop with {key if key != OTHER else 'a bundle that is not published'}"
        yield Cause(f"crashing:{key}"[:200], "crashing", _severity(look, "crashing"), text, count)


def _drifting(look: Look) -> Iterable[Cause]:
    target = select(func.min(bundles.c.model)).where(bundles.c.model == s.model).scalar_subquery()
    for key, count, names in _grouped(look, conditions(look.now)["drifting"], target):
        of = f" from what {key} was validated on" if key != OTHER else ""
        yield Cause(
            f"drifting:{key}"[:200], "drifting", _severity(look, "drifting"), f"{_devices(count, names)} drifting{of}", count
        )


def _refused(look: Look) -> Iterable[Cause]:
    refused = and_(s.revoked.is_(None), s.refused_target != "", since(s.refused_at, look.now, REFUSAL_SECONDS))
    target = select(func.min(bundles.c.target)).where(bundles.c.target == s.refused_target).scalar_subquery()
    for key, count, names in _grouped(look, refused, target):
        what = key if key != OTHER else "a bundle"
        many = "device" if count == 1 else "devices"
        text = f"{count:,} {many} ({names}) did not take {what}, or gave it back"
        yield Cause(f"refused:{key}"[:200], "refused", _severity(look, "refused"), text, count)


def _grouped(look: Look, condition: object, group: object) -> Iterable[tuple[str, int, str]]:
    """Devices by what the hub itself knows: a name that a device made up is counted among the others."""
    known = func.coalesce(group, OTHER).label("known")
    devices = select(s.device, known).where(condition).subquery()  # type: ignore[arg-type]
    rows = look.connection.execute(
        select(devices.c.known, func.count().label("many")).group_by(devices.c.known).order_by(func.count().desc(), devices.c.known)
    ).all()
    shown = [row for row in rows if row.known != OTHER][:MAX_KEYS]
    rest = sum(row.many for row in rows) - sum(row.many for row in shown)
    for key, count in [*((row.known, row.many) for row in shown), *([(OTHER, rest)] if rest else [])]:
        mine = select(devices.c.device).order_by(devices.c.device).limit(NAMED)
        mine = mine.where(devices.c.known == key) if key != OTHER else mine.where(devices.c.known.not_in([r.known for r in shown]))
        yield key, count, ", ".join(look.connection.execute(mine).scalars()) + (", …" if count > NAMED else "")


def _names(look: Look, condition: object) -> str:
    names = list(look.connection.execute(select(s.device).where(condition).order_by(s.device).limit(NAMED + 1)).scalars())  # type: ignore[arg-type]
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def _devices(count: int, names: str) -> str:
    return f"{count:,} device{'' if count == 1 else 's'} ({names}) {'is' if count == 1 else 'are'}"


def _rollout(look: Look) -> Iterable[Cause]:
    gone_back = and_(rollouts.c.state == "returned", rollouts.c.step_began > look.now - DAY)
    rows = select(rollouts).where(or_(rollouts.c.state == "halted", gone_back)).order_by(rollouts.c.id).limit(MAX_KEYS)
    for row in look.connection.execute(rows):
        text = f"rollout {row.id} of {row.target} was {row.state}: {row.reason}"
        yield Cause(f"rollout:{row.id}", "rollout", _severity(look, "rollout"), text[:1000])


def _tick(look: Look) -> Iterable[Cause]:
    last = health.last_tick(look.connection)
    needed = bool(signing.expiries(look.connection))
    found = health.ticking(last, needed and last is not None, look.now)
    if found:
        late = last is not None and look.now - last.at > health.LATE_SECONDS
        text = "; ".join(warning.text for warning in found)[:1000]
        yield Cause("tick:late" if late else "tick:problem", "tick", _severity(look, "tick"), text)


def _expiry(look: Look) -> Iterable[Cause]:
    expires = signing.expiries(look.connection)
    for role in ("targets", "root"):
        for warning in health.expiring({role: expires[role]} if role in expires else {}, look.now):
            days = (expires[role] - look.now) / DAY
            level = sum(days < limit for limit in (*health.WARN_DAYS, 0))
            by_level: Severity = "error" if level >= 3 else "warning" if level == 2 else "info"
            yield Cause(f"expiry:{role}", "expiry", _severity(look, "expiry", by_level), warning.text, level=level)


def _disk(look: Look) -> Iterable[Cause]:
    try:
        usage = shutil.disk_usage(look.hub.data)
    except OSError as error:
        yield Cause("disk", "disk", _severity(look, "disk", "error"), f"{look.hub.data}: {error.strerror}")
        return
    share = usage.free / usage.total if usage.total else 1.0
    if share < look.told.disk_warning_share:
        level = 1 + (share < look.told.disk_error_share)
        text = f"{share:.1%} of the hub's disk is free ({usage.free / 2**30:,.1f} GiB): make room, or shorten history_seconds"
        yield Cause("disk", "disk", _severity(look, "disk", "error" if level == 2 else "warning"), text, level=level)


def _quota(look: Look) -> Iterable[Cause]:
    recent = quota_refusals.c.at > look.now - QUOTA_SECONDS
    count = look.connection.execute(select(func.count()).select_from(quota_refusals).where(recent)).scalar_one()
    if count:
        names = list(look.connection.execute(select(quota_refusals.c.device).where(recent).limit(NAMED + 1)).scalars())
        shown = ", ".join(names[:NAMED]) + (", …" if count > NAMED else "")
        text = f"samples of {count:,} device{'' if count == 1 else 's'} ({shown}) wait: over sample_bytes_per_day, or another quota"
        yield Cause("quota", "quota", _severity(look, "quota"), text, count)


def _receiver(look: Look) -> Iterable[Cause]:
    """A channel that takes nothing is told by the others."""
    m = alert_messages.c
    away = or_(and_(m.state == "waiting", m.tries >= TRIES), and_(m.state == "failed", m.done > look.now - DAY))
    newest = select(m.channel, func.max(m.at).label("at")).where(away).group_by(m.channel).subquery()
    rows = select(m.channel, func.max(m.reason).label("reason")).join(
        newest, and_(m.channel == newest.c.channel, m.at == newest.c.at)
    )  # fmt: skip
    for row in look.connection.execute(rows.where(away).group_by(m.channel)):
        text = f"channel {row.channel} took no message since its last {TRIES} tries: {row.reason}"
        yield Cause(f"receiver:{row.channel}", "receiver", _severity(look, "receiver"), text[:1000])


def _severity(look: Look, rule: str, usual: Severity | None = None) -> Severity:
    """As the file says it, else what the rule found, else the rule's own."""
    return look.told.severity(rule) or usual or RULES[rule]


RULE_FUNCTIONS: dict[str, Callable[[Look], Iterable[Cause]]] = {
    "silent": _silent, "crashing": _crashing, "drifting": _drifting, "refused": _refused, "rollout": _rollout, "tick": _tick,
    "expiry": _expiry, "disk": _disk, "quota": _quota, "receiver": _receiver,
}  # fmt: skip
