"""A bundle as a function: what an agent would answer, in Python."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, overload

import numpy as np

from edgeloop_agent import device_state
from edgeloop_agent.answering import Answering, AnswerLine
from edgeloop_agent.box_answers import Box, Point
from edgeloop_agent.engine import Engine
from edgeloop_agent.label_answers import Label
from edgeloop_agent.mask_answers import Mask
from edgeloop_agent.metrics import Counts
from edgeloop_agent.sources import Recording
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import BundleError, DataError, DeviceError, StorageError
from edgeloop_contract.preprocessing import takes_texts, text_or_array
from edgeloop_contract.tasks import names_of

__all__ = ["Answer", "Box", "Label", "Mask", "Model", "Point", "open"]

MEASURE_SECONDS = 0.1  # for each variant and number of threads
# A file's path, an array, or an array or a text by input.
Input = Union[str, "os.PathLike[str]", Array, Mapping[str, str | Array]]


@dataclass(frozen=True)
class Answer:
    """What the model says of one sample. Fields that its task does not have are None.

    `probabilities`: by label, at most the five most probable of more than 20. `confidence`: the largest, 0 to 1. `values`: by
    quantity, in its unit. `score`: an anomaly's error. `tensors`: by output, of a model without a declared meaning.
    `milliseconds`: that the model took. `boxes`: of a detector, best first, in pixels of the picture that was given, upright.
    `masks`: of a segmentation, one for each label that is there, largest first, in the same pixels.
    `labels`: where a sample has several, those that it has, most probable first.
    """

    label: str | None = None
    probabilities: dict[str, float] | None = None
    confidence: float | None = None
    values: dict[str, float] | None = None
    score: float | None = None
    tensors: dict[str, Array] | None = None
    milliseconds: float = 0.0
    boxes: list[Box] | None = None
    masks: list[Mask] | None = None
    labels: list[Label] | None = None


class Model:
    """A verified bundle with its chosen variant loaded. One caller at a time."""

    def __init__(self, engine: Engine, sha256: str) -> None:
        manifest = engine.manifest
        self.name, self.version, self.sha256 = manifest.name, manifest.version, sha256
        self.task = str(manifest.task.__struct_config__.tag)
        self.labels = names_of(manifest.task)
        self.variant, self.runtime, self.why = engine.choice.variant, engine.runtime.description, engine.choice.why
        self.inputs = {entry.name: (entry.sample.dtype, tuple(entry.sample.shape)) for entry in manifest.inputs}
        self.requires, self.schema = list(manifest.requires), manifest.schema
        self._engine, self._texts = engine, len(manifest.inputs) == 1 and takes_texts(manifest.preprocessing)
        self._answering = Answering(manifest, lambda: engine, Counts(), as_lists=False)

    def __repr__(self) -> str:
        return f"<edgeloop.Model {self.name} version {self.version}, {self.variant} on {self.runtime}>"

    @overload
    def __call__(self, given: Input) -> Answer: ...
    @overload
    def __call__(self, given: list[Any] | tuple[Any, ...]) -> list[Answer]: ...
    @overload
    def __call__(self, given: Iterator[Any]) -> Iterator[Answer]: ...
    def __call__(self, given: Any) -> Answer | list[Answer] | Iterator[Answer]:
        """The answer to one picture, sound, table, text or array; to a list of them a list, to a generator a generator.

        A path is read as the agent reads it; where the model takes texts, a str is the text itself, and a Path
        names a file. An array is a recording: (H, W, C) of a picture, (T, C) of a series. A model with several inputs takes
        a dict of them by name, with a str for a text. Preprocessing and cleaning of the bundle are done. Raises DataError
        for what does not fit, or where a recording has several windows: `windows` gives the answers of each.
        """
        if isinstance(given, (list, tuple)):
            return [self._one(each) for each in given]
        if isinstance(given, Iterator):
            return (self._one(each) for each in given)
        return self._one(given)

    def windows(self, given: Input) -> list[Answer]:
        """The answers of each window of one recording, in order.

        Raises DataError where one is refused, DeviceError where the runtime fails.
        """
        failures = self._answering.failures
        lines = list(self._answering.lines(as_recording(given, self._texts)))
        if self._answering.failures > failures:
            raise DeviceError(str(lines[-1].refused))
        if refused := next((line for line in lines if line.refused), None):
            raise DataError(f"{refused.input}: {refused.refused}")
        return [_answer(line) for line in lines]

    def _one(self, given: Input) -> Answer:
        answers = self.windows(given)
        if len(answers) != 1:
            raise DataError(f"the recording has {len(answers)} windows; model.windows(...) gives an answer for each")
        return answers[0]


def open(bundle: str | os.PathLike[str], *, variant: str = "", threads: int = 0, state: str | os.PathLike[str] = "") -> Model:
    """Open and verify a bundle, and load its fastest variant here.

    The first time each variant is measured (about a second); the choice is remembered in the state folder (`state`; default as the
    agent's), by bundle, runtimes and hardware. `variant`, `threads`: no measurement, these. Raises BundleError for a file that is
    not whole or needs a later edgeloop, DeviceError where no runtime of it is installed.
    """
    folder = Path(state) if state else device_state.default_folder()
    with Bundle.open(Path(bundle), verified=device_state.VerifiedBundles(folder)) as opened:
        if opened.manifest.probe:
            raise BundleError(f"{bundle}: is a latency probe with untrained weights; only edgeloop-agent bench runs it")
        if variant:
            opened.manifest.variant(variant)
            choice = VariantChoice(variant, threads or 1, "asked for by name")
        else:
            choice = _fastest(opened, folder)
            if threads:
                choice = VariantChoice(choice.variant, threads, choice.why)
        return Model(Engine(opened, choice), opened.sha256)


def _fastest(bundle: Bundle, folder: Path) -> VariantChoice:
    known = device_state.remembered_choice(folder, bundle)
    if known is not None:
        return known
    if len(bundle.manifest.variants) == 1:
        return device_state.first_available(bundle.manifest.variants)
    from edgeloop_agent.bench.measure import measure_bundle

    choice = device_state.fastest(bundle.manifest.variants, measure_bundle(bundle, MEASURE_SECONDS))
    if choice is None:
        return device_state.first_available(bundle.manifest.variants)
    with contextlib.suppress(StorageError):  # a folder that cannot be written costs a measurement at the next start
        device_state.remember_choice(folder, bundle, choice)
    return choice


def as_recording(given: Input, texts: bool = False) -> Recording:
    """A path, an array or arrays by input, as the agent's own sources give them; with `texts` a str is a text, not a path.

    Raises DataError for anything else.
    """
    if texts and isinstance(given, str):
        return Recording("the text", None, text=given)
    if hasattr(given, "__array__"):  # a PIL image, a torch tensor on the CPU
        given = np.asarray(given)
    if isinstance(given, np.ndarray):
        return Recording("the array", given)
    if isinstance(given, Mapping):
        return Recording("the arrays", None, inputs={name: text_or_array(values) for name, values in given.items()})
    if isinstance(given, (str, os.PathLike)):
        from edgeloop_agent.sources.readers import ENDINGS, read
        from edgeloop_agent.sources.texts import is_text_file, text_of_file

        path = Path(given)
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if texts and is_text_file(path):
            return text_of_file(path)
        if path.suffix.lower() not in ENDINGS:
            raise DataError(f"{path}: cannot read {path.suffix or 'files without an ending'}; known: {', '.join(sorted(ENDINGS))}")
        return read(path)
    raise DataError(f"a {type(given).__name__}; give a path, an array, or a dict of arrays")


def _answer(line: AnswerLine) -> Answer:
    confidence = max(line.probabilities.values()) if line.probabilities else None
    milliseconds = line.milliseconds or 0.0
    return Answer(
        line.label, line.probabilities, confidence, line.values, line.score, line.tensors, milliseconds, line.boxes, line.masks,
        line.labels,
    )  # fmt: skip
