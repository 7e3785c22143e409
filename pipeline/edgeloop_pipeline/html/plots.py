"""The report's plots, as SVG text."""

from __future__ import annotations

import io
from typing import Any

from edgeloop_pipeline.summary import Row

FLOAT_COLOUR, SHIPPED_COLOUR, GRID = "#8a8f98", "#0b7a75", "#d8dbe0"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    # No date and a fixed salt: equal runs draw equal bytes.
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight", transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(columns: int, height: float) -> Any:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "edgeloop", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10})
    figure = Figure(figsize=(9.6, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.grid(color=GRID, linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def tradeoff(rows: list[Row]) -> str:
    """Accuracy against size and against latency: float networks through the stages, then the shipped files."""
    points = [r for r in rows if r.accuracy and r.size_bytes]
    if not points:
        return ""
    figure, axes = _axes(2, 3.6)
    for one, unit, values in (
        (axes[0], "size, kB", [(r.size_bytes or 0) / 1000 for r in points]),
        (axes[1], "p50 latency, µs", [r.latency_us for r in points]),
    ):
        drawn = [(r, x, 100 * (r.accuracy or {})["value"]) for r, x in zip(points, values, strict=True) if x]
        path = [(x, y) for r, x, y in drawn if not r.shipped]
        one.plot(*zip(*path, strict=True), color=FLOAT_COLOUR, linestyle=":", linewidth=1.2, zorder=1)
        for kind, colour, marker, label in (
            (False, FLOAT_COLOUR, "o", "float, as plain ONNX"),
            (True, SHIPPED_COLOUR, "D", "shipped file"),
        ):
            chosen = [(x, y) for r, x, y in drawn if r.shipped is kind]
            if chosen:
                one.scatter(*zip(*chosen, strict=True), color=colour, marker=marker, s=44, label=label, zorder=2)
        _label(one, drawn)
        one.set_xscale("log")
        one.set_xlabel(unit)
    axes[0].set_ylabel("test accuracy, %")
    axes[0].legend(loc="lower right", frameon=False)
    return _svg(figure)


def _label(axes: Any, drawn: list[tuple[Row, float, float]]) -> None:
    """Names beside the points; points at nearly the same height take turns above and below."""
    for i, (row, x, y) in enumerate(sorted(drawn, key=lambda d: d[1])):
        axes.annotate(
            row.name.strip(), (x, y), xytext=(0, 8 if i % 2 == 0 else -15), textcoords="offset points", fontsize=8, ha="center",
            color=SHIPPED_COLOUR if row.shipped else "#555b63",
        )  # fmt: skip
    axes.margins(x=0.15, y=0.25)


def curves(stages: dict[str, list[dict[str, Any]]]) -> str:
    """Loss and validation accuracy per epoch of each stage that trained."""
    if not stages:
        return ""
    figure, axes = _axes(2, 2.8)
    for name, curve in stages.items():
        epochs = [point["epoch"] for point in curve]
        axes[0].plot(epochs, [point["loss"] for point in curve], label=name, linewidth=1.5)
        axes[1].plot(epochs, [100 * point["validation_accuracy"] for point in curve], label=name, linewidth=1.5)
    axes[0].set_ylabel("training loss")
    axes[1].set_ylabel("validation accuracy, %")
    for one in axes:
        one.set_xlabel("epoch")
    axes[1].legend(frameon=False)
    return _svg(figure)
