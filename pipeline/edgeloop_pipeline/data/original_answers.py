"""The answers of an imported model, in its own runtime: where nobody labelled the data, they are the labels.

What is measured against them is what int8 keeps of the original, from the picture to the answer: the import, the normalization
and the quantization. It is agreement, never accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, ModelError, UsageError
from edgeloop_pipeline.data.types import NAMES, PreparedSplits, Samples

__all__ = ["Original", "files_beside", "labelled"]

BATCH = 16


def files_beside(path: Path) -> list[Path]:
    """The files that hold weights of this model file. Raises ModelError and DataError for a file that cannot be read."""
    from edgeloop_exporters.model_files.reading import read

    return [path.parent / name for name in read(path).external]


@dataclass(frozen=True)
class Original:
    """A model file that gives answers. `output`: one of several, "" the first; `layout`, `shape`: as the recipe's `imported`."""

    path: Path
    output: str = ""
    layout: str = "channels_first"
    shape: tuple[int, ...] = ()

    @cached_property
    def _session(self) -> Any:
        from edgeloop_agent.hardware import cores
        from edgeloop_agent.runtimes.onnx import session_of
        from edgeloop_exporters.model_files.reading import content_of

        try:
            session = session_of(content_of(self.path), cores())
        except (DataError, ModelError):
            raise
        except Exception as error:  # onnxruntime's own types
            raise ModelError(f"{self.path}: ONNX Runtime cannot open it: {' '.join(str(error).split())[:300]}") from error
        names = [output.name for output in session.get_outputs()]
        if self.output and self.output not in names:
            raise UsageError(f"{self.path}: has no output {self.output!r}; it has {', '.join(names)}")
        return session

    @property
    def names(self) -> tuple[str, str]:
        """Of the input, and of the output that counts."""
        session = self._session
        return session.get_inputs()[0].name, self.output or session.get_outputs()[0].name

    def fed(self, values: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
        """Raw samples (N, …, channels) as the file's input takes them."""
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

    def answers(self, values: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
        """(N, …) float32. Raises ModelError where the file does not take such samples."""
        session = self._session
        given = session.get_inputs()[0]
        fixed = given.shape[0] if isinstance(given.shape[0], int) else 0
        size, rows = fixed or BATCH, []
        for start in range(0, len(values), size):
            x = self.fed(values[start : start + size], mean, std)
            some = len(x)
            if fixed > some:
                x = np.concatenate([x, np.repeat(x[-1:], fixed - some, 0)])
            try:
                (found,) = session.run([self.output or session.get_outputs()[0].name], {given.name: x})
            except Exception as error:  # onnxruntime's own types
                raise ModelError(
                    f"{self.path}: does not take samples of shape {list(x.shape[1:])} at {given.name} {list(given.shape)}:"
                    f" {' '.join(str(error).split())[:200]}"
                ) from error
            if len(found) != len(x):
                raise ModelError(f"{self.path}: answers {len(x)} samples with {len(found)} rows; its first axis must be the batch")
            rows.append(np.asarray(found[:some], np.float32))
        answers = np.concatenate(rows)
        if not np.isfinite(answers).all():
            raise ModelError(f"{self.path}: answers some samples with NaN or infinity; check the normalization and the data")
        return answers


def labelled(splits: PreparedSplits, original: Original, mean: tuple[float, ...], std: tuple[float, ...]) -> PreparedSplits:
    """The splits with the original's answers as labels: classes for a classification, the whole answers (N, …) else."""
    made: list[Samples] = []
    for name in NAMES:
        samples: Samples = getattr(splits, name)
        answers = original.answers(samples.values, mean, std)
        if splits.task == "classification":
            scores = answers.reshape(len(answers), -1)
            if scores.shape[1] != len(splits.labels):
                raise DataError(f"labels: there are {len(splits.labels)}, and {original.path} gives {scores.shape[1]} scores")
            answers = scores.argmax(1).astype(np.int64)
        made.append(replace(samples, labels=answers))
    return replace(splits, train=made[0], validation=made[1], test=made[2])
