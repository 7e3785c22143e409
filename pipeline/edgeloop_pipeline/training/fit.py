"""Training as stages call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeloop_exporters.convert import InputNormalization
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.training.batches import Augment
from edgeloop_pipeline.training.loop import Epoch, Run
from edgeloop_pipeline.training.settings import FitSettings
from edgeloop_pipeline.training.steps import Loss


@dataclass(frozen=True)
class Fitted:
    """What training did. The network holds the weights of `best`; `facts`: what each technique did, for the report."""

    curve: list[Epoch]
    best: Epoch
    precision: str
    facts: dict[str, Any]


def fit(
    network: nn.Module,
    front: InputNormalization,
    splits: PreparedSplits,
    settings: FitSettings,
    loss: Loss,
    *,
    seed: int,
    scratch: Path,
    augment: Augment | None = None,
    name: str = "fit",
    split_at: Sequence[str] = (),
    soft: Any = None,
    log: Callable[[str], None] = lambda _: None,
    each_epoch: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """Train in place and keep the best epoch by validation accuracy (ties: by loss; `keep: last` keeps the last).

    Checkpoints go to `scratch`, by rename, every `checkpoint_minutes` and at every epoch's end; a later call with the
    same arguments goes on from there, in the middle of an epoch if need be, and ends with the same weights as an
    undisturbed one. Raises ModelError when the loss stops being finite.
    """
    plain = list(network.state_dict())
    with ExitStack() as stack:
        run = Run(network, front, splits, settings, loss, seed, scratch, augment, name, split_at, log, each_epoch, stack, soft)
        best = run.run()
        facts = run.facts()
    network.to("cpu")
    network.load_state_dict({name: run.best_state[name] for name in plain})
    return Fitted(run.curve, best, str(run.precision), facts)
