"""What a person asks of `edgeloop pack`, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgeloop_contract.preprocessing import Step
from edgeloop_contract.tasks import Detection
from edgeloop_contract.tensors import Reset

__all__ = ["PackRequest", "PackResult", "Scores", "TaskKind"]

TaskKind = Literal["classification", "regression", "multilabel", "tensors", "detection", "keypoints", "segmentation"]
Scores = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class PackRequest:
    """`models`: files of one model; each becomes a variant. What is empty or None is read from the files, or is not known.

    `boxes`: how the outputs say boxes, with everything of the task but its labels; `points`: names of their points.
    `steps`: preprocessing by input ("": the only one). `constants`: values of inputs that never change, by tensor.
    `tokenizers`, `lengths`: of texts, by text or input ("": of all); the file and the number of token ids.
    `states`: input tensor → output tensor. `samples`: data for the canary. `output`: the tensor that holds the scores.
    """

    models: list[Path]
    out: Path
    name: str = ""
    version: int = 1
    task: TaskKind | None = None
    labels: list[str] = field(default_factory=list)
    quantities: list[str] = field(default_factory=list)
    scores: Scores | None = None
    boxes: Detection | None = None
    points: list[str] = field(default_factory=list)
    output: str = ""
    steps: dict[str, list[Step]] = field(default_factory=dict)
    constants: dict[str, list[float]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    no_states: bool = False
    reset: Reset = "recording"
    shapes: dict[str, list[int]] = field(default_factory=dict)
    tokenizers: dict[str, Path] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    samples: Path | None = None
    card: str = ""


@dataclass(frozen=True)
class PackResult:
    """`facts`: what was read and from where; `unknown`: what nobody said, and the bundle therefore does not have."""

    path: Path
    sha256: str
    bytes: int
    schema: int
    variants: list[str]
    facts: list[str]
    unknown: list[str]
