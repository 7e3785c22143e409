"""What is wrong with the outputs of a config, in sentences."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from edgeloop_agent.addresses import is_http
from edgeloop_agent.config.settings import Config, Output

HTTP = ("format", "token_file", "timeout_seconds")
MQTT = ("host", "port", "tls", "username", "password_file", "qos", "retain", "discovery")
OF_KINDS = {"lines": (), "http": (*HTTP, "ca_file", "device", "picture"), "mqtt": (*MQTT, "ca_file", "device", "picture")}
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Output)}
MIN_QUEUE_BYTES = 1 << 20


def problems_of_outputs(config: Config) -> list[str]:
    problems, targets = list[str](), set[tuple[object, ...]]()
    for number, output in enumerate(config.outputs):
        where = "output" if isinstance(config.output, Output) else f"output[{number}]"
        foreign = {name for names in OF_KINDS.values() for name in names} - set(OF_KINDS[output.kind])
        for name in sorted(name for name in foreign if getattr(output, name) != DEFAULTS[name]):
            kinds = " and ".join(kind for kind, names in OF_KINDS.items() if name in names)
            problems.append(f"{where}.{name}: is for outputs of kind {kinds}; this one is {output.kind}")
        problems += [f"{where}.{problem}" for problem in _problems(output)]
        target = (output.kind, output.where, output.host, output.port)
        if target in targets:
            problems.append(f"{where}.where: {output.where!r} is named twice; give each output a place of its own")
        targets.add(target)
    return problems


def _of_address(address: str) -> list[str]:
    if not is_http(address):
        return [f"where: {address!r} is not an address; write https://HOST/PATH"]
    parts = urlsplit(address)
    if parts.username is not None or parts.password is not None:
        return ["where: an address with a name or password in it, which would be read in logs; use token_file"]
    return []


def _problems(output: Output) -> list[str]:
    problems = list[str]()
    if output.kind == "lines":
        return problems
    if output.max_bytes < MIN_QUEUE_BYTES:
        problems.append(f"max_bytes: {output.max_bytes}; a queue on disk needs {MIN_QUEUE_BYTES} at least")
    if output.kind == "http":
        problems += _of_address(output.where)
    if output.kind == "mqtt":
        if "://" in output.host or "/" in output.host or output.host.count(":") == 1 or not output.host:
            problems.append(f"host: {output.host!r} is not a host; write its name or address alone, and the port in port")
        topics = {"where": output.where, **({"discovery": output.discovery} if output.discovery else {})}
        for name, topic in topics.items():
            if topic == "-" or topic.startswith(("/", "$")) or topic.endswith("/") or set(topic) & set("+#\0"):
                problems.append(f"{name}: {topic!r} is not a topic; write one such as edgeloop/kitchen, without + and #")
        if output.password_file and not output.username:
            problems.append("password_file: a password without a username; set username too")
        if output.ca_file and not output.tls:
            problems.append("ca_file: a certificate without TLS; set tls = true")
    return problems
