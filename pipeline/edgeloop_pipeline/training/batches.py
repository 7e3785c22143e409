"""Makes batches outside the training thread; they are the same for any number of loader or training processes."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgeloop_contract.errors import DataError
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.data.types import Samples
from edgeloop_pipeline.system.child_process import dies_with
from edgeloop_pipeline.training.scoring import channels_last

# Raw samples (N, *sample) → the same shape; where labels are boxes (N, boxes, 5) or masks (N, H, W): samples, labels → both.
Augment = Callable[..., Any]
PLACED = 3  # axes of labels that lie in the picture: boxes and masks
GRAIN = 128  # samples that share one generator: a process augments whole grains, and only those that contain its samples
TRIAL_STEPS = 12
PREFETCH = 4  # batches ready in each loader process at the start
WAIT_WORTH_A_WORKER = 0.05  # share of the time that the training thread waits: the most that a worker could save


@dataclass(frozen=True)
class Part:
    """This process's share of every batch."""

    rank: int = 0
    world: int = 1

    def slice(self, count: int) -> slice:
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)


@dataclass
class Batches(Dataset[Any]):
    """Item (epoch, step): the parts of that optimizer step's batch, [(x normalized, labels), …].

    Order, augmentation and mixing come from (seed, epoch, step, grain) alone.
    """

    samples: Samples
    normalization: InputNormalization
    batch: int
    accumulate: int
    seed: int
    augment: Augment | None = None
    mixup: float = 0.0
    classes: int = 0
    part: Part = field(default_factory=Part)
    channels_last: bool = True
    only_whole: bool = False  # leave out a smaller last batch
    # Cached teacher scores (epochs, samples, outputs); they are appended to the labels: (N, label columns + outputs).
    teacher_scores: Any = None

    @property
    def steps(self) -> int:
        """The steps of an epoch. A last, smaller batch counts if each part has two samples, which batch normalization needs."""
        whole, rest = divmod(len(self.samples), self.batch)
        return max(1, whole + (rest >= 2 * self.accumulate * self.part.world and not self.only_whole))

    def rows(self, epoch: int, step: int) -> Tensor:
        return _order(len(self.samples), self.seed, epoch)[step * self.batch : (step + 1) * self.batch]

    def count(self, epoch: int, step: int) -> int:
        return len(self.rows(epoch, step))

    def __getitem__(self, item: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        rows = self.rows(*item)
        mine = self.part.slice(len(rows))
        first, last = mine.start // GRAIN, -(-mine.stop // GRAIN)
        grains = [self._grain(rows[g * GRAIN : (g + 1) * GRAIN], (*item, g)) for g in range(first, last)]
        x, labels = (torch.cat(list(side)) for side in zip(*grains, strict=True))
        keep = slice(mine.start - first * GRAIN, mine.stop - first * GRAIN)
        x, labels = x[keep], labels[keep]
        x = channels_last(x) if self.channels_last else x.contiguous()
        return list(zip(x.chunk(self.accumulate), labels.chunk(self.accumulate), strict=True))

    def _grain(self, rows: Tensor, place: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(_seed(self.seed, *place))
        index = rows.numpy()
        values, labels = torch.from_numpy(self.samples.values[index]), torch.from_numpy(self.samples.labels[index])
        if self.augment is not None:
            values, labels = self._augmented(values, labels, generator)
        x = self.normalization.normalize(values)
        if self.mixup:
            share = np.random.default_rng(_seed(self.seed, *place)).beta(self.mixup, self.mixup, len(rows))
            other = torch.randperm(len(rows), generator=generator)
            weight = torch.from_numpy(share).float()
            x = x * weight.view(-1, *[1] * (x.dim() - 1)) + x[other] * (1 - weight).view(-1, *[1] * (x.dim() - 1))
            hot = labels if labels.is_floating_point() else torch.nn.functional.one_hot(labels, self.classes).float()
            labels = hot * weight[:, None] + hot[other] * (1 - weight)[:, None]
        if self.teacher_scores is not None:
            teacher_scores = torch.from_numpy(
                np.asarray(self.teacher_scores[place[0] % len(self.teacher_scores)][index], np.float32)
            )
            labels = torch.cat([labels.float().reshape(len(rows), -1), teacher_scores], 1)
        return x, labels

    def _augmented(self, values: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        assert self.augment is not None
        placed: Any = labels
        try:
            if labels.dim() == PLACED:
                made, placed = self.augment(values, labels, generator)
            else:
                made = self.augment(values, generator)
        except Exception as error:  # the user's code can raise anything
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise DataError(f"augment: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})") from error
        if not isinstance(made, Tensor) or made.shape != values.shape:
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise DataError(f"augment: returned {got} for samples of shape {tuple(values.shape)}; return the same shape")
        if not isinstance(placed, Tensor) or placed.shape != labels.shape:
            raise DataError(f"augment: returned other labels than {tuple(labels.shape)}; return both of the same shape")
        return made, placed


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_seed(seed, epoch)))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _From:
    """The endless sequence of (epoch, step) from a start on: the loader continues during evaluations and over epochs."""

    def __init__(self, epoch: int, step: int, steps: int, epochs: int) -> None:
        self.first, self.steps, self.epochs = epoch * steps + step, steps, epochs

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return (divmod(i, self.steps) for i in range(self.first, self.steps * self.epochs))


class Loader:
    """Gives batches in order and measures how long the training thread waits for them.

    `workers`, `prefetch` None: found by measurement during the first steps of the real training. Nothing is computed
    twice, and the result is the same, because batches do not depend on the process that makes them.
    """

    def __init__(
        self, batches: Batches, epochs: int, workers: int | None, prefetch: int | None, most: int, log: Callable[[str], None]
    ) -> None:
        self.batches, self.epochs, self.log = batches, epochs, log
        self.waited = 0.0
        self.trials: dict[tuple[int, int], float] = {}  # workers and prefetch → seconds per step
        self._fixed_workers, self._fixed_prefetch = workers is not None, prefetch is not None
        self._most, self._tuning = most, workers is None or (prefetch is None and workers > 0)
        self.workers, self.prefetch = workers or 0, prefetch or PREFETCH
        self._iterator: Iterator[Any] | None = None
        self._taken, self._since, self._wait_then = 0, 0.0, 0.0

    def start(self, epoch: int, step: int) -> None:
        """Start at this batch."""
        self.stop()
        options: dict[str, Any] = {}
        if self.workers:
            # fork: the workers share the samples without a copy.
            options = {
                "prefetch_factor": self.prefetch,
                "multiprocessing_context": "fork",
                "worker_init_fn": partial(dies_with, os.getpid()),
            }
        loader = DataLoader(
            self.batches, batch_size=None, sampler=_From(epoch, step, self.batches.steps, self.epochs),
            num_workers=self.workers, pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(), **options,  # a separate one: the network's draws do not depend on the loader's
        )  # fmt: skip
        self._iterator = iter(loader)
        self._taken = 0

    def next(self, epoch: int, step: int) -> list[tuple[Tensor, Tensor]]:
        if self._tuning:
            self._tune(epoch, step)
        assert self._iterator is not None
        start = time.perf_counter()
        batch: list[tuple[Tensor, Tensor]] = next(self._iterator)
        self.waited += time.perf_counter() - start
        self._taken += 1
        return batch

    def stop(self) -> None:
        self._iterator = None

    def _tune(self, epoch: int, step: int) -> None:
        """After some steps with these workers and ready batches, decide whether to add to either."""
        now = time.perf_counter()
        if self._taken == 2:  # the first steps include the start of the workers
            self._since, self._wait_then = now, self.waited
        if self._taken < 2 + TRIAL_STEPS:
            return
        here = (self.workers, self.prefetch)
        self.trials[here] = (now - self._since) / TRIAL_STEPS
        share = (self.waited - self._wait_then) / (now - self._since)
        best = min(self.trials, key=lambda pair: self.trials[pair])
        following = self._more(here) if share > WAIT_WORTH_A_WORKER and best == here else None
        self._tuning = following is not None
        if following or best != here:
            self.workers, self.prefetch = following or best
            self.start(epoch, step)
        if not self._tuning:
            ready = f", {self.prefetch} batches ready in each" if self.workers else ""
            self.log(f"loader: {self.workers} worker process{'es' * (self.workers != 1)}{ready}, by measurement")

    def _more(self, here: tuple[int, int]) -> tuple[int, int] | None:
        """The next setting to try: one more worker, up to the number of cores; then, once, twice the ready batches."""
        workers, prefetch = here
        if workers < self._most and not self._fixed_workers:
            return workers + 1, prefetch
        if workers and not self._fixed_prefetch and prefetch == PREFETCH:
            return workers, 2 * prefetch
        return None
