"""Label smoothing is for classes alone."""

from __future__ import annotations

from edgeloop_contract.errors import ModelError

__all__ = ["refuse_smoothing"]


def refuse_smoothing(smoothing: float, task: str) -> None:
    """Raises ModelError where a recipe of another task asks for it."""
    if smoothing:
        raise ModelError(f"label_smoothing: is for classes; remove it from a {task} recipe")
