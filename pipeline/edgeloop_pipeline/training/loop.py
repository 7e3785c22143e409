"""The training loop, which can continue after a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from edgeloop_agent.hardware import cores
from edgeloop_contract.errors import ModelError
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.results.training import Epoch, LoaderFacts, MemoryFacts, TrainingFacts
from edgeloop_pipeline.tasks.losses import Loss
from edgeloop_pipeline.tasks.registry import task_for
from edgeloop_pipeline.training import checkpoints, fp8, memory, schedules, search
from edgeloop_pipeline.training.averaging import average_of
from edgeloop_pipeline.training.batches import Augment, Batches, Loader, Part
from edgeloop_pipeline.training.callbacks import Watcher, unwatched
from edgeloop_pipeline.training.parallel import processes
from edgeloop_pipeline.training.pipeline_parallel import Pipelined
from edgeloop_pipeline.training.precision import Precision, precision
from edgeloop_pipeline.training.scoring import channels_last, device, scores_of
from edgeloop_pipeline.training.settings import FitSettings
from edgeloop_pipeline.training.sharding import WholeModel, place_model
from edgeloop_pipeline.training.steps import gradients
from edgeloop_pipeline.training.tracking import Trackers, spark

CLOCK_STEPS = 50


@dataclass
class Run:
    """One run of the loop: its inputs and its progress."""

    network: nn.Module
    normalization: InputNormalization
    splits: PreparedSplits
    settings: FitSettings
    loss: Loss
    seed: int
    scratch: Path
    augment: Augment | None
    name: str
    split_at: Sequence[str]
    log: Callable[[str], None]
    each_epoch: Callable[[int], None]
    stack: ExitStack
    watch: Watcher = unwatched
    teacher_scores: Any = None  # cached teacher scores for every sample of every epoch, see Batches
    curve: list[Epoch] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("step", "evaluation", "checkpoint"), 0.0))
    notes: list[str] = field(default_factory=list)
    samples: int = 0

    def __post_init__(self) -> None:
        if self.settings.mixup and self.splits.task in ("anomaly", "detection", "keypoints", "segmentation", "multilabel"):
            raise ModelError(f"mixup: does not suit {self.splits.task}; remove it from the recipe")
        self.processes = processes()
        self.network.to(device())
        first = self.processes.part.rank == 0
        self.chosen: search.SearchOutcome = self.processes.agree(self._settled() if first else None)
        self.precision: Precision = precision(self.chosen.precision, self.chosen.why)
        if self.chosen.channels_last:
            channels_last(self.network)
        self._prepare()

    def _settled(self) -> search.SearchOutcome:
        return search.choose_settings(
            self.network, self.normalization, self.splits, self.settings, self.loss, self.augment, self.seed, self.scratch,
            self.log, self.teacher_scores,
        )  # fmt: skip

    def _prepare(self) -> None:
        """Prepare batches, memory, the network's device, optimizer, schedule and loader."""
        from edgeloop_agent.energy import Meter  # only the report shows it: it is no part of a cache key

        settings = self.settings
        self.task = task_for(self.splits)
        part = Part() if self.split_at else self.processes.part
        self.batches = Batches(
            self.splits.train, self.normalization, self.chosen.batch, settings.accumulate, self.seed, self.augment, settings.mixup,
            len(self.splits.labels), part, self.chosen.channels_last, bool(self.split_at), self.teacher_scores,
        )  # fmt: skip
        in_memory = math.ceil(self.chosen.batch / self.batches.part.world / settings.accumulate)
        few = self.normalization.normalize(torch.from_numpy(self.splits.train.values[:4]))
        few = (channels_last(few) if self.chosen.channels_last else few).to(device())
        self.estimate = memory.estimate(
            self.network, few, in_memory, settings.optimizer, self.precision.autocast, settings.checkpoint_activations
        )
        self.log(f"memory: about {self.estimate.total / 1e6:,.0f} MB for training")
        self.recomputed = len(self.stack.enter_context(memory.checkpointed(self.network, settings.checkpoint_activations)))
        self.float8 = 0
        if self.precision.name == "fp8":
            by_engine = fp8.engine_serves(settings.float8)
            layers = (fp8.by_engine if by_engine else fp8.converted)(self.network, settings.float8)
            self.float8 = len(self.stack.enter_context(layers))
            if by_engine:
                self.notes.append(f"FP8 by Transformer Engine in {self.float8} layers; it has no convolutions")
        self.rss = memory.resident_bytes()[0]
        self.meter = Meter()
        self.average = average_of(self.network, settings, bool(self.split_at))
        self.place = self._cut(few, in_memory) if self.split_at else self._whole_or_shared()
        self.optimizer = schedules.optimizer_of(self.place.mine, settings, self.chosen.learning_rate)
        self.schedule = schedules.schedule_of(
            self.optimizer, settings, self.chosen.learning_rate, self.batches.steps * settings.epochs
        )
        fixed = None if settings.workers == "auto" else settings.workers
        self.loader = Loader(
            self.batches, settings.epochs, fixed, None if settings.prefetch == "auto" else settings.prefetch, cores(), self.log
        )
        self.stack.callback(self.loader.stop)  # after an error, no process stays and keeps an inherited lock

    def _cut(self, few: Tensor, part: int) -> Pipelined:
        if self.precision.name != "float32" or self.settings.clip_norm or self.settings.checkpoint_activations:
            raise ModelError("split_at: needs precision: float32, without clip_norm and checkpoint_activations")
        example = few[:1].expand(part, *few.shape[1:]).contiguous()
        return Pipelined(self.network, example, list(self.split_at), self.settings.accumulate, self.processes)

    def _whole_or_shared(self) -> WholeModel:
        if self.settings.shard and (self.float8 or self.recomputed or self.precision.name == "fp16"):
            raise ModelError("shard: needs precision float32 or bf16, without checkpoint_activations")
        return place_model(self.network, self.processes, self.settings.shard, self.settings.offload)

    def run(self) -> Epoch:
        epoch, step, total = self._restore()
        wanted = self.settings if self.processes.part.rank == 0 else replace(self.settings, tensorboard="", mlflow="")
        self.trackers = Trackers(wanted, self.name, self.scratch, len(self.curve), self.log)
        self.loader.start(epoch, step)
        self._stored = time.monotonic()
        while epoch < self.settings.epochs and not self._stopped_early():
            self.each_epoch(epoch)
            if step == 0:
                # All randomness of an epoch comes from its number, so that a resumed run draws the same values.
                torch.manual_seed(self.seed * 100_003 + epoch + 7_919 * self.processes.part.rank)
            total = self._epoch(epoch, step, total)
            self._evaluate(epoch, total)
            epoch, step, total = epoch + 1, 0, 0.0
            self._store(epoch, 0, 0.0)
        self.loader.stop()
        self.trackers.close()
        self.notes += self.trackers.notes
        return self.curve[-1] if self.settings.keep == "last" else _best(self.curve)

    def _stopped_early(self) -> bool:
        patience = self.settings.patience
        if not patience or len(self.curve) - (_best(self.curve).epoch if self.curve else 0) < patience:
            return False
        self.notes.append(f"stopped after epoch {len(self.curve)}: {patience} epochs without a better one")
        self.log(self.notes[-1])
        return True

    def _epoch(self, epoch: int, first: int, total: float) -> float:
        """Train the epoch from step `first` on. Returns the sum of the samples' losses."""
        self.place.called.train()
        settings = self.settings
        for step in range(first, self.batches.steps):
            parts = self.loader.next(epoch, step)
            start = time.perf_counter()
            total += self.step(parts, self.batches.count(epoch, step))
            self.seconds["step"] += time.perf_counter() - start
            self.samples += self.batches.count(epoch, step)
            due = settings.checkpoint_steps and (step + 1) % settings.checkpoint_steps == 0
            if step + 1 < self.batches.steps and (due or self._clock_says_store(step)):
                self._store(epoch, step + 1, total)
            if not math.isfinite(total):
                raise ModelError(f"the loss became {total} in epoch {epoch + 1}; lower learning_rate, or set clip_norm")
        return total

    def _clock_says_store(self, step: int) -> bool:
        late = time.monotonic() - self._stored > self.settings.checkpoint_minutes * 60
        if self.processes.part.world == 1:
            return late
        # Clocks of processes differ, and an agreement costs a message: so not at every step.
        return step % CLOCK_STEPS == 0 and self.processes.agree(late if self.processes.part.rank == 0 else None)

    def step(self, parts: list[tuple[Tensor, Tensor]], count: int) -> float:
        """Do one optimizer step: the parts' gradients add up to the batch's. Returns this process's share of the summed loss."""
        if isinstance(self.place, Pipelined):
            total = self.place.step(parts, self.loss)
        else:
            world = self.processes.part.world
            total = gradients(self.place.called, parts, count, self.loss, self.precision, world, self.place.unsynchronised)
        with record_function("optimizer"):
            if self.precision.step(self.optimizer, self.place.mine, self.settings.clip_norm):
                self.schedule.step()
                self.average.update()
            if self.float8:
                fp8.advance(self.network)
        return total

    def _evaluate(self, epoch: int, total: float) -> None:
        start = time.perf_counter()
        self.place.gather(self.network)
        validation = self.splits.validation
        part = self.processes.part.slice(len(validation))
        share = replace(validation, values=validation.values[part], labels=validation.labels[part])
        with self.average.used():
            scores = self.processes.every(scores_of(self.network, self.normalization, share, self.precision.autocast()))
            state = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        accuracy, validation_loss = self.task.judge(scores, validation)
        samples = sum(self.batches.count(epoch, step) for step in range(self.batches.steps))
        loss = float(self.processes.total(torch.tensor(total, dtype=torch.float64))) / samples
        self.curve.append(Epoch(epoch + 1, loss, accuracy, validation_loss))
        if self.settings.keep == "last" or _best(self.curve) is self.curve[-1]:
            self.best_state = state
        self.schedule.epoch(validation_loss)
        self.seconds["evaluation"] += time.perf_counter() - start
        rate = self.optimizer.param_groups[0]["lr"]
        self.trackers.epoch(epoch + 1, {**msgspec.to_builtins(self.curve[-1]), "learning_rate": rate})
        drawn = spark([e.validation_accuracy for e in self.curve])
        self.watch(self.name, epoch + 1, accuracy, sum(p.numel() for p in self.network.parameters()))
        self.log(f"epoch {epoch + 1}/{self.settings.epochs}  loss {loss:.3f}  validation {accuracy:.2%} {drawn}  rate {rate:.2g}")

    def _store(self, epoch: int, step: int, total: float) -> None:
        start = time.perf_counter()
        self._stored = time.monotonic()
        generators = self.processes.collect(checkpoints.generators())
        total = float(self.processes.total(torch.tensor(total, dtype=torch.float64)))
        optimizer = self.place.optimizer_state(self.optimizer)
        if step:  # an epoch's end has just done this; the time of a checkpoint must not change the training
            self.place.gather(self.network, average=False)
        if self.processes.part.rank == 0:
            failed = checkpoints.store(
                self.scratch,
                {
                    "place": [epoch, step, total],
                    "network": self.network.state_dict(),
                    "average": self.average.state(),
                    "optimizer": optimizer,
                    "schedule": self.schedule.scheduler.state_dict(),
                    "scaler": self.precision.scaler.state_dict(),
                    "generators": generators,
                    "curve": [msgspec.to_builtins(e) for e in self.curve],
                    "best": self.best_state,
                },
            )
            if failed and failed not in self.notes:
                self.notes.append(failed)
                self.log(failed)
        self.seconds["checkpoint"] += time.perf_counter() - start

    def _restore(self) -> tuple[int, int, float]:
        """The place to continue from: epoch, step, and the summed loss of that epoch so far."""
        rank = self.processes.part.rank
        state = checkpoints.read(self.scratch)
        # A run cannot continue exactly with another number of processes; all processes use the same checkpoint or none.
        if state is None or len(state["generators"]) != self.processes.part.world:
            return 0, 0, 0.0
        self.network.load_state_dict(state["network"])
        self.average.restore(state["average"])
        self.place.scatter(self.network)
        self.place.load_optimizer(self.optimizer, state["optimizer"])
        self.schedule.scheduler.load_state_dict(state["schedule"])
        self.precision.scaler.load_state_dict(state["scaler"])
        checkpoints.restore_generators(state["generators"][rank])
        self.curve = msgspec.convert(state["curve"], list[Epoch])
        self.best_state = state["best"]
        epoch, step, total = state["place"]
        self.log(f"resumed after epoch {epoch}" + (f", step {step}" if step else ""))
        return epoch, step, total if rank == 0 else 0.0

    def facts(self) -> TrainingFacts:
        """The facts about each technique, for the report."""
        peak = max(0, memory.resident_bytes()[1] - self.rss)
        busy = sum(self.seconds.values()) + self.loader.waited
        shares = {"waiting for data": self.loader.waited, **self.seconds}
        trials = {f"{w} workers, {p} ready": taken for (w, p), taken in self.loader.trials.items()}
        return TrainingFacts(
            processes=", ".join(filter(None, (self.processes.description, self.place.description))),
            batch=self.chosen.batch,
            learning_rate=self.chosen.learning_rate,
            channels_last=self.chosen.channels_last,
            samples_per_second=self.samples / (self.seconds["step"] + self.loader.waited) if self.samples else None,
            search=self.chosen.described(),
            loader=LoaderFacts(self.loader.workers, self.loader.prefetch, trials),
            memory=MemoryFacts(**asdict(self.estimate), total=self.estimate.total, measured_peak=peak),
            recomputed_units=self.recomputed,
            float8=fp8.facts(self.network) if self.float8 else None,
            skipped_steps=self.precision.skipped,
            time_shares={name: taken / busy for name, taken in shares.items()} if busy else {},
            energy_joules=self.meter.joules(),
            energy=self.meter.text(),
            notes=self.notes,
        )


def _best(curve: list[Epoch]) -> Epoch:
    return max(curve, key=lambda e: (e.validation_accuracy, -e.validation_loss))
