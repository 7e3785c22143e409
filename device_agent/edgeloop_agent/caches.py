"""Caches: answers of equal inputs, optimised graphs, loaded models. Each is bounded in bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import StorageError
from edgeloop_contract.files import publish, remedy_of

DIGEST_BYTES = 32
SUFFIX = ".graph"


class CacheCounts(msgspec.Struct):
    """How often a cache had what was asked for."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class ResultCache(msgspec.Struct):
    """Scores by the digest of the prepared sample; least recently used ones go first. `max_bytes` 0: off."""

    max_bytes: int
    counts: CacheCounts = msgspec.field(default_factory=CacheCounts)
    used_bytes: int = 0
    _entries: OrderedDict[bytes, Array] = msgspec.field(default_factory=OrderedDict)
    _lock: threading.Lock = msgspec.field(default_factory=threading.Lock)

    OVERHEAD_BYTES = 200  # of an entry beside its numbers

    @staticmethod
    def key(model: str, sample: Array) -> bytes:
        digest = hashlib.blake2b(sample.data if sample.flags.c_contiguous else sample.tobytes(), digest_size=16)
        digest.update(f"{model} {sample.dtype} {sample.shape}".encode())
        return digest.digest()

    def get(self, key: bytes) -> Array | None:
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self.counts.misses += 1
                return None
            self._entries.move_to_end(key)
            self.counts.hits += 1
            return found

    def put(self, key: bytes, scores: Array) -> None:
        size = scores.nbytes + self.OVERHEAD_BYTES
        if size > self.max_bytes:
            return
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self.used_bytes -= old.nbytes + self.OVERHEAD_BYTES
            self._entries[key] = scores
            self.used_bytes += size
            while self.used_bytes > self.max_bytes:
                _, gone = self._entries.popitem(last=False)
                self.used_bytes -= gone.nbytes + self.OVERHEAD_BYTES
                self.counts.evictions += 1

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.used_bytes = 0


class GraphCache(msgspec.Struct):
    """Optimised graphs as files: a digest, then the graph. A damaged or stale one counts as a miss and is made again.

    The key names everything that such a graph depends on; another runtime or CPU has other keys. `max_bytes` 0: off. TensorRT
    keeps its engines beside them by itself, for this model, version and GPU; they may take `max_engine_bytes`, 0: none are kept.
    """

    folder: Path
    max_bytes: int
    max_engine_bytes: int = 512 << 20
    counts: CacheCounts = msgspec.field(default_factory=CacheCounts)

    @property
    def engines(self) -> Path:
        return self.folder / "tensorrt"

    def engine_folder(self) -> str:
        """Where TensorRT may keep engines, made here; "" for nowhere."""
        try:
            if self.max_engine_bytes:
                self.engines.mkdir(parents=True, exist_ok=True)
        except OSError:  # a full or read-only disk costs the cache, not the model
            return ""
        return str(self.engines) if self.max_engine_bytes else ""

    def trim_engines(self) -> None:
        """Delete the engines that were not used for longest, above `max_engine_bytes`."""
        with contextlib.suppress(OSError):
            self._delete_oldest(self.engines.iterdir(), self.max_engine_bytes)

    def _file(self, *parts: str) -> Path:
        return self.folder / (hashlib.sha256("\0".join(parts).encode()).hexdigest() + SUFFIX)

    def get(self, *parts: str) -> bytes | None:
        """The graph that was kept for exactly these parts (model digest, runtime version, hardware, threads)."""
        path = self._file(*parts)
        try:
            content = path.read_bytes()
        except OSError:
            self.counts.misses += 1
            return None
        digest, graph = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(graph).digest() != digest:
            with contextlib.suppress(OSError):  # on a read-only card it stays, and counts as a miss again
                path.unlink(missing_ok=True)
            self.counts.misses += 1
            return None
        self.counts.hits += 1
        with contextlib.suppress(OSError):
            os.utime(path)  # marks it as used: the least recently used ones go first
        return graph

    def put(self, graph: bytes, *parts: str) -> None:
        """Store a graph, and delete the oldest above `max_bytes`. Raises StorageError when the folder cannot be written."""
        if len(graph) + DIGEST_BYTES > self.max_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            publish(self._file(*parts), hashlib.sha256(graph).digest() + graph)
            self._trim()
        except OSError as error:
            raise StorageError(f"{self.folder}: a graph cannot be kept ({error.strerror}); {remedy_of(error)}") from error

    def drop(self, *parts: str) -> None:
        """Delete a graph that the runtime refused; the hit becomes a miss."""
        with contextlib.suppress(OSError):  # a read-only card costs the cache, not the model
            self._file(*parts).unlink(missing_ok=True)
        self.counts.hits -= 1
        self.counts.misses += 1

    def _trim(self) -> None:
        self._delete_oldest(self.folder.glob(f"*{SUFFIX}"), self.max_bytes)

    def _delete_oldest(self, paths: Iterable[Path], max_bytes: int) -> None:
        states = [(path, path.stat()) for path in paths]
        used = 0
        for path, state in sorted(states, key=lambda each: max(each[1].st_atime, each[1].st_mtime), reverse=True):
            used += state.st_size
            if used > max_bytes:
                path.unlink(missing_ok=True)
                self.counts.evictions += 1


class Sized(Protocol):
    """What a pool holds."""

    @property
    def memory_bytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


class Pool(msgspec.Struct, Generic[T]):
    """Loaded models under one memory budget: the least recently used one is dropped when another needs the room.

    The requested model is always loaded, even where it alone exceeds the budget.
    """

    max_bytes: int
    load: Callable[[str], T]
    counts: CacheCounts = msgspec.field(default_factory=CacheCounts)
    _entries: OrderedDict[str, T] = msgspec.field(default_factory=OrderedDict)
    _loading: dict[str, threading.Lock] = msgspec.field(default_factory=dict)
    _lock: threading.Lock = msgspec.field(default_factory=threading.Lock)

    def get(self, name: str) -> T:
        """The value called `name`. While one is loading, which may take seconds, loaded ones stay available."""
        found = self._lookup(name)
        if found is not None:
            return found
        with self._lock:
            gate = self._loading.setdefault(name, threading.Lock())
        with gate:
            found = self._lookup(name)
            if found is not None:  # another thread loaded it meanwhile
                return found
            loaded = self.load(name)
            with self._lock:
                self.counts.misses += 1
                self._entries[name] = loaded
                while len(self._entries) > 1 and self.used_bytes > self.max_bytes:
                    self._entries.popitem(last=False)
                    self.counts.evictions += 1
            return loaded

    def put(self, name: str, values: T) -> None:
        """Replace a value. Callers that hold the old one may finish with it."""
        with self._lock:
            self._entries[name] = values
            self._entries.move_to_end(name)

    def _lookup(self, name: str) -> T | None:
        with self._lock:
            found = self._entries.get(name)
            if found is not None:
                self._entries.move_to_end(name)
                self.counts.hits += 1
            return found

    @property
    def used_bytes(self) -> int:
        return sum(values.memory_bytes for values in list(self._entries.values()))

    def replace_all(self, name: str, values: T) -> None:
        """Drop every value, and hold this one."""
        with self._lock:
            self._entries.clear()
            self._entries[name] = values

    def values(self) -> list[T]:
        with self._lock:
            return list(self._entries.values())

    def keep_only(self, name: str) -> None:
        """Drop every other value, because memory is short."""
        with self._lock:
            for other in [n for n in self._entries if n != name]:
                del self._entries[other]
                self.counts.evictions += 1
