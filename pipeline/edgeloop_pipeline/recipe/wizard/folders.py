"""Examines class folders and plans the project for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.folders import ClassFolders, NormalFolders
from edgeloop_pipeline.data.datasets.scanning import Scan, scan
from edgeloop_pipeline.recipe.wizard import plan as plans
from edgeloop_pipeline.recipe.wizard import roles, series
from edgeloop_pipeline.recipe.wizard.facts import Facts, facts_of, header_of, middle, shape_problems
from edgeloop_pipeline.recipe.wizard.plan import ProjectPlan, adamw, batch, epochs, refuse

NORMAL_NAMES = ("normal", "good", "ok", "healthy", "background")
SIDES = (28, 32, 48, 64, 96, 128)
LONG_SOUND_SECONDS, SOUND_WINDOW_SECONDS = 3.0, 2.0
MIN_HZ = 2000
MAX_NAMED = 5
FAINT = 64  # counts between darkest and brightest; with fewer, an augmentation of brightness would hide the content


def look_at_folders(data: Path, task: str) -> ProjectPlan:
    """Examine class folders and return the plan. Raises DataError that lists every problem."""
    found = scan(data)
    if not found.files:
        left = "; ".join(f"{count} {what}" for what, count in found.left_out.items())
        raise DataError(
            f"{data}: no readable file in its folders ({left or 'they are empty'}); readable are pictures, WAV, FLAC, CSV, NPY"
        )
    normal = _normal_folder(data, found) if task == "anomaly" else ""
    header = header_of([file.path for file in found.files]) if found.kind == "series" else {}
    chosen = roles.of_columns(header) if header else roles.Roles()
    made = NormalFolders(data, normal=normal) if normal else ClassFolders(data)
    made = replace(made, kind=found.kind if _is_mixed(found) else "", channels=chosen.channels)
    problems = list(chosen.problems)
    labels, sides = [file.label for file in found.files], [""] * len(found.files)
    try:
        if len(set(labels)) < 2:
            made.load()  # raises the error for a single class
        sides = made.sides(found)
    except DataError as error:
        problems.append(str(error))
    facts = facts_of([file.path for file in found.files], found.kind, chosen.channels)
    problems += [f"{fact.path.relative_to(found.root)}: {fact.problem}; repair or remove it" for fact in facts if fact.problem]
    good = [fact for fact in facts if not fact.problem]
    if found.kind == "series" and good:
        problems += shape_problems(good, found.root)
    refuse(data, problems)
    count = sides.count("train")
    plan = plan_of_kind(found.kind, found.root, good, chosen.channels, len({file.label for file in found.files}), count)
    names = (normal, "anomaly") if normal else tuple(sorted(set(labels)))
    says = [("understood", _understood(data, found, normal)), ("classes", plans.counted(labels))]
    how = " and ".join(sorted(found.split_names)) + " as the folders say" if found.split_names else "quotas of files in each class"
    says += [*plans.split_lines(labels, sides, [], ""), ("split by", how), *plan.says]
    if not chosen.channels and found.kind == "series" and all(fact.clock for fact in good):
        says.append(
            ("caution", "channel 1 rises evenly: a time or a row's number? then remove it, or name it time in a header line")
        )
    says += [("empty", f"no readable file in {', '.join(found.empty)}")] if found.empty else []
    says += [*((name, why) for name, why in chosen.left_out.items()), *plans.left_out(found.left_out)]
    kind = "NormalFolders" if normal else "ClassFolders"
    arguments = {"normal": normal, "kind": made.kind, "channels": made.channels, **plan.arguments}
    plan = replace(plan, says=tuple(says), path=data, kind=kind, arguments=arguments, distinct=names)
    return _reconstructing(plan, count) if normal else plan


def _understood(data: Path, found: Scan, normal: str) -> str:
    inside = f", in {found.root.relative_to(data)}/" if found.root != data else ""
    task = f"anomalies, {normal!r} is normal" if normal else "a class for each folder"
    return f"{found.kind}, {task}{inside}"


def _is_mixed(found: Scan) -> bool:
    return any(f", beside {found.kind}" in why for why in found.left_out)


def _normal_folder(data: Path, found: Scan) -> str:
    names = sorted({file.label for file in found.files})
    normal = next((name for name in names if name.lower() in NORMAL_NAMES), "")
    if not normal:
        raise DataError(f"{data}: no folder is called {', '.join(NORMAL_NAMES)}; rename the one that holds what is normal")
    return normal


def _reconstructing(plan: ProjectPlan, count: int) -> ProjectPlan:
    """The plan for an autoencoder on the same data: no augmentation, because its results would not be normal samples."""
    return replace(
        plan, task="anomaly", network="", network_reference="network.py:autoencoder", network_args="{width: 64, code: 8}",
        augment="", train=adamw(count),
    )  # fmt: skip


def plan_of_kind(kind: str, root: Path, good: list[Facts], channels: tuple[str, ...], classes: int, count: int) -> ProjectPlan:
    """The plan for files of a kind in `root`. `count`: the number of training recordings."""
    if kind == "pictures":
        return _pictures(good, classes, count)
    if kind == "sound":
        return _sound(root, good, classes, count)
    seen = series.Seen.all([fact.seen for fact in good if fact.seen])
    return series_plan([fact.shape[0] for fact in good], seen, channels, classes, count)


def _pictures(good: list[Facts], classes: int, count: int) -> ProjectPlan:
    heights = [fact.shape[0] for fact in good]
    side = min(SIDES, key=lambda s: abs(s - min(middle(heights), SIDES[-1])))
    greys = [fact for fact in good if len(fact.shape) == 2 or fact.shape[-1] == 1]
    grey, colour = len(greys), 2 * len(greys) < len(good)
    steps = ["{step: colour}"] if colour and grey else [] if colour else ["{step: grayscale}"]
    widths = "[16, 32, 64]" if side <= 48 else "[16, 32, 64, 96]"
    kind = "colour" if colour else "grey"
    few = sorted((greys if colour else [fact for fact in good if fact not in greys]), key=lambda fact: fact.path)
    named = ", ".join("/".join(fact.path.parts[-2:]) for fact in few[:MAX_NAMED]) + (" …" if len(few) > MAX_NAMED else "")
    mixed = f"; {grey} grey and {len(good) - grey} in colour ({named}), all become {kind}" if 0 < grey < len(good) else ""
    seen = f"{count} training images in {classes} classes, {kind}, about {middle(heights)} pixels high"
    says = [("pictures", f"{min(heights)} to {max(heights)} pixels high, {kind}{mixed}; resized to {side}×{side}")]
    darkest, brightest = min(fact.span[0] for fact in good), max(fact.span[1] for fact in good)
    faint = brightest - darkest < FAINT
    if faint:
        says.append(("contrast", f"all values are between {darkest} and {brightest} of 255, so training does not vary brightness"))
    train = f"{{epochs: {epochs(count)}, batch: {batch(count)}, learning_rate: 0.1}}"
    return ProjectPlan(
        seen, tuple(says), Path(), "", {}, "fashion", "network.py:resnet", f"{{widths: {widths}, blocks: 1}}",
        "" if faint else "rand_augment",
        (*steps, f"{{step: resize, height: {side}, width: {side}}}"), train, (),
    )  # fmt: skip


def _sound(root: Path, good: list[Facts], classes: int, count: int) -> ProjectPlan:
    rates = Counter(fact.rate_hz for fact in good)
    rate = min(rates)
    if rate < MIN_HZ:
        slow = next(fact.path.relative_to(root) for fact in good if fact.rate_hz == rate)
        raise DataError(f"{root}: {slow}: sound at {rate} Hz, but sound needs {MIN_HZ} Hz or more: save slower signals as CSV")
    seconds = float(np.median([fact.shape[0] / fact.rate_hz for fact in good]))
    window = 1 << round(np.log2(0.032 * rate))
    bands = min(40, window // 4)
    shape = f"rate_hz: {rate}, window: {window}, hop: {window // 2}, bands: {bands}, low_hz: 60, high_hz: {rate // 2 - 100}"
    mel = f"{{step: log_mel, {shape}}}"
    points = max(window, round(min(seconds, LONG_SOUND_SECONDS) * rate))
    cut, how = f"{{step: pad, length: {points}}}", f"padded or cropped to {points / rate:.2g} s"
    if seconds > LONG_SOUND_SECONDS:
        points = int(SOUND_WINDOW_SECONDS * rate)
        cut = f"{{step: window, length: {points}, hop: {points // 2}, short: pad}}"
        how = f"in windows of {SOUND_WINDOW_SECONDS:g} s"
    stereo = sum(fact.shape[1] > 1 for fact in good)
    mixed = " and ".join(f"{n} at {hz} Hz" for hz, n in sorted(rates.items()))
    says = [("sound", f"{mixed}, about {seconds:.2g} s, {how}")]
    says += [("rates", f"all are resampled to {rate} Hz, on the device too")] if len(rates) > 1 else []
    says += [("stereo", f"{stereo} files: the mean of their channels is used, on the device too")] if stereo else []
    seen = f"{count} training recordings in {classes} classes, {rate} Hz, about {seconds:.1f} s"
    return ProjectPlan(
        seen, tuple(says), Path(), "", {"rate_hz": rate}, "spoken_digits", "network.py:ds_cnn", "{width: 64}", "spec_augment",
        (cut, mel), adamw(count), (),
    )  # fmt: skip


def series_plan(lengths: list[int], seen: series.Seen, channels: tuple[str, ...], classes: int, count: int) -> ProjectPlan:
    """The plan for sensor recordings in files or in a table. `count`: the number of training recordings."""
    length, pads = series.window(lengths)
    names = channels or tuple(f"channel {i + 1}" for i in range(len(seen.low)))
    cleaning, gap = series.filling(seen.gap, length)
    spread = f"{min(lengths)} to {max(lengths)}" if min(lengths) < max(lengths) else f"{max(lengths)}"
    says = [
        ("channels", series.ranges(names, seen)),
        ("recordings", f"{len(lengths)} of {spread} points"),
        ("window", f"{length} points, every {max(1, length // 2)}{'; shorter recordings repeat their ends' if pads else ''}"),
    ]
    if gap:
        longer = f"; recordings with longer gaps (up to {seen.gap}) are left out" if seen.gap > gap else ""
        says.append(("missing", f"up to {gap} points in a row are filled by straight lines, on the device too{longer}"))
    windows = count * max(1, 2 * middle(lengths) // length - 1)
    about = f"sensor recordings in {classes} classes, {len(names)} channels, about {middle(lengths)} points"
    return ProjectPlan(
        about, tuple(says), Path(), "", {}, "exercise_watch", "network.py:motion_net", "{width: 64}", "jitter",
        series.steps(length, pads, seen), adamw(windows), (), cleaning=cleaning,
    )  # fmt: skip
