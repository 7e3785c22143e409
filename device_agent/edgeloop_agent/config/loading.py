"""Reads the agent's one TOML file and checks all of it before anything starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from edgeloop_agent.config.settings import Config
from edgeloop_agent.config.source_kinds import SOURCES
from edgeloop_contract.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib


def load(path: Path) -> Config:
    """Read and check all of it. Relative paths are relative to the file. Raises UsageError listing every problem at once."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    try:
        config = msgspec.convert(data, Config)
        found = _contradictions(config)
    except msgspec.ValidationError as error:  # it names the first problem alone; looking for all takes milliseconds of a start
        from edgeloop_contract.settings import problems

        found = problems(data, Config, "") or [str(error)]
    if found:
        raise UsageError(f"{path}: {len(found)} problem{'s' * (len(found) > 1)}:\n  " + "\n  ".join(found))
    return _absolute(config, path.resolve().parent)


def _contradictions(config: Config) -> list[str]:
    from edgeloop_contract.settings import nearest

    source, found = config.source, []
    if source.kind not in SOURCES:
        found.append(f"source.kind: unknown source {source.kind!r}{nearest(source.kind, SOURCES)}")
    elif SOURCES[source.kind].needs_where and not source.where:
        found.append(f"source.where: a {source.kind} source needs {SOURCES[source.kind].needs_where}")
    if source.kind == "none" and not config.api.enabled:
        found.append("source.kind: there is neither a source nor the API, and so nothing to do; name one, or set api.enabled")
    if config.thermal.hot_celsius < config.thermal.warm_celsius:
        found.append(f"thermal.hot_celsius: {config.thermal.hot_celsius:g} is below warm_celsius {config.thermal.warm_celsius:g}")
    if config.updates.hub and config.updates.folder:
        found.append("updates.folder: updates come from a hub or from a folder; name one of them")
    if config.updates.hub and not config.updates.hub.startswith(("http://", "https://")):
        found.append(f"updates.hub: {config.updates.hub!r} is no address; it begins with https://")
    if config.samples.send == "samples" and not config.updates.hub:
        found.append("samples.send: samples go to a hub; name it in updates.hub")
    if config.split.enabled and not config.split.tails and not config.updates.hub:
        found.append("split.enabled: there is no server to share work with; name one in split.tails, or a hub in updates.hub")
    for number, tail in enumerate(config.split.tails):
        if not tail.address.startswith(("http://", "https://")):
            found.append(f"split.tails[{number}].address: {tail.address!r} is no address; it begins with https://")
    if config.split.enabled and config.split.deadline_ms > 500 * config.limits.hang_seconds:
        found.append("split.deadline_ms: more than half of limits.hang_seconds; a slow server would be taken for a hung runtime")
    if len(set(config.bundles)) < len(config.bundles):
        found.append("bundles: one is named twice")
    return found


def _absolute(config: Config, folder: Path) -> Config:
    def whole(text: str) -> str:
        try:
            return str(folder / Path(text).expanduser()) if text else ""
        except RuntimeError as error:
            raise UsageError(f"{text}: there is no home folder that ~ could be; write the whole path") from error

    source, output = config.source, config.output
    if source.kind in ("folder", "watch", "file", "lines", "video") and source.where != "-":
        source = msgspec.structs.replace(source, where=whole(source.where))
    if output.where not in ("-", "none"):
        output = msgspec.structs.replace(output, where=whole(output.where))
    tails = [
        msgspec.structs.replace(tail, ca_file=whole(tail.ca_file), token_file=whole(tail.token_file)) for tail in config.split.tails
    ]
    updates = msgspec.structs.replace(
        config.updates, folder=whole(config.updates.folder), ca_file=whole(config.updates.ca_file)
    )  # fmt: skip
    state = whole(config.state) or os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return msgspec.structs.replace(
        config, bundles=[whole(b) for b in config.bundles], state=state, source=source, output=output, updates=updates,
        split=msgspec.structs.replace(config.split, tails=tails),
    )  # fmt: skip
