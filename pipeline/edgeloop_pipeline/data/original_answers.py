"""The answers of an imported model, in its own runtime: where nobody labelled the data, they are the labels.

What is measured against them is what int8 keeps of the original, from the picture to the answer: the import, the normalization
and the quantization. It is agreement, never accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, ModelError, UsageError
from edgeloop_exporters.named_inputs import NamedInput, take_apart
from edgeloop_exporters.named_outputs import Output, joined
from edgeloop_pipeline.data.types import NAMES, PreparedSplits, Samples

__all__ = ["Original", "files_beside", "labelled", "with_states"]

BATCH, BATCH_VALUES = 16, 500_000  # samples at a time, and input values in all: inner tensors may be a hundred times as large
MOST_WINDOWS = 20_000  # of a split, of a model that keeps state


def files_beside(path: Path) -> list[Path]:
    """The files that hold weights of this model file. Raises ModelError and DataError for a file that cannot be read."""
    from edgeloop_exporters.model_files.reading import read

    return [path.parent / name for name in read(path).external]


@dataclass(frozen=True)
class _Calls:
    session: Any
    given: str
    wanted: list[str]

    def run(self, x: Array) -> list[Array]:
        answers: list[Array] = self.session.run(self.wanted, {self.given: x})
        return answers


@dataclass(frozen=True)
class Original:
    """A model file that gives answers. `wanted`: the outputs that count, () the first; `layout`, `shape`: as in `imported`.

    `inputs`: of a file with several.
    """

    path: Path
    wanted: tuple[str, ...] = ()
    layout: str = "channels_first"
    shape: tuple[int, ...] = ()
    inputs: tuple[NamedInput, ...] = ()

    @cached_property
    def _session(self) -> Any:
        from edgeloop_agent.hardware import cores

        return self._opened(cores())

    def _opened(self, threads: int) -> Any:
        from edgeloop_agent.runtimes.onnx import session_of
        from edgeloop_exporters.model_files.reading import content_of

        try:
            session = session_of(content_of(self.path), threads)
        except (DataError, ModelError):
            raise
        except Exception as error:  # onnxruntime's own types
            raise ModelError(f"{self.path}: ONNX Runtime cannot open it: {' '.join(str(error).split())[:300]}") from error
        names = [output.name for output in session.get_outputs()]
        if unknown := next((name for name in self.wanted if name not in names), ""):
            raise UsageError(f"{self.path}: has no output {unknown!r}; it has {', '.join(names)}")
        return session

    @property
    def names(self) -> tuple[str, list[str]]:
        """Of the first input, and of the outputs that count."""
        session = self._session
        return session.get_inputs()[0].name, list(self.wanted) or [session.get_outputs()[0].name]

    def feeds(self, values: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Array]:
        """Raw samples (N, …) by the file's inputs, as it takes them."""
        if not self.inputs:
            return {self.names[0]: self.fed(values, mean, std)}
        halves = {given.name for given in self._session.get_inputs() if given.type == "tensor(float16)"}
        parts = take_apart(values, self.inputs)
        return {name: part.astype(np.float16) if name in halves else part for name, part in parts.items()}

    def fed(self, values: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
        """Raw samples (N, …, channels) as the file's only input takes them."""
        given = self._session.get_inputs()[0]
        if values.dtype == np.int32:  # token ids: nothing is normalized
            return np.ascontiguousarray(values)
        x = (values.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        if self.layout == "channels_first":
            x = np.moveaxis(x, -1, 1)
        elif self.layout == "as_it_is":
            sizes = self.shape or tuple(given.shape[1:])
            if not all(isinstance(size, int) for size in sizes):
                raise UsageError(f"{self.path}: leaves sizes of {given.name} {list(given.shape)} open; set imported.shape")
            x = x.reshape(len(x), *sizes)
        return np.ascontiguousarray(x, np.float16 if given.type == "tensor(float16)" else np.float32)

    @property
    def one_by_one(self) -> bool:
        """Whether the file has one input, and takes a single sample there."""
        given = self._session.get_inputs()
        return len(given) == 1 and bool(given[0].shape) and (given[0].shape[0] == 1 or not isinstance(given[0].shape[0], int))

    def calls(self, threads: int) -> _Calls:
        """The file as something that can be timed: `run` takes what `fed` gives."""
        return _Calls(self._opened(threads), *self.names)

    def answers(self, values: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Array]:
        """By output, (N, …) float32. Raises ModelError where the file does not take such samples."""
        session, names = self._session, self.names[1]
        given = session.get_inputs()[0]
        fixed = given.shape[0] if isinstance(given.shape[0], int) else 0
        size, rows = fixed or max(1, min(BATCH, BATCH_VALUES // max(1, values[0].size))), list[list[Array]]()
        for start in range(0, len(values), size):
            some = len(values[start : start + size])
            fed = {name: _padded(x, fixed) for name, x in self.feeds(values[start : start + size], mean, std).items()}
            x = fed[given.name]
            try:
                found = session.run(names, fed)
            except Exception as error:  # onnxruntime's own types
                raise ModelError(
                    f"{self.path}: does not take samples of shape {list(x.shape[1:])} at {given.name} {list(given.shape)}:"
                    f" {' '.join(str(error).split())[:200]}"
                ) from error
            for name, answer in zip(names, found, strict=True):
                if answer.shape[:1] != (len(x),):
                    raise ModelError(
                        f"{self.path}: answers {len(x)} samples with {name} of shape {list(answer.shape)}; its first axis must be"
                        " the batch"
                    )
            rows.append([np.asarray(answer[:some], np.float32) for answer in found])
        answers = {name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}
        if not all(np.isfinite(values).all() for values in answers.values()):
            raise ModelError(f"{self.path}: answers some samples with NaN or infinity; check the normalization and the data")
        return answers


def with_states(splits: PreparedSplits, original: Original, whole: bool = False) -> PreparedSplits:
    """The splits with each window's states as the original has them there: zeros at a recording's first window, then its own.

    The original runs window by window, and all of them lie in memory: of each split the first MOST_WINDOWS. `whole`: of whole
    recordings, because their last windows are judged.
    """
    states = [entry for entry in splits.inputs if entry.output]
    if not states:
        return splits
    wanted = replace(original, wanted=tuple(entry.output for entry in states))
    notes = list(splits.notes)
    begins = dict(zip([e.name for e in splits.inputs], accumulate((e.size for e in splits.inputs), initial=0), strict=False))
    made = {}
    for name in NAMES:
        samples: Samples = getattr(splits, name)
        if len(samples) > MOST_WINDOWS:
            cut = np.flatnonzero(np.diff(samples.recording[: MOST_WINDOWS + 1])) + 1 if whole else np.zeros(0)
            most = int(cut[-1]) if len(cut) else MOST_WINDOWS
            notes.append(f"{name}: the first {most} of {len(samples)} windows are used")
            samples = samples.of(np.arange(most))
        values, last = np.array(samples.values), dict[str, Array]()
        for row in range(len(values)):
            first = row == 0 or samples.recording[row] != samples.recording[row - 1]
            last = {} if first else last
            for entry in states:
                start = begins[entry.name]
                values[row, start : start + entry.size, 0] = last.get(entry.output, np.zeros(entry.size)).reshape(-1)
            last = wanted.answers(values[row : row + 1], (0.0,), (1.0,))
        made[name] = replace(samples, values=values)
    return replace(splits, train=made["train"], validation=made["validation"], test=made["test"], notes=tuple(notes))


def _padded(x: Array, count: int) -> Array:
    """Of the batch that the file asks for; 0: any."""
    return x if len(x) >= count else np.concatenate([x, np.repeat(x[-1:], count - len(x), 0)])


def labelled(
    splits: PreparedSplits, original: Original, mean: tuple[float, ...], std: tuple[float, ...], truths: bool = False
) -> PreparedSplits:
    """The splits with the original's answers as labels: classes for a classification, the whole answers (N, …) else.

    Those of several outputs are joined, (N, total). `truths`: the data's own labels are kept beside them.
    """
    made: list[Samples] = []
    outputs: tuple[Output, ...] = ()
    for name in NAMES:
        samples: Samples = getattr(splits, name)
        parts = original.answers(samples.values, mean, std)
        answers = joined(list(parts.values()))
        if len(parts) > 1:
            outputs = tuple(Output(output, part.shape[1:]) for output, part in parts.items())
        if splits.task == "classification":
            scores = answers.reshape(len(answers), -1)
            if scores.shape[1] != len(splits.labels):
                raise DataError(f"labels: there are {len(splits.labels)}, and {original.path} gives {scores.shape[1]} scores")
            answers = scores.argmax(1).astype(np.int64)
        made.append(replace(samples, labels=answers, truth=np.asarray(samples.labels) if truths else samples.truth))
    return replace(splits, train=made[0], validation=made[1], test=made[2], outputs=outputs)
