"""Checkpoints: everything that a run needs to continue as if it had never stopped, written by rename."""

from __future__ import annotations

import errno
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeloop_contract.files import publishing

FILE = "checkpoint.pt"


def generators() -> dict[str, Any]:
    """The state of every random number generator of this process, as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }


def restore_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


def store(folder: Path, state: dict[str, Any]) -> str:
    """Write to another file, flush to disk, rename. On a full disk the older checkpoint stays. Returns the problem, or ''."""
    try:
        with publishing(folder / FILE) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error) and "write failed" not in str(error):
            raise
        return "no checkpoint: the disk is full; training continues, and would resume from the checkpoint before"
    return ""


def read(folder: Path) -> dict[str, Any] | None:
    """The checkpoint; None if there is none or it is damaged. Training then starts again."""
    try:
        state: dict[str, Any] = torch.load(folder / FILE, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return state
