"""Boxes: mAP of the shipped int8 files beside the float network and two peers' files of it, latencies, suppression, tracking.

Peers, in this very run: onnxruntime's quantize_static (its defaults, per channel) on our float ONNX file, and ai-edge-quantizer on
our float TFLite file; everybody gets the same calibration pictures. Boxes are made of everybody's outputs by the same code, in
float. With --quick the pictures are generated (tests/projects/shapes), and nothing but losses has a target, because so small a
network spends its time on calls; without, `blood_cells` is run, which trains for half an hour and more unless its run is in runs/.
$SET: changes of that recipe, with '; ' between.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness import ROOT, Row, at_least, at_most, each, edgeloop, main
from quantizers import ai_edge, quantize_static

RUNS = Path(os.environ.get("RUNS", "runs"))
SECONDS = 0.5
CALIBRATION = 100
HALF = slice(0, 1)
POINT = 100.0
OVERLAP = 0.6


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, suppression, tracking, evaluator, detectors)


def suppression(quick: bool) -> Iterator[Row]:
    """Candidates in clumps, of three labels, as a detector gives them; peer: the plain greedy loop in numpy."""
    from edgeloop_contract.boxes import suppress

    for count, ceiling in ((300, 0.7), (1000, 2.5)):
        given = candidates(count)
        ours = best_of(partial(suppress, *given, OVERLAP, 100), 200)
        everything = best_of(partial(suppress, *given, OVERLAP, count), 100)
        peer = best_of(partial(greedy, *given, OVERLAP), 20)
        assert suppress(*given, OVERLAP, count).tolist() == greedy(*given, OVERLAP)
        yield at_most(f"suppression: {count} candidates, at most 100 answers", ours, "ms", ceiling, peer)
        yield at_most(f"suppression: {count} candidates, every answer", everything, "ms", ceiling, peer)


def candidates(count: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    clumps = rng.uniform(0, 300, (count // 6, 2))
    middle = clumps[rng.integers(0, len(clumps), count)] + rng.normal(0, 3, (count, 2))
    size = rng.uniform(20, 60, (count, 2))
    boxes = np.concatenate([middle - size / 2, middle + size / 2], 1).astype(np.float32)
    return boxes, rng.random(count).astype(np.float32), rng.integers(0, 3, count)


def greedy(boxes: Any, scores: Any, labels: Any, threshold: float) -> list[int]:
    from edgeloop_contract.boxes import iou_matrix

    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(int(first))
        overlap = iou_matrix(boxes[first : first + 1], boxes[left])[0]
        left = left[(overlap <= threshold) | (labels[left] != labels[first])]
    return kept


def best_of(call: Callable[[], object], times: int) -> float:
    """Milliseconds, the median."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken) * 1e3)


def tracking(quick: bool) -> Iterator[Row]:
    """One frame of moving boxes that jitter, of which one in twenty is missing, with lines and zones."""
    for count, shapes, ceiling in ((30, 2, 1.0), (300, 2, None), (300, 32, None)):
        took = frame_ms(count, shapes)
        name = f"tracking: {count} boxes, {shapes} lines and {shapes} zones"
        yield Row(name, took, "ms") if ceiling is None else at_most(name, took, "ms", ceiling)


def frame_ms(count: int, shapes: int) -> float:
    """Milliseconds a frame, the median of 200."""
    from edgeloop_agent.box_answers import Box
    from edgeloop_agent.config import CountedLine, CountedZone, Tracking
    from edgeloop_agent.logs import Log
    from edgeloop_agent.tracking.following import Following

    rng = np.random.default_rng(0)
    start, speed, side = rng.uniform(0, 1000, (count, 2)), rng.normal(0, 4, (count, 2)), rng.uniform(30, 120, (count, 1))
    lines = [CountedLine(f"{i}", [(0.5, 0.0), (0.5, 1.0)]) for i in range(shapes)]
    zones = [CountedZone(f"{i}", [(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.7, 0.5), (0.5, 1.0)]) for i in range(shapes)]
    with tempfile.TemporaryDirectory() as folder:
        following = Following(Tracking(enabled=True, line=lines, zone=zones), Path(folder), Log("error"))
        taken = []
        for number in range(205):
            middle = start + number * speed + rng.normal(0, 1, (count, 2))
            edges = np.concatenate([middle - side / 2, middle + side / 2], 1)[rng.random(count) > 0.05]
            boxes = [Box("a", 0.9, box) for box in edges.tolist()]
            began = time.perf_counter()
            following.follow(boxes, 1000, 1000, 0)
            taken.append(time.perf_counter() - began)
    return float(np.median(taken[5:]) * 1e3)


def evaluator(quick: bool) -> Iterator[Row]:
    """The time of one mAP of 72 pictures with 100 boxes each."""
    from edgeloop_contract.boxes import Found
    from edgeloop_pipeline.data.boxes import padded
    from edgeloop_pipeline.tasks.detection.measure import judged

    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(72):
        low = rng.uniform(0, 250, (13, 2))
        truth.append(np.concatenate([rng.integers(0, 3, (13, 1)), low, low + rng.uniform(20, 60, (13, 2))], 1).astype(np.float32))
        rows = truth[-1][rng.integers(0, 13, 100)]
        moved = rows[:, 1:] + rng.normal(0, 4, (100, 4)).astype(np.float32)
        found.append(Found(moved, np.sort(rng.random(100).astype(np.float32))[::-1], rows[:, 0].astype(int)))
    labels = padded(truth, 13)
    yield Row("mAP of 72 pictures, 7,200 boxes", best_of(lambda: judged(found, labels, 3).mean_precision(np.ones(72)), 5), "ms")


@dataclass(frozen=True)
class Scored:
    """One file on the test pictures: mAP@0.5:0.95 and mAP@0.5 (0 to 1), and p50 of one inference in µs."""

    whole: float
    half: float
    latency_us: float


def detectors(quick: bool) -> Iterator[Row]:
    from edgeloop_pipeline.bundling.variants import read_variants
    from edgeloop_pipeline.cache.store import Store
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.recipe.project import Project
    from edgeloop_pipeline.tasks.detection.task import Detection

    where = str(ROOT / "tests" / "projects" / "shapes") if quick else os.environ.get("PROJECT", "blood_cells")
    changes = ("target={}", *filter(None, os.environ.get("SET", "").split("; ")))
    run: Any = edgeloop("run", where, "--runs", RUNS, *(word for change in changes for word in ("--set", change)))
    stages = {s["name"]: s["metrics"] for s in run["stages"]}
    loaded = recipes.load(recipes.find(where), changes)
    splits = Project(loaded).splits
    task, name = Detection(splits), loaded.head.name
    entry = Store(RUNS).last(name, "export")
    assert entry is not None
    exported = Store(RUNS).folder("export", entry.key)
    files = {v.name: (v, (exported / v.file).read_bytes()) for v in read_variants(exported)}
    yield Row(f"{name}: parameters", stages["train"]["parameters"], "")
    ours = {variant: scored(task, splits, *files[variant]) for variant in files}
    floating = ours["onnx-float32"]
    if quick:
        yield Row(f"{name}: mAP@0.5, float", POINT * floating.half, "%")
    else:
        yield at_least(f"{name}: mAP@0.5, float", POINT * floating.half, "%", 92)
        yield at_least(f"{name}: mAP@0.5:0.95, float", POINT * floating.whole, "%", 62)
        yield at_most(f"{name}: onnx-int8", len(files["onnx-int8"][1]), "bytes", 1_300_000)
    samples = splits.train.values[np.random.default_rng(0).permutation(len(splits.train))[:CALIBRATION]]
    makers: dict[str, tuple[str, Callable[[], bytes], float]] = {
        "onnx": ("quantize_static", lambda: quantize_static(files["onnx-float32"][1], samples, "MinMax"), 2.8),
        "tflite": ("ai-edge-quantizer", lambda: ai_edge(files["tflite-float32"][1], samples), 3.5),
    }
    for runtime, (peer, make, faster) in makers.items():
        here, plain = ours[f"{runtime}-int8"], ours[f"{runtime}-float32"]
        title = f"{name}, {runtime}: mAP@0.5:0.95"
        lost = POINT * (plain.whole - here.whole)
        try:
            theirs = scored(task, splits, files[f"{runtime}-float32"][0], make())
        except Exception as error:  # a peer that fails is said, and our rows go on
            theirs = None
            why = f"peer not run: {(str(error) or type(error).__name__).splitlines()[0][:150]}"
            yield Row(f"{title}, against {peer}", None, "%", None, None, why)
        peer_lost = None if theirs is None else POINT * (plain.whole - theirs.whole)
        yield Row(f"{title} lost to int8", round(lost, 3), "points", peer_lost, None, "≤ 0.2", lost <= 0.2)
        yield Row(title, POINT * here.whole, "%", None if theirs is None else POINT * theirs.whole)
        gain = plain.latency_us / here.latency_us
        wanted = ("", None) if quick else (f"≥ {faster}", gain >= faster)
        yield Row(f"{name}, {runtime}: float p50 ÷ int8 p50", round(gain, 2), "×", None, None, *wanted)
        if theirs is not None:
            ratio = round(theirs.latency_us / here.latency_us, 2)
            yield Row(f"{name}, {runtime}: int8 p50, against {peer}", here.latency_us, "µs", theirs.latency_us, ratio)
    yield from frames(run["bundle"], name, splits, quick)


def scored(task: Any, splits: Any, variant: Any, model: bytes) -> Scored:
    """A file's figures on the test set; a peer's TFLite file answers in its own integers, and is read by its own scales."""
    from edgeloop_agent.bench.measure import best_threads
    from edgeloop_agent.runtimes import open_runtime
    from edgeloop_exporters.file_tensors import file_scores
    from edgeloop_pipeline.training.scoring import in_batches

    values = splits.test.values
    if variant.runtime == "tflite" and variant.precision.value == "float32":
        scores, latency_us = by_interpreter(model, values)
    else:
        runtime = open_runtime(variant, model, 1)
        scores = in_batches(lambda part: file_scores(runtime, variant, part), values)
        latency_us = best_threads(variant, model, values[:32], SECONDS).latency_us_p50
    found = task._judged(scores, splits.test)
    once = np.ones(len(values))
    return Scored(found.mean_precision(once), found.mean_precision(once, HALF), latency_us)


def by_interpreter(model: bytes, values: Any) -> tuple[Any, float]:
    """Joined scores (N, total), boxes first, and p50 in µs: by the bare interpreter, with the file's own types and scales."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    outputs = sorted(interpreter.get_output_details(), key=lambda one: one["shape"][-1] != 4)
    rows, taken = [], []
    for value in values:
        sample = value[None]
        if given["dtype"] != sample.dtype:
            scale, zero = given["quantization"]
            sample = (np.round(sample / scale) + zero if scale else sample).astype(given["dtype"])
        interpreter.set_tensor(given["index"], sample)
        start = time.perf_counter()
        interpreter.invoke()
        taken.append(time.perf_counter() - start)
        parts = []
        for one in outputs:
            scale, zero = one["quantization"]
            raw = interpreter.get_tensor(one["index"]).astype(np.float32)
            parts.append(((raw - zero) * scale if scale else raw).reshape(-1))
        rows.append(np.concatenate(parts))
    return np.stack(rows), float(np.median(taken) * 1e6)


def frames(bundle: str, name: str, splits: Any, quick: bool) -> Iterator[Row]:
    """From a picture of the sample's size, and of twice its sides as a camera gives it, to boxes; against the model alone."""
    import edgeloop as library

    model = library.open(bundle)
    pictures = [np.asarray(value) for value in splits.test.values[:32]]
    alone = float(np.median([model(picture).milliseconds for picture in pictures for _ in range(3)]))
    for title, given in (
        ("picture of the sample's size", pictures),
        ("picture of twice its sides", [picture.repeat(2, 0).repeat(2, 1) for picture in pictures]),
    ):
        ratio = best_of(lambda given=given: [model(picture) for picture in given], 5) / len(given) / alone
        wanted = ("", None) if quick else ("≤ 1.25", ratio <= 1.25)
        yield Row(f"{name}: {title} to boxes ÷ model", round(ratio, 2), "×", None, None, *wanted)


if __name__ == "__main__":
    main(measure)
