"""All outputs of a config together."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeloop_agent.answering import AnswerLine
from edgeloop_agent.config import Config, Output
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.outputs.lines import LineOutput
from edgeloop_agent.outputs.rules import Rules
from edgeloop_agent.outputs.sending import Sender
from edgeloop_agent.outputs.ticket import Ticket
from edgeloop_agent.sources import Recording
from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import Manifest
from edgeloop_contract.settings import nearest
from edgeloop_contract.tasks import Regression, Tensors, names_of

if TYPE_CHECKING:
    from edgeloop_agent.outputs.delivery import Delivery

__all__ = ["Outputs", "device_name", "unknown_labels"]


class Outputs:
    """`write` waits for no network and no disk. Raises UsageError, DeviceError and StorageError where an output cannot begin."""

    def __init__(self, config: Config, manifest: Manifest, state: Path, counts: Counts, log: Log) -> None:
        self._lines: list[tuple[Rules, LineOutput]] = []
        self._sent: list[tuple[Rules, bool, Delivery]] = []
        folder = state / "outputs"
        known = set()
        for settings in config.outputs:
            if settings.kind == "lines":
                self._lines.append((Rules(settings), LineOutput(settings, counts, log)))
                continue
            from edgeloop_agent.outputs.delivery import Delivery  # here: lines need no database
            from edgeloop_agent.outputs.messages import Speaker

            path = folder / f"{_digest(settings)}.sqlite"
            known.add(path)
            device = device_name(settings)
            sender = _sender(settings, device, config, manifest, log)
            delivery = Delivery(sender, Speaker(device, manifest), path, settings.max_bytes, counts, log)
            self._sent.append((Rules(settings), settings.picture, delivery))
        for path in sorted(set(folder.glob("*.sqlite")) - known):
            log(
                "warning",
                "answers wait for an output that the config names no more; delete the file if nobody wants them",
                file=path,
            )
        for problem in unknown_labels(config, manifest):  # an update may have other labels: that must not end the agent
            log("warning", "an output waits for a label that the model does not have", why=problem)
        for _, _, delivery in self._sent:
            delivery.start()

    def ticket(self, done: Callable[[bool], None]) -> Ticket:
        """For the lines of one recording: `done` is called when files and standard output have them, or have lost some (False)."""
        return Ticket(done, max(1, len(self._lines)))

    def write(
        self, lines: Sequence[AnswerLine], recording: Recording | None = None, ticket: Ticket | None = None, last: bool = True,
        go_on: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        """`recording`: theirs, for outputs with pictures. `last`: no more lines of it come. `go_on`: as `LineOutput.put`."""
        now = time.monotonic()
        for rules, wants_picture, delivery in self._sent:  # first: the lines may end the ticket
            for line in lines:
                kept = rules.chosen(line, now) if line.refused is None else None
                if kept is not None:
                    delivery.put(kept, _picture(recording) if wants_picture else None, go_on)
        for rules, output in self._lines:
            output.put([kept for line in lines if (kept := rules.chosen(line, now)) is not None], ticket, last, go_on)
        if ticket is not None and last and not self._lines:
            ticket.ended()

    def sync(self) -> bool:
        """All that was written is on the disk or delivered; False if that failed."""
        done = [output.sync() for _, output in self._lines] + [delivery.sync() for _, _, delivery in self._sent]
        return all(done)

    def use(self, manifest: Manifest) -> None:
        """Another model answers from now on."""
        for _, _, delivery in self._sent:
            delivery.use(manifest)

    def flush(self, go_on: Callable[[], bool]) -> None:
        """Wait until files and standard output have all lines, as long as `go_on` says so."""
        for _, output in self._lines:
            output.flush(go_on)

    def stop(self) -> None:
        """Send no more: all of them keep what waits. One that is away costs the others nothing."""
        for _, _, delivery in self._sent:
            delivery.stop()

    def close(self, deadline: float) -> None:
        """After `stop`. `deadline`: of `time.monotonic`, for lines to be taken, and what is being sent to arrive."""
        for _, output in self._lines:
            output.close(deadline)
        for _, _, delivery in self._sent:
            delivery.close(deadline)


def unknown_labels(config: Config, manifest: Manifest) -> list[str]:
    """Labels that outputs wait for, and the model never answers, one sentence each."""
    known = [] if isinstance(manifest.task, Regression | Tensors) else names_of(manifest.task)
    return [
        f"output.labels: {manifest.name} has no label {label!r}{nearest(label, known)}"
        for output in config.outputs
        for label in output.labels
        if label not in known
    ]


def device_name(settings: Output) -> str:
    return settings.device or socket.gethostname() or "edgeloop"


def _digest(settings: Output) -> str:
    """Of where it goes: another address does not get what waited for this one."""
    return hashlib.sha256("\0".join([settings.kind, settings.where, settings.host, str(settings.port)]).encode()).hexdigest()[:16]


def _sender(settings: Output, device: str, config: Config, manifest: Manifest, log: Log) -> Sender:
    if settings.kind == "mqtt":
        from edgeloop_agent.outputs.mqtt import MqttSender

        return MqttSender(settings, device, config, manifest, log)
    from edgeloop_agent.outputs.webhook import Webhook

    return Webhook(settings, device, config.network.use_proxies)


def _picture(recording: Recording | None) -> Array | None:
    values = None if recording is None else recording.values
    return values if values is not None and values.dtype == np.uint8 and values.ndim in (2, 3) else None
