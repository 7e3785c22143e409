"""`edgeloop new --data`: looks at a data folder and writes a project that runs."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeloop_agent.sources.readers import READERS
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.datasets import ClassFolders, NormalFolders, Table, Values, read_table, table_files
from edgeloop_pipeline.recipe import reference_projects

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm")
LABEL_NAMES = ("label", "class", "activity", "target", "y", "state")
GROUP_NAMES = ("subject", "user", "person", "device", "group", "id", "session", "machine")
NO_CHANNEL = ("time", "timestamp", "index", "datetime", "date", "t", "")
MOST_LABELS = 50
NORMAL_NAMES = ("normal", "good", "ok", "healthy", "background")
TEMPLATES = Path(__file__).with_name("templates")
AFTER_TRAINING = ("quantize", "export", "verify", "profile", "package", "report")
SIDES = (28, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Plan:
    """What was seen, and the project that follows from it."""

    seen: str
    network: str  # of which reference project
    network_reference: str
    network_args: str
    data: str  # the lines that make the data set
    augment: str
    preprocessing: list[str]
    train: str
    distinct: tuple[str, ...]
    task: str = "classification"


def look(data: Path, task: str = "") -> Plan:
    """Decide from what is in the folder; `task` '' is decided too. Raises DataError that says what would be understood."""
    data = data.resolve()
    if data.is_file():
        return _table(data, task)
    if not data.is_dir():
        raise DataError(f"{data}: no such file or folder; give a folder of class folders, or a table with a label column")
    folders = [p for p in data.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not folders:
        return _table(data, task)
    if task == "regression":
        raise DataError(f"{data}: class folders have no numbers to estimate; give a table with the quantity in a column")
    kinds = Counter(p.suffix.lower() for p in data.rglob("*") if p.suffix.lower() in READERS and p.is_file())
    if not kinds:
        raise DataError(f"{data}: no readable file in its folders; known are {', '.join(sorted(READERS))}")
    kind = kinds.most_common(1)[0][0]
    normal = _normal_folder(data) if task == "anomaly" else ""
    splits = NormalFolders(data, normal=normal).load() if normal else ClassFolders(data).load()
    first = [np.asarray(splits.train.recordings[i]) for i in range(min(20, len(splits.train.labels)))]
    made = f"NormalFolders(Path({str(data)!r}), normal={normal!r})" if normal else f"ClassFolders(Path({str(data)!r}))"
    count = len(splits.train.labels)
    if kind in IMAGES:
        plan = _images(first, splits.labels, made, count)
    elif kind == ".wav":
        plan = _sound(data, first, splits.labels, made, count)
    else:
        plan = _series(first, splits.labels, made, count)
    return _reconstructing(plan, count) if normal else plan


def _normal_folder(data: Path) -> str:
    names = sorted({p.name for p in data.rglob("*") if p.is_dir()})
    found = next((name for name in names if name.lower() in NORMAL_NAMES), "")
    if not found:
        raise DataError(f"{data}: no folder is called {', '.join(NORMAL_NAMES)}; rename the one that holds what is normal")
    return found


def _reconstructing(plan: Plan, count: int) -> Plan:
    """The same data for an autoencoder: no augmentation of ours, as what it makes is not normal any more."""
    return replace(
        plan, task="anomaly", network="", network_reference="network.py:autoencoder", network_args="{width: 64, code: 8}",
        augment="", train=_adamw(count),
    )  # fmt: skip


def _images(first: list[np.ndarray], labels: tuple[str, ...], made: str, count: int) -> Plan:
    heights = sorted(image.shape[0] for image in first)
    side = min(SIDES, key=lambda s: abs(s - min(heights[len(heights) // 2], SIDES[-1])))
    colour = any(image.ndim == 3 and image.shape[-1] >= 3 for image in first)
    steps = [] if colour else ["{step: grayscale}"]
    widths = "[16, 32, 64]" if side <= 48 else "[16, 32, 64, 96]"
    kind = "colour" if colour else "grey"
    seen = f"{count} training images in {len(labels)} classes, {kind}, about {heights[len(heights) // 2]} pixels high"
    train = f"{{epochs: {_epochs(count)}, batch: {_batch(count)}, learning_rate: 0.1}}"
    return Plan(
        seen, "fashion", "network.py:resnet", f"{{widths: {widths}, blocks: 1}}", made, "rand_augment",
        [*steps, f"{{step: resize, height: {side}, width: {side}}}"], train, labels,
    )  # fmt: skip


def _sound(data: Path, first: list[np.ndarray], labels: tuple[str, ...], made: str, count: int) -> Plan:
    import wave

    with wave.open(str(next(data.rglob("*.wav"))), "rb") as file:
        rate = file.getframerate()
    length = int(np.median([len(sound) for sound in first]))
    window = 1 << round(np.log2(0.032 * rate))
    shape = f"rate_hz: {rate}, window: {window}, hop: {window // 2}, bands: 40, low_hz: 60, high_hz: {rate // 2 - 100}"
    steps = [f"{{step: pad, length: {max(length, window)}}}", f"{{step: log_mel, {shape}}}"]
    seen = f"{count} training recordings in {len(labels)} classes, {rate} Hz, about {length / rate:.1f} s"
    return Plan(seen, "spoken_digits", "network.py:ds_cnn", "{width: 64}", made, "spec_augment", steps, _adamw(count), labels)


def _series(first: list[np.ndarray], labels: tuple[str, ...], made: str, count: int) -> Plan:
    length = int(np.median([len(series) for series in first]))
    channels = first[0].shape[-1]
    window = max(8, min(128, length))
    low = np.min([np.nanmin(s, axis=0) for s in first], axis=0)
    high = np.max([np.nanmax(s, axis=0) for s in first], axis=0)
    # A little more than the range seen, over the counts of 16 bits.
    lsb = [float(f"{max(1e-9, 1.25 * max(abs(a), abs(b)) / 32767):.3g}") for a, b in zip(low, high, strict=True)]
    steps = [f"{{step: window, length: {window}, hop: {window // 2}}}", f"{{step: counts, lsb: {lsb}}}"]
    seen = f"sensor recordings in {len(labels)} classes, {channels} channels, about {length} points"
    return Plan(
        seen,
        "exercise_watch",
        "network.py:motion_net",
        "{width: 64}",
        made,
        "jitter",
        steps,
        _adamw(count * max(1, 2 * length // window - 1)),
        labels,
    )


def _table(path: Path, task: str) -> Plan:
    if task == "anomaly":
        raise DataError(f"{path}: for anomalies give folders of recordings, one called {NORMAL_NAMES[0]}")
    files = table_files(path)
    table = read_table(files[0])
    names = {name.lower(): name for name in table}
    label = next((names[n] for n in LABEL_NAMES if n in names), "")
    if not label:
        raise DataError(
            f"{files[0]}: no column is called {', '.join(LABEL_NAMES[:-1])} or {LABEL_NAMES[-1]}; rename the label's column,"
            " or sort the files into one folder for each class"
        )
    distinct = np.unique(np.asarray(table[label]).astype(str))
    estimates = task == "regression" or (not task and np.asarray(table[label]).dtype.kind == "f" and len(distinct) > MOST_LABELS)
    if len(distinct) > MOST_LABELS and not estimates:
        raise DataError(
            f"{files[0]}: column {label!r} has {len(distinct)} values, too many for classes; give the column with classes"
        )
    group = next((names[n] for n in GROUP_NAMES if n in names and names[n] != label), "")
    channels = tuple(
        name for name, values in table.items()
        if name not in (label, group) and name.lower() not in NO_CHANNEL and np.asarray(values).dtype.kind in "fiu"
    )  # fmt: skip
    if not channels:
        raise DataError(f"{files[0]}: no column of numbers beside {label!r}; sensor values are needed")
    if estimates:
        return _estimating(path, label, channels, group)
    data = Table(path, label, channels, group)
    splits = data.load()
    made = f"Table(Path({str(path)!r}), label={label!r}, channels={channels!r}, group={group!r})"
    plan = _series([np.asarray(r) for r in splits.train.recordings][:20], splits.labels, made, len(splits.train.labels))
    how = f"split by {group}" if group else "split by recording: name who or what was recorded in a column called subject or device"
    return replace(plan, seen=f"{plan.seen}; {how}")


def _estimating(path: Path, label: str, channels: tuple[str, ...], group: str) -> Plan:
    splits = Values(path, label, channels, group).load()
    made = f"Values(Path({str(path)!r}), label={label!r}, channels={channels!r}, group={group!r})"
    plan = _series([np.asarray(r) for r in splits.train.recordings][:20], splits.labels, made, len(splits.train.labels))
    seen = f"{len(channels)} channels and {label!r} to estimate, split by {group or 'stretches of rows'}"
    counts = [step for step in plan.preprocessing if "counts" in step]
    return replace(plan, task="regression", seen=seen, preprocessing=counts)


def _epochs(count: int) -> int:
    """About as many steps for small sets as for large ones."""
    return int(np.clip(600_000 / max(1, count), 15, 60))


def _batch(count: int) -> int:
    """So that an epoch has some sixteen steps."""
    return int(np.clip(2 ** int(np.log2(max(1, count / 16))), 8, 64))


def _adamw(count: int) -> str:
    return f"{{epochs: {_epochs(count)}, batch: {_batch(count)}, learning_rate: 0.01, optimizer: adamw, weight_decay: 0.05}}"


def write(folder: Path, plan: Plan) -> None:
    """The project: recipe.yaml, network.py and data.py, each to be edited."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy((reference_projects()[plan.network] if plan.network else TEMPLATES) / "network.py", folder / "network.py")
    kind = plan.data.split("(")[0]
    (folder / "data.py").write_text(
        '"""The data of this project."""\n\nfrom pathlib import Path\n\n'
        + (f"from edgeloop_pipeline.augmentations import {plan.augment} as augment  # noqa: F401\n" if plan.augment else "")
        + f"from edgeloop_pipeline.datasets import {kind}\n\n\ndef data() -> {kind}:\n    return {plan.data}\n"
    )
    steps = "\n".join(f"  - {step}" for step in plan.preprocessing)
    verb = "Estimates" if plan.task == "regression" else "Tells apart"
    name = "".join(c if c.isalnum() or c in "_.-" else "_" for c in folder.resolve().name).lstrip("_.-") or "project"
    (folder / "recipe.yaml").write_text(
        f"# {plan.seen}.\nname: {name[:64]}\nversion: 1\n"
        + (f"task: {plan.task}\n" if plan.task != "classification" else "")
        + f"network: {plan.network_reference}\nnetwork_args: {plan.network_args}\n"
        + "data: data.py:data\n"
        + ("augment: data.py:augment\n" if plan.augment else "")
        + f"preprocessing:                # the device does these too\n{steps}\n"
        "target:\n  max_drop: 0.02              # int8 against float; add min_accuracy when you know what you need\n"
        f"model_card: {verb} {', '.join(plan.distinct[:10])}{' …' if len(plan.distinct) > 10 else ''}.\n"
        f"stages:\n  train: {plan.train}\n" + "".join(f"  {stage}: {{}}\n" for stage in AFTER_TRAINING)
    )
