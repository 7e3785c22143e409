"""E-mail by SMTP: STARTTLS unless the file says another way, and never a password without encryption."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path

from edgeloop_contract.errors import UsageError
from edgeloop_hub.alerts.outbox import Message
from edgeloop_hub.alerts.result import Refused, Unsent
from edgeloop_hub.alerts.settings import Channel
from edgeloop_hub.settings_file import secret
from edgeloop_hub.time_text import when

SECONDS = 10.0  # for each answer of the server
PORTS = {"starttls": 587, "tls": 465, "none": 25}


def post(channel: Channel, folder: Path, message: Message) -> None:
    """Raises Unsent, or Refused where another try makes no sense."""
    host, _, port = channel.server.rpartition(":") if ":" in channel.server else (channel.server, "", "")
    number = int(port) if port else PORTS[channel.tls]
    try:
        trusted = ssl.create_default_context(cafile=str(folder / channel.ca_file) if channel.ca_file else None)
        password = secret(folder / channel.password_file) if channel.password_file else ""
        with (
            smtplib.SMTP_SSL(host, number, timeout=SECONDS, context=trusted)
            if channel.tls == "tls"
            else smtplib.SMTP(host, number, timeout=SECONDS)
        ) as server:
            if channel.tls == "starttls":
                server.starttls(context=trusted)
            if channel.user:
                server.login(channel.user, password)
            server.send_message(written(channel, message))
    except (UsageError, OSError, smtplib.SMTPException, ValueError) as error:
        raise _reason(error) from error


def _reason(error: Exception) -> Unsent:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, text = next(iter(error.recipients.values()))
        return _by_code(code, text)
    if isinstance(error, smtplib.SMTPResponseException):
        return _by_code(error.smtp_code, error.smtp_error)
    return Unsent(str(error) or type(error).__name__)


def _by_code(code: int, text: bytes | str) -> Unsent:
    """A server says 5xx for ever; but a password, or a relay that is not allowed, can be set right."""
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    return (Refused if code in (552, 554) else Unsent)(f"{code} {said}"[:400])


def written(channel: Channel, message: Message) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = f"edgeloop {message.title}"
    mail["From"], mail["To"] = channel.sender, ", ".join(channel.to)
    mail["Date"] = formatdate(message.at, localtime=False)
    mail["Message-ID"] = f"<{message.id}@{channel.sender.rpartition('@')[2]}>"
    if message.what != "opened":  # mail programs show the messages of one cause together
        mail["References"] = f"<{message.alert}@{channel.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [
        message.text, "", f"severity: {message.severity}", f"rule: {message.rule}", f"cause: {message.cause}",
        f"began: {when(message.began)}", *([f"{message.link}"] if message.link else []),
    ]  # fmt: skip
    mail.set_content("\n".join(lines) + "\n")
    return mail
