"""A sweep: many variants of a recipe, and the best trade-offs among them (Optuna; spread over machines by Ray)."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from edgeloop_contract.errors import DeviceError, EdgeloopError, UsageError
from edgeloop_pipeline import recipe as recipes
from edgeloop_pipeline.lifeline import dies_with
from edgeloop_pipeline.recipe import Knob, Recipe, Sweep
from edgeloop_pipeline.store import Store, digest

FOLDER = "sweeps"
LEFT_OUT = ("verify", "package", "report")  # the test set chooses nothing
BEST: dict[str, Literal["maximize", "minimize"]] = {"accuracy": "maximize", "latency": "minimize", "bytes": "minimize"}
PRUNE_FROM_EPOCH = 3


class Pruned(EdgeloopError):
    """A trial that is not worth finishing."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What one trial came to. `accuracy`: on validation data; `latency`: µs of the fastest int8 file; `bytes`: of the smallest."""

    accuracy: float
    latency: float
    bytes: int
    parameters: int
    curve: list[float]


@dataclass(frozen=True)
class Trial:
    """One line of the sweep. `state`: complete, pruned or failed (`why` says so)."""

    number: int
    state: str
    changes: tuple[str, ...]
    point: Point | None
    why: str = ""
    best: bool = False


@dataclass
class Board:
    """What finished trials learnt: how good a network of so many parameters was after each epoch."""

    margin: float
    curves: list[tuple[int, list[float]]] = field(default_factory=list)
    now: list[float] = field(default_factory=list)
    stage: str = ""

    def watch(self, name: str, epoch: int, accuracy: float, parameters: int) -> None:
        """Raises Pruned when a smaller network did clearly better at this epoch."""
        if name != self.stage:
            self.stage, self.now = name, []
        self.now.append(accuracy)
        if epoch < PRUNE_FROM_EPOCH or not name.endswith("/distill"):
            return
        for smaller, curve in self.curves:
            if smaller <= parameters and len(curve) >= epoch and accuracy < curve[epoch - 1] - self.margin:
                raise Pruned(f"{accuracy:.2%} after epoch {epoch}; a network of {smaller:,} parameters had {curve[epoch - 1]:.2%}")


def changes_of(knobs: dict[str, Knob], suggest: Any) -> tuple[str, ...]:
    """One point of the space as `--set` words. `suggest`: an Optuna trial, or a frozen one."""
    found = []
    for name, knob in knobs.items():
        if knob.choices is not None:
            # Optuna's categories are plain values; a choice may be a list.
            value = knob.choices[suggest.suggest_categorical(name, list(range(len(knob.choices))))]
        elif isinstance(knob.low, int) and isinstance(knob.high, int):
            value = suggest.suggest_int(name, knob.low, knob.high, step=int(knob.step or 1), log=knob.log)
        else:
            step = None if knob.log else knob.step
            value = suggest.suggest_float(name, float(knob.low or 0), float(knob.high or 0), step=step, log=knob.log)
        found.append(f"{name}={msgspec.json.encode(value).decode()}")
    return tuple(found)


def named(recipe: Recipe) -> Sweep:
    """The recipe's sweep, checked by trying every end of every knob. Raises UsageError."""
    wanted = recipe.head.sweep
    if wanted is None:
        raise UsageError(f"{recipe.path}: has no sweep; add sweep: {{vary: {{stage.key: {{choices: […]}} or {{low, high}}}}}}")
    for name, knob in wanted.vary.items():
        for value in knob.choices if knob.choices is not None else (knob.low, knob.high):
            recipes.load(recipe.path, (f"{name}={msgspec.json.encode(value).decode()}",))
    return wanted


def _stages(recipe: Recipe) -> tuple[str, ...]:
    off = [f"{name}=off" for name in LEFT_OUT if name in recipe.stages]
    if not {"quantize", "export", "profile"} <= recipe.stages.keys():
        raise UsageError(f"{recipe.path}: a sweep measures what ships; the recipe needs quantize, export and profile")
    return (*off, *(["distill.cache_teacher=true"] if "distill" in recipe.stages else []))


def measure(path: Path, changes: tuple[str, ...], runs: Path, board: Board, log: Callable[[str], None]) -> Point:
    """Run one variant as far as its profile."""
    from edgeloop_pipeline.runner import Listener, run
    from edgeloop_pipeline.watching import watcher

    class Quiet(Listener):
        def starts(self, name: str, reasons: list[str]) -> None:
            log(f"  {name} …")

    recipe = recipes.load(path, changes)
    token = watcher.set(board.watch)
    try:
        result = run(recipes.load(path, (*changes, *_stages(recipe))), Store(runs), Quiet())
    finally:
        watcher.reset(token)
    trained = result.metrics("distill") or result.metrics("train")
    costs = {n: v["latency_us_p50"] for n, v in result.metrics("profile")["variants"].items() if n.endswith("int8")}
    sizes = {n: size for n, size in result.metrics("export")["bytes"].items() if n.endswith("int8")}
    return Point(
        accuracy=result.metrics("quantize")["validation_accuracy"], latency=min(costs.values()), bytes=min(sizes.values()),
        parameters=trained["parameters"], curve=[e["validation_accuracy"] for e in trained.get("curve", [])],
    )  # fmt: skip


@dataclass(frozen=True)
class Study:
    """The sweep of one recipe, on disk under the runs folder."""

    recipe: Recipe
    sweep: Sweep
    runs: Path

    @classmethod
    def of(cls, recipe: Recipe, runs: Path) -> Study:
        return cls(recipe, named(recipe), runs)

    @property
    def name(self) -> str:
        """Another space or another recipe is another study; more trials are the same one."""
        head = msgspec.structs.replace(self.recipe.head, sweep=msgspec.structs.replace(self.sweep, trials=1))
        return f"{head.name}-{digest([head, self.recipe.stages])[:12]}"

    def open(self, must_exist: bool = False) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        folder = self.runs / FOLDER
        path = folder / f"{self.name}.db"
        if must_exist and not path.is_file():
            raise UsageError(
                f"{self.recipe.head.name}: no sweep of this recipe in {self.runs}; run it first: edgeloop sweep {self.recipe.path}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name=self.name, load_if_exists=True,
            directions=[BEST[o] for o in self.sweep.objectives],
        )  # fmt: skip
        # Another seed after each stop, or the sampler would begin with the same draws again.
        seed = self.recipe.head.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)
        if not must_exist:
            self._take_up(study)
        return study

    def _take_up(self, study: Any) -> None:
        """What a killed sweep was at is tried again."""
        import optuna

        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)

    def trials(self, study: Any) -> list[Trial]:
        good = {t.number for t in study.best_trials if t.user_attrs["point"]["accuracy"] >= self.sweep.min_accuracy}
        rows = []
        for t in study.trials:
            state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(t.state.name)
            if state and "changes" in t.user_attrs:
                attrs = t.user_attrs
                point = msgspec.convert(attrs["point"], Point) if state == "complete" else None
                rows.append(Trial(t.number, state, tuple(attrs["changes"]), point, attrs.get("why", ""), t.number in good))
        return rows

    def board(self, study: Any) -> Board:
        points = [t.point for t in self.trials(study) if t.point is not None]
        return Board(self.sweep.prune_margin, [(p.parameters, p.curve) for p in points])

    def run(self, log: Callable[[str], None], workers: Workers | None = None) -> list[Trial]:
        """Trials until there are as many as the recipe says. A trial that fails says why, and the others go on."""
        study = self.open()
        workers = workers or Here(self)
        with workers.ready(log):
            left = self.sweep.trials - len([t for t in self.trials(study) if t.state != "failed"])
            waiting: list[tuple[Any, Any]] = []
            failed = 0
            while left > 0 or waiting:
                while left > 0 and len(waiting) < workers.count:
                    trial = study.ask()
                    changes = changes_of(self.sweep.vary, trial)
                    trial.set_user_attr("changes", list(changes))
                    log(f"trial {trial.number}: {' '.join(changes)}")
                    waiting.append((trial, workers.start(changes, self.board(study), log)))
                    left -= 1
                trial, outcome = workers.next(waiting)
                failed += self._tell(study, trial, outcome, log)
                if failed > max(3, self.sweep.trials // 4):
                    raise UsageError(f"{self.recipe.head.name}: {failed} trials failed; the last: {outcome}")
        return self.trials(study)

    def _tell(self, study: Any, trial: Any, outcome: Point | Exception, log: Callable[[str], None]) -> int:
        """1 when the trial failed."""
        import optuna

        if isinstance(outcome, Point):
            trial.set_user_attr("point", msgspec.to_builtins(outcome))
            study.tell(trial, [float(getattr(outcome, o)) for o in self.sweep.objectives])
            log(f"trial {trial.number}: {outcome.accuracy:.2%}, {outcome.latency:.0f} µs, {outcome.bytes:,} B")
            return 0
        trial.set_user_attr("why", str(outcome))
        pruned = isinstance(outcome, Pruned)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.FAIL)
        log(f"trial {trial.number}: {'ended early' if pruned else 'failed'}: {outcome}")
        return int(not pruned)


class Workers:
    """Where trials run."""

    count = 1

    @contextmanager
    def ready(self, log: Callable[[str], None]) -> Iterator[None]:
        yield

    def start(self, changes: tuple[str, ...], board: Board, log: Callable[[str], None]) -> Any:
        raise NotImplementedError

    def next(self, waiting: list[tuple[Any, Any]]) -> tuple[Any, Point | Exception]:
        raise NotImplementedError


class Here(Workers):
    """One after the other, each in a process of its own: the next one starts clean. What they share is made once."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def start(self, changes: tuple[str, ...], board: Board, log: Callable[[str], None]) -> Point | Exception:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), dies_with, (os.getpid(),)) as pool:
            where = (str(self.study.recipe.path), changes, str(self.study.runs.resolve()))
            try:
                return outcome_of(*pool.submit(attempt_in_words, *where, board.margin, board.curves, True).result())
            except BrokenProcessPool:
                return UsageError("its process was killed; there may be too little memory")

    def next(self, waiting: list[tuple[Any, Any]]) -> tuple[Any, Point | Exception]:
        trial, outcome = waiting.pop(0)
        return trial, outcome


class OnRay(Workers):
    """Over a Ray cluster (the local machine, where none is named): the same study, its trials on many workers.

    Each worker has a runs folder of its own; it begins with what the main one holds, so that the teacher is trained once.
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
        """Run what no knob changes here, once, and hand it to every worker."""
        from edgeloop_pipeline.runner import Listener, run

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
        run(recipes.load(recipe.path, off), Store(self.study.runs), Listener())
        for folder in self.free:
            shutil.copytree(self.study.runs / "cache", folder / "cache", dirs_exist_ok=True, copy_function=_linked)

    def start(self, changes: tuple[str, ...], board: Board, log: Callable[[str], None]) -> Any:
        folder = self.free.pop()
        job = self.remote.remote(str(self.study.recipe.path), changes, str(folder.resolve()), board.margin, board.curves)
        self.used[job] = folder
        return job

    def next(self, waiting: list[tuple[Any, Any]]) -> tuple[Any, Point | Exception]:
        import ray

        done, _ = ray.wait([job for _, job in waiting], num_returns=1)
        place = next(i for i, (_, job) in enumerate(waiting) if job == done[0])
        trial, job = waiting.pop(place)
        self.free.append(self.used.pop(job))
        try:
            return trial, outcome_of(*ray.get(job))
        except ray.exceptions.RayError as error:
            return trial, UsageError(f"its worker died: {str(error).splitlines()[0]}")


def _linked(source: str, target: str) -> str:
    """A hard link where the disk can; stored results are never changed in place."""
    if not Path(target).exists():
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    return target


def attempt_in_words(
    path: str, changes: tuple[str, ...], runs: str, margin: float, curves: list[tuple[int, list[float]]], aloud: bool = False
) -> tuple[str, Any]:
    """A trial's outcome in plain values, for another process: what it came to, or why it came to nothing."""
    board = Board(margin, [(count, list(curve)) for count, curve in curves])
    try:
        point = measure(Path(path), tuple(changes), Path(runs), board, lambda text: click.echo(text, err=True) if aloud else None)
    except EdgeloopError as error:
        return ("pruned" if isinstance(error, Pruned) else "failed"), str(error)
    return "point", msgspec.to_builtins(point)


def outcome_of(kind: str, value: Any) -> Point | Exception:
    if kind == "point":
        return msgspec.convert(value, Point)
    return Pruned(value) if kind == "pruned" else UsageError(value)


def chosen(recipe: Recipe, runs: Path, number: int) -> tuple[str, ...]:
    """The `--set` words of one finished trial. Raises UsageError that names the good ones."""
    study = Study.of(recipe, runs)
    rows = study.trials(study.open(must_exist=True))
    found = next((t for t in rows if t.number == number and t.point is not None), None)
    if found is None:
        best = ", ".join(str(t.number) for t in rows if t.best) or "none yet"
        raise UsageError(f"--from-sweep {number}: no finished trial of that number; the best trade-offs are {best}")
    return found.changes
