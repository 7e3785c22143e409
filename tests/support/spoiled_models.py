"""Bundles of schema 2, spoiled by chance: bytes, manifest fields, digests made right; and what an agent makes of each."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bundles import accumulator, two_inputs
from edgeloop_agent.engine import Engine
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import DTYPES
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import EdgeloopError
from edgeloop_contract.manifest import Manifest
from spoiled import parts, written

PIECES = ("change", "insert", "remove", "double")
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 1.5, 1e308, 1 << 62, -(1 << 70), "", "\u0000", "x", "input", "float16", "int8", "uint8", "int64", "bool", "none",
    "any", "one", "channels-first", "never", "tflite", "onnx", [], {}, [[[]]], [0], [-1], [1], [2], [1, 2], [1 << 40], [1] * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Original:
    data: bytes
    manifest: Manifest
    files: dict[str, bytes]


def originals(folder: Path) -> list[Original]:
    """One with state, one with two inputs, scores that are probabilities, and a canary."""
    made = []
    for make in (accumulator, two_inputs):
        path = make(folder / f"{make.__name__}.edgeloop")
        with Bundle.open(path) as bundle:
            made.append(Original(path.read_bytes(), bundle.manifest, {n: bundle.read(n) for n in bundle.manifest.files}))
    return made


def spoil(rng: random.Random, original: Original, folder: Path) -> Path:
    """One spoiled bundle in `folder`."""
    path = folder / "spoiled.edgeloop"
    if rng.random() < 0.2:
        path.write_bytes(_piece(rng, original.data))
        return path
    path.write_bytes(original.data)
    manifest, files = parts(path)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.25:
            name = rng.choice(sorted(files))
            files[name] = _piece(rng, files[name])
        else:
            _field(rng, manifest)
    return written(path, manifest, files)


def _piece(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return b"x"
    spoiled, at, size = bytearray(data), rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 300))
    new, kind = rng.randbytes(size), rng.choice(PIECES)
    spoiled[at : at + (0 if kind == "insert" else size)] = {
        "change": new, "insert": new, "remove": b"", "double": bytes(data[at : at + size]) * 2
    }[kind]  # fmt: skip
    return bytes(spoiled)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of the manifest with each of its keys."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def _field(rng: random.Random, manifest: dict[str, Any]) -> None:
    """Drop, rename, retype, double, or make huge, one field anywhere; or give it the value of another."""
    top = {key: value for key, value in manifest.items() if key != "files"}
    places = [(manifest if holder is top else holder, key) for holder, key in _places(top)]
    if not places:
        return
    holder, key = rng.choice(places)
    kind = rng.choice(("drop", "rename", "value", "value", "value", "other", "double", "add"))
    if kind == "drop":
        holder.pop(key)
    elif kind == "rename" and isinstance(holder, dict):
        holder[rng.choice(("x", "constant", "of", "layout", "batch", "quantization", "kept_inside", "split"))] = holder.pop(key)
    elif kind == "other":
        other, place = rng.choice(places)
        if place in other if isinstance(other, dict) else place < len(other):
            holder[key] = copy.deepcopy(other[place])
    elif kind == "double" and isinstance(holder[key], list):
        holder[key] = [*holder[key], *copy.deepcopy(holder[key])]
    elif kind == "add" and isinstance(holder, dict):
        holder[
            rng.choice(("constant", "of", "layout", "batch", "quantization", "kept_inside", "name", "reset", "output", "probe"))
        ] = copy.deepcopy(rng.choice(VALUES))
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))


def outcome(path: Path, original: Original) -> str:
    """ "refused" by a sentence, "same" contents, or "answered" as another bundle would. Everything else is raised."""
    try:
        with Bundle.open(path) as bundle:
            for name in bundle.manifest.files:
                if name.endswith(".npy"):
                    bundle.array(name)
            same = bundle.manifest == original.manifest and all(bundle.read(n) == data for n, data in original.files.items())
            engine = Engine(bundle, VariantChoice(bundle.manifest.variants[0].name, 1, ""))
        samples = {e.name: np.zeros((1, *e.sample.shape), DTYPES[e.sample.dtype]) for e in bundle.manifest.inputs}
        engine.try_once()
        list(engine.answers({name: values[0] for name, values in samples.items()}))
    except EdgeloopError as error:
        text = str(error)
        assert text and "\n" not in text and "Traceback" not in text, text
        return "refused"
    return "same" if same else "answered"
