"""Finds the run that a person means: a name, a project, NAME@N, or a folder."""

from __future__ import annotations

from pathlib import Path

from edgeloop_contract.errors import UsageError
from edgeloop_contract.settings import nearest
from edgeloop_pipeline.run.kept_runs import HISTORY, RECORD, kept, read_record, shown_run
from edgeloop_pipeline.run.record import Record


def name_of(root: Path, text: str | None) -> str:
    """The recipe's name that `text` means: a name with runs in `root`, or a project. None: the recipe that ran last.

    Raises UsageError if it is neither.
    """
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.run.last_run import last_recipe

    if text is None:
        return recipes.load(*last_recipe(root)).head.name
    if Path(text).name == text and (kept(root, text) or shown_run(root, text)):
        return text
    try:
        return recipes.load(recipes.find(text)).head.name
    except UsageError:
        if Path(text).exists():
            raise
        names = names_in(root)
        known = f"; runs there: {', '.join(names)}" if names else ""
        raise UsageError(f"{text}: neither a project nor a run in {root}{nearest(text, names)}{known}") from None


def names_in(root: Path) -> list[str]:
    """The recipes with kept runs in a runs folder."""
    folder = root / HISTORY
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def find_run(root: Path, text: str) -> Record:
    """The record of a run: the newest of a name or a project, `NAME@N`, or the one in a folder. Raises UsageError."""
    if (Path(text) / RECORD).is_file():
        return _read(Path(text))
    named, at, number = text.rpartition("@")
    name = name_of(root, named if at else text)
    runs = kept(root, name)
    if not runs:
        raise UsageError(f"{text}: has no kept run in {root}; run it first: edgeloop run {text}")
    if not at:
        return _read(runs[newest(runs)])
    if not number.isdecimal() or int(number) not in runs:
        raise UsageError(f"{text}: no such run; kept runs of {name}: {', '.join(f'{name}@{n}' for n in runs)}")
    return _read(runs[int(number)])


def before_newest(root: Path, text: str) -> str:
    """`NAME@N` of the run before the newest one of a name or a project. Raises UsageError if there is none."""
    name = name_of(root, text)
    runs = kept(root, name)
    earlier = [number for number in runs if number < newest(runs)]
    if not earlier:
        raise UsageError(f"{name}: has no earlier run in {root} to compare with; name a second run")
    return f"{name}@{earlier[-1]}"


def newest(runs: dict[int, Path]) -> int:
    """The number of the newest run that `edgeloop run` made; of the newest one, if only retraining made any."""
    made = [number for number, folder in runs.items() if (record := read_record(folder)) and record.by == "run"]
    return max(made or runs, default=0)


def _read(folder: Path) -> Record:
    record = read_record(folder)
    if record is None:
        raise UsageError(f"{folder}: its {RECORD} cannot be read by this release; run the recipe again")
    return record
