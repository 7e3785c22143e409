"""The study of a sweep: many variants of a recipe, and the best trade-offs among them (by Optuna, or Ray on a cluster)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cache.digests import digest
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.recipe import Recipe
from edgeloop_pipeline.recipe.settings import Knob, Sweep, Target
from edgeloop_pipeline.sweep.trial import Pruned, SweepPoint, TrialPruner

FOLDER = "sweeps"
BEST: dict[str, Literal["maximize", "minimize"]] = {"accuracy": "maximize", "latency": "minimize", "bytes": "minimize"}
MAX_POINTS = 64  # a space of at most this size is tried point by point, without repeats


@dataclass(frozen=True)
class SweepTrial:
    """One line of the sweep. `state`: complete, pruned or failed (`why` says so)."""

    number: int
    state: str
    changes: tuple[str, ...]
    point: SweepPoint | None
    why: str = ""
    best: bool = False


class Workers(Protocol):
    """The interface to the place where trials run: `count` at a time, between entering and leaving `ready`."""

    @property
    def count(self) -> int: ...

    def ready(self, log: Callable[[str], None]) -> AbstractContextManager[None]: ...

    def start(self, changes: tuple[str, ...], board: TrialPruner, log: Callable[[str], None]) -> Any: ...

    def next(self, waiting: list[tuple[Any, Any]]) -> tuple[Any, SweepPoint | Exception]:
        """The next finished trial of `waiting` (trial, result of `start`); it is removed from `waiting`."""


def grid_of(knobs: dict[str, Knob]) -> list[dict[str, int]]:
    """Every point of a small space of choices, as indices of the choices; [] if there are ranges or too many points."""
    counts = [range(len(knob.choices or ())) for knob in knobs.values()]
    if math.prod(len(c) for c in counts) > MAX_POINTS:
        return []
    return [dict(zip(knobs, point, strict=True)) for point in product(*counts)]


def changes_of(knobs: dict[str, Knob], suggest: Any) -> tuple[str, ...]:
    """One point of the space as `--set` arguments. `suggest`: an Optuna trial, or a frozen one."""
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
    """The recipe's sweep, after a check of both ends of every knob. Raises UsageError."""
    wanted = recipe.head.sweep
    if wanted is None:
        raise UsageError(f"{recipe.path}: has no sweep; add sweep: {{vary: {{stage.key: {{choices: […]}} or {{low, high}}}}}}")
    for name, knob in wanted.vary.items():
        for value in knob.choices if knob.choices is not None else (knob.low, knob.high):
            recipes.load(recipe.path, (f"{name}={msgspec.json.encode(value).decode()}",))
    return wanted


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
        """The study's name. Another space or recipe is another study; more trials or other floors are the same one: floors are
        judged when a point is built."""
        head = msgspec.structs.replace(self.recipe.head, sweep=msgspec.structs.replace(self.sweep, trials=1), target=Target())
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
        # A different seed after each stop, or the sampler would repeat its first draws.
        seed = self.recipe.head.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)
        if not must_exist:
            self._take_up(study)
        return study

    def _take_up(self, study: Any) -> None:
        """Try again the trials that a killed sweep did not finish."""
        import optuna

        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)

    def trials(self, study: Any) -> list[SweepTrial]:
        good = {t.number for t in study.best_trials if t.user_attrs["point"]["accuracy"] >= self.sweep.min_accuracy}
        rows = []
        for t in study.trials:
            state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(t.state.name)
            if state and "changes" in t.user_attrs:
                attrs = t.user_attrs
                point = msgspec.convert(attrs["point"], SweepPoint) if state == "complete" else None
                rows.append(SweepTrial(t.number, state, tuple(attrs["changes"]), point, attrs.get("why", ""), t.number in good))
        return rows

    def board(self, study: Any) -> TrialPruner:
        points = [t.point for t in self.trials(study) if t.point is not None]
        return TrialPruner(self.sweep.prune_margin, [(p.parameters, p.curve) for p in points])

    def _untried(self, study: Any) -> int | None:
        """Queue the untried points of a small space. Returns their number; None if the sampler chooses."""
        import optuna

        grid = grid_of(self.sweep.vary)
        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        tried = [t.params for t in study.get_trials(states=states)]
        for point in grid:
            if point not in tried:
                study.enqueue_trial(point, skip_if_exists=True)
        return len([p for p in grid if p not in tried]) if grid else None

    def run(self, log: Callable[[str], None], workers: Workers) -> list[SweepTrial]:
        """Run trials up to the recipe's number. A failed trial says why, and the others continue."""
        study = self.open()
        with workers.ready(log):
            left = self.sweep.trials - len([t for t in self.trials(study) if t.state != "failed"])
            if (untried := self._untried(study)) is not None:
                left = min(left, untried)
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

    def _tell(self, study: Any, trial: Any, outcome: SweepPoint | Exception, log: Callable[[str], None]) -> int:
        """Record the trial's outcome. Returns 1 if it failed, else 0."""
        import optuna

        if isinstance(outcome, SweepPoint):
            trial.set_user_attr("point", msgspec.to_builtins(outcome))
            study.tell(trial, [float(getattr(outcome, o)) for o in self.sweep.objectives])
            log(f"trial {trial.number}: {outcome.accuracy:.2%}, {outcome.latency:.0f} µs, {outcome.bytes:,} B")
            return 0
        trial.set_user_attr("why", str(outcome))
        pruned = isinstance(outcome, Pruned)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.FAIL)
        log(f"trial {trial.number}: {'ended early' if pruned else 'failed'}: {outcome}")
        return int(not pruned)


def chosen(recipe: Recipe, runs: Path, number: int) -> tuple[str, ...]:
    """The `--set` arguments of one finished trial. Raises UsageError that names the best ones."""
    study = Study.of(recipe, runs)
    rows = study.trials(study.open(must_exist=True))
    found = next((t for t in rows if t.number == number and t.point is not None), None)
    if found is None:
        best = ", ".join(str(t.number) for t in rows if t.best) or "none yet"
        raise UsageError(f"--from-sweep {number}: no finished trial of that number; the best trade-offs are {best}")
    return found.changes
