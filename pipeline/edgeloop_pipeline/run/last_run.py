"""The note of the recipe that ran last in a folder: the default of `status`, `why` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeloop_contract.errors import UsageError


def remember(store: Any, path: Path, changes: tuple[str, ...]) -> None:
    """Note this recipe as the last one of this folder: the default of status, why and report."""
    import msgspec

    from edgeloop_pipeline.cache.store import write

    with store.lock():
        write(store.root / "last-run.json", msgspec.json.encode([str(path), changes]))


def last_recipe(runs: Path) -> tuple[Path, tuple[str, ...]]:
    """The recipe that ran last in this folder, with its changes. Raises UsageError if none did."""
    import msgspec

    from edgeloop_pipeline.recipe import recipe as recipes

    try:
        path, changes = msgspec.json.decode((runs / "last-run.json").read_bytes(), type=tuple[str, tuple[str, ...]])
    except (OSError, msgspec.MsgspecError):
        raise UsageError(f"{runs}: no recipe ran in this folder yet; name a recipe, or another folder with --runs") from None
    return recipes.find(path), changes


def planned_of(recipe: str | None, runs: Path, changes: tuple[str, ...]) -> tuple[Any, Any, Any]:
    """The recipe, its store, and its stages up to the first one that would run."""
    from edgeloop_pipeline.cache.store import Store
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.recipe.project import Project
    from edgeloop_pipeline.run.runner import plan_next

    path = recipes.find(recipe) if recipe is not None else None
    if path is None:
        path, remembered = last_recipe(runs)
        changes = (*remembered, *changes)
    loaded = recipes.load(path, changes)
    store, project, planned = Store(runs), Project(loaded), []
    entries: list[Any] = []
    for name, settings in loaded.stages.items():
        planned.append(plan_next(project, store, name, settings, entries))
        if planned[-1].entry is None:
            break
        entries.append(planned[-1].entry)
    return loaded, store, planned
