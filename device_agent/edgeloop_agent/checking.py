"""`edgeloop-agent check`: everything that can be verified before the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Timer

import msgspec

from edgeloop_agent import device_state
from edgeloop_agent.addresses import authority
from edgeloop_agent.config import Config, load_running
from edgeloop_agent.config import Source as Settings
from edgeloop_agent.config.source_kinds import SOURCES
from edgeloop_agent.connection_pool import is_here
from edgeloop_agent.hardware import machine
from edgeloop_agent.local_api.access import Door
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.models import Models
from edgeloop_agent.sensors import Board, describe
from edgeloop_agent.sources import Source, open_source
from edgeloop_contract.errors import UsageError
from edgeloop_contract.manifest import Manifest
from edgeloop_contract.resampling import model_rate_hz


def report_lines(path: Path) -> Iterator[str]:
    """What the agent would run with, line by line. Raises what the start would raise."""
    config = load_running(path)
    yield f"{path}: valid"
    yield f"device: {machine()}"
    for runtime, version in device_state.available().items():
        yield f"runtime {runtime}: {version}"
    device_state.check_rights(Path(config.state) if config.state else device_state.default_folder())
    models = Models(config, Counts(), Log("error"))
    for name, manifest in models.manifests.items():
        runs = [v.name for v in manifest.variants if v.runtime in device_state.available()]
        yield f"bundle {models.paths[name]}: {name} version {manifest.version}; runs here: {', '.join(runs) or 'nothing'}"
    models.load_first()  # the log names what does not run here
    for path, error in models.refused.items():
        yield f"bundle {path}: refused, the others are served: {error}"
    if not models.answers_source and config.source.kind != "none":
        yield "warning: source: it is not read, as its bundle, the first of the config, is refused"
    for loaded in models.loaded():
        yield f"model {loaded.name}: {loaded.variant} on {loaded.runtime}"
    source = open_source(config.source)
    yield f"source {config.source.kind}: {SOURCES[config.source.kind].description}"
    if source is not None and SOURCES[config.source.kind].newest:
        yield _first_frame(source, config.source)
    if config.tracking.enabled:
        from edgeloop_agent.tracking.following import check_model

        check_model(config.tracking, models.manifests[models.first])
        yield f"tracking: on; lines: {len(config.tracking.line)}, zones: {len(config.tracking.zone)}"
    if config.chain:
        from edgeloop_agent.chains import check_chains

        check_chains(config.chain, models.manifests, models.first)
        yield f"chains: {', '.join(f'{chain.boxes_of or models.first} → {chain.model}' for chain in config.chain)}"
    yield from _outputs(config, models.manifests[models.first])
    yield from _sound(config, models.manifests[models.first])
    if config.api.enabled:
        Door(config.api)  # the token is there, and long enough
    yield f"api: {f'http://{authority(config.api.host, config.api.port)}' if config.api.enabled else 'off'}"
    yield from _updates(config, path)
    for number, tail in enumerate(config.split.tails if config.split.enabled else []):
        yield from _connection(f"split.tails[{number}].address", tail.address, config)
    for what, text in describe(Board().read()).items():
        yield f"{what}: {text}"
    if models.refused:
        raise next(iter(models.refused.values()))


def _first_frame(source: Source, settings: Settings) -> str:
    """What the camera says of itself and what came; a warning where no frame comes in time, because the agent waits for one."""
    stop, said = Event(), [f"no frame in {settings.camera.open_seconds:g} s"]

    def unavailable(why: str) -> None:
        if why:
            said.append(why)
            stop.set()

    timer = Timer(settings.camera.open_seconds + settings.camera.read_seconds, stop.set)
    timer.daemon = True
    timer.start()
    frames = source.recordings(stop, unavailable)
    try:
        first = next(iter(frames), None)
    finally:
        stop.set()
        timer.cancel()
    if first is None:
        return f"warning: source: {said[-1]}; the agent starts all the same, and tries again"
    return f"camera: {getattr(source, 'described', '')}{f'; refused: {first.refused}' if first.refused else ''}"


def _outputs(config: Config, manifest: Manifest) -> Iterator[str]:
    """Where answers go. Raises UsageError for labels that the model does not have."""
    from edgeloop_agent.outputs.fan_out import unknown_labels

    if problems := unknown_labels(config, manifest):
        raise UsageError("\n".join(problems))
    for number, output in enumerate(config.outputs):
        if output.kind == "mqtt":
            from edgeloop_agent.outputs.mqtt import broker_of

            yield f"output mqtt: {broker_of(output)}, topics below {output.where}"
            if not output.tls and not is_here(f"mqtt://{output.host}"):
                yield f"warning: output[{number}].tls: {output.host} is spoken to without encryption; set tls = true"
        else:
            yield f"output {output.kind}: {output.where}"
            if output.kind == "http":
                yield from _connection(f"output[{number}].where", output.where, config)


def _sound(config: Config, manifest: Manifest) -> Iterator[str]:
    """The microphone's rate against the model's."""
    model_hz = model_rate_hz(manifest.preprocessing)
    if not SOURCES[config.source.kind].of_sound:
        return
    rate, channels = config.source.rate_hz, config.source.channels
    if model_hz is None:
        yield f"warning: source.rate_hz: the bundle does not say at which rate its sound was recorded; {rate} Hz must be that"
    elif rate < model_hz:
        yield (
            f"warning: source.rate_hz: {rate} Hz, the model was trained on {model_hz} Hz; it is resampled, but what lies above "
            f"{rate // 2} Hz is missing: set rate_hz = {model_hz} if the microphone can do that"
        )
    elif rate > model_hz:
        yield f"sound: resampled from {rate} Hz to the model's {model_hz} Hz"
    if model_hz is not None and channels > 1:
        yield f"sound: {channels} channels are mixed to the one channel that the model takes"


def _updates(config: Config, path: Path) -> Iterator[str]:
    """Where updates come from, and whether this device is known there."""
    settings = config.updates
    if not settings.enabled:
        yield "updates: off; neither updates.hub nor updates.folder is set"
        return
    from edgeloop_agent.credential import Credential
    from edgeloop_agent.updates.file_owner import state_owner
    from edgeloop_agent.updates.journal import UpdateFolder

    where = state_owner(config, path)
    folder = UpdateFolder(where.folder)
    owner = f", of the installed service (user {where.user})" if where.user else ""
    yield f"updates: from {settings.hub or settings.folder}; state in {where.folder}{owner}"
    if settings.config:
        slot = folder.of_config(settings.config).load().running
        yield f"config: follows {settings.config}; {f'{slot.target} is in use in place of {path}' if slot else f'{path} is in use'}"
    if settings.agent:
        from edgeloop_agent.updates.agent_slots import described

        yield f"agent: follows {settings.agent}; {described(folder.of_agent(settings.agent))}"
    remedy = f"run edgeloop-agent enrol {path}" + ("" if settings.hub else " --root FOLDER/metadata/1.root.json")
    try:
        yield f"trusted keys: {_root(folder.root) if folder.root.exists() else f'none yet; {remedy}'}"
        if not settings.hub:
            return
        yield from _connection("updates.hub", settings.hub, config)
        known = msgspec.json.decode(folder.credential.read_bytes(), type=Credential)
        here = known.hub.rstrip("/") == settings.hub.rstrip("/")
        yield f"enrolment: as {known.device} at {known.hub}" + (
            "" if here else f"; warning: the config names {settings.hub}: {remedy}"
        )
    except FileNotFoundError:
        yield f"enrolment: none yet; {remedy}"
    except PermissionError:
        yield f"enrolment: {folder.path} cannot be read by this user; run sudo edgeloop-agent check {path}"
    except (OSError, msgspec.MsgspecError) as error:
        yield f"warning: enrolment: {folder.credential} is damaged ({error}); {remedy}"


def _root(path: Path) -> str:
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    try:
        version: Metadata[Root] = Metadata.from_file(str(path))
    except (RepositoryError, ValueError) as error:
        return f"warning: {path} is damaged ({error})"
    return f"root version {version.signed.version}, until {version.signed.expires:%Y-%m-%d}"


def _connection(what: str, address: str, config: Config) -> Iterator[str]:
    """Notes on the connection to another machine: its proxy, and a warning without encryption."""
    from edgeloop_agent.connection_pool import proxy_of, shown

    proxy = proxy_of(address) if config.network.use_proxies else ""
    if proxy:
        yield f"{what}: through the proxy {shown(proxy)}"
    if address.startswith("http://") and not is_here(address):
        yield f"warning: {what}: {address} is not encrypted: others on the network can read the credential and the samples; use https://"
