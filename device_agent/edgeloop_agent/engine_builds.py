"""Has engines built while the models answer without them, one model after the other, and changes to each when it is ready."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from edgeloop_agent.engine_files import EngineFiles, built_by
from edgeloop_agent.logs import Log
from edgeloop_agent.models import Models
from edgeloop_agent.served_model import Model
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import EdgeloopError

BUILD_SECONDS = 3600.0  # of one bundle, all of its ways; then the process is killed
STOP_SECONDS = 2.0
ROOM, MARGIN_BYTES = 2, 16 << 20  # times a file's bytes for each of its engines, of which two are tried; TensorRT's notes of times
# The kernel ends the builder with this process. 1: PR_SET_PDEATHSIG; 9: SIGKILL.
TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass
class _Loading:
    """A thread that loads a model from its engines."""

    name: str
    path: Path
    model: Model | None = None
    problem: str = ""
    done: threading.Event = field(default_factory=threading.Event)


class EngineBuilds:
    """`tick` now and then: it never waits for a build. Each bundle is tried once from start to start."""

    def __init__(self, config_path: Path, models: Models, log: Log) -> None:
        self._config_path, self._models, self._log = config_path, models, log
        self._process: subprocess.Popen[bytes] | None = None
        self._name, self._path, self._began = "", Path(), 0.0
        self._loading: _Loading | None = None
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._files = models.engine_files = EngineFiles(models.state, models.graphs, built_by())
        if before := self._files.discard_others():
            log("warning", "engines are thrown away, and built again", why=f"{before} built them; here is {self._files.built_by}")

    def tick(self) -> None:
        loading, process = self._loading, self._process  # `stop` may come from another thread meanwhile
        if self._stopped.is_set():
            return
        if loading is not None:
            if loading.done.is_set():
                self._change(loading)
        elif process is not None:
            self._look(process)
        elif self._models.unbuilt:
            self._name, self._path = next(iter(self._models.unbuilt.items()))
            self._start()

    def stop(self) -> None:
        """End what was begun, and begin nothing more. What was ended is noted once, however often this is called."""
        self._stopped.set()
        with self._lock:
            process, self._process, loading, self._loading = self._process, None, self._loading, None
        if process is not None and process.poll() in (None, -signal.SIGKILL):  # TIED: it ends with the thread that began it too
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            self._note(self._files.stopped)
        if loading is not None and not loading.done.is_set():
            self._note(self._files.stopped)

    def _note(self, what: Callable[[Bundle, Sequence[str], str], None]) -> None:
        """Note how the build of this bundle goes on."""
        runtime = self._models.config.runtime
        with contextlib.suppress(EdgeloopError), Bundle.open(self._path, verified=self._models.verified) as bundle:
            what(bundle, runtime.providers, runtime.variant)

    def _room_problem(self) -> str:
        """Why there is no room for engines; "" where there is. They are about as large as the files that they are built from."""
        try:
            with Bundle.open(self._path, verified=self._models.verified) as bundle:
                files = {v.file for v in bundle.manifest.variants if v.runtime == "onnx"}
                needed = ROOM * max((bundle.manifest.files[file].bytes for file in files), default=0) + MARGIN_BYTES
            free = shutil.disk_usage(self._models.graphs.folder).free
        except (EdgeloopError, OSError):  # the builder says why
            return ""
        return f"{free:,} bytes are free, and engines need about {needed:,}; make room" if free < needed else ""

    def _start(self) -> None:
        if problem := self._room_problem():
            self._give_up(problem)
            return
        build = [sys.executable, "-m", "edgeloop_agent.updates.engine_build", str(self._config_path), str(self._path)]
        words = [sys.executable, "-IS", "-c", TIED, *build]
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError as error:
            self._give_up(f"the builder cannot be started: {error}")
            return
        self._note(partial(self._files.begin, step="build"))
        self._process = process
        self._began, self._models.building = time.monotonic(), self._name
        running = {m.name: m.runtime for m in self._models.loaded()}.get(self._name, "")
        self._log("info", "engines are built beside", model=self._name, meanwhile=running)
        if self._stopped.is_set():  # while it was begun
            self.stop()

    def _look(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            if time.monotonic() - self._began > BUILD_SECONDS:
                process.kill()
            return
        if self._stopped.is_set():
            return
        assert process.stdout is not None
        with process.stdout:
            said = process.stdout.read()
        self._process = None
        try:
            problem = msgspec.json.decode(said, type=str)
        except msgspec.MsgspecError:
            late = time.monotonic() - self._began > BUILD_SECONDS
            problem = f"not done within {BUILD_SECONDS:g} s" if late else f"the builder's process died ({process.returncode})"
        if problem:
            self._give_up(problem)
        elif self._models.paths.get(self._name) != self._path:  # another bundle came meanwhile
            self._forget()
        else:
            self._loading = _Loading(self._name, self._path)
            threading.Thread(target=self._load, args=(self._loading,), name="engines", daemon=True).start()

    def _load(self, loading: _Loading) -> None:
        try:
            loading.model = self._models.load_built(loading.name, loading.path)
        except EdgeloopError as error:
            loading.problem = str(error)
        except Exception as error:  # a runtime's own; the model that answers goes on
            loading.problem = f"{type(error).__name__}: {error}"
        finally:
            loading.done.set()

    def _change(self, loading: _Loading) -> None:
        self._loading = None
        if loading.model is None:
            self._give_up(loading.problem)
            return
        seconds = round(time.monotonic() - self._began, 1)
        self._forget()
        if self._models.paths.get(loading.name) == loading.path and self._models.variant == self._models.config.runtime.variant:
            model = loading.model
            self._models.between(lambda: self._models.pool.put(loading.name, model))
            self._log("info", "engines are built", model=loading.name, seconds=seconds, now=loading.model.runtime.description)

    def _give_up(self, why: str) -> None:
        self._models.never_built.add(self._path)
        self._log("error", "engines cannot be used: the model goes on without them", model=self._name, why=why)
        self._forget()

    def _forget(self) -> None:
        if self._models.unbuilt.get(self._name) == self._path:
            del self._models.unbuilt[self._name]
        self._models.building = ""
