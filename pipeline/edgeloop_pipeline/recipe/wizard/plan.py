"""The plan of a project: the facts about the data, and the settings that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.types import NAMES

MAX_SHOWN = 20
MAX_PROBLEMS = 20


@dataclass(frozen=True)
class ProjectPlan:
    """The plan. `says`: topics and texts to print. `kind`, `arguments`: the data set's class and its arguments besides the path."""

    seen: str
    says: tuple[tuple[str, str], ...]
    path: Path
    kind: str
    arguments: dict[str, object]
    network: str  # the reference project that it comes from; '' is the autoencoder for anomalies
    network_reference: str
    network_args: str
    augment: str
    preprocessing: tuple[str, ...]
    train: str
    distinct: tuple[str, ...]
    task: str = "classification"
    cleaning: tuple[str, ...] = ()


def epochs(count: int) -> int:
    """The number of epochs, which gives small data sets about as many steps as large ones."""
    return int(np.clip(600_000 / max(1, count), 15, 60))


def batch(count: int) -> int:
    """The batch size, which gives an epoch about sixteen steps."""
    return int(np.clip(2 ** int(np.log2(max(1, count / 16))), 8, 64))


def adamw(count: int) -> str:
    return f"{{epochs: {epochs(count)}, batch: {batch(count)}, learning_rate: 0.01, optimizer: adamw, weight_decay: 0.05}}"


def counted(names: Sequence[str]) -> str:
    """The text of each name with its count."""
    counts = Counter(names)
    shown = [f"{name}: {counts[name]}" for name in sorted(counts)[:MAX_SHOWN]]
    return ", ".join(shown) + (f", … ({len(counts)} in all)" if len(counts) > MAX_SHOWN else "")


def split_lines(labels: Sequence[str], sides: Sequence[str], units: Sequence[str], what: str) -> list[tuple[str, str]]:
    """A line for each split with its members and classes. `labels`: empty texts without classes."""
    lines = []
    for name in NAMES:
        rows = [i for i, side in enumerate(sides) if side == name]
        classes = counted([labels[i] for i in rows]) if any(labels) else ""
        text = f"{len(rows)}{f' ({classes})' if classes else ''}"
        members = sorted({units[i] for i in rows}) if what else []
        if members:
            text += f"; {what} {', '.join(members[:MAX_SHOWN])}{' …' if len(members) > MAX_SHOWN else ''}"
        lines.append((name, text))
    return lines


def refuse(where: Path, problems: Sequence[str]) -> None:
    """Raise DataError that lists all problems, if there are any."""
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(problems[0] if problems[0].startswith(str(where)) else f"{where}: {problems[0]}")
    more = [f"… and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    raise DataError(f"{where}: {len(problems)} problems:\n  " + "\n  ".join([*problems[:MAX_PROBLEMS], *more]))


def left_out(found: dict[str, int]) -> list[tuple[str, str]]:
    shown = [f"{count} {what}" for what, count in sorted(found.items(), key=lambda item: -item[1]) if count]
    return [("left out", "; ".join(shown))] if shown else []
