"""`alerts.toml` in the hub's folder: who is told what, and when. Every fault of the file is found at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import time as time_of_day
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_contract.settings import nearest, problems
from edgeloop_hub.settings_file import is_address, secret, toml_of

FILE = "alerts.toml"
Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
Kind = Literal["webhook", "email", "ntfy", "slack"]
RULES: dict[str, Severity] = {  # each rule, and how severe it is unless the file says another severity
    "silent": "warning", "crashing": "error", "drifting": "warning", "refused": "warning", "rollout": "error", "tick": "error",
    "expiry": "info", "disk": "warning", "quota": "info", "receiver": "warning",
}  # fmt: skip
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
QUIET = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
MAX_CHANNELS = 20


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A receiver. Secrets stand in files of their own; a relative path begins in the folder of alerts.toml.

    `quiet`: local time, such as "22:00-07:00"; messages below the severity `quiet_below` wait until it ends.
    """

    name: str
    kind: Kind
    url: str = ""
    url_file: str = ""  # instead of url, where the address is a secret
    secret_file: str = ""  # webhook: the key of its signature
    token_file: str = ""  # webhook and ntfy: Authorization: Bearer
    server: str = ""  # email: host or host:port
    sender: str = ""
    to: list[str] = []
    user: str = ""
    password_file: str = ""
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: str = ""  # that signed the receiver's certificate, where no public authority did
    min_severity: Severity = "info"
    rules: list[str] = []  # empty: all
    quiet: str = ""
    quiet_below: Severity = "error"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`severity`: instead of the rule's own; `off`: this rule tells nobody."""

    severity: Severity | None = None
    off: bool = False


class AlertSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`address`: the hub's own, for links in messages. Times are seconds."""

    address: str = ""
    time_zone: str = "UTC"
    gather_seconds: float = 300.0  # that devices of one cause are gathered before people are told
    clear_seconds: float = 600.0  # that a cause is away before it has ended
    repeat_seconds: float = 3600.0  # between two messages of a cause that grows
    silent_share: float = 0.2  # of the fleet; from there on silence is an error
    disk_warning_share: float = 0.1  # of the disk that is free
    disk_error_share: float = 0.03
    rules: dict[str, Rule] = {}
    channel: list[Channel] = []

    def severity(self, rule: str) -> Severity | None:
        """The severity that the file gives a rule; None: the rule's own."""
        return self.rules[rule].severity if rule in self.rules else None

    def is_on(self, rule: str) -> bool:
        return rule not in self.rules or not self.rules[rule].off


def load(folder: Path) -> AlertSettings:
    """The settings of `folder`/alerts.toml; the defaults, without a channel, where there is no file.

    Raises UsageError with every fault of the file, a sentence each.
    """
    path = folder / FILE
    data = toml_of(path)
    if data is None:
        return AlertSettings()
    rules = data.get("rules")
    faults = problems({**data, "rules": {}}, AlertSettings, "")
    if isinstance(rules, dict):
        faults += [line for name, body in rules.items() for line in _rule_faults(name, body)]
    elif rules is not None:
        faults.append("rules: expected tables such as [rules.silent]")
    if not faults:
        settings = msgspec.convert(data, AlertSettings)
        faults += [*_faults(settings, folder)]
    if faults:
        raise UsageError(f"{path}: " + "; ".join(faults))
    return settings


def _rule_faults(name: str, body: object) -> list[str]:
    if name not in RULES:
        return [f"rules.{name}: there is no such rule{nearest(name, RULES)}"]
    return problems(body, Rule, f"rules.{name}")


def _faults(settings: AlertSettings, folder: Path) -> Iterator[str]:
    try:
        ZoneInfo(settings.time_zone)
    except (KeyError, ValueError, OSError):
        yield f"time_zone: there is no time zone {settings.time_zone!r}; write one such as Europe/Berlin"
    if settings.address and not is_address(settings.address):
        yield f"address: {settings.address!r} is no http:// or https:// address"
    for name in ("gather_seconds", "clear_seconds", "repeat_seconds"):
        if not 0 <= getattr(settings, name) <= 7 * 86400:
            yield f"{name}: expected 0 to 604800 seconds, got {getattr(settings, name):g}"
    for name in ("silent_share", "disk_warning_share", "disk_error_share"):
        if not 0 <= getattr(settings, name) <= 1:
            yield f"{name}: expected a share from 0 to 1, got {getattr(settings, name):g}"
    if len(settings.channel) > MAX_CHANNELS:
        yield f"channel: {len(settings.channel)} of them; {MAX_CHANNELS} are allowed"
    names = [channel.name for channel in settings.channel]
    for channel in settings.channel:
        where = f"channel {channel.name!r}"
        if not NAME.fullmatch(channel.name):
            yield f"{where}: name: use a-z, 0-9 and -, up to 63 of them"
        if names.count(channel.name) > 1:
            yield f"{where}: there are two channels of this name"
        yield from (f"{where}: {fault}" for fault in _channel_faults(channel, folder))


def _channel_faults(channel: Channel, folder: Path) -> Iterator[str]:
    yield from (f"rules: there is no rule {name!r}{nearest(name, RULES)}" for name in channel.rules if name not in RULES)
    if channel.quiet and not QUIET.fullmatch(channel.quiet):
        yield f"quiet: expected times such as 22:00-07:00, got {channel.quiet!r}"
    for field in ("url_file", "secret_file", "token_file", "password_file"):
        if path := getattr(channel, field):
            try:
                secret(folder / path)
            except UsageError as error:
                yield f"{field}: {error}"
    if channel.ca_file and not (folder / channel.ca_file).is_file():
        yield f"ca_file: {folder / channel.ca_file}: there is no such file"
    yield from _mail_faults(channel) if channel.kind == "email" else _http_faults(channel, folder)


def _mail_faults(channel: Channel) -> Iterator[str]:
    for field in ("server", "sender", "to"):
        if not getattr(channel, field):
            yield f"{field}: missing; e-mail needs it"
    for address in (channel.sender, *channel.to):
        if address and not re.fullmatch(r"[^@\s<>,]+@[^@\s<>,]+", address):
            yield f"{address!r} is no e-mail address"
    host, _, port = channel.server.rpartition(":") if ":" in channel.server else (channel.server, "", "25")
    if channel.server and not (host and port.isdigit() and 0 < int(port) < 65536):
        yield f"server: expected host or host:port, got {channel.server!r}"
    if bool(channel.user) != bool(channel.password_file):
        yield "user and password_file belong together"
    if channel.user and channel.tls == "none":
        yield "tls: without encryption everybody on the way reads the password; use starttls or tls"
    for field in ("url", "url_file", "secret_file", "token_file"):
        if getattr(channel, field):
            yield f"{field}: not for e-mail"


def _http_faults(channel: Channel, folder: Path) -> Iterator[str]:
    if bool(channel.url) == bool(channel.url_file):
        yield "url: give url, or url_file, and not both"
    url = channel.url
    if channel.url_file:
        try:
            url = secret(folder / channel.url_file)
        except UsageError:
            return  # said already
    if url and not is_address(url):
        yield f"{'url_file' if channel.url_file else 'url'}: no http:// or https:// address"
    elif channel.kind == "ntfy" and url and not urlsplit(url).path.strip("/"):
        yield "url: it ends with the topic, such as https://ntfy.sh/my-topic"
    for field in ("server", "sender", "to", "user", "password_file"):
        if getattr(channel, field):
            yield f"{field}: only for e-mail"
    if channel.secret_file and channel.kind != "webhook":
        yield "secret_file: only webhooks are signed"


def quiet_hours(channel: Channel) -> tuple[time_of_day, time_of_day] | None:
    found = QUIET.fullmatch(channel.quiet)
    if found is None:
        return None
    first, second, third, fourth = map(int, found.groups())
    return time_of_day(first, second), time_of_day(third, fourth)
