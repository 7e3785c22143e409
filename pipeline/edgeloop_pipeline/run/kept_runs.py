"""The folder of a run's results, `RUNS/NAME`, and the earlier runs that are kept beside it (docs/results.md).

`RUNS/history/NAME/N` holds run N of a recipe: its record, and links to its files in the cache. `RUNS/NAME` is one link to the
newest of them, so that it changes as a whole. A file system without links gets a folder of copies instead.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import msgspec

from edgeloop_contract.errors import StorageError
from edgeloop_contract.files import publish
from edgeloop_pipeline.bundling.file_names import CARD
from edgeloop_pipeline.bundling.variants import VARIANTS
from edgeloop_pipeline.cache.disk_use import noted_keys
from edgeloop_pipeline.cache.store import Store
from edgeloop_pipeline.run.record import Record
from edgeloop_pipeline.run.result import RunResult

HISTORY = "history"
MAX_KEPT_RUNS = 20  # of one recipe
RECORD, SUMMARY, LOG = "record.json", "run.json", "log.txt"
COPIES = ".edgeloop-results"  # marks a folder of copies as ours
RESERVED = frozenset({"cache", "history", "last", "last-run.json", "profiles", "retrain", "roi", "sweeps", "work"})
MODEL_FILES = (".onnx", ".tflite", "drop-in.py", "drop-in.cpp")
NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


def results_folder(root: Path, name: str) -> Path:
    """The folder where the newest run of `name` is shown: `_NAME` where `NAME` is a folder of edgeloop's or of somebody else."""
    folder = root / name
    taken = name.lower() in RESERVED or not _is_ours(folder)
    return root / f"_{name}" if taken else folder


def kept(root: Path, name: str) -> dict[int, Path]:
    """Number → folder of the kept runs of `name`, oldest first."""
    folder = root / HISTORY / name
    found = {int(p.name): p for p in folder.iterdir() if p.name.isdecimal()} if folder.is_dir() else {}
    return dict(sorted(found.items()))


def read_record(folder: Path) -> Record | None:
    """The record in a run's folder; None if there is none, or if another release wrote it."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def keep(result: RunResult, record: Record, texts: dict[str, str], show: bool) -> Path:
    """Keep a run that has ended, and return its folder. The caller holds the lock of the runs folder.

    `texts`: file name → content. `show`: let `RUNS/NAME` show it. Raises StorageError if the place is taken, and OSError.
    """
    root, name = result.store.root, record.name
    earlier = kept(root, name)
    folder = root / HISTORY / name / str(max(earlier, default=0) + 1)
    partial = folder.with_name(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file, text in {**texts, RECORD: msgspec.json.encode(record).decode()}.items():
        publish(partial / file, text.encode())
    files = {file: path for file, path in files_of(result).items() if not (partial / file).exists()}
    links = _link(partial, files)
    os.replace(partial, folder)
    if show:
        _show(results_folder(root, name), folder, files, links)
    _forget(root, name, record, earlier, folder)
    return folder


def files_of(result: RunResult) -> dict[str, Path]:
    """Name in the results folder → file in the cache: the report, the bundles, the model card, the model files."""
    store, found = result.store, {}
    for entry in result.entries:
        folder = store.folder(entry.stage, entry.key)
        made = [entry.metrics.get("report"), entry.metrics.get("bundle"), CARD]
        if VARIANTS in entry.files:
            made += [file for file in entry.files if file.endswith(MODEL_FILES)]
        found.update({name: folder / name for name in made if isinstance(name, str) and name in entry.files})
    return found


def shown_run(root: Path, name: str) -> Path | None:
    """The folder that shows the newest run of `name`; None if there is none."""
    folder = results_folder(root, name)
    return folder if (folder / RECORD).is_file() else None


def drop_dead_links(root: Path) -> None:
    """Remove the links of kept runs to files that are no longer in the cache."""
    for link in (root / HISTORY).glob("*/*/*"):
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)


def _is_ours(folder: Path) -> bool:
    """Whether a run may take this place: nothing is there, or what an earlier run put there."""
    if folder.is_symlink():
        return folder.readlink().parts[:1] == (HISTORY,)
    return not folder.exists() or (folder / COPIES).is_file()


def _link(folder: Path, files: dict[str, Path]) -> bool:
    """Link the files relative to the folder, so that the runs folder can be moved. False: this file system has no links."""
    try:
        for name, path in files.items():
            (folder / name).symlink_to(Path(os.path.relpath(path, folder)))
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return False
    return True


def _show(place: Path, folder: Path, files: dict[str, Path], links: bool) -> None:
    if links:
        try:
            return _point(place, folder)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
    return _copy(place, folder, files)


def _point(place: Path, folder: Path) -> None:
    """Let the link `place` lead to `folder`, in one step."""
    _check_free(place)
    link = place.with_name(f".{place.name}.link")
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(folder.relative_to(place.parent))
        if place.is_dir() and not place.is_symlink():  # copies, from a file system without links
            shutil.rmtree(place)
        os.replace(link, place)
    finally:
        link.unlink(missing_ok=True)


def _copy(place: Path, folder: Path, files: dict[str, Path]) -> None:
    """Put copies at `place`. After a kill in between, the place is empty, and never half full."""
    _check_free(place)
    partial, old = place.with_name(f".{place.name}.partial"), place.with_name(f".{place.name}.old")
    for debris in (partial, old):
        shutil.rmtree(debris, ignore_errors=True)
    shutil.copytree(folder, partial)
    for name, path in files.items():
        shutil.copyfile(path, partial / name)
    (partial / COPIES).touch()
    if place.exists():
        os.replace(place, old)
    os.replace(partial, place)
    shutil.rmtree(old, ignore_errors=True)


def _check_free(place: Path) -> None:
    if not _is_ours(place):
        raise StorageError(f"{place}: is not a folder of results; move it away, or choose another folder with --runs")


def _forget(root: Path, name: str, record: Record, earlier: dict[int, Path], newest: Path) -> None:
    """Remove the run before this one if both have the same stages and end, and the oldest ones above the limit."""
    shown = results_folder(root, name).resolve()
    last = earlier.get(max(earlier, default=0))
    before = read_record(last) if last else None
    drop = list(earlier.values())[: max(0, len(earlier) + 1 - MAX_KEPT_RUNS)]
    if last and before and (before.keys, before.failures, before.error) == (record.keys, record.failures, record.error):
        drop.append(last)
    for folder in drop:
        if folder.resolve() not in (shown, newest.resolve()):
            shutil.rmtree(folder, ignore_errors=True)


def entries_in_use(store: Store) -> set[str]:
    """The names of the cache entries of each recipe's newest run, also of a killed one, and of its newest run without error."""
    found, started = set(), {}
    history = store.root / HISTORY
    for name in (p.name for p in history.iterdir() if p.is_dir()) if history.is_dir() else ():
        records = [record for record in map(read_record, kept(store.root, name).values()) if record is not None]
        good = [record for record in records if record.error is None]
        shown = read_record(results_folder(store.root, name))
        for record in (*records[-1:], *good[-1:], *([shown] if shown else [])):
            found |= {f"{stage.name}-{stage.key}" for stage in record.stages}
        if records:
            started[name] = records[-1].started
    return found | noted_keys(store, started)
