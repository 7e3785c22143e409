"""Reads the agent's one TOML file and checks all of it before anything starts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_agent.addresses import is_loopback
from edgeloop_agent.config.addresses_checked import problems_of_addresses
from edgeloop_agent.config.files_checked import problems_of_files
from edgeloop_agent.config.outputs_checked import problems_of_outputs
from edgeloop_agent.config.settings import Config, Output
from edgeloop_agent.config.source_checked import problems_of_source
from edgeloop_agent.config.source_kinds import SOURCES
from edgeloop_agent.config.tracked import problems_of_tracking
from edgeloop_contract.errors import UsageError

SEEN_CONFIGS = "EDGELOOP_CONFIG_JOURNAL"  # when the journal of rolled-out configs changed last (ns since 1970), as one was chosen
ROLLED_OUT = "EDGELOOP_ROLLED_OUT_CONFIG"  # in the environment of the worker and its processes: the file that is in use
RENAMED = {  # settings of earlier agents, by section, that have another name now
    "limits": {"longest_restart_seconds": "max_restart_seconds"},
    "thermal": {"calmer_celsius": "hysteresis_celsius"},
    "updates": {"least_bytes_per_second": "min_bytes_per_second"},
    "samples": {"per_hour": "max_per_hour", "rest_bytes": "context_bytes"},
    "split": {"cut": "route", "share": "send", "least_agreement": "min_agreement"},
}


def load_running(path: Path) -> Config:
    """The config that the supervisor chose: `path` itself, or one that a rollout brought in its place. Raises UsageError."""
    return load(path, Path(os.environ.get(ROLLED_OUT) or path))


def load(path: Path, text_of: Path | None = None) -> Config:
    """Read and check all of it. Relative paths are relative to `path`. Raises UsageError listing every problem at once.

    `text_of`: the file that is read in its place.
    """
    config, problems = _checked(text_of or path)
    if not problems:
        config = _absolute(config, path.resolve().parent)
        problems = list(problems_of_files(config))
    if problems:
        raise UsageError(f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}:\n  " + "\n  ".join(problems))
    return config


def check_for_rollout(path: Path) -> Config:
    """A config that is to be published: all that can be known without the device. Raises UsageError."""
    config, problems = _checked(path)
    if problems := [*problems, *secrets_in_addresses(path.read_text(encoding="utf-8"))]:
        raise UsageError(f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}:\n  " + "\n  ".join(problems))
    return config


def secrets_in_addresses(text: str) -> list[str]:
    """A rolled-out config is read by every device and by the hub: passwords stay in files on the device."""
    found = re.findall(r"([a-z][a-z0-9+.-]*://)[^/\s\"'@:]*:[^/\s\"'@]+@", text, re.IGNORECASE)
    return [f"{scheme}NAME:PASSWORD@…: an address holds a password; name a password_file on the device instead" for scheme in found]


def _checked(path: Path) -> tuple[Config, list[str]]:
    """The config with paths as they are written, and what contradicts itself in it. Raises UsageError where it is no TOML."""
    if sys.version_info >= (3, 11):  # here: the library has no config, and a parser takes milliseconds of its start
        import tomllib
    else:  # pragma: no cover
        import tomli as tomllib
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    try:
        config = msgspec.convert(data, Config)
        problems = _contradictions(config)
    except msgspec.ValidationError as error:  # it names the first problem alone; looking for all takes milliseconds of a start
        from edgeloop_contract.settings import problems as problems_of

        config, problems = Config(["-"]), [*_renamed(data), *problems_of(data, Config, "")] or [str(error)]
    return config, problems


def _renamed(data: dict[str, Any]) -> list[str]:
    """Take each setting with an earlier name out of `data`, and say what it is called now."""
    sentences = []
    for section, names in RENAMED.items():
        settings = data.get(section)
        if isinstance(settings, dict):
            for old in settings.keys() & names.keys():
                del settings[old]
                sentences.append(f"{section}.{old}: this setting is now called {names[old]}")
    return sorted(sentences)


def _contradictions(config: Config) -> list[str]:
    from edgeloop_contract.settings import nearest

    source, problems = config.source, list[str]()
    if source.kind not in SOURCES:
        problems.append(f"source.kind: unknown source {source.kind!r}{nearest(source.kind, SOURCES)}")
    elif SOURCES[source.kind].needs_where and not source.where:
        problems.append(f"source.where: a {source.kind} source needs {SOURCES[source.kind].needs_where}")
    if source.kind == "none" and not config.api.enabled:
        problems.append("source.kind: there is neither a source nor the API; set source.kind, or api.enabled")
    if (
        config.api.enabled
        and not (config.api.token_file or config.api.allow_anyone)
        and not is_loopback(config.api.host.strip("[]"))
    ):
        problems.append(
            f"api.host: {config.api.host} is reached from other machines, and there is no token; make one"
            " (openssl rand -hex 16 > FILE) and name it in api.token_file, or let everybody in with api.allow_anyone = true"
        )
    if config.thermal.hot_celsius < config.thermal.warm_celsius:
        problems.append(
            f"thermal.hot_celsius: {config.thermal.hot_celsius:g} is below warm_celsius {config.thermal.warm_celsius:g}"
        )
    if config.updates.hub and config.updates.folder:
        problems.append("updates.folder: updates come from a hub or from a folder; name one of them")
    if config.samples.send == "samples" and not config.updates.hub:
        problems.append("samples.send: samples go to a hub; name it in updates.hub")
    if config.split.enabled and not config.split.tails and not config.updates.hub:
        problems.append("split.enabled: there is no server; name one in split.tails, or a hub in updates.hub")
    if config.split.enabled and config.split.deadline_ms > 500 * config.limits.hang_seconds:
        problems.append("split.deadline_ms: more than half of limits.hang_seconds; a slow server would look like a hung runtime")
    if len(set(config.bundles)) < len(config.bundles):
        problems.append("bundles: one is named twice")
    problems += problems_of_addresses(config)
    return [*problems, *problems_of_source(config), *problems_of_outputs(config), *problems_of_tracking(config)]


def _whole_output(output: Output, whole: Callable[[str], str]) -> Output:
    is_file = output.kind == "lines" and output.where not in ("-", "none")
    return msgspec.structs.replace(
        output, where=whole(output.where) if is_file else output.where, ca_file=whole(output.ca_file),
        token_file=whole(output.token_file), password_file=whole(output.password_file),
    )  # fmt: skip


def _absolute(config: Config, folder: Path) -> Config:
    def whole(text: str) -> str:
        try:
            return str(folder / Path(text).expanduser()) if text else ""
        except RuntimeError as error:
            raise UsageError(f"{text}: this user has no home folder for ~; write the whole path") from error

    source = config.source
    if source.kind in ("folder", "watch", "file", "lines", "pcm", "video") and source.where != "-":
        source = msgspec.structs.replace(source, where=whole(source.where))
    camera = msgspec.structs.replace(source.camera, ca_file=whole(source.camera.ca_file))
    source = msgspec.structs.replace(source, password_file=whole(source.password_file), camera=camera)
    outputs = [_whole_output(output, whole) for output in config.outputs]
    tails = [
        msgspec.structs.replace(tail, ca_file=whole(tail.ca_file), token_file=whole(tail.token_file)) for tail in config.split.tails
    ]
    updates = msgspec.structs.replace(
        config.updates, folder=whole(config.updates.folder), ca_file=whole(config.updates.ca_file)
    )  # fmt: skip
    state = whole(config.state) or os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return msgspec.structs.replace(
        config, bundles=[whole(b) for b in config.bundles], state=state, source=source, output=outputs, updates=updates,
        api=msgspec.structs.replace(config.api, token_file=whole(config.api.token_file)),
        split=msgspec.structs.replace(config.split, tails=tails),
    )  # fmt: skip
