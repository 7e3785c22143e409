"""Searches before training: the batch with the best throughput within the memory ceiling, and the learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.cache.store import write
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.results.training import BatchTrial, SearchFacts
from edgeloop_pipeline.system import malloc
from edgeloop_pipeline.training import memory, schedules
from edgeloop_pipeline.training.batches import Augment, Batches
from edgeloop_pipeline.training.precision import Precision, choose, precision, this_hardware
from edgeloop_pipeline.training.scoring import channels_last, copy_of, device, evaluation_batch
from edgeloop_pipeline.training.settings import FitSettings
from edgeloop_pipeline.training.steps import gradients

FILE = "search.json"
BATCHES = tuple(2**i for i in range(4, 14))
GOOD_ENOUGH = 0.97  # share of the best throughput: the smallest such batch wins, because it makes more steps per epoch
TRIAL_SECONDS = 0.3
STEPS_AN_EPOCH = 8  # a batch with fewer steps is no candidate
RANGE = {"sgd": (1e-4, 10.0), "adamw": (1e-6, 1.0), "adafactor": (1e-6, 1.0)}
RANGE_STEPS = 80
SMOOTHING = 0.9
DIVERGED = 1.5  # times the lowest smoothed loss
# The chosen rate is the first at which the loss has fallen by this share of the test's whole fall. It is before the lowest
# point: on an easy task the loss still falls at rates that no longer train. Schedules that fall right after the peak allow more.
SHARE_OF_FALL = {"one-cycle": 0.9, "cosine": 0.9, "plateau": 0.7, "constant": 0.7}
FREE_SHARE = 0.8
# Only a clearly faster candidate replaces the usual choice, so that noise does not change the training.
CLEARLY_FASTER = 1.25
LAYOUT_TRIAL_BATCH, LAYOUT_TRIAL_STEPS = 64, 6  # at most


@dataclass(frozen=True)
class SearchOutcome:
    """The settings for the training, and how they were found ([] for given ones)."""

    batch: int
    learning_rate: float
    precision: str
    why: str
    channels_last: bool
    trials: list[BatchTrial]
    range: list[tuple[float, float]]  # learning rate, smoothed loss
    layouts: dict[str, float]  # precision and memory layout → ms per step
    seconds: float = 0.0

    def described(self) -> SearchFacts | None:
        if not self.trials and not self.range and not self.layouts:
            return None
        return SearchFacts(self.trials, self.range, self.layouts, self.seconds)


def choose_settings(
    network: nn.Module, normalization: InputNormalization, splits: PreparedSplits, settings: FitSettings, loss: Any,
    augment: Augment | None, seed: int, scratch: Path, log: Callable[[str], None], teacher_scores: Any = None,
) -> SearchOutcome:  # fmt: skip
    """Choose precision, layout, batch and rate: the given ones, or by search. A resumed run keeps the first choice."""
    path = scratch / FILE
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=SearchOutcome)
    start = time.perf_counter()
    made = Batches(
        splits.train, normalization, _trial_batch(settings, splits), settings.accumulate, seed, augment, settings.mixup,
        len(splits.labels),
    )  # fmt: skip
    made = replace(made, teacher_scores=teacher_scores)
    layouts, name, why, last = _layout(network, made, settings, loss)
    if layouts:
        log(f"precision {name}{', channels last' if last else ''}: " + ", ".join(f"{k} {v:.1f} ms" for k, v in layouts.items()))
    made = replace(made, channels_last=last)
    chosen = precision(name, why)
    trials: list[BatchTrial] = []
    batch = settings.batch
    if batch == "auto":
        trials = throughput(network, made, settings, loss, chosen)
        batch = chosen_batch(trials)
        log(f"batch {batch}: " + ", ".join(f"{t.batch}: {t.samples_per_second:,.0f}/s" for t in trials if t.samples_per_second))
    curve: list[tuple[float, float]] = []
    rate = settings.learning_rate
    if rate == "auto":
        curve = range_test(network, replace(made, batch=batch), settings, loss, chosen)
        rate = chosen_rate(curve, settings.schedule)
        log(f"learning rate {rate:.3g}, by a range test of {len(curve)} steps")
    malloc.give_back()  # the trials' memory; training needs other sizes
    found = SearchOutcome(batch, rate, name, why, last, trials, curve, layouts, time.perf_counter() - start)
    if found.described():
        write(path, msgspec.json.encode(found))
    return found


def _trial_batch(settings: FitSettings, splits: PreparedSplits) -> int:
    """No more samples than training will hold at a time: 64 large pictures took gigabytes for a recipe of 8."""
    wanted = settings.batch if isinstance(settings.batch, int) else evaluation_batch(splits.train.values)
    return min(LAYOUT_TRIAL_BATCH, wanted)


def _layout(network: nn.Module, made: Batches, settings: FitSettings, loss: Any) -> tuple[dict[str, float], str, str, bool]:
    """Measure the candidates: their milliseconds, and the precision (with the reason) and memory layout for the training.

    Reduced precision does not always pay: for example, depthwise convolutions are faster in float32 on some CPUs.
    """
    usual, why = choose(settings.precision, this_hardware())
    names = [usual, "float32"] if settings.precision == "auto" and usual != "float32" else [usual]
    layouts = [settings.channels_last] if settings.channels_last != "auto" else [True, False]
    if made[0, 0][0][0].dim() != 4:
        layouts = [False]
    candidates = {(name, last): f"{name}{' channels last' if last else ''}" for name in names for last in layouts}
    if len(candidates) == 1:
        return {}, usual, why, bool(layouts[0])
    times = {pair: _trial(network, replace(made, channels_last=pair[1]), settings, loss, precision(pair[0])) for pair in candidates}
    name, last = chosen_layout(times, (usual, layouts[0]))
    if name != usual:
        why = f"measured: {times[usual, layouts[0]] / times[name, last]:.1f}× as fast as {usual} for this network"
    return {candidates[pair]: 1e3 * t for pair, t in times.items()}, name, why, bool(last)


def chosen_layout(times: dict[tuple[str, Any], float], usual: tuple[str, Any]) -> tuple[str, Any]:
    best = min(times, key=lambda pair: times[pair])
    return best if times[usual] > CLEARLY_FASTER * times[best] else usual


def _trial(network: nn.Module, made: Batches, settings: FitSettings, loss: Any, chosen: Precision) -> float:
    """The shortest of a few steps in seconds, on a copy of the network; longer ones contain noise."""
    trial = copy_of(network).train()
    if made.channels_last:
        channels_last(trial)
    parts, taken = made[0, 0], []
    with torch.random.fork_rng(), memory.checkpointed(trial, settings.checkpoint_activations):
        for _ in range(LAYOUT_TRIAL_STEPS):
            start = time.perf_counter()
            gradients(trial, parts, made.count(0, 0), loss, chosen)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return min(taken[1:])


def throughput(network: nn.Module, made: Batches, settings: FitSettings, loss: Any, chosen: Precision) -> list[BatchTrial]:
    """Measure batch sizes from small to large, on a copy of the network, until the throughput or the memory ends the search."""
    ceiling = settings.max_memory_bytes if settings.max_memory_bytes != "auto" else int(FREE_SHARE * memory.free_bytes())
    trials: list[BatchTrial] = []
    few, _ = made[0, 0][0]
    few = few[:4].to(device())
    for batch in BATCHES:
        if batch * STEPS_AN_EPOCH > len(made.samples) and trials:
            break
        samples = math.ceil(batch / settings.accumulate)
        need = memory.estimate(network, few, samples, settings.optimizer, chosen.autocast, settings.checkpoint_activations).total
        if need > ceiling:
            trials.append(BatchTrial(batch, None, need, f"needs {need / 1e6:,.0f} MB, the ceiling is {ceiling / 1e6:,.0f} MB"))
            break
        try:
            speed = _speed(network, replace(made, batch=batch), settings, loss, chosen)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            trials.append(BatchTrial(batch, None, need, "out of memory"))
            break
        trials.append(BatchTrial(batch, speed, need))
        speeds = [t.samples_per_second or 0.0 for t in trials]
        if len(speeds) >= 3 and max(speeds[-2:]) < max(speeds[:-2]) * 1.01:
            break
    return trials


def _speed(network: nn.Module, made: Batches, settings: FitSettings, loss: Any, chosen: Precision) -> float:
    trial = copy_of(network).train()
    optimizer = schedules.optimizer_of(trial, settings, 1e-4)
    if made.channels_last:
        channels_last(trial)
    parts = made[0, 0]
    taken: list[float] = []
    with torch.random.fork_rng(), memory.checkpointed(trial, settings.checkpoint_activations):
        while len(taken) < 3 or (sum(taken) < TRIAL_SECONDS and len(taken) < 30):
            start = time.perf_counter()
            gradients(trial, parts, made.batch, loss, chosen)
            optimizer.step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return made.batch * (len(taken) - 1) / sum(taken[1:])  # the first step includes allocations


def chosen_batch(trials: list[BatchTrial]) -> int:
    """The smallest batch whose throughput is close to the best."""
    measured = [t for t in trials if t.samples_per_second]
    if not measured:
        return trials[0].batch
    best = max(t.samples_per_second or 0 for t in measured)
    return next(t.batch for t in measured if (t.samples_per_second or 0) >= GOOD_ENOUGH * best)


def range_test(network: nn.Module, made: Batches, settings: FitSettings, loss: Any, chosen: Precision) -> list[tuple[float, float]]:
    """The smoothed loss while the rate rises by the same factor each step (Smith 2017), on a copy; ends when it diverges."""
    low, high = RANGE[settings.optimizer]
    trial = copy_of(network).train()
    if made.channels_last:
        channels_last(trial)
    optimizer = schedules.optimizer_of(trial, settings, low)
    curve: list[tuple[float, float]] = []
    average = 0.0
    with torch.random.fork_rng(), memory.checkpointed(trial, settings.checkpoint_activations):
        for i in range(RANGE_STEPS):
            rate = low * (high / low) ** (i / (RANGE_STEPS - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate
            place = divmod(i, made.steps)
            count = made.count(*place)
            mean = gradients(trial, made[place], count, loss, chosen) / count
            optimizer.step()
            average = SMOOTHING * average + (1 - SMOOTHING) * mean
            smooth = average / (1 - SMOOTHING ** (i + 1))
            if not math.isfinite(smooth) or (curve and smooth > DIVERGED * min(s for _, s in curve)):
                break
            curve.append((rate, smooth))
    return curve


def chosen_rate(curve: list[tuple[float, float]], schedule: str) -> float:
    """The rate at which most of the loss's fall has happened, before it diverges. `curve`: rate, smoothed loss."""
    if not curve:
        return 1e-4
    lowest = min(loss for _, loss in curve)
    enough = curve[0][1] - SHARE_OF_FALL[schedule] * (curve[0][1] - lowest)
    return float(f"{next(rate for rate, loss in curve if loss <= enough):.2g}")


def out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "out of memory" in text or "can't allocate memory" in text
