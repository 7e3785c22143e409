"""The int8 file in the imported file's place: same input, same output, and how to call it from Python and C++."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_exporters.drop_in import Door, Ending, with_doors
from edgeloop_exporters.named_inputs import feeds_of
from edgeloop_pipeline.bundling.drop_in_several import ended, of_several
from edgeloop_pipeline.bundling.drop_in_words import programs
from edgeloop_pipeline.data.original_answers import Original
from edgeloop_pipeline.recipe.settings import Imported, Normalize

__all__ = ["DROP_IN", "drop_in"]

DROP_IN = ("drop-in.onnx", "drop-in.py", "drop-in.cpp")
MAX_STEPS = 20  # of 255: the input is rounded from floats that were normalized elsewhere, and few values move by a step there


def drop_in(
    folder: Path, small: bytes, imported: Imported, normalize: Normalize, samples: Array, project: Path, name: str, version: int
) -> str:
    """Write the files of `DROP_IN` into `folder`; returns what was made, in words.

    `small`: the int8 ONNX file; `samples`: raw (N, *sample), on which both must give the same. Raises ModelError where they do not.
    """
    path, title = project / imported.model, f"{name}, version {version} in int8, in the place of the original"
    if imported.inputs:
        return _several(folder, small, imported, samples, path, title)
    original = Original(path, imported.chosen, imported.layout, tuple(imported.shape))
    mean, std = tuple(normalize.mean), tuple(normalize.std)
    fed, answers = original.fed(samples, mean, std), original.answers(samples, mean, std)
    if fed.dtype != np.float32:
        raise UsageError(f"stages.export.drop_in: {path.name} takes {fed.dtype}; only files of float32 can be replaced")
    ours = session_of(small, 1)
    scores = _run(ours, samples)
    ending: Ending = _ending(scores[0], next(iter(answers.values()))) if len(answers) == 1 else ""
    given = Door(original.names[0], fed.shape[1:])
    made = [Door(output, wanted.shape[1:]) for output, wanted in answers.items()]
    content = with_doors(small, given, made, imported.layout, ending)
    for found, score in zip(_run(session_of(content, 1), fed), scores, strict=True):
        expected = ended(score, ending).reshape(found.shape)
        off, step = float(np.abs(found - expected).max()), float(np.ptp(expected)) / 255
        if not off <= MAX_STEPS * max(step, 1e-6):
            raise ModelError(f"drop-in.onnx: gives otherwise than onnx-int8, by {off / max(step, 1e-9):.0f} of 255 steps")
    how = f"normalized, {imported.layout.replace('_', ' ')}"
    calls = programs(title, [(given.name, "float32", (1, *given.shape))], [door.name for door in made], how)
    _save(folder, content, calls)
    gives = ", ".join(f"{door.name} [N, {', '.join(map(str, door.shape))}]" for door in made)
    sizes = ", ".join(map(str, given.shape))
    return f"drop-in.onnx takes {given.name} [N, {sizes}] and gives {gives}, as {path.name} does"


def _several(folder: Path, small: bytes, imported: Imported, samples: Array, path: Path, title: str) -> str:
    """As `drop_in`, of a file with several inputs."""
    ending: Ending = ""
    if len(imported.original_outputs) == 1:
        named = tuple(entry.named for entry in imported.inputs)
        original = Original(path, imported.chosen, imported.layout, inputs=named)
        (wanted,) = original.answers(samples, (0.0,), (1.0,)).values()
        ours = session_of(small, 1)
        scores = np.concatenate([ours.run(None, feeds_of(samples[i : i + 1], named))[0] for i in range(len(samples))])
        ending = _ending(scores, wanted)
    content, calls, said = of_several(small, imported, samples, ending, title)
    _save(folder, content, calls)
    return said


def _save(folder: Path, content: bytes, calls: dict[str, str]) -> None:
    for file, text in calls.items():
        (folder / file).write_text(text, encoding="utf-8")
    (folder / DROP_IN[0]).write_bytes(content)


def _run(session: Any, x: Array) -> list[Array]:
    """By output, (N, …) float32, a sample at a time: some files have a fixed batch."""
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: x[i : i + 1]}) for i in range(len(x))]
    return [np.concatenate(parts).astype(np.float32) for parts in zip(*rows, strict=True)]


def _ending(scores: Array, wanted: Array) -> Ending:
    """What the original ends in and our scores do not: the nearest of what is taken off classifications."""
    endings: tuple[Ending, ...] = ("", "Softmax", "LogSoftmax")
    return min(endings, key=lambda ending: float(np.abs(ended(scores, ending).reshape(wanted.shape) - wanted).mean()))
