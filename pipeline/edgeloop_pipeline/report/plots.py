"""Draws the report's plots as SVG text."""

from __future__ import annotations

import io
from typing import Any

from edgeloop_pipeline.report.summary import SummaryRow
from edgeloop_pipeline.results.training import Epoch

WIDE = 5  # times the least
FLOAT_COLOUR, SHIPPED_COLOUR, GRID = "#8a8f98", "#0b7a75", "#d8dbe0"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    # No date and a fixed salt: equal runs give equal bytes.
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


def tradeoff(rows: list[SummaryRow], metric: str) -> str:
    """The plot of the metric against size and latency: each stage's float network, then the shipped files."""
    measured = [(r, r.accuracy.value) for r in rows if r.accuracy and r.size_bytes]
    if not measured:
        return ""
    best = max(value for _, value in measured)
    # A pruned network without further training says nothing about the trade-off and would flatten the plot.
    points = [(r, value) for r, value in measured if value > best / 2]
    aside = [f"{r.name.strip()} alone: {r.accuracy_text}, off the plot" for r, value in measured if value <= best / 2]
    figure, axes = _axes(2, 3.6)
    for one, unit, values in (
        (axes[0], "size, kB", [(r.size_bytes or 0) / 1000 for r, _ in points]),
        (axes[1], "p50 latency, µs", [r.latency_us for r, _ in points]),
    ):
        drawn = [(r, x, 100 * value) for (r, value), x in zip(points, values, strict=True) if x]
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
        _by_factors(one, "{x:.0f}")
        one.set_xlabel(unit)
    axes[0].set_ylabel(f"test {metric}, %")
    if aside:
        axes[1].set_title("; ".join(aside), fontsize=8, color=FLOAT_COLOUR, loc="right")
    axes[0].legend(loc="lower right", frameon=False, fontsize=8)
    return _svg(figure)


def _by_factors(axes: Any, written: str) -> None:
    """A logarithmic x axis. Over a wide range few of its numbers are written: they would stand on each other."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high > WIDE * low:
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.xaxis.set_major_formatter(written)
    axes.xaxis.set_minor_formatter(written)
    axes.tick_params(axis="x", which="minor", labelsize=8)


def _label(axes: Any, drawn: list[tuple[SummaryRow, float, float]]) -> None:
    """Write names beside the points; neighbours alternate in height."""
    for i, (row, x, y) in enumerate(sorted(drawn, key=lambda d: d[1])):
        axes.annotate(
            row.name.strip(), (x, y), xytext=(0, (8, -15, 20, -27)[i % 4]), textcoords="offset points", fontsize=8, ha="center",
            color=SHIPPED_COLOUR if row.shipped else "#555b63",
        )  # fmt: skip
    axes.margins(x=0.15, y=0.45)


def curves(stages: dict[str, list[Epoch]], metric: str) -> str:
    """The plot of loss and validation metric per epoch, for each stage that trained."""
    if not stages:
        return ""
    figure, axes = _axes(2, 2.8)
    for name, curve in stages.items():
        epochs = [point.epoch for point in curve]
        axes[0].plot(epochs, [point.loss for point in curve], label=name, linewidth=1.5)
        axes[1].plot(epochs, [100 * point.validation_accuracy for point in curve], label=name, linewidth=1.5)
    axes[0].set_ylabel("training loss")
    axes[1].set_ylabel(f"validation {metric}, %")
    for one in axes:
        one.set_xlabel("epoch")
    axes[1].legend(frameon=False)
    return _svg(figure)


def time_shares(stages: dict[str, dict[str, float]]) -> str:
    """The plot of training time: one bar per stage, divided by kind of work."""
    if not any(stages.values()):
        return ""
    figure, (axes,) = _axes(1, 0.9 + 0.35 * len(stages))
    kinds = list(dict.fromkeys(kind for shares in stages.values() for kind in shares))
    colours = dict(zip(kinds, ("#b42318", SHIPPED_COLOUR, "#7a9cc6", FLOAT_COLOUR), strict=False))
    left = dict.fromkeys(stages, 0.0)
    for kind in kinds:
        widths = [100 * shares.get(kind, 0.0) for shares in stages.values()]
        axes.barh(list(stages), widths, left=list(left.values()), color=colours.get(kind), label=kind, height=0.6)
        left = {name: left[name] + width for name, width in zip(stages, widths, strict=True)}
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the training time, %")
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8, ncols=len(kinds), loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure)


def pareto(points: list[tuple[int, float, float, float, bool]], metric: str) -> str:
    """The plot of trials (number, metric, latency µs, bytes, best trade-off): the metric against latency and bytes."""
    if not points:
        return ""
    figure, axes = _axes(2, 3.8)
    for one, unit, column, scale in ((axes[0], "size, kB", 3, 1000.0), (axes[1], "p50 latency, µs", 2, 1.0)):
        for best, colour, marker, label in ((False, FLOAT_COLOUR, "o", "trial"), (True, SHIPPED_COLOUR, "D", "best trade-off")):
            chosen = [p for p in points if p[4] is best]
            if chosen:
                one.scatter(
                    [p[column] / scale for p in chosen], [100 * p[1] for p in chosen], c=colour, marker=marker, s=36, label=label
                )
        # The best trade-offs of these two alone: no trial is both cheaper and better.
        front: list[tuple[float, float]] = []
        for p in sorted(points, key=lambda p: (p[column], -p[1])):
            if not front or 100 * p[1] > front[-1][1]:
                front.append((p[column] / scale, 100 * p[1]))
        one.step(*zip(*front, strict=True), where="post", color=SHIPPED_COLOUR, linewidth=1)
        for number, accuracy, *costs, best in points:
            if best:
                place = (costs[column - 2] / scale, 100 * accuracy)
                one.annotate(str(number), place, xytext=(4, 5), textcoords="offset points", fontsize=8, color=SHIPPED_COLOUR)
        _by_factors(one, "{x:.3g}")
        one.set_xlabel(unit)
    axes[0].set_ylabel(f"validation {metric}, %")
    axes[0].legend(loc="lower right", frameon=False, fontsize=8)
    return _svg(figure)
