"""Writes the project of an imported model: model.onnx, recipe.yaml, data.py and labels.txt, which a person can edit."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import msgspec

from edgeloop_contract.preprocessing import takes_texts
from edgeloop_pipeline.importing.request import CompressRequest, Meaning
from edgeloop_pipeline.recipe.wizard.write import project_name, quoted

__all__ = ["MODEL", "write"]

MOST_TRAINED, TRAINED_TIMES = 20_000, 10
MOST, MIN_MOST, MOST_VALUES = 1024, 64, 40_000_000  # samples, and values in all of them: larger ones take longer
MODEL, LABELS = "model.onnx", "labels.txt"
# Without a floor: no training, and integers throughout, but for leading layers that 8 bits of the raw input do not do for.
PLAIN = "float_streams: never, max_float_front: 2, max_float_layers: 0, repair_seconds: 600, qat: never"
REPAIR = "max_float_front: 2, qat: auto"
# Input values of a batch in training, which takes some thousand times as many.
TRAINED_VALUES, MIN_BATCH, MAX_BATCH = 2_500_000, 4, 32
LAST = """\
  verify: {layer_samples: 4, canary_samples: 8}
  profile: {seconds: 0.25}
  package: {}
  report: {}
"""
STAGES = """\
stages:
  train: {epochs: 0}            # more epochs train the imported network further
"""


def write(folder: Path, request: CompressRequest, meaning: Meaning, content: bytes, final: Path) -> None:
    """Write the files into `folder`, which will be moved to `final`."""
    (folder / MODEL).write_bytes(content)
    if meaning.labels:
        (folder / LABELS).write_text("\n".join(meaning.labels) + "\n", encoding="utf-8")
    (folder / "data.py").write_text(_data(request, meaning, final), encoding="utf-8")
    (folder / "recipe.yaml").write_text(_recipe(request, meaning, final), encoding="utf-8")


def _data(request: CompressRequest, meaning: Meaning, final: Path) -> str:
    where = os.path.relpath(request.calibrate.resolve(), final.resolve())
    kind = "Texts" if takes_texts(meaning.preprocessing) else "Recordings"
    given = [f"sample={meaning.sample!r}"] if meaning.sample else []
    given += [f"inputs={meaning.inputs!r}"] if meaning.inputs else []
    given += [f"texts={tuple(request.texts)!r}"] if request.texts else []
    given += [f"column={request.text_column!r}"] if request.text_column and not request.texts else []
    given += [f"label_column={request.label_column!r}"] if request.label_column and (kind == "Texts" or meaning.labelled) else []
    given += ['labels=tuple((HERE / "labels.txt").read_text("utf-8").splitlines())'] if meaning.labels else []
    given += ["labelled=True"] if meaning.labelled else []
    most = _most(request, meaning)
    given += [f"most={most}"] if most != MOST else []
    return (
        '"""The data that calibrate, choose and test."""\n\nfrom pathlib import Path\n\n'
        f"from edgeloop_pipeline.data.datasets import {kind}\n\nHERE = Path(__file__).resolve().parent\n\n\n"
        f"def data() -> {kind}:\n    return {kind}({', '.join([f'HERE / {where!r}', *given])})\n"
    )


def _most(request: CompressRequest, meaning: Meaning) -> int:
    """How many samples are used. Training wants all, which lie on disk; but whole answers as labels lie in memory."""
    affordable = MOST_VALUES // math.prod(meaning.size)
    if request.prune is None:
        return min(MOST, max(MIN_MOST, affordable))
    return MOST_TRAINED if meaning.task == "classification" else min(MOST_TRAINED, max(MOST, TRAINED_TIMES * affordable))


def _recipe(request: CompressRequest, meaning: Meaning, final: Path) -> str:
    mean, std = (list(part) for part in meaning.normalize)
    steps = "".join(f"  - {_yaml(msgspec.to_builtins(step))}\n" for step in meaning.preprocessing)
    imported = {k: v for k, v in msgspec.to_builtins(meaning.imported).items() if v not in (None, "", [])}
    # Each file is judged by the original's answers. Few samples, often unlike those of training, have ties that runtimes round
    # differently, and a steep sigmoid makes one step a whole one: the difference between runtimes is bounded loosely.
    target: dict[str, object] = {"min_agreement": 0.85, "max_lsb": 255}
    if request.min_agreement is not None:
        target["min_accuracy"] = request.min_agreement
    if request.max_latency_us is not None:
        target["max_latency_us"] = request.max_latency_us
    if request.max_bytes is not None:
        target["max_int8_bytes"] = request.max_bytes
    repair = PLAIN if request.min_agreement is None else f"{REPAIR}, batch: {_batch(meaning)}"
    notes = "".join(f"# - {' '.join(text.split())}\n" for text in (*meaning.facts, *meaning.guesses))
    card = f"{request.title}, compressed by edgeloop."
    return (
        f"# {request.title}, as `edgeloop compress` understood it:\n{notes}"
        f"name: {quoted(project_name(Path(request.name or final.name)))}\nversion: 1\n"
        + (f"task: {meaning.task}\n" if meaning.task != "classification" else "")
        + "data: data.py:data\n"
        + f"imported: {_yaml(imported)}\n"
        + f"normalize: {_yaml({'mean': mean, 'std': std})}   # of raw counts; the shipped files do it inside\n"
        + (f"preprocessing:                # the device does these steps too\n{steps}" if steps else "")
        + f"target: {_yaml(target)}   # of the runtimes with torch; min_accuracy: of the measure\n"
        + f"model_card: {quoted(card)}\n{STAGES}{_pruning(request, meaning)}"
        + f"  quantize: {{{repair}, diagnosis_seconds: 2{', symmetric: true' * request.symmetric}}}\n"
        + f"  export: {{float32: false{', drop_in: true' * request.drop_in}}}\n"
        + LAST
    )


def _batch(meaning: Meaning) -> int:
    """Samples of a batch in training, so that large pictures fit into memory."""
    return max(MIN_BATCH, min(MAX_BATCH, TRAINED_VALUES // math.prod(meaning.size)))


def _pruning(request: CompressRequest, meaning: Meaning) -> str:
    """Stages that remove channels, and let the rest learn from the original. BatchNorm is folded already: steps are small."""
    if request.prune is None:
        return ""
    learning = f"batch: {_batch(meaning)}, optimizer: adamw, learning_rate: 0.0005, weight_decay: 0.0, temperature: 2.0"
    labels = "" if request.measure is None and request.labels else ", teacher_share: 1.0"
    return f"  prune: {{keep: {1 - request.prune:g}}}\n  distill: {{epochs: {request.epochs}, {learning}{labels}}}\n"


def _yaml(value: object) -> str:
    """Any value in one line: JSON is YAML."""
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
