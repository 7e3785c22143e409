"""Sends what is due, a thread a channel: a receiver that is dead or slow stops neither the others nor the tick."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edgeloop_hub.alerts import mail, outbox, posting
from edgeloop_hub.alerts.outbox import Message
from edgeloop_hub.alerts.result import Refused, Unsent
from edgeloop_hub.alerts.settings import AlertSettings, Channel
from edgeloop_hub.storage.database import Database

LOG = logging.getLogger("edgeloop_hub")
BATCH_SECONDS = 60.0  # after which a channel's thread begins no other message: well within the lease of what it took


class Sender:
    """`folder`: where alerts.toml and its secrets are."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._threads: dict[str, threading.Thread] = {}

    def send_due(self, settings: AlertSettings, seconds: float) -> None:
        """Begin to send what is due, and wait at most so many seconds. What is still being sent then goes on beside the caller."""
        now = time.time()
        with self._database.reading() as connection:
            due = outbox.channels_due(connection, now)
        for channel in settings.channel:
            if channel.name in due and not self._is_busy(channel.name):
                thread = threading.Thread(target=self._send_all, args=(channel,), daemon=True, name=f"alerts {channel.name}")
                self._threads[channel.name] = thread
                thread.start()
        ends = time.monotonic() + seconds
        for thread in self._threads.values():
            thread.join(max(0.0, ends - time.monotonic()))

    def _is_busy(self, channel: str) -> bool:
        return channel in self._threads and self._threads[channel].is_alive()

    def _send_all(self, channel: Channel) -> None:
        """A failure ends this pass: the rest waits with it."""
        try:
            with self._database.writing() as connection:
                taken = outbox.take(connection, channel.name, time.time())
            ends = time.monotonic() + BATCH_SECONDS
            for place, message in enumerate(taken):
                went = time.monotonic() < ends and self._send(channel, message)
                if not went:
                    with self._database.writing() as connection:
                        outbox.put_back(connection, taken[place + 1 :], time.time() + outbox.FIRST_WAIT)
                    return
        except Exception as error:  # a database that is away: what was taken is due again after its lease
            LOG.warning("alerts: channel %s: %s", channel.name, error)

    def _send(self, channel: Channel, message: Message) -> bool:
        """Whether the next message may be tried."""
        try:
            send(channel, self._folder, message)
        except Unsent as error:
            with self._database.writing() as connection:
                outbox.not_sent(connection, message, str(error), isinstance(error, Refused), error.wait, time.time())
            return isinstance(error, Refused)
        with self._database.writing() as connection:
            outbox.sent(connection, message.id, time.time())
        return True


SENDERS: dict[str, Callable[[Channel, Path, Message], None]] = {
    "webhook": posting.post, "ntfy": posting.post, "slack": posting.post, "email": mail.post,
}  # fmt: skip


def send(channel: Channel, folder: Path, message: Message) -> None:
    """One message, now. Raises Unsent."""
    try:
        SENDERS[channel.kind](channel, folder, message)
    except Unsent:
        raise
    except Exception as error:  # a mistake of ours in one channel is a failure of that channel alone
        LOG.debug("alerts: %s", channel.name, exc_info=error)
        raise Unsent(f"{type(error).__name__}: {error}") from error


def trial(settings: AlertSettings) -> Message:
    """What `edgeloop-hub alerts test` sends."""
    now, text = time.time(), "a test of this channel: edgeloop-hub alerts test"
    return Message(secrets.token_hex(16), "0" * 32, "opened", "test", "info", "test", text, 1, now, now, settings.address)
