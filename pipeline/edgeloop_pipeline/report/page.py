"""Renders the run's report as one self-contained HTML file."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import msgspec

from edgeloop_agent.hardware import machine
from edgeloop_contract.manifest import Precision
from edgeloop_exporters.figures import LayerCost
from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.report import plots, techniques
from edgeloop_pipeline.report.boxes_seen import boxes_seen
from edgeloop_pipeline.report.labels_seen import labels_seen
from edgeloop_pipeline.report.masks_seen import masks_seen
from edgeloop_pipeline.report.rendering import page
from edgeloop_pipeline.report.samples_seen import samples_seen
from edgeloop_pipeline.report.summary import rows
from edgeloop_pipeline.results.compression import BudgetResult, PruneResult
from edgeloop_pipeline.results.files import CascadeResult, PackageResult, ProfileResult, SplitResult, VerifyResult
from edgeloop_pipeline.results.quantization import QuantizeResult
from edgeloop_pipeline.results.read import results_like
from edgeloop_pipeline.results.training import NetworkResult
from edgeloop_pipeline.tasks.registry import metric_of

LIBRARIES = ("edgeloop", "torch", "torch-pruning", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "numpy")
LOW_RECALL, WIDE_INTERVAL = 0.5, 0.1
CALLS_US = 200  # below this latency, the calls around the layers may take longer than the layers


def render(inputs: Inputs, entries: list[Entry]) -> str:
    """The page as HTML. The template escapes all texts from recipes and data."""
    verified, profiled = inputs.result("verify", VerifyResult), inputs.result("profile", ProfileResult)
    trained = {name: result for name, result in results_like(entries, NetworkResult).items() if result.training}
    curves = {name: result.curve for name, result in trained.items()}
    curves |= {name: result.curve for name, result in results_like(entries, PruneResult).items() if result.curve}
    table, budget = rows(entries), inputs.result("budget", BudgetResult)
    recipe = inputs.project.recipe
    head, metric = recipe.head, metric_of(recipe.head)
    return page(
        "report.html.j2",
        name=head.name,
        version=head.version,
        card=head.model_card.strip(),
        rows=table,
        seen=samples_seen(inputs),
        verified=verified,
        boxes_seen=boxes_seen(inputs, verified),
        labels_seen=labels_seen(inputs, verified),
        masks_seen=masks_seen(inputs, verified),
        profiled=profiled,
        trained=trained,
        pruned=inputs.result("prune", PruneResult),
        budget=budget,
        limits=msgspec.structs.asdict(budget.limits) if budget else {},
        quantized=inputs.result("quantize", QuantizeResult),
        split=inputs.result("split", SplitResult),
        cascade=inputs.result("cascade", CascadeResult),
        failures=[failure for e in entries for failure in e.metrics.get("failures", [])],
        warnings=_warnings(verified, profiled),
        metric=metric,
        tradeoff=plots.tradeoff(table, metric),
        curves=plots.curves(curves, metric),
        techniques={name: techniques.lines(r.precision or "", r.training) for name, r in trained.items() if r.training},
        time_shares=plots.time_shares({name: r.training.time_shares for name, r in trained.items() if r.training}),
        layers=_layers(profiled),
        roi=_roi(inputs, profiled),
        recipe=recipe.path.read_text(encoding="utf-8"),
        stages=recipe.stages,
        digests={"recipe": recipe.sha256, **inputs.project.data_digests},
        environment={"machine": machine(), "system": platform.platform(), "python": platform.python_version()}
        | {name: version(name) for name in LIBRARIES},
        peak=max((e.peak_bytes for e in entries), default=0),
        seconds=sum(e.seconds for e in entries),
    )


def _roi(inputs: Inputs, profiled: ProfileResult | None) -> dict[str, Any] | None:
    """The values of the section on the return on investment; None if the recipe has no prices or there is no bundle."""
    from edgeloop_pipeline.recipe.settings import Prices
    from edgeloop_pipeline.report.roi import answer
    from edgeloop_pipeline.report.roi_inputs import one_inference
    from edgeloop_pipeline.report.roi_page import shown

    prices, packaged = inputs.project.recipe.head.roi, inputs.result("package", PackageResult)
    if prices == Prices() or packaged is None or profiled is None:
        return None
    _, folder = inputs.holding(packaged.bundle)[-1]
    measured = one_inference(profiled, folder / packaged.bundle)
    return shown(answer(measured, prices), measured, prices)


def _layers(profiled: ProfileResult | None) -> list[tuple[LayerCost, float]]:
    """The kernels of the int8 ONNX file, each with its share of the time."""
    layers = profiled.layers.get("onnx-int8", []) if profiled else []
    total = sum(layer.microseconds for layer in layers) or 1.0
    return [(layer, layer.microseconds / total) for layer in layers]


def _warnings(verified: VerifyResult | None, profiled: ProfileResult | None) -> list[str]:
    """The warnings that a reader needs to judge the figures."""
    warnings: list[str] = []
    if verified is None:
        return warnings
    for name, file in verified.variants.items():
        is_int8 = file.precision == Precision.INT8
        twin = next((n for n, f in verified.variants.items() if (f.format, f.precision) == (file.format, Precision.FLOAT32)), None)
        if is_int8 and twin and profiled and name in profiled.variants and twin in profiled.variants:
            cost, other = (profiled.variants[n].latency_us_p50 for n in (name, twin))
            if other < cost:
                small = ": such a small network spends its time on calls, not on arithmetic" if cost < CALLS_US else ""
                warnings.append(
                    f"{name} is slower than {twin} on this machine ({cost:.3g} against {other:.3g} µs){small}."
                    " Measure it on the device: edgeloop-agent bench."
                )
        plain = list(profiled.stages.values())[-1].cost if profiled and profiled.stages else None
        if is_int8 and twin is None and file.format == "onnx" and plain and profiled and name in profiled.variants:
            cost = profiled.variants[name].latency_us_p50
            if plain.latency_us_p50 < cost:
                warnings.append(
                    f"{name}: int8 does not pay here: {cost:.0f} µs, and the float network as a plain ONNX file takes"
                    f" {plain.latency_us_p50:.0f} µs. Measure both on the device."
                )
        warnings += [f"{name}: {reason}" for reason in file.slow_because]
        if file.lost is not None and file.lost.value > 0:
            warnings.append(f"{name}: {file.lost_in_words}.")
        width = file.accuracy.high - file.accuracy.low
        if is_int8 and width > WIDE_INTERVAL:
            warnings.append(f"{name}: the 95 % interval is {width:.0%} wide; more test recordings would narrow it.")
    return warnings + [
        f"class {row.label}: recall is {row.recall:.0%}; see the confusion matrix."
        for row in verified.classes or []
        if row.recall < LOW_RECALL
    ]
