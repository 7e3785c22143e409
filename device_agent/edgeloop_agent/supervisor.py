"""The supervising process: it starts the worker, monitors its progress, and restarts it when it hangs or dies.

It imports no numpy and no runtime, so their crashes cannot end it, and it takes a few megabytes. It notifies systemd's watchdog
only when the worker's inference loop makes progress.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeloop_agent import launcher, state_lock
from edgeloop_agent.config import ROLLED_OUT, SEEN_CONFIGS, Config, load
from edgeloop_agent.in_flight import DeathRecord
from edgeloop_agent.logs import Log
from edgeloop_agent.notify import notify
from edgeloop_agent.state_folder import default_folder
from edgeloop_contract.errors import UsageError

HEALTHY_SECONDS = 60.0  # after which earlier crashes are forgotten
POLL_SECONDS = 0.5
CHOOSE_SECONDS = 20.0
MAX_GIVEN_BACK = 4  # starts in a row that a rolled-out config may spoil, before the service ends as with its own
KILL_SECONDS = 2.0  # beyond drain_seconds, before a worker that will not stop is killed
FAULT_SIGNALS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGABRT,
}  # caused by the recording in work
FATAL_EXIT_CODES = {2, 5, 6}  # wrong config, wrong bundle, this device cannot: starting again would not help by itself

Request = Literal["", "stop", "reload", "relaunch"]
Ending = Literal["done", "crashed", "hung", "stopped", "reload", "relaunch", "fatal"]


@dataclass
class Supervisor:
    """Runs one worker after the other. SIGHUP reloads `config_path`; a config with problems is not used."""

    config_path: Path
    restarts: int = 0
    crashes: int = 0  # in a row
    was_ready: bool = False  # after that only a request or the end of the source ends it

    def __post_init__(self) -> None:
        self.own: Config = load(self.config_path)
        self.config, self.rolled_out, self.seen_configs = self.own, "", ""
        self.log = Log(self.config.log.level)
        self.request: Request = ""
        self.deaths = DeathRecord()

    def run(self) -> int:
        """Run until stopped or done. Returns the command's exit code."""
        signal.signal(signal.SIGTERM, lambda *_: self._on_signal("stop"))
        signal.signal(signal.SIGINT, lambda *_: self._on_signal("stop"))
        signal.signal(signal.SIGHUP, lambda *_: self._on_signal("reload"))
        signal.signal(signal.SIGUSR1, lambda *_: self._on_signal("relaunch"))
        gave_up = ""
        while True:
            self._choose_config(gave_up)
            gave_up = ""
            end, code = self._one_worker()
            if end == "fatal" and self.rolled_out and self.crashes < MAX_GIVEN_BACK:
                gave_up, end = f"the agent ended with exit code {code}", "crashed"
            if end == "relaunch" or (end in ("crashed", "hung", "fatal") and launcher.is_on_trial()):
                self._relaunch(end)
                continue
            if end in ("done", "stopped", "fatal"):
                launcher.started()  # what ended it is no fault of the installed agent
                notify(STOPPING=1)
                return code
            if end == "reload":
                self.crashes = 0
                self.deaths.forget()
                continue
            for key in self.deaths.blame(certain=end == "hung" or -code in FAULT_SIGNALS):
                self.log("error", "file excluded: it ended the worker", file=key)
            self.restarts += 1
            self.crashes += 1
            limits = self.config.limits
            delay = min(limits.max_restart_seconds, limits.restart_seconds * 2 ** min(self.crashes - 1, 10))
            self.log("warning", "worker restarts", after=end, seconds=delay, restarts=self.restarts)
            if not self._wait(delay):
                return 0

    def _relaunch(self, end: Ending) -> None:
        """Another agent may take the place of this process: a start of one on trial is counted, and another one chosen at last."""
        self.log("info", "the launcher chooses the agent", after=end)
        if end != "relaunch" and not self._wait(self.config.limits.restart_seconds):
            return
        self.request = ""
        try:
            launcher.relaunch(self.config_path)
        except OSError as error:
            self.log("error", "the launcher cannot be started: this agent goes on", why=error)

    def _choose_config(self, gave_up: str) -> None:
        """The device's own config, or the one of its rollout: a process chooses, so that this one stays small.

        `gave_up`: why the last worker could not run with the one on trial, which is given back then.
        """
        self.config, self.rolled_out, self.seen_configs = self.own, "", ""
        if not (self.own.updates.enabled and self.own.updates.config):
            return
        words = [
            sys.executable,
            "-m",
            "edgeloop_agent.updates.config_slots",
            str(self.config_path),
            *([gave_up] if gave_up else []),
        ]
        try:
            done = subprocess.run(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=CHOOSE_SECONDS, check=True)
            file, _, self.seen_configs = os.fsdecode(done.stdout).partition("\0")
            if file:
                self.config, self.rolled_out = load(self.config_path, Path(file)), file
        except (OSError, subprocess.SubprocessError, UsageError) as error:
            self.log("error", "the device's own config is used", why=error)

    def _on_signal(self, what: Request) -> None:
        if self.request != "stop":
            self.request = what

    def _wait(self, seconds: float) -> bool:
        """Wait; False if a stop was requested meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.request != "stop":
            time.sleep(0.05)
            notify(WATCHDOG=1)  # waiting is intended here
        return self.request != "stop"

    def _one_worker(self) -> tuple[Ending, int]:
        read, write = os.pipe()
        os.set_blocking(read, False)
        environment = {**os.environ, "EDGELOOP_RESTARTS": str(self.restarts), "EDGELOOP_CRASHES": str(self.crashes)}
        environment |= {**self.deaths.environment, ROLLED_OUT: self.rolled_out, SEEN_CONFIGS: self.seen_configs}
        environment["PYTHONUTF8"] = "1"  # the config is UTF-8, and names files beyond ASCII in any locale
        words = [sys.executable, "-m", "edgeloop_agent.worker", str(self.config_path), str(write)]
        worker = subprocess.Popen(words, pass_fds=(write, *self.deaths.descriptors), env=environment)
        os.close(write)
        try:
            return self._watch(worker, read)
        finally:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            os.close(read)

    def _watch(self, worker: subprocess.Popen[bytes], pipe: int) -> tuple[Ending, int]:
        limits = self.config.limits
        started, last, ready = time.monotonic(), time.monotonic(), False
        requested, requested_at, done = "", 0.0, False
        while True:
            progress = self._read_progress(pipe)
            now = time.monotonic()
            if b"R" in progress:
                ready = self.was_ready = True
                notify(READY=1, STATUS="running")
                launcher.started()
                self.log("info", "ready", seconds=round(now - started, 3))
            if progress:
                last = now
                notify(WATCHDOG=1)
            elif not ready:
                notify(WATCHDOG=1)  # the start has its own limit
            done = done or b"D" in progress
            if ready and now - started > HEALTHY_SECONDS:
                self.crashes = 0
            code = worker.poll()
            if code is not None:
                return self._ending_of(code, done or b"D" in self._read_progress(pipe), requested)
            if self.request and not requested:
                requested, requested_at = self._signal_worker(worker), now
            if requested:
                if now - requested_at > limits.drain_seconds + KILL_SECONDS:
                    self.log("error", "worker does not stop: killed", after=limits.drain_seconds)
                    worker.kill()
            elif now - last > (limits.hang_seconds if ready else limits.start_seconds):
                self.log("error", "no progress: killed", seconds=round(now - last, 1), phase="running" if ready else "starting")
                worker.kill()
                worker.wait()
                return "hung", 1

    def _read_progress(self, pipe: int) -> bytes:
        """The progress bytes that came through the pipe within `POLL_SECONDS`."""
        ready, _, _ = select.select([pipe], [], [], POLL_SECONDS)
        if not ready:
            return b""
        try:
            progress = os.read(pipe, 4096)
        except BlockingIOError:
            return b""
        if not progress:  # closed: the worker is about to end
            time.sleep(0.02)
        return progress

    def _signal_worker(self, worker: subprocess.Popen[bytes]) -> str:
        """Stop the worker for the request; "" where a reload is impossible."""
        if self.request == "reload":
            self.request = ""
            try:
                own = load(self.config_path)
                state_lock.hold(Path(own.state) if own.state else default_folder())
                self.own = own
            except UsageError as error:
                self.log("error", "config has problems: the old one stays in use", why=error)
                return ""
            notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
            worker.send_signal(signal.SIGTERM)
            return "reload"
        worker.send_signal(signal.SIGTERM)
        return "stop" if self.request == "stop" else "relaunch"

    def _ending_of(self, code: int, done: bool, requested: str) -> tuple[Ending, int]:
        if requested == "reload" and self.request != "stop":
            return "reload", 0
        if requested == "relaunch" and self.request != "stop":
            return "relaunch", 0
        if requested:
            self.log("info", "stopped")
            return "stopped", 0
        if done:
            return "done", code
        if code in FATAL_EXIT_CODES and not self.was_ready:
            return "fatal", code
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.log("error", "worker died", how=how)
        return "crashed", code
