"""The commands for results: `edgeloop report`, `open`, `compare` and `clean`; and the bundle's copy for `run --out`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeloop_contract.errors import StorageError, UsageError
from edgeloop_pipeline.cli.run_options import FiniteRange, runs_option, set_option

if TYPE_CHECKING:  # loaded when a command runs
    from edgeloop_pipeline.recipe.recipe import Recipe
    from edgeloop_pipeline.run.record import Record
    from edgeloop_pipeline.run.result import RunResult

SUFFIX = ".edgeloop"
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")


@click.command()
@click.argument("recipe", required=False)
@runs_option
@set_option
def report(recipe: str | None, runs: Path, changes: tuple[str, ...]) -> None:
    """Print the path of the report of RECIPE's last run."""
    from edgeloop_pipeline.run.kept_runs import results_folder
    from edgeloop_pipeline.run.last_run import planned_of

    loaded, store, _ = planned_of(recipe, runs, changes)
    entry = store.last(loaded.head.name, "report")
    if entry is None:
        raise UsageError(f"{loaded.head.name}: no report yet in {runs}; run it first: edgeloop run {loaded.path}")
    path = store.folder("report", entry.key) / entry.metrics["report"]
    shown = results_folder(runs, loaded.head.name) / path.name
    click.echo(str(shown if shown.exists() and shown.samefile(path) else path))


@click.command(name="open")
@click.argument("what", type=click.Choice(["report", "bundle", "folder"]))
@click.argument("run", metavar="[RUN]", required=False)
@runs_option
def open_results(what: str, run: str | None, runs: Path) -> None:
    """Open a run's report, its bundle's folder, or all its results. RUN: a name, a project, or a folder of results.

    Default: the recipe that ran last. The command prints the path, and opens it where this machine has a browser or a file manager.
    """
    from edgeloop_pipeline.run.find_run import name_of
    from edgeloop_pipeline.run.kept_runs import RECORD, read_record, shown_run

    given = Path(run) if run is not None and (Path(run) / RECORD).is_file() else None
    name = name_of(runs, run) if given is None else str(given)
    folder = given or shown_run(runs, name)
    record = read_record(folder) if folder else None
    if folder is None or record is None:
        raise UsageError(f"{name}: has no results in {runs}; run it first: edgeloop run {run or name}")
    path = folder if what == "folder" else _file_of(folder, record, what)
    click.echo(str(path))
    if what == "report":
        _in_browser(path)
    else:
        _in_file_manager(path if path.is_dir() else path.parent)


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="[RUN]", required=False)
@runs_option
@json_option
def compare(first: str, second: str | None, runs: Path, as_json: bool) -> None:
    """Compare two runs: settings, code, data, accuracies with intervals, sizes, latencies.

    RUN is a name or a project (its newest run), NAME@N (an earlier run), or a folder of results. One RUN alone is compared with
    the run before it.
    """
    import msgspec

    from edgeloop_pipeline.cli.results_text import comparison_text
    from edgeloop_pipeline.run.comparison import compare as compared
    from edgeloop_pipeline.run.find_run import before_newest, find_run

    if second is None:
        first, second = before_newest(runs, first), first
    found = compared(find_run(runs, first), find_run(runs, second))
    click.echo(msgspec.json.encode(found).decode() if as_json else comparison_text(found, (first, second)))


@click.command()
@runs_option
@click.option("--older-than", "days", type=FiniteRange(min=0), default=0.0, metavar="DAYS", help="Only what is older.")
@click.option("--unfinished", is_flag=True, help="Also checkpoints of interrupted stages, which the next run would resume.")
@click.option("--yes", is_flag=True, help="Free it; without this option, nothing is removed.")
@json_option
def clean(runs: Path, days: float, unfinished: bool, yes: bool, as_json: bool) -> None:
    """Say what of the cache no newest run uses, by stage and age; with --yes, free it."""
    from contextlib import nullcontext

    import msgspec

    from edgeloop_pipeline.cache.disk_use import by_stage, disk_use, free
    from edgeloop_pipeline.cache.store import Store
    from edgeloop_pipeline.cli.results_text import clean_text
    from edgeloop_pipeline.run.kept_runs import drop_dead_links, entries_in_use

    store = Store(runs)
    if not (runs / "cache").is_dir():
        raise UsageError(f"{runs}: has no cache; name the folder of the runs with --runs")
    with store.lock() if yes else nullcontext():
        items = disk_use(store, entries_in_use(store), days, unfinished)
        freed = free(store, items) if yes else 0
        if yes:
            drop_dead_links(runs)
    table = by_stage(items)
    told = {"stages": table, "items": items, "free_bytes": sum(row.free_bytes for row in table), "freed_bytes": freed}
    click.echo(msgspec.json.encode(told).decode() if as_json else clean_text(runs, table, freed if yes else None))


def _file_of(folder: Path, record: Record, what: str) -> Path:
    """The report or the bundle in a folder of results. Raises UsageError if the run made none, or if it is gone."""
    suffix = ".html" if what == "report" else SUFFIX
    own = f"{record.name}-{record.version}{suffix}"  # beside it, there may be a cascade's large bundle
    found = sorted(folder.glob(f"*{suffix}"), key=lambda path: (path.name != own, path.name))
    if not found:
        why = f" ({record.error})" if record.error else ""
        raise UsageError(f"{record.name}: this run made no {what}{why}; correct the recipe and run it again")
    if not found[0].exists():
        raise UsageError(f"{record.name}: the {what} of this run is no longer in the cache; run it again")
    return found[0]


def check_out(out: Path, recipe: Recipe) -> None:
    """Refuse a place for the bundle before hours of training. Raises UsageError and StorageError."""
    if out.suffix != SUFFIX or out.is_dir():
        raise UsageError(f"--out {out}: name a file that ends in {SUFFIX}")
    if not out.parent.is_dir():
        raise StorageError(f"--out {out}: there is no folder {out.parent}; create it first")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise StorageError(f"--out {out}: the folder {out.parent} cannot be written; choose another one")
    if "package" not in recipe.stages:
        raise UsageError(f"--out {out}: {recipe.path} has no package stage, so it makes no bundle; add the stage")


def copy_bundle(result: RunResult, out: Path) -> None:
    """Copy the run's bundle to `out`: all of it, or nothing. Raises UsageError if the package stage made none, and OSError."""
    import shutil

    from edgeloop_contract.files import publishing

    bundle = result.path("package", "bundle")
    if bundle is None:
        raise UsageError(f"--out {out}: the package stage of {result.recipe.path} made no bundle")
    with bundle.open("rb") as source, publishing(out) as target:
        shutil.copyfileobj(source, target)


def _has_display() -> bool:
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _in_browser(path: Path) -> None:
    """Open a page where there is a graphical browser, or the one that $BROWSER names."""
    import webbrowser

    if not (_has_display() or os.environ.get("BROWSER")):
        return
    try:
        webbrowser.open(path.absolute().as_uri())
    except (webbrowser.Error, OSError):
        return  # the path is printed


def _in_file_manager(folder: Path) -> None:
    import shutil
    import subprocess

    opener = shutil.which("xdg-open")
    if opener is None or not _has_display():
        return
    subprocess.Popen(
        [opener, str(folder.absolute())], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
