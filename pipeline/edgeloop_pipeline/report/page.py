"""The run's report as one HTML file that needs nothing else."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from edgeloop_agent.hardware import machine
from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.report import plots, techniques
from edgeloop_pipeline.report.rendering import page
from edgeloop_pipeline.report.summary import rows
from edgeloop_pipeline.tasks.registry import METRICS

LIBRARIES = ("edgeloop", "torch", "torch-pruning", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "numpy")
CALLS_US = 200  # below, what surrounds the layers may take longer than they do


def render(inputs: Inputs, entries: list[Entry]) -> str:
    """The page. Everything from recipes and data is escaped by the template."""
    metrics = {e.stage: e.metrics for e in entries}
    verified, profiled = metrics.get("verify", {}), metrics.get("profile", {})
    table = rows(entries)
    head = inputs.project.recipe.head
    return page(
        "report.html.j2",
        name=head.name,
        version=head.version,
        card=head.model_card.strip(),
        rows=table,
        verified=verified,
        profiled=profiled,
        metrics=metrics,
        failures=[f for m in metrics.values() for f in m.get("failures", [])],
        warnings=_warnings(metrics),
        measure=METRICS[head.task],
        tradeoff=plots.tradeoff(table, METRICS[head.task]),
        curves=plots.curves({name: m["curve"] for name, m in metrics.items() if m.get("curve")}, METRICS[head.task]),
        techniques={name: techniques.lines(m) for name, m in metrics.items() if m.get("training")},
        time_shares=plots.time_shares({name: m["training"]["time_shares"] for name, m in metrics.items() if m.get("training")}),
        layers=_layers(profiled),
        roi=_roi(inputs, entries, profiled),
        recipe=inputs.project.recipe.path.read_text(encoding="utf-8"),
        stages=inputs.project.recipe.stages,
        digests={"recipe": inputs.project.recipe.sha256, **inputs.project.data_digests},
        environment={"machine": machine(), "system": platform.platform(), "python": platform.python_version()}
        | {name: version(name) for name in LIBRARIES},
        peak=max((e.peak_bytes for e in entries), default=0),
        seconds=sum(e.seconds for e in entries),
    )


def _roi(inputs: Inputs, entries: list[Entry], profiled: dict[str, Any]) -> dict[str, Any] | None:
    """What the section on the return needs; None where the recipe states no prices, or nothing was packaged."""
    from edgeloop_pipeline.recipe.settings import Prices
    from edgeloop_pipeline.report.roi import answer
    from edgeloop_pipeline.report.roi_inputs import one_inference
    from edgeloop_pipeline.report.roi_page import shown

    prices = inputs.project.recipe.head.roi
    packaged = next(((e, f) for e, f in zip(entries, inputs.folders, strict=True) if e.stage == "package"), None)
    if prices == Prices() or packaged is None or not profiled:
        return None
    measured = one_inference(profiled, packaged[1] / packaged[0].metrics["bundle"])
    return shown(answer(measured, prices), measured, prices)


def _layers(profiled: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the int8 ONNX file's kernels, each with its share of the time."""
    layers = profiled.get("layers", {}).get("onnx-int8", [])
    total = sum(layer["microseconds"] for layer in layers) or 1.0
    return [{**layer, "share": layer["microseconds"] / total} for layer in layers]


def _warnings(metrics: dict[str, Any]) -> list[str]:
    """What a reader should know before trusting the figures."""
    found = []
    verified, profiled = metrics.get("verify", {}), metrics.get("profile", {})
    costs = {n: c["latency_us_p50"] for n, c in profiled.get("variants", {}).items()}
    for name, cost in costs.items():
        other = name.replace("int8", "float32")
        if name.endswith("int8") and costs.get(other, cost) < cost:
            small = ": a network this small spends its time on calls, not on arithmetic" if cost < CALLS_US else ""
            found.append(
                f"{name} is slower than {other} on this machine ({cost:.0f} against {costs[other]:.0f} µs){small}."
                " Measure on the device: edgeloop-agent bench."
            )
    for name, variant in verified.get("variants", {}).items():
        found += [f"{name}: {reason}" for reason in variant["slow_because"]]
        a = variant["accuracy"]
        if a["high"] - a["low"] > 0.1 and name.endswith("int8"):
            found.append(f"{name}: the 95 % interval is {a['high'] - a['low']:.0%} wide; more test recordings would say more.")
    for entry in verified.get("classes", []):
        if entry["recall"] < 0.5:
            found.append(f"class {entry['label']}: recall is {entry['recall']:.0%}; look at the confusion matrix.")
    return found
