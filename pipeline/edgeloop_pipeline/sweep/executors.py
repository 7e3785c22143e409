"""Runs the trials of a sweep: on this machine, one after the other, or over a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import DeviceError, UsageError
from edgeloop_pipeline.cache.store import Store
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.sweep.study import FOLDER, Study
from edgeloop_pipeline.sweep.trial import SweepPoint, TrialPruner, attempt_in_words, outcome_of
from edgeloop_pipeline.system.child_process import dies_with


class Here:
    """Runs trials one after the other, each in its own process, so that each starts clean. Shared stages run once."""

    count = 1

    def __init__(self, study: Study) -> None:
        self.study = study

    @contextmanager
    def ready(self, log: Callable[[str], None]) -> Iterator[None]:
        yield

    def start(self, changes: tuple[str, ...], board: TrialPruner, log: Callable[[str], None]) -> SweepPoint | Exception:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), dies_with, (os.getpid(),)) as pool:
            where = (str(self.study.recipe.path), changes, str(self.study.runs.resolve()))
            try:
                return outcome_of(*pool.submit(attempt_in_words, *where, board.margin, board.curves, True).result())
            except BrokenProcessPool:
                return UsageError("its process was killed; there may be too little memory")

    def next(self, waiting: list[tuple[Any, Any]]) -> tuple[Any, SweepPoint | Exception]:
        trial, outcome = waiting.pop(0)
        return trial, outcome


class OnRay:
    """Runs the trials of one study on many workers of a Ray cluster (default: this machine).

    Each worker has its own runs folder. It starts with the content of the main one, so that the teacher is trained once.
    Hosts must see the recipe and the runs folder under the same paths.
    """

    def __init__(self, study: Study, count: int, address: str | None) -> None:
        self.study, self.count, self.address = study, count, address

    @contextmanager
    def ready(self, log: Callable[[str], None]) -> Iterator[None]:
        try:
            import ray
        except ImportError as error:
            raise DeviceError(f"sweep --on ray needs Ray: pip install 'edgeloop[ray]' ({error})") from error
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options = {"address": self.address} if self.address else {"num_cpus": self.count, "include_dashboard": False}
        ray.init(**options, logging_level="ERROR", log_to_driver=False, configure_logging=False)
        self.free = [self.study.runs / FOLDER / f"{self.study.name}-worker-{i}" for i in range(self.count)]
        self.used: dict[Any, Path] = {}
        self.remote = ray.remote(num_cpus=1, max_retries=0)(attempt_in_words)
        self._teacher(log)
        try:
            yield
        finally:
            ray.shutdown()

    def _teacher(self, log: Callable[[str], None]) -> None:
        """Run here once the stages that no knob changes, and give their results to every worker."""
        from edgeloop_pipeline.run.runner import Listener, run

        recipe = self.study.recipe
        varied = {name.removeprefix("stages.").split(".")[0] for name in self.study.sweep.vary}
        shared = []
        for name in recipe.stages:
            if name in varied:
                break
            shared.append(name)
        if varied - recipe.stages.keys() or not shared:
            return
        log(f"{', '.join(shared)}: once for all trials")
        off = tuple(f"{name}=off" for name in recipe.stages if name not in shared)
        run(recipes.load(recipe.path, off), Store(self.study.runs), Listener(), keep="no")
        for folder in self.free:
            shutil.copytree(self.study.runs / "cache", folder / "cache", dirs_exist_ok=True, copy_function=_linked)

    def start(self, changes: tuple[str, ...], board: TrialPruner, log: Callable[[str], None]) -> Any:
        folder = self.free.pop()
        job = self.remote.remote(str(self.study.recipe.path), changes, str(folder.resolve()), board.margin, board.curves)
        self.used[job] = folder
        return job

    def next(self, waiting: list[tuple[Any, Any]]) -> tuple[Any, SweepPoint | Exception]:
        import ray

        done, _ = ray.wait([job for _, job in waiting], num_returns=1)
        place = next(i for i, (_, job) in enumerate(waiting) if job == done[0])
        trial, job = waiting.pop(place)
        self.free.append(self.used.pop(job))
        try:
            return trial, outcome_of(*ray.get(job))
        except ray.exceptions.RayError as error:
            return trial, UsageError(f"its worker ended: {str(error).splitlines()[0]}")


def _linked(source: str, target: str) -> str:
    """Hard-link the tree, or copy it if the disk has no hard links; stored results never change in place."""
    if not Path(target).exists():
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    return target
