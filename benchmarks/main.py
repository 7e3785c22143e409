"""The main job: both reference projects from recipe to bundle, against the plainest alternative a user would pick.

Peers, on the same network, data and machine in this very run: torch → ONNX float32 under onnxruntime, and onnxruntime's
`quantize_static` with its defaults; a random forest on the same windows and the same unseen subjects. With --quick only
exercise_watch is run; `fashion` takes about forty minutes unless its run is cached in --runs' folder (runs/).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import BIN, Row, at_least, at_most, each, edgeloop, faster, main, seconds
from quantizers import quantize_static

RUNS = Path("runs")
SECONDS = 1.0


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, start, exercise_watch, *(() if quick else (fashion_students,)))


def start(_: bool) -> Iterator[Row]:
    yield at_most("edgeloop --help", seconds(BIN / "edgeloop", "--help"), "s", 0.2)


def exercise_watch(_: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as fresh:
        run = edgeloop("run", "exercise_watch", "--runs", fresh)
        yield from watch(run, Path(fresh))
        cached = seconds(BIN / "edgeloop", "run", "exercise_watch", "--runs", fresh, "--json")
        yield at_most("cached run of exercise_watch", cached, "s", 2)


def fashion_students(_: bool) -> Iterator[Row]:
    yield from fashion(edgeloop("run", "fashion", "--runs", RUNS))


def watch(run: dict[str, Any], runs: Path) -> Iterator[Row]:
    splits = prepared("exercise_watch")
    forest = random_forest(splits)
    best = fastest(run)
    yield at_least("exercise_watch: int8 accuracy, unseen subjects", 100 * best["accuracy"], "%", 100 * forest, 100 * forest)
    yield at_most("exercise_watch: int8 TFLite file", variant(run, "tflite", "int8")["bytes"], "bytes", 60_000)
    yield at_most("exercise_watch: all stages", total_seconds(run), "s", 300)
    yield from against_plain("exercise_watch", run, runs, splits)
    yield from memory("exercise_watch", run)


def fashion(run: dict[str, Any]) -> Iterator[Row]:
    splits = prepared("fashion")
    student = stage(run, "distill")
    floating = variant(run, "onnx", "float32")["accuracy"]
    yield at_most("fashion: student's parameters", student["metrics"]["parameters"], "", 99_999)
    for runtime in ("onnx", "tflite"):
        accuracy = variant(run, runtime, "int8")["accuracy"]
        yield at_least(f"fashion: {runtime} int8 accuracy", round(100 * accuracy, 2), "%", 93.0, 92.5)
        yield at_most(f"fashion: {runtime} int8 lost against float", round(100 * (floating - accuracy), 2), "points", 0.3)
    yield at_most("fashion: int8 TFLite file", variant(run, "tflite", "int8")["bytes"], "bytes", 110_000)
    yield at_most("fashion: full recipe", total_seconds(run) / 60, "minutes", 40)
    yield from against_plain("fashion", run, RUNS, splits)
    yield from memory("fashion", run)


def against_plain(name: str, run: dict[str, Any], runs: Path, splits: Any) -> Iterator[Row]:
    """The chosen variant against the teacher-sized float network, the student's, and quantize_static of the student."""
    from edgeloop_agent.bench.measure import best_threads
    from edgeloop_contract.archive import Bundle

    samples = splits.test.values[:64]
    with Bundle.open(Path(run["bundle"])) as bundle:
        ours = bundle.manifest.variant(f"{fastest(run)['runtime']}-int8")
        plain = bundle.manifest.variant("onnx-float32")
        our_us = best_threads(ours, bundle.read(ours.file), samples, SECONDS).latency_us_p50
        float_us = best_threads(plain, bundle.read(plain.file), samples, SECONDS).latency_us_p50
        rows = np.random.default_rng(0).permutation(len(splits.train))[:512]
        static = quantize_static(bundle.read(plain.file), splits.train.values[rows], "MinMax")
        static_us = best_threads(plain, static, samples, SECONDS).latency_us_p50
        ours_right = accuracy(ours, bundle.read(ours.file), splits)
        static_right = accuracy(plain, static, splits)
    teacher_us = best_threads(plain, teacher_onnx(name, runs, splits), samples, SECONDS).latency_us_p50
    yield faster(f"{name}: p50 against the float teacher on ORT", our_us, teacher_us, 2.5)
    yield faster(f"{name}: p50 against the float student on ORT", our_us, float_us, 1.0)
    yield faster(f"{name}: p50 against quantize_static", our_us, static_us, 1.5)
    yield at_least(f"{name}: accuracy against quantize_static", 100 * ours_right, "%", 100 * static_right, 100 * static_right)


def teacher_onnx(name: str, runs: Path, splits: Any) -> bytes:
    """The trained teacher as a plain float32 ONNX file."""
    from edgeloop_exporters.convert import to_onnx
    from edgeloop_pipeline.cache.store import Store
    from edgeloop_pipeline.networks import saved_network
    from edgeloop_pipeline.quantization import quantized_graph
    from edgeloop_pipeline.recipe import recipe
    from edgeloop_pipeline.recipe.project import Project

    entry = Store(runs).last(name, "train")
    assert entry is not None
    saved = saved_network.load(Project(recipe.load(recipe.find(name))), Store(runs).folder("train", entry.key))
    graph, _ = quantized_graph.folded(saved, splits)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.onnx"
        to_onnx(graph, saved.normalization, splits.shape, path, quantized=False)
        return path.read_bytes()


def random_forest(splits: Any) -> float:
    """Accuracy of 300 trees on eight statistics a channel, on the training and validation subjects: the better of the two."""
    from sklearn.ensemble import RandomForestClassifier

    def features(values: Any) -> Any:
        x = values.astype(np.float64)
        steps = np.abs(np.diff(x, axis=1)).mean(1)
        quartiles = np.percentile(x, [25, 50, 75], axis=1)
        return np.concatenate([x.mean(1), x.std(1), x.min(1), x.max(1), steps, *quartiles], axis=1)

    train, validation, test = splits.train, splits.validation, splits.test
    both = np.concatenate([train.values, validation.values]), np.concatenate([train.labels, validation.labels])
    shares = []
    for values, labels in ((train.values, train.labels), both):
        forest = RandomForestClassifier(300, random_state=0, n_jobs=2).fit(features(values), labels)
        shares.append(float((forest.predict(features(test.values)) == test.labels).mean()))
    return max(shares)


def accuracy(spec: Any, model: bytes, splits: Any) -> float:
    from edgeloop_agent.runtimes import open_runtime

    runtime, test = open_runtime(spec, model), splits.test
    batch = 1 if spec.runtime == "tflite" else 256
    scores = np.concatenate([runtime.run(test.values[i : i + batch]) for i in range(0, len(test), batch)])
    return float((scores.argmax(1) == test.labels).mean())


def prepared(name: str) -> Any:
    from edgeloop_pipeline.recipe import recipe
    from edgeloop_pipeline.recipe.project import Project

    return Project(recipe.load(recipe.find(name))).splits


def stage(run: dict[str, Any], name: str) -> dict[str, Any]:
    return next(s for s in run["stages"] if s["name"] == name)


def variant(run: dict[str, Any], runtime: str, precision: str) -> dict[str, Any]:
    return next(v for v in run["variants"] if (v["runtime"], v["precision"]) == (runtime, precision))


def fastest(run: dict[str, Any]) -> dict[str, Any]:
    return min((v for v in run["variants"] if v["precision"] == "int8"), key=lambda v: v["latency_us_p50"])


def total_seconds(run: dict[str, Any]) -> float:
    """What the stages took when they ran, cached or not."""
    return sum(s["seconds"] for s in run["stages"])


def memory(name: str, run: dict[str, Any]) -> Iterator[Row]:
    for s in run["stages"]:
        yield Row(f"{name}: peak memory of {s['name']}", round(s["peak_bytes"] / 1e6), "MB")


if __name__ == "__main__":
    main(measure)
