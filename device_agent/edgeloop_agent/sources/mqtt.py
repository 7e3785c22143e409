"""An MQTT topic (the extra `mqtt`)."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.mqtt_library import mqtt_library
from edgeloop_agent.sources import Recording, ReportUnavailable
from edgeloop_agent.sources.json_records import json_record
from edgeloop_contract.errors import UsageError

KEEP_ALIVE_SECONDS = 30


class Mqtt:
    """Each message is one JSON record {"name": …, "values": [[…], …]}. The client reconnects by itself, within a minute."""

    def __init__(self, settings: Settings) -> None:
        self.library, self.settings = mqtt_library("source"), settings
        self.lost = 0

    def recordings(self, stop: Event, report_unavailable: ReportUnavailable) -> Iterator[Recording]:
        settings = self.settings
        messages: queue.Queue[Any] = queue.Queue(settings.queue)
        client = self.library.Client(self.library.CallbackAPIVersion.VERSION2)
        if settings.username:
            client.username_pw_set(settings.username, self._password())
        client.reconnect_delay_set(min_delay=1, max_delay=60)

        def connected(_client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
            report_unavailable(f"MQTT broker {settings.host}: {reason}" if reason.is_failure else "")
            if not reason.is_failure:
                client.subscribe(settings.where, qos=1)

        def message(_client: Any, _data: object, got: Any) -> None:
            if messages.full():  # keep the newest; this thread must never wait
                messages.get_nowait()
                self.lost += 1
            messages.put_nowait(got)

        client.on_connect, client.on_message = connected, message
        client.on_disconnect = lambda *words: report_unavailable(f"MQTT broker {settings.host}: {words[3]}")
        client.connect_async(settings.host, settings.port, KEEP_ALIVE_SECONDS)
        client.loop_start()
        try:
            while not stop.is_set():
                try:
                    got = messages.get(timeout=1)
                except queue.Empty:
                    if not client.is_connected():
                        report_unavailable(f"MQTT broker {settings.host}:{settings.port} does not answer")
                    continue
                yield json_record(got.payload.decode("utf-8", "replace"), _topic(got))
        finally:
            client.disconnect()
            client.loop_stop()

    def _password(self) -> str:
        path = self.settings.password_file
        try:
            return Path(path).read_text(encoding="utf-8").strip() if path else ""
        except OSError as error:
            raise UsageError(f"source.password_file: {path} cannot be read ({error.strerror})") from error


def _topic(message: Any) -> str:
    """The topic; bytes that are not UTF-8 become \\xe9."""
    try:
        return str(message.topic)
    except UnicodeDecodeError as error:
        return bytes(error.object).decode("utf-8", "backslashreplace")
