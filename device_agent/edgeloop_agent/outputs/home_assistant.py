"""Home Assistant's MQTT discovery: one payload that makes a device with its sensors appear by itself.

Form and names: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery (the form for whole devices).
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from edgeloop_agent.config import Config, Output
from edgeloop_contract.manifest import Anomaly, Classification, Manifest, Regression
from edgeloop_contract.tasks import Detection, Multilabel, Segmentation

__all__ = ["discovery"]

OTHER = re.compile(r"[^a-zA-Z0-9_-]")
MAX_SENSORS = 100  # of one kind: nobody wants a thousand classes as sensors
EXPIRES_SECONDS = 0  # a sensor keeps its last state; `status` says whether the device is there


def discovery(settings: Output, device: str, config: Config, manifest: Manifest) -> tuple[str, bytes]:
    """The topic of discovery, and its payload: what the model answers, as sensors of one device."""
    # The digest tells apart names without such letters, and two devices with one host name.
    digest = hashlib.sha256("\0".join([device, settings.where, manifest.name]).encode()).hexdigest()[:8]
    own = f"edgeloop-{_plain(device)}-{_plain(manifest.name)}-{digest}"
    answers, parts = f"{settings.where}/answers", dict[str, dict[str, Any]]()

    def sensor(key: str, name: str, template: str, platform: str = "sensor", **more: Any) -> None:
        plain, number = _plain(key), 2
        while plain in parts:  # two labels may differ in signs alone
            plain, number = f"{_plain(key)}_{number}", number + 1
        parts[plain] = {
            "platform": platform, "unique_id": f"{own}-{plain}", "name": name, "state_topic": answers,
            "value_template": template, **more,
        }  # fmt: skip

    _of_task(sensor, manifest)
    for line in config.tracking.line if config.tracking.enabled else ():
        for direction in ("to_right", "to_left"):
            words = f"{line.name} {direction.replace('_', ' ')}"
            sensor(f"{line.name}_{direction}", words, _from(f"value_json.lines, 'line', {_text(line.name)}", direction),
                   state_class="total_increasing")  # fmt: skip
    for zone in config.tracking.zone if config.tracking.enabled else ():
        sensor(f"{zone.name}_now", f"in {zone.name}", _from(f"value_json.zones, 'zone', {_text(zone.name)}", "now"),
               state_class="measurement")  # fmt: skip
    sensor("latency", "inference time", "{{ value_json.milliseconds | default(none) }}", unit_of_measurement="ms",
           device_class="duration", state_class="measurement", entity_category="diagnostic")  # fmt: skip
    if settings.picture:
        parts["picture"] = {"platform": "image", "unique_id": f"{own}-picture", "name": "picture",
                            "image_topic": f"{settings.where}/picture", "content_type": "image/jpeg"}  # fmt: skip
    payload = {
        "device": {"identifiers": [own], "name": device, "model": manifest.name, "sw_version": str(manifest.version),
                   "manufacturer": "edgeloop"},
        "origin": {"name": "edgeloop-agent"},
        "components": parts,
        "availability_topic": f"{settings.where}/status",
        "qos": min(settings.qos, 1),
    }  # fmt: skip
    return f"{settings.discovery}/device/{own}/config", msgspec.json.encode(payload)


def _of_task(sensor: Any, manifest: Manifest) -> None:
    task = manifest.task
    if isinstance(task, Classification):
        sensor("label", manifest.name, "{{ value_json.label | default(none) }}")
        confidence = "{{ (value_json.confidence * 100) | round(1) if value_json.confidence is defined else none }}"
        sensor("confidence", "confidence", confidence, unit_of_measurement="%", state_class="measurement")
    elif isinstance(task, Multilabel):
        for name in task.labels[:MAX_SENSORS]:
            held = f"(value_json.labels | default([])) | selectattr('label', 'eq', {_text(name)}) | list"
            sensor(name, name, f"{{{{ 'ON' if {held} else 'OFF' }}}}", "binary_sensor")
    elif isinstance(task, Anomaly):
        wrong = _text(task.labels[1])
        template = f"{{{{ 'ON' if value_json.label | default('') == {wrong} else 'OFF' }}}}"
        sensor("anomaly", task.labels[1], template, "binary_sensor", device_class="problem")
        sensor("score", "score", "{{ value_json.score | default(none) }}", state_class="measurement")
    elif isinstance(task, Regression):
        for name in task.quantities[:MAX_SENSORS]:
            sensor(name, name, f"{{{{ value_json['values'][{_text(name)}] | default(none) }}}}", state_class="measurement")
    elif isinstance(task, Detection):
        for name in task.labels[:MAX_SENSORS]:
            template = f"{{{{ (value_json.counts | default({{}})).get({_text(name)}, 0) }}}}"
            sensor(name, name, template, state_class="measurement")
    elif isinstance(task, Segmentation):
        for name in [n for n in task.labels if n != task.background][:MAX_SENSORS]:
            chosen = f"(value_json.masks | default([])) | selectattr('label', 'eq', {_text(name)}) | map(attribute='share') | sum"
            sensor(name, name, f"{{{{ ({chosen} * 100) | round(1) }}}}", unit_of_measurement="%", state_class="measurement")


def _from(rows: str, field: str) -> str:
    """The template of `field` in that one of the rows which has this name."""
    values, key, name = rows.split(", ", 2)
    found = f"({values} | default([])) | selectattr({key}, 'eq', {name}) | map(attribute='{field}') | first | default(0)"
    return f"{{{{ {found} }}}}"


def _text(name: str) -> str:
    """A name as a literal of a template: nothing in it ends the text or the template."""
    return (
        "'"
        + "".join(c if c.isalnum() or c in " -." else f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}" for c in name)
        + "'"
    )


def _plain(name: str) -> str:
    return OTHER.sub("_", name)[:60] or "_"
