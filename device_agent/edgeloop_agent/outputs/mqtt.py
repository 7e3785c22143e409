"""MQTT (the extra `mqtt`): answers, pictures and the device's state as topics below one, and Home Assistant's discovery."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

from edgeloop_agent.addresses import authority
from edgeloop_agent.config import Config, Output
from edgeloop_agent.config.files_checked import secret_in
from edgeloop_agent.logs import Log
from edgeloop_agent.mqtt_library import mqtt_library
from edgeloop_agent.outputs.home_assistant import discovery
from edgeloop_agent.outputs.messages import Message
from edgeloop_agent.outputs.sending import Delivered
from edgeloop_contract.errors import UsageError
from edgeloop_contract.manifest import Manifest

__all__ = ["MqttSender", "broker_of"]

KEEP_ALIVE_SECONDS = 30
CONNECT_SECONDS = 5.0
BATCH_SECONDS = 10.0  # for the broker to confirm one batch
ANNOUNCE_SECONDS = 5.0  # at most, before a device answers a Home Assistant that starts: not all devices at once
ONLINE, OFFLINE = "online", "offline"


class MqttSender:
    """A connection that the library keeps and renews. TOPIC/answers has messages, /picture pictures, /status online or offline.

    Messages that the broker did not confirm when the connection ended stay with the library, which sends them again by the rules of
    their quality of service; here they are not published a second time while this process lives.
    """

    def __init__(self, settings: Output, device: str, config: Config, manifest: Manifest, log: Log) -> None:
        """Raises DeviceError without the library, UsageError for a password or certificate that cannot be read."""
        client = mqtt_library("output")
        self.settings, self._device, self._config, self._manifest, self._log = settings, device, config, manifest, log
        self.where = f"mqtt {broker_of(settings)} {settings.where}"
        self._published: dict[str, list[int]] = {}  # what is on its way: the library's numbers, by message
        self._confirmed: set[int] = set()
        self._ignored: set[int] = set()
        self._numbers = threading.Lock()
        self._why = "is not connected yet"
        self._client = client.Client(
            client.CallbackAPIVersion.VERSION2, client_id=f"edgeloop-{device[:30]}-{secrets.token_hex(4)}"
        )  # fmt: skip
        self._client.connect_timeout = CONNECT_SECONDS
        self._client.reconnect_delay_set(min_delay=1, max_delay=random.randint(30, 60))
        if settings.username:
            self._client.username_pw_set(settings.username, _secret(settings.password_file))
        if settings.tls:
            try:
                self._client.tls_set(ca_certs=settings.ca_file or None)
            except (OSError, ValueError) as error:
                raise UsageError(f"output.ca_file: {settings.ca_file} cannot be used ({error})") from error
        self._client.will_set(f"{settings.where}/status", OFFLINE, qos=1, retain=True)
        self._client.on_connect, self._client.on_disconnect = self._connected, self._disconnected
        self._client.on_connect_fail = self._failed
        self._client.on_message, self._client.on_publish = self._message, self._is_published
        self._timer: threading.Timer | None = None
        self._client.connect_async(settings.host, _port(settings), KEEP_ALIVE_SECONDS)
        self._client.loop_start()

    def send(self, messages: Sequence[Message]) -> Delivered:
        """Publish, and wait until the broker has confirmed."""
        if not self._client.is_connected():
            return Delivered(0, why=self._why or "is not connected")
        end = time.monotonic() + BATCH_SECONDS
        for gone in self._published.keys() - {message.id for message in messages}:  # evicted from a full queue meanwhile
            self._unasked(*self._published.pop(gone))
        for message in messages:
            if message.id not in self._published:
                self._published[message.id] = self._publish(message)
        for count, message in enumerate(messages):
            while not self._confirmed.issuperset(self._published[message.id]):
                if not self._client.is_connected():
                    if not self.settings.qos:  # the library keeps nothing of these
                        self._published.clear()
                    return Delivered(count, why=self._why or "is not connected")
                if time.monotonic() >= end:
                    return Delivered(count, why="the broker does not confirm")
                time.sleep(0.002)
            with self._numbers:
                self._confirmed -= set(self._published.pop(message.id))
        return Delivered(len(messages))

    def use(self, manifest: Manifest) -> None:
        self._manifest = manifest
        if self._client.is_connected():
            self._announce()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._client.is_connected():
            done = self._client.publish(f"{self.settings.where}/status", OFFLINE, qos=1, retain=True).mid
            end = time.monotonic() + 1.0
            while done not in self._confirmed and time.monotonic() < end:
                time.sleep(0.01)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, message: Message) -> list[int]:
        where, qos, retain = self.settings.where, self.settings.qos, self.settings.retain
        sent = [self._client.publish(f"{where}/answers", message.body, qos=qos, retain=retain).mid]
        if message.picture:
            sent.append(self._client.publish(f"{where}/picture", message.picture, qos=qos, retain=retain).mid)
        return sent

    def _announce(self) -> None:
        """Say that the device is here, and to Home Assistant what it has."""
        self._unasked(self._client.publish(f"{self.settings.where}/status", ONLINE, qos=1, retain=True).mid)
        if self.settings.discovery:
            topic, payload = discovery(self.settings, self._device, self._config, self._manifest)
            self._unasked(self._client.publish(topic, payload, qos=1, retain=True).mid)

    def _unasked(self, *numbers: int) -> None:
        """Nobody waits for these: their confirmation, which may have come already, is not kept for another message's number."""
        with self._numbers:
            self._ignored |= set(numbers) - self._confirmed
            self._confirmed -= set(numbers)

    def _is_published(self, _client: Any, _data: object, number: int, _reason: Any, _properties: object) -> None:
        with self._numbers:
            if number in self._ignored:
                self._ignored.discard(number)
            else:
                self._confirmed.add(number)

    def _connected(self, _client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._why = f"the broker refuses: {reason}"
            return
        if self._why:
            self._log("info", "output connected", where=self.where)
        self._why = ""
        if self.settings.discovery:
            self._client.subscribe(f"{self.settings.discovery}/status", qos=1)
        self._announce()

    def _disconnected(self, _client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if not self._why:
            self._why = f"connection lost: {reason}"
            self._log("warning", "output disconnected", where=self.where, why=self._why)

    def _failed(self, _client: Any, _data: object) -> None:
        self._why = "cannot connect: no such host, nobody listens there, or TLS on one side alone"

    def _message(self, _client: Any, _data: object, got: Any) -> None:
        """Home Assistant started, and knows nothing: the device is announced again, after a random delay."""
        waits = self._timer is not None and self._timer.is_alive()
        if bytes(got.payload) == ONLINE.encode() and not got.retain and not waits:
            self._timer = threading.Timer(random.uniform(0, ANNOUNCE_SECONDS), self._announce)
            self._timer.daemon = True
            self._timer.start()


def broker_of(settings: Output) -> str:
    return authority(settings.host, _port(settings))


def _port(settings: Output) -> int:
    return settings.port or (8883 if settings.tls else 1883)


def _secret(path: str) -> str | None:
    try:
        return secret_in(path) if path else None
    except (OSError, ValueError) as error:
        raise UsageError(f"output.password_file: {path} cannot be read ({type(error).__name__})") from error
