"""Engines for the same bundle: OpenVINO beside ONNX Runtime on each ONNX file, and LiteRT on the TFLite file of the same precision.

One thread, batch 1, by turns in one process, on the canary's samples. $BUNDLES: bundles, with ':' between; with --quick, or without
them, the golden bundle of exercise_watch. Answers are compared too: how far OpenVINO is off at most, as a share of the largest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import ROOT, NotRun, Row, main

GOLDEN = ROOT / "tests" / "goldens" / "v0.1" / "exercise_watch-1.edgeloop"
SECONDS, TURNS = 2.0, 8


def measure(quick: bool) -> Iterator[Row]:
    from edgeloop_agent.runtimes.onnx import installed_accelerators

    if "OpenVINO" not in installed_accelerators():
        raise NotRun("OpenVINO is not installed: pip install 'edgeloop[openvino]'")
    given = "" if quick else os.environ.get("BUNDLES", "")
    for path in [Path(name) for name in given.split(":") if name] or [GOLDEN]:
        yield from compared(path, SECONDS / 10 if quick else SECONDS)


def compared(path: Path, seconds: float) -> Iterator[Row]:
    from edgeloop_agent.runtimes import RuntimeOptions, open_runtime
    from edgeloop_agent.trial_samples import trial_samples
    from edgeloop_contract.archive import Bundle

    with Bundle.open(path) as bundle:
        variants = {variant.name: variant for variant in bundle.manifest.variants}
        samples = trial_samples(bundle)
        for name in (n for n in variants if n.startswith("onnx-") and not variants[n].provider):
            beside = variants.get(name.replace("onnx", "tflite"))
            engines = {"ONNX Runtime": (variants[name], ""), "OpenVINO": (variants[name], "OpenVINO")}
            engines |= {"LiteRT": (beside, "")} if beside is not None else {}
            opened = {
                engine: open_runtime(variant, bundle.read(variant.file), 1, RuntimeOptions(way=way))
                for engine, (variant, way) in engines.items()
            }
            took = by_turns(opened, samples, seconds)
            title = f"{bundle.manifest.name}, {name}: p50"
            for engine in [engine for engine in took if engine != "OpenVINO"]:
                ratio = round(took[engine] / took["OpenVINO"], 2)
                yield Row(f"{title} by OpenVINO, against {engine}", round(took["OpenVINO"], 1), "µs", round(took[engine], 1), ratio)
            yield Row(f"{bundle.manifest.name}, {name}: OpenVINO off ONNX Runtime by", off(opened, samples), "of the largest")


def by_turns(opened: dict[str, Any], samples: Any, seconds: float) -> dict[str, float]:
    """µs of each engine: the least of the medians of its turns."""
    from edgeloop_agent.runtimes.named import calls

    medians: dict[str, list[float]] = {engine: [] for engine in opened}
    for _ in range(TURNS):
        for engine, runtime in opened.items():
            run, rows = calls(runtime, samples)
            taken, deadline = list[float](), time.perf_counter() + seconds / TURNS
            while time.perf_counter() < deadline or len(taken) < 5:
                start = time.perf_counter()
                run(rows[len(taken) % len(rows)])
                taken.append(time.perf_counter() - start)
            medians[engine].append(float(np.median(taken)) * 1e6)
    return {engine: min(values) for engine, values in medians.items()}


def off(opened: dict[str, Any], samples: Any) -> float:
    from edgeloop_agent.runtimes.named import calls

    def answers(engine: str) -> list[Any]:
        run, rows = calls(opened[engine], samples)
        return [
            np.concatenate([np.ravel(part) for part in (answer.values() if isinstance(answer, dict) else [answer])])
            for answer in map(run, rows)
        ]

    here, there = np.stack(answers("ONNX Runtime")), np.stack(answers("OpenVINO"))
    return float(f"{np.abs(here - there).max() / np.abs(here).max():.2g}")


if __name__ == "__main__":
    main(measure)
