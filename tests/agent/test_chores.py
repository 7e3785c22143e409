"""What runs beside inference: it ends when it is told to, from another thread too, and a load that hangs is seen."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeloop_agent.chores import Chores
from edgeloop_agent.config import Config, Limits, Thermal
from edgeloop_agent.config import Runtime as RuntimeSettings
from edgeloop_agent.engine_builds import EngineBuilds, _Loading
from edgeloop_agent.logs import Log
from edgeloop_agent.loop import Loop
from edgeloop_agent.metrics import Counts
from edgeloop_agent.models import Models
from edgeloop_agent.sensors import Reading
from edgeloop_agent.updates.switcher import UpdateWatcher
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DeviceError
from serving import GOLDEN

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


class Board:
    def __init__(self) -> None:
        self.celsius, self.reads = 40.0, 0

    def read(self) -> Reading:
        self.reads += 1
        return Reading(self.celsius, None, None, None)


def models_of(tmp_path: Path, **changes: Any) -> Models:
    config = Config(
        bundles=[str(GOLDEN)], state=str(tmp_path / "state"), runtime=RuntimeSettings(variant="onnx-int8", threads=1), **changes
    )
    return Models(config, Counts(), Log("info", io.StringIO()))


def builds_of(tmp_path: Path) -> EngineBuilds:
    models = models_of(tmp_path)
    models.state.mkdir(parents=True, exist_ok=True)
    builds = EngineBuilds(tmp_path / "agent.toml", models, models.log)
    builds._name, builds._path = models.first, GOLDEN
    return builds


def tries(builds: EngineBuilds) -> int:
    with Bundle.open(GOLDEN) as bundle:
        return builds._files._tries(bundle, [], "onnx-int8").count


def begun(builds: EngineBuilds, step: str, times: int) -> None:
    with Bundle.open(GOLDEN) as bundle:
        for _ in range(times):
            builds._files.begin(bundle, [], "onnx-int8", step)  # type: ignore[arg-type]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_build_that_is_stopped_twice_is_noted_once(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    builds = builds_of(tmp_path)
    begun(builds, "build", 3)
    builds._process = process
    builds.stop()
    builds.stop()
    assert process.poll() is not None and tries(builds) == 2
    builds._models.unbuilt[builds._name] = GOLDEN
    builds.tick()
    assert builds._process is None and tries(builds) == 2  # none is begun any more


def test_a_build_that_died_by_itself_stays_a_try(tmp_path: Path) -> None:
    builds = builds_of(tmp_path)
    begun(builds, "build", 3)
    builds._process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    builds._process.wait()
    builds.stop()
    assert tries(builds) == 3


def test_engines_that_were_loading_at_the_end_are_not_spoiled(tmp_path: Path) -> None:
    builds = builds_of(tmp_path)
    begun(builds, "build", 1)
    begun(builds, "load", 1)
    builds._loading = _Loading(builds._name, GOLDEN)
    with Bundle.open(GOLDEN) as bundle:
        assert builds._files.spoiled(bundle, [], "onnx-int8")
        builds.stop()
        builds.stop()
        assert not builds._files.spoiled(bundle, [], "onnx-int8") and tries(builds) == 1


def watcher_of(tmp_path: Path) -> UpdateWatcher:
    models = models_of(tmp_path)
    watch = UpdateWatcher(models.config, tmp_path / "agent.toml", models, models.counts, models.log)
    watch.next_cycle = 0.0
    return watch


def test_no_updater_is_left_that_was_started_while_the_watcher_stopped(
    tmp_path: Path, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tick` in the thread of chores, `stop` in the loop's: whichever comes first."""
    watch = watcher_of(tmp_path)
    watch.models.load_first()

    def start(*_: Any, **__: Any) -> subprocess.Popen[bytes]:
        watch.stop()
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    watch._poll_updater()
    assert process.wait(5) and watch.updater is None
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("an updater was started after the stop"))
    watch._poll_updater()
    watch.stop()


def test_a_load_that_hangs_ends_the_worker_and_memory_and_heat_are_looked_at_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_of(tmp_path, thermal=Thermal(poll_seconds=0.02), limits=Limits(start_seconds=0.6))
    over, board = threading.Event(), Board()

    def load(_: str) -> None:
        board.celsius = 90.0
        over.wait(20)

    monkeypatch.setattr(models, "_load", load)
    asks = SimpleNamespace(tick=lambda: models.use_variant("tflite-int8"), stop=lambda: None)
    chores = Chores(models.config, models, board, models.counts, models.log, watch=asks)  # type: ignore[arg-type]
    loop = Loop(models.config, models, None, chores, models.counts, models.log, lambda: None)
    with pytest.raises(DeviceError, match=r"within start_seconds \(0.6\)"):
        loop.run(threading.Event())
    assert models.change_began is not None and models.counts.thermal == "hot" and board.reads > 5
    over.set()
    loop.close()


def test_a_disk_that_makes_chores_wait_ends_nothing(tmp_path: Path) -> None:
    models = models_of(tmp_path, thermal=Thermal(poll_seconds=0.02), limits=Limits(start_seconds=0.1))
    over = threading.Event()
    slow = SimpleNamespace(tick=lambda: over.wait(20), stop=lambda: None)
    chores = Chores(models.config, models, Board(), models.counts, models.log, watch=slow)  # type: ignore[arg-type]
    chores.start()
    try:
        time.sleep(0.4)
        assert chores.failure is None
    finally:
        over.set()
        chores.stop()
