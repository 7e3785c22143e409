"""Drift of boxes: false alarms as set on ordinary photographs, and frames until a changed camera is told, with the cause.

Changes: on the bundle of `blood_cells` ($BUNDLE; default: runs/), whose reference is its validation photographs; the streams are
its test photographs, through the shipped int8 file, drawn with replacement. $PER_10K: false alarms in 10,000 frames that are set.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.drift.monitor import DriftFollower
from edgeloop_agent.engine import Engine
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from harness import ROOT, Row, at_most, each, edgeloop, main

BUNDLE = os.environ.get("BUNDLE", "runs/blood_cells/blood_cells-1.edgeloop")
RUNS = Path("runs")
PER_10K = float(os.environ.get("PER_10K", "2"))
BEFORE, LONGEST, AFTER, TOLD_WITHIN = 200, 1000, 64, 100
Picture = np.ndarray[Any, Any]


def changes() -> dict[str, Callable[[Picture], Picture]]:
    """What happens to a camera at a microscope."""
    from PIL import Image, ImageFilter

    def pillow(change: Callable[[Any], Any]) -> Callable[[Picture], Picture]:
        return lambda picture: np.asarray(change(Image.fromarray(picture)))

    return {
        "out of focus (Gaussian, 4 pixels)": pillow(lambda image: image.filter(ImageFilter.GaussianBlur(4))),
        "dark (a third of the light)": lambda picture: (picture * (1 / 3)).astype(np.uint8),
        "camera moved (half of the view is off the slide)": _half_off,
        "nearer (twice as large)": pillow(lambda image: image.crop((160, 120, 480, 360)).resize(image.size)),
        "nothing to see (an empty slide)": _empty,
        "colours of another stain": lambda picture: np.ascontiguousarray(picture[..., ::-1]),
    }


def _half_off(picture: Picture) -> Picture:
    made = picture.copy()
    made[:, : picture.shape[1] // 2] = np.median(picture, axis=(0, 1)).astype(np.uint8)
    return made


def _empty(picture: Picture) -> Picture:
    noise = np.random.default_rng(int(picture[0, 0, 0])).normal(0, 3, picture.shape)
    return np.clip(np.percentile(picture, 95, axis=(0, 1)) + noise, 0, 255).astype(np.uint8)


def seen(engine: Any, pictures: list[Picture]) -> list[Any]:
    """Each picture's sample and outputs, as the monitor gets them."""
    return [next(iter(engine.answers(picture))) for picture in pictures]


def rates(quick: bool) -> Iterator[Row]:
    """False alarms on generated pictures (tests/projects/shapes), of which a stream never sees one twice, by the reference's size.

    The few test photographs cannot tell: a stream that repeats 72 of them is off from the reference by chance for ever.
    """
    from edgeloop_pipeline.drift import calibration
    from edgeloop_pipeline.drift.pool import pool_of_seen, seen_of
    from edgeloop_pipeline.recipe.user_code import load_object

    project = ROOT / "tests" / "projects" / "shapes"
    run: Any = edgeloop("run", project, "--runs", RUNS, "--set", "target={}")
    make = load_object(project, "data.py:_split")
    with Bundle.open(Path(run["bundle"])) as bundle:
        manifest = bundle.manifest
        engine = Engine(bundle, VariantChoice("onnx-int8", 1, "benchmark"))
    count = 6_000 if quick else 30_000
    every = seen(engine, list(make(count, 1000).recordings))
    values = [seen_of(manifest.task, one.sample, one.scores) for one in every]
    for size in (87, 500):
        found = []
        for seed in range(2 if quick else 10):
            order = np.random.default_rng(seed).permutation(count)
            reference, stream = order[:size], order[size:]
            pool = pool_of_seen([values[i] for i in reference], reference, reference)
            made = calibration.calibrate(pool, manifest.drift.features, 1, "pictures", ())
            found.append(false_alarms(manifest, made, [every[i] for i in stream]))
        rate = float(np.mean(found))
        spread = f"mean of {len(found)} ({min(found):.3g} to {max(found):.3g})"
        said = f"false alarms in 10,000 new pictures, a reference of {size}, {spread}"
        yield Row(said, rate, "", None, None, f"{PER_10K:g} ±20 %", abs(rate / PER_10K - 1) <= 0.2)


def false_alarms(manifest: Any, reference: Any, stream: list[Any]) -> float:
    """In 10,000 samples of a stream; the monitor begins anew after each."""
    watching, alarms = DriftFollower(manifest, reference, PER_10K), 0
    for one in stream:
        watching.observe(one.sample, one.scores)
        if watching.drifting:
            alarms, watching = alarms + 1, DriftFollower(manifest, reference, PER_10K)
    return 1e4 * alarms / len(stream)


def told(quick: bool) -> Iterator[Row]:
    """Frames until each change is told, on the photographs."""
    from edgeloop_models.blood_cells.data import blood_cells

    with Bundle.open(Path(BUNDLE)) as bundle:
        manifest = bundle.manifest
        engine = Engine(bundle, VariantChoice("onnx-int8", 1, "benchmark"))
    test = blood_cells().load().test.recordings
    pictures = [np.asarray(test[i]) for i in range(len(test))]
    usual = seen(engine, pictures)
    assert manifest.drift is not None
    for name, change in changes().items():
        changed = seen(engine, [change(picture) for picture in pictures])
        delays, causes = [], Counter[str]()
        for seed in range(5 if quick else 40):
            rng, watching = np.random.default_rng(seed), DriftFollower(manifest, manifest.drift, PER_10K)
            for row in rng.integers(0, len(usual), BEFORE):
                watching.observe(usual[row].sample, usual[row].scores)
            if watching.drifting:  # a false alarm
                continue
            watching.seen = 0
            for row in rng.integers(0, len(changed), LONGEST):
                watching.observe(changed[row].sample, changed[row].scores)
                if watching.drifting:
                    break
            delays.append(watching.seen)
            for row in rng.integers(0, len(changed), AFTER) if watching.drifting else ():  # as many as a diagnosis wants
                watching.observe(changed[row].sample, changed[row].scores)
            watching.diagnose()
            causes[watching.finding.cause if watching.finding else "not told"] += 1
        said = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
        title = f"{name}: frames until told, 90 % of streams ({AFTER} frames later: {said})"
        yield at_most(title, float(np.percentile(delays, 90)), "", TOLD_WITHIN)


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, told, rates)


if __name__ == "__main__":
    main(measure)
