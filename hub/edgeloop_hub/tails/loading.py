"""Tails by name, cut from published bundles when they are first asked for, under a ceiling of bytes."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import select

from edgeloop_agent.runtimes import Runtime, RuntimeOptions, open_runtime
from edgeloop_contract.archive import Bundle, BundleLimits
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import Coding, Cut, Manifest, Precision, TensorSpec, Variant
from edgeloop_contract.splitting import DIGEST_LETTERS, FILES, INPUT, from_file, from_nibbles, served_name
from edgeloop_contract.tasks import Detection, Segmentation, Tensors
from edgeloop_exporters import cutting
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.schema import bundles
from edgeloop_hub.tails.batching import Batcher

INPUT_TENSOR, OUTPUT_TENSOR = "input", "scores"


@dataclass(frozen=True)
class Tail:
    """`tensor`: its input's name; with a coding's name behind it, that tensor so packed."""

    name: str
    version: str
    tensor: str
    boundary: TensorSpec
    output: TensorSpec
    codings: tuple[Coding, ...]
    runtime: Runtime
    batcher: Batcher
    bytes: int

    def rows(self, inputs: dict[str, Array]) -> Array:
        """The one input of a request, unpacked: (N, *boundary). Raises DataError."""
        if len(inputs) != 1:
            raise DataError(f"{len(inputs)} inputs; this takes one, called {self.tensor!r}")
        (name, values), shape = next(iter(inputs.items())), tuple(self.boundary.shape)
        coding = next((c for c in self.codings if name == f"{self.tensor}.{c}"), None)
        if coding is not None:
            if values.dtype != np.uint8 or values.ndim != 2 or not len(values):
                raise DataError(f"{values.dtype} of shape {list(values.shape)}; send bytes, one sample a row")
            if coding == "4bit":
                return from_nibbles(values, shape)
            return np.concatenate([from_file(row.tobytes(), coding, shape) for row in values])
        if name != self.tensor:
            raise DataError(f"input {name[:100]!r}; this takes one, called {self.tensor!r}")
        if values.shape[1:] != shape or not len(values) or values.dtype != self.boundary.dtype:
            raise DataError(f"{values.dtype} of shape {list(values.shape)}; this takes {self.boundary.dtype} of [n, {shape}]")
        return values


class Tails:
    """Loaded ones, least recently used first. `pool`: where they compute."""

    def __init__(self, database: Database, blobs: Blobs, settings: Settings, pool: Executor) -> None:
        self._database, self._blobs, self._settings, self._pool = database, blobs, settings, pool
        self._held: OrderedDict[str, Tail] = OrderedDict()
        self._lock = threading.Lock()

    def held(self, name: str) -> Tail | None:
        """At once, without a look at the database."""
        found = self._held.get(name)
        if found is not None:
            self._held.move_to_end(name)
        return found

    def get(self, name: str) -> Tail:
        """Raises DataError for a name that is none of a published bundle's, BundleError for one that cannot be cut."""
        with self._lock:
            tail = self.held(name)
            if tail is None:
                tail = self._loaded(name)
                while self._held and sum(t.bytes for t in self._held.values()) + tail.bytes > self._settings.tail_bytes:
                    self._held.popitem(last=False)
                self._held[name] = tail
            return tail

    def forget_withdrawn(self) -> None:
        """A withdrawn bundle's tails answer no more."""
        with self._lock:
            for name in list(self._held):
                if self._sha256(name) is None:
                    del self._held[name]

    def _sha256(self, name: str) -> tuple[str, int] | None:
        model, digest, _ = [*name.rsplit(".", 2), "", ""][:3]
        if len(digest) != DIGEST_LETTERS:
            return None
        with self._database.reading() as database:
            row = database.execute(
                select(bundles.c.sha256, bundles.c.bytes).where(
                    bundles.c.model == model, bundles.c.sha256.startswith(digest, autoescape=True), bundles.c.withdrawn.is_(None)
                )
            ).first()
        return (row.sha256, row.bytes) if row is not None else None

    def _loaded(self, name: str) -> Tail:
        place = self._sha256(name)
        if place is None:
            raise DataError(f"no published bundle has a tail {name[:200]!r}")
        sha256, size = place
        with tempfile.NamedTemporaryFile(suffix=".edgeloop") as file:
            for chunk in self._blobs.read(f"bundles/{sha256}", 0, size):
                file.write(chunk)
            file.flush()
            with Bundle.open(Path(file.name), BundleLimits(max_bundle_bytes=size)) as bundle:
                return self._cut(name, bundle)

    def _cut(self, name: str, bundle: Bundle) -> Tail:
        manifest, settings = bundle.manifest, self._settings
        variant, cut = chosen(manifest, name.rsplit(".", 1)[1])
        if served_name(manifest.name, bundle.sha256, cut.name) != name:
            raise DataError(f"no published bundle has a tail {name[:200]!r}")
        model = bundle.read(variant.file)
        if cut.name != INPUT:
            model = cutting.tail(model, cut.tensor, bundle.read(cut.decoder) if cut.decoder else b"")
        runtime = open_runtime(variant, model, os.cpu_count() or 1, RuntimeOptions(providers=settings.tail_providers))
        batcher = Batcher(
            runtime.run, self._pool, settings.tail_batch, settings.tail_delay_seconds, settings.tail_waiting_rows,
            settings.tail_wait_seconds,
        )  # fmt: skip
        codings = tuple(p.coding for p in cut.packed if p.coding in ("4bit", *FILES))
        return Tail(
            name, str(manifest.version), cut.tensor or INPUT_TENSOR, cut.boundary, variant.output, codings, runtime, batcher,
            len(model),
        )  # fmt: skip


def chosen(manifest: Manifest, name: str) -> tuple[Variant, Cut]:
    """The variant that is cut, and its cut of this name; a bundle without cuts has its input as one. Raises DataError."""
    if manifest.split is not None:
        cut = manifest.split.cut(name)
        if cut is not None:
            return manifest.variant(manifest.split.variant), cut
    onnx = [v for v in manifest.variants if v.runtime == "onnx"]
    if name != INPUT or not onnx:
        raise DataError(f"{manifest.name}: has no cut {name[:100]!r}")
    if len(manifest.inputs) != 1 or isinstance(manifest.task, Tensors | Detection | Segmentation) or any(v.states for v in onnx):
        raise DataError(f"{manifest.name}: has several inputs, state, or no scores; it runs on its device alone")
    variant = max(onnx, key=lambda v: v.precision == Precision.FLOAT32)  # a server need not save bytes
    return variant, Cut(name=INPUT, tensor="", boundary=manifest.sample, packed=[], head_us=0.0, tail_us=0.0)
