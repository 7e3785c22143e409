"""The training loop: one for the teacher, the pruned network, the student and quantization-aware training."""

from __future__ import annotations

import math
import os
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeloop_agent.hardware import cores
from edgeloop_contract.errors import ModelError
from edgeloop_exporters.convert import Front
from edgeloop_pipeline.data import PreparedSplits, Samples
from edgeloop_pipeline.stages.fitting import FitSettings

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores, labels, normalised input → scalar
Augment = Callable[[Tensor, torch.Generator], Tensor]
EVALUATION_BATCH = 512
Precision = Literal["bf16", "float32"]


@dataclass(frozen=True)
class Epoch:
    """One line of the training curve."""

    epoch: int
    loss: float
    validation_accuracy: float
    validation_loss: float


@dataclass(frozen=True)
class Fitted:
    """What training did. The network holds the weights of `best`."""

    curve: list[Epoch]
    best: Epoch
    precision: str


def seed_everything(seed: int) -> None:
    """One seed for every generator, and the same number of threads wherever a stage is run or resumed."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(cores())
    torch.use_deterministic_algorithms(True, warn_only=True)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(wanted: str) -> tuple[Precision, str]:
    """The precision to train in and why. bf16 pays on CPUs that multiply it in hardware, and on recent GPUs."""
    if wanted != "auto":
        return ("bf16" if wanted == "bf16" else "float32"), "asked for"
    if torch.cuda.is_available():
        supported = torch.cuda.is_bf16_supported()
        return ("bf16", "GPU with bf16") if supported else ("float32", "GPU without bf16")
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "bf16", "CPU with bf16 instructions"
    return "float32", "CPU without bf16 instructions"


def channels_last(x: Any) -> Any:
    """The memory layout in which convolutions are fastest, for 4-D tensors and networks."""
    if isinstance(x, Tensor) and x.dim() != 4:
        return x
    return x.to(memory_format=torch.channels_last)


def cross_entropy(smoothing: float) -> Loss:
    return lambda scores, labels, _: F.cross_entropy(scores, labels, label_smoothing=smoothing)


def scores_of(network: nn.Module, front: Front, samples: Samples, autocast: bool = False) -> Tensor:
    """Float scores (N, outputs) of a network in evaluation mode."""
    network.eval()
    where = device()
    rows = []
    with torch.no_grad(), torch.autocast(where.type, torch.bfloat16, enabled=autocast):
        for start in range(0, len(samples), EVALUATION_BATCH):
            batch = torch.from_numpy(samples.values[start : start + EVALUATION_BATCH])
            rows.append(network(channels_last(front.normalise(batch).to(where))).float().cpu())
    return torch.cat(rows)


def accuracy_and_loss(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    return float((scores.argmax(1) == labels).double().mean()), float(F.cross_entropy(scores, labels))


def fit(
    network: nn.Module,
    front: Front,
    splits: PreparedSplits,
    settings: FitSettings,
    loss: Loss,
    *,
    seed: int,
    scratch: Path,
    augment: Augment | None = None,
    log: Callable[[str], None] = lambda _: None,
    each_epoch: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """Train in place and keep the best epoch by validation accuracy (ties: by loss; `keep: last` keeps the last).

    Every epoch ends with a checkpoint in `scratch`, written by rename; a later call with the same arguments goes on
    from it and ends with the same weights as an undisturbed one. Raises ModelError when the loss stops being finite.
    """
    where = device()
    network = channels_last(network.to(where))
    chosen, why = precision(settings.precision)
    values, labels = torch.from_numpy(splits.train.values), torch.from_numpy(splits.train.labels)
    steps = math.ceil(len(labels) / settings.batch)
    optimizer = _optimizer(network, settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps * settings.epochs, pct_start=settings.warm_up
    )
    curve: list[Epoch] = []
    best_state: dict[str, Tensor] = {}
    checkpoint = scratch / "checkpoint.pt"
    state = _read(checkpoint)
    if state is not None:
        curve, best_state = _restore(state, network, optimizer, schedule)
        log(f"resumed after epoch {len(curve)}")
    for epoch in range(len(curve), settings.epochs):
        each_epoch(epoch)
        # All randomness of an epoch comes from its number, so that a resumed run draws the same.
        torch.manual_seed(seed * 100_003 + epoch)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        total = 0.0
        network.train()
        for rows in torch.randperm(len(labels), generator=generator).split(settings.batch):
            batch = values[rows] if augment is None else augment(values[rows], generator)
            x = channels_last(front.normalise(batch).to(where))
            with torch.autocast(where.type, torch.bfloat16, enabled=chosen == "bf16"):
                scores = network(x)
            step_loss = loss(scores.float(), labels[rows].to(where), x)
            _step(step_loss, network, optimizer, settings.clip_norm)
            schedule.step()
            total += float(step_loss.detach()) * len(rows)
        if not math.isfinite(total):
            raise ModelError(f"the loss became {total} in epoch {epoch + 1}; lower learning_rate, or set clip_norm")
        scores = scores_of(network, front, splits.validation, autocast=chosen == "bf16")
        accuracy, validation_loss = accuracy_and_loss(scores, torch.from_numpy(splits.validation.labels))
        curve.append(Epoch(epoch + 1, total / len(labels), accuracy, validation_loss))
        if settings.keep == "last" or _best(curve) is curve[-1]:
            best_state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        log(f"epoch {epoch + 1}/{settings.epochs}  loss {total / len(labels):.3f}  validation {accuracy:.2%}")
        _store(checkpoint, network, optimizer, schedule, curve, best_state)
    network.load_state_dict(best_state)
    best = curve[-1] if settings.keep == "last" else _best(curve)
    return Fitted(curve, best, f"{chosen} ({why})")


def _step(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip_norm:
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()


def _best(curve: list[Epoch]) -> Epoch:
    return max(curve, key=lambda e: (e.validation_accuracy, -e.validation_loss))


def _optimizer(network: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    """Weight decay on weights only: on biases and normalisation it costs accuracy (He et al. 2019)."""
    weights = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, settings.learning_rate)


def _store(path: Path, network: nn.Module, optimizer: Any, schedule: Any, curve: list[Epoch], best: dict[str, Tensor]) -> None:
    partial = path.with_suffix(".partial")
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "curve": [msgspec.to_builtins(e) for e in curve],
        "best": best,
    }
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _read(path: Path) -> dict[str, Any] | None:
    """The checkpoint; None when there is none or it is damaged: training then starts again."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return state


def _restore(state: dict[str, Any], network: nn.Module, optimizer: Any, schedule: Any) -> tuple[list[Epoch], dict[str, Tensor]]:
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return msgspec.convert(state["curve"], list[Epoch]), state["best"]
