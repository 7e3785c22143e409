"""What a person asks of `edgeloop compress`, and what was understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgeloop_contract.preprocessing import Step, Tokenize
from edgeloop_contract.tasks import Detection
from edgeloop_pipeline.data.sequence_labels import LabelAt
from edgeloop_pipeline.recipe.settings import Imported, Measure

__all__ = ["CompressRequest", "Fit", "Meaning", "TextSteps"]

Fit = Literal["stretch", "crop", "letterbox"]


@dataclass(frozen=True)
class TextSteps:
    """Of one text beside other inputs: the step that makes its token ids, its file, and that in words, with what to check."""

    step: Tokenize
    tokenizer: bytes
    said: str
    guesses: list[str]


@dataclass(frozen=True)
class CompressRequest:
    """`model`: an ONNX file; `calibrate`: data; `out`: the project folder to make. Empty: read from the file, or not known.

    `reference`: the model as it was named; `weights`: of a network that a function or a library makes. `told`: fields that the
    library `maker` filled in. `prune`: share of the channels to remove, and `epochs` of learning from the
    original after it. `drop_in`: an int8 file with the original's input and output is wanted too; `symmetric`: one for TensorRT.
    `normalize`: mean and std in raw counts. `fit`: how a picture gets the model's size. `steps`: the whole preprocessing, in
    place of what pictures get by themselves. `boxes`: how outputs say boxes; `points`: names of theirs.
    `tokenizer`: a tokenizer.json, of a model of texts;
    `shape_of`, `steps_of`, `constants`: by input, of a model with several; `states`: input → the output that it is at the next
    call; `no_states`: none, whatever the file looks like; `label_at`: which answers a recording's label is held against then.
    `length`: of its token ids, 0: by the texts; `text_column`, `label_column`: of a table of texts. `tokenizers`, `lengths`,
    `text_columns`: the same by text or input, of a model with texts beside other inputs; `texts`: what was found out about these;
    `fed`: the names that a recording of several inputs has values for, once they are known.
    """

    model: Path
    calibrate: Path
    out: Path
    reference: str = ""
    weights: Path | None = None
    name: str = ""
    labels: list[str] = field(default_factory=list)
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    bgr: bool | None = None
    fit: Fit | None = None
    steps: list[Step] = field(default_factory=list)
    tokenizer: Path | None = None
    length: int = 0
    text_column: str = ""
    tokenizers: dict[str, Path] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    text_columns: dict[str, str] = field(default_factory=dict)
    texts: dict[str, TextSteps] = field(default_factory=dict)
    fed: tuple[str, ...] = ()
    label_column: str = ""
    outputs: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    shape_of: dict[str, tuple[int, ...]] = field(default_factory=dict)
    steps_of: dict[str, list[Step]] = field(default_factory=dict)
    constants: dict[str, list[float]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    no_states: bool = False
    label_at: LabelAt | None = None
    task: Literal["classification", "tensors", "detection"] | None = None
    boxes: Detection | None = None
    points: list[str] = field(default_factory=list)
    measure: Measure | None = None
    min_agreement: float | None = None
    max_latency_us: float | None = None
    max_bytes: int | None = None
    drop_in: bool = False
    symmetric: bool = False
    prune: float | None = None
    epochs: int = 10
    maker: str | None = None
    told: frozenset[str] = frozenset()

    def source(self, name: str) -> str:
        """Who said what this field is, in words."""
        return f"from {self.maker}" if name in self.told else "as said"

    @property
    def said_of_texts(self) -> dict[str, Mapping[str, object]]:
        """Option → what was said by text or input."""
        return {"--tokenizer": self.tokenizers, "--length": self.lengths, "--text-column": self.text_columns}

    @property
    def title(self) -> str:
        """The model's name for people, in one line."""
        name = Path(self.reference).name if Path(self.reference).exists() else self.reference
        return " ".join((name or self.model.name).split())


@dataclass(frozen=True)
class Meaning:
    """What the model is. `facts`: each decision with its source, for people; `guesses`: those that a person should look at."""

    task: Literal["classification", "tensors"]
    imported: Imported
    normalize: tuple[tuple[float, ...], tuple[float, ...]]
    preprocessing: list[Step]
    labels: list[str]
    labelled: bool
    sample: tuple[int, ...]  # of arrays in one file
    size: tuple[int, ...]  # of one sample at the network's input
    facts: list[str]
    guesses: list[str]
    inputs: tuple[str, ...] = ()  # names that a recording has an array for
