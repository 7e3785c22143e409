"""The inference process. The supervisor monitors its progress through a pipe and may kill it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import msgspec

from edgeloop_agent.chores import Chores
from edgeloop_agent.config import Config, load_running
from edgeloop_agent.device_state import check_rights, default_folder
from edgeloop_agent.feed import Feed
from edgeloop_agent.in_flight import InFlight
from edgeloop_agent.logs import Log
from edgeloop_agent.loop import Loop
from edgeloop_agent.metrics import Counts
from edgeloop_agent.models import Models
from edgeloop_agent.scratch import use_scratch
from edgeloop_agent.sensors import Board
from edgeloop_agent.served_model import RunningInferences
from edgeloop_agent.sources import open_source
from edgeloop_contract.errors import EdgeloopError
from edgeloop_contract.preprocessing import takes_texts
from edgeloop_contract.resampling import model_rate_hz

if TYPE_CHECKING:
    from edgeloop_agent.engine_builds import EngineBuilds
    from edgeloop_agent.local_api.http import Server
    from edgeloop_agent.offload.tail_servers import TailServers
    from edgeloop_agent.page.live_view import LiveView
    from edgeloop_agent.tracking.following import Following

TICK_SECONDS = 0.2
LOG_SECONDS = 1.0  # for the last lines of the log
READY, ALIVE, DONE = b"R", b".", b"D"


class Progress(msgspec.Struct):
    """Progress bytes, at most five a second; none while an inference hangs, from the source or the API."""

    pipe: int
    running: RunningInferences
    hang_seconds: float
    stop: Event
    next_tick: float = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self.next_tick or self.running.longest_seconds() > self.hang_seconds:
            return
        self.next_tick = now + TICK_SECONDS
        self.send(ALIVE)

    def send(self, signal_byte: bytes) -> None:
        try:
            os.write(self.pipe, signal_byte)
        except OSError:  # the supervisor is gone
            self.stop.set()


def main(config_path: Path, pipe: int) -> int:
    """Run until told to stop. Exit codes as those of the commands; 0 also when the source is done."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    config = load_running(config_path)  # features that are off are not imported: quick start, little memory
    log = Log(config.log.level)
    log.in_background()
    try:
        return _serve(config, config_path, log, stop, pipe)
    except EdgeloopError as error:
        log("error", "worker cannot continue", why=error)
        return error.exit_code
    finally:
        log.flush(LOG_SECONDS)


def _serve(config: Config, config_path: Path, log: Log, stop: Event, pipe: int) -> int:
    check_rights(Path(config.state) if config.state else default_folder())
    counts = Counts(restarts=int(os.environ.get("EDGELOOP_RESTARTS", "0")))
    models = Models(_with_update(config, log), counts, log, _tail_servers(config, counts, log))
    use_scratch(models.state, clean=True)
    builds = _engine_builds(config, config_path, models, log)
    in_flight = InFlight.from_environment()
    inputs = models.manifests[models.first].inputs
    steps = inputs[0].preprocessing
    source = open_source(config.source, in_flight, len(inputs) == 1 and takes_texts(steps), model_rate_hz(steps))
    models.load_first()
    if source is not None and not models.answers_source:
        source, counts.source_unavailable = None, "its bundle is refused"
        log("error", "source is not read: its bundle, the first of the config, is refused", bundle=config.bundles[0])
    _check_chains(config, models)
    following = _following(config, models, counts, log) if source is not None else None
    progress = Progress(pipe, models.running, config.limits.hang_seconds, stop)
    feed = Feed(source, config.source, counts, log, in_flight) if source is not None else None
    server, view = _served(config, models, counts, log, stop)
    observer = watch = None
    if config.drift.enabled:
        from edgeloop_agent.observers import SampleObserver

        observer = SampleObserver(config, models, counts, log)
        models.prepare = lambda model: observer.prepare(model.manifest, model.sha256)
        models.prepare(models.get(models.first))
    if config.updates.enabled:
        from edgeloop_agent.updates.switcher import UpdateWatcher

        watch = UpdateWatcher(config, config_path, models, counts, log, observer)
    loop = Loop(
        config, models, feed, Chores(config, models, Board(), counts, log, watch, builds), counts, log, progress,
        observer, in_flight, following, view,
    )  # fmt: skip
    progress.send(READY)
    if feed is not None:
        feed.start()
    try:
        loop.run(stop)
        if observer is not None:
            observer.stop()
        if following is not None:
            following.close()
    finally:
        loop.close()
    if server is not None:
        server.shutdown()
    log("info", "worker stops", answered=counts.answered, refused=sum(counts.refused.values()), left=counts.queue)
    if loop.worn_out:
        return os.EX_TEMPFAIL
    progress.send(DONE)
    return feed.failure.exit_code if feed is not None and feed.failure is not None else 0


def _served(config: Config, models: Models, counts: Counts, log: Log, stop: Event) -> tuple[Server | None, LiveView | None]:
    """The local API, and the page's view of what the loop answers; None where it is off."""
    if not config.api.enabled:
        return None, None
    from edgeloop_agent.addresses import authority
    from edgeloop_agent.local_api.server import Api

    api = Api(config.api, models, counts, log, lambda: not stop.is_set())
    server = api.serve()
    log("info", "api", address=f"http://{authority(config.api.host, server.port)}")
    return server, api.view


def _check_chains(config: Config, models: Models) -> None:
    """Load the models of chains. Raises UsageError for chains that cannot work with these models."""
    if config.chain:
        from edgeloop_agent.chains import check_chains

        check_chains(config.chain, models.manifests, models.first)
        for chain in config.chain:  # now, and not at the first box
            with contextlib.suppress(EdgeloopError):  # each crop says why
                models.get(chain.model)


def _with_update(config: Config, log: Log) -> Config:
    """The config with the bundle of the last update, where updates are on."""
    if not config.updates.enabled:
        return config
    from edgeloop_agent.updates.slots import with_slots

    return with_slots(config, log)


def _following(config: Config, models: Models, counts: Counts, log: Log) -> Following | None:
    """Tracks and counters, where tracking is on. Raises UsageError as `check_model`."""
    if not config.tracking.enabled:
        return None
    from edgeloop_agent.tracking.following import Following, check_model

    check_model(config.tracking, models.manifests[models.first])
    following = Following(config.tracking, models.state, log)
    counts.tracking = following
    return following


def _engine_builds(config: Config, config_path: Path, models: Models, log: Log) -> EngineBuilds | None:
    """What builds engines beside, where the config names providers; the worker does not wait for it from now on."""
    if not config.runtime.providers:
        return None
    from edgeloop_agent.engine_builds import EngineBuilds

    models.builds_beside = True
    return EngineBuilds(config_path, models, log)


def _tail_servers(config: Config, counts: Counts, log: Log) -> TailServers | None:
    """The tail servers, where splitting is on."""
    if not config.split.enabled:
        return None
    from edgeloop_agent.credential import secret_for
    from edgeloop_agent.offload.tail_servers import TailServers
    from edgeloop_agent.updates.journal import UpdateFolder, update_folder

    return TailServers(config, secret_for(config.updates.hub, UpdateFolder(update_folder(config)).credential), counts, log)


if __name__ == "__main__":
    os._exit(main(Path(sys.argv[1]), int(sys.argv[2])))  # a hung thread of a runtime must not delay the end
