"""Collects arrays of one shape: in memory while they are few, in a mapped file when they are many."""

from __future__ import annotations

import tempfile
from typing import IO

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cache.user_folder import cache_folder

MAX_IN_MEMORY_BYTES = 256 << 20


class SpillArray:
    """Appends (n, *sample) arrays and gives all as one (N, *sample), which may be larger than memory."""

    def __init__(self, max_in_memory_bytes: int = MAX_IN_MEMORY_BYTES) -> None:
        self.most = max_in_memory_bytes
        self.held: list[Array] = []
        self.held_bytes = self.rows = 0
        self.kind: tuple[tuple[int, ...], np.dtype[np.generic]] | None = None
        self.file: IO[bytes] | None = None

    def append(self, values: Array) -> None:
        """Append samples. Raises DataError if their shape or type differs from those before."""
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        kind = (values.shape[1:], values.dtype)
        if self.kind is not None and kind != self.kind:
            raise DataError(
                f"samples of {kind[1]} {kind[0]} after samples of {self.kind[1]} {self.kind[0]}; add a resize or window step"
            )
        self.kind = kind
        self.held.append(values)
        self.held_bytes += values.nbytes
        self.rows += len(values)
        if self.held_bytes > self.most:
            self._spill()

    def _spill(self) -> None:
        if self.file is None:
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (lives as long as its mapping; it has no name)
        for values in self.held:
            self.file.write(np.ascontiguousarray(values).data)
        self.held, self.held_bytes = [], 0

    def all(self) -> Array:
        """All appended samples as one array; nothing can be appended afterwards."""
        if self.kind is None:
            raise DataError("no samples; check the data")
        if self.file is None:
            return np.concatenate(self.held)
        self._spill()
        with self.file:
            self.file.flush()
            return np.memmap(self.file, dtype=self.kind[1], mode="c", shape=(self.rows, *self.kind[0]))
