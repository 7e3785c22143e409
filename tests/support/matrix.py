"""Matrices of cases: a few stay in `make test`, and the others wait for `make test-long`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def cases(every: Iterable[str], front: Iterable[str]) -> list[Any]:
    """Parameters of a test: those of `front` run always, every other one is marked long."""
    names, shown = list(every), set(front)
    assert shown <= set(names), shown - set(names)
    return [name if name in shown else pytest.param(name, marks=pytest.mark.long) for name in names]
