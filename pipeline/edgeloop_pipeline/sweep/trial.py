"""Runs one trial of a sweep in its own process: a variant of a recipe, up to its profile stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec

from edgeloop_contract.errors import EdgeloopError, UsageError
from edgeloop_contract.manifest import Precision
from edgeloop_pipeline.cache.store import Store
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.recipe import Recipe

LEFT_OUT = ("verify", "package", "report")  # nothing is chosen on the test set
PRUNE_FROM_EPOCH = 3


class Pruned(EdgeloopError):
    """Raised when a trial is not worth finishing."""


class SweepPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one trial. `accuracy`: on validation data; `latency`: µs of the fastest int8 file; `bytes`: of the smallest."""

    accuracy: float
    latency: float
    bytes: int
    parameters: int
    curve: list[float]


@dataclass
class TrialPruner:
    """Ends weak trials, by the curves of finished ones: the metric after each epoch, with the number of parameters."""

    margin: float
    curves: list[tuple[int, list[float]]] = field(default_factory=list)
    now: list[float] = field(default_factory=list)
    stage: str = ""

    def watch(self, name: str, epoch: int, accuracy: float, parameters: int) -> None:
        """Raise Pruned if a smaller network was clearly better at this epoch."""
        if name != self.stage:
            self.stage, self.now = name, []
        self.now.append(accuracy)
        if epoch < PRUNE_FROM_EPOCH or not name.endswith("/distill"):
            return
        for smaller, curve in self.curves:
            if smaller <= parameters and len(curve) >= epoch and accuracy < curve[epoch - 1] - self.margin:
                raise Pruned(f"{accuracy:.2%} after epoch {epoch}; a network of {smaller:,} parameters had {curve[epoch - 1]:.2%}")


def _stages(recipe: Recipe) -> tuple[str, ...]:
    off = [f"{name}=off" for name in LEFT_OUT if name in recipe.stages]
    if not {"quantize", "export", "profile"} <= recipe.stages.keys():
        raise UsageError(f"{recipe.path}: a sweep measures the shipped files; the recipe needs quantize, export and profile")
    # Floors are judged when a point is built; here they would start repairs by training for students that never hold them.
    off += ["target.min_accuracy=null"] if recipe.head.target.min_accuracy is not None else []
    return (*off, *(["distill.cache_teacher=true"] if "distill" in recipe.stages else []))


def measure(path: Path, changes: tuple[str, ...], runs: Path, board: TrialPruner, log: Callable[[str], None]) -> SweepPoint:
    """Run one variant up to its profile stage. Returns its figures."""
    from edgeloop_pipeline.results.files import ExportResult, ProfileResult
    from edgeloop_pipeline.results.quantization import QuantizeResult
    from edgeloop_pipeline.results.training import NetworkResult
    from edgeloop_pipeline.run.runner import Listener, run

    class Quiet(Listener):
        def starts(self, name: str, reasons: list[str]) -> None:
            log(f"  {name} …")

        def epoch(self, name: str, epoch: int, metric: float, parameters: int) -> None:
            board.watch(name, epoch, metric, parameters)

    recipe = recipes.load(path, changes)
    result = run(recipes.load(path, (*changes, *_stages(recipe))), Store(runs), Quiet(), keep="no")
    trained = result.result("distill", NetworkResult) or result.result("train", NetworkResult)
    exported, profiled = result.result("export", ExportResult), result.result("profile", ProfileResult)
    quantized = result.result("quantize", QuantizeResult)
    if trained is None or exported is None or profiled is None or quantized is None:
        raise UsageError(f"{path}: a sweep compares trained networks; the recipe needs train, quantize, export and profile")
    integer = [name for name, precision in exported.precisions.items() if precision == Precision.INT8]
    return SweepPoint(
        accuracy=quantized.validation_accuracy, latency=min(profiled.variants[name].latency_us_p50 for name in integer),
        bytes=min(exported.bytes[name] for name in integer), parameters=trained.parameters,
        curve=[epoch.validation_accuracy for epoch in trained.curve],
    )  # fmt: skip


def attempt_in_words(
    path: str, changes: tuple[str, ...], runs: str, margin: float, curves: list[tuple[int, list[float]]], aloud: bool = False
) -> tuple[str, Any]:
    """A trial's outcome as plain values for another process: its figures, or the reason why it has none."""
    board = TrialPruner(margin, [(count, list(curve)) for count, curve in curves])
    try:
        point = measure(Path(path), tuple(changes), Path(runs), board, lambda text: click.echo(text, err=True) if aloud else None)
    except EdgeloopError as error:
        return ("pruned" if isinstance(error, Pruned) else "failed"), str(error)
    return "point", msgspec.to_builtins(point)


def outcome_of(kind: str, value: Any) -> SweepPoint | Exception:
    if kind == "point":
        return msgspec.convert(value, SweepPoint)
    return Pruned(value) if kind == "pruned" else UsageError(value)
