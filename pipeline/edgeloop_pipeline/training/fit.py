"""The entry to training for stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.results.training import Epoch, TrainingFacts
from edgeloop_pipeline.tasks.losses import Loss
from edgeloop_pipeline.training.batches import Augment
from edgeloop_pipeline.training.callbacks import Watcher, unwatched
from edgeloop_pipeline.training.loop import Run
from edgeloop_pipeline.training.settings import FitSettings


@dataclass(frozen=True)
class Fitted:
    """The result of a training. The network has the weights of epoch `best`; `facts`: what each technique did, for the report."""

    curve: list[Epoch]
    best: Epoch
    precision: str
    facts: TrainingFacts


def fit(
    network: nn.Module,
    normalization: InputNormalization,
    splits: PreparedSplits,
    settings: FitSettings,
    loss: Loss,
    *,
    seed: int,
    scratch: Path,
    augment: Augment | None = None,
    name: str = "fit",
    split_at: Sequence[str] = (),
    teacher_scores: Any = None,
    log: Callable[[str], None] = lambda _: None,
    each_epoch: Callable[[int], None] = lambda _: None,
    watch: Watcher = unwatched,
) -> Fitted:
    """Train in place and keep the best epoch by the validation metric (ties: by loss; `keep: last` keeps the last).

    Checkpoints go to `scratch`, by rename, every `checkpoint_minutes` and at every epoch's end; a later call with the
    same arguments continues from there, also in the middle of an epoch, and ends with the same weights as an
    undisturbed one. `watch` is called after each epoch; an exception from it ends the training.
    Raises ModelError if the loss is no longer finite.
    """
    plain = list(network.state_dict())
    with ExitStack() as stack:
        run = Run(
            network,
            normalization,
            splits,
            settings,
            loss,
            seed,
            scratch,
            augment,
            name,
            split_at,
            log,
            each_epoch,
            stack,
            watch,
            teacher_scores,
        )
        best = run.run()
        facts = run.facts()
    network.to("cpu")
    network.load_state_dict({name: run.best_state[name] for name in plain})
    return Fitted(run.curve, best, str(run.precision), facts)
