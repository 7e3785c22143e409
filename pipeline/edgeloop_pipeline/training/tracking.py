"""Sends training curves to TensorBoard and MLflow, one setting each. A tracker that fails never stops training."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cache.store import write
from edgeloop_pipeline.training.settings import FitSettings

RUN_FILE = "mlflow-run"
BARS = "▁▂▃▄▅▆▇█"
INSTALL = "needs a package that is not installed: pip install 'edgeloop[tracking]'"


class Tracker(Protocol):
    def epoch(self, number: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Writes scalars to `folder`/`name`. A resumed run overwrites the values after its checkpoint."""

    def __init__(self, folder: str, name: str, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(f"tensorboard: {INSTALL}") from error
        self._writer: Any = SummaryWriter(str(Path(folder) / name), purge_step=done + 1 if done else None)

    def epoch(self, number: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, number)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """Sends settings and metrics to a tracking address (a server, or file:…). A resumed run continues its own record."""

    def __init__(self, address: str, name: str, settings: FitSettings, scratch: Path) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise UsageError(f"mlflow: {INSTALL}") from error
        if address.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # without this, MLflow 3 refuses plain folders
        self._client: Any = MlflowClient(tracking_uri=address)
        remembered = scratch / RUN_FILE
        if remembered.exists():
            self._run = remembered.read_text()
            return
        experiment, _, stage = name.partition("/")
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else self._client.create_experiment(experiment)
        self._run = self._client.create_run(number, run_name=stage).info.run_id
        for key, value in asdict(settings).items():
            self._client.log_param(self._run, key, value)
        write(remembered, self._run.encode())

    def epoch(self, number: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._client.log_metric(self._run, key, value, step=number)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class Trackers:
    """All trackers of the settings. One that fails is left out from then on, and the log says so."""

    def __init__(self, settings: FitSettings, name: str, scratch: Path, done: int, log: Callable[[str], None]) -> None:
        self.log, self.notes = log, list[str]()
        self._active: list[Tracker] = []
        if settings.tensorboard:
            self._guarded("tensorboard", lambda: self._active.append(TensorBoard(settings.tensorboard, name, done)))
        if settings.mlflow:
            self._guarded("mlflow", lambda: self._active.append(MLflow(settings.mlflow, name, settings, scratch)))

    def epoch(self, number: int, values: dict[str, float]) -> None:
        for tracker in list(self._active):
            if not self._guarded(type(tracker).__name__, lambda t=tracker: t.epoch(number, values)):  # type: ignore[misc]
                self._active.remove(tracker)

    def close(self) -> None:
        for tracker in self._active:
            self._guarded(type(tracker).__name__, tracker.close)

    def _guarded(self, name: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except UsageError:
            raise
        except Exception as error:  # a tracking server can fail in any way
            self.notes.append(f"{name}: left out because it failed ({type(error).__name__}: {str(error)[:120]})")
            self.log(self.notes[-1])
            return False
        return True


def spark(values: list[float], width: int = 16) -> str:
    """The last values as a small curve of text characters."""
    last = values[-width:]
    low, high = min(last), max(last)
    return "".join(BARS[round((len(BARS) - 1) * (v - low) / (high - low or 1))] for v in last)
