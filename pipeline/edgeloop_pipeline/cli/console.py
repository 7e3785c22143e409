"""The terminal output of a run: progress on stderr; tables or one JSON object on stdout."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from edgeloop_contract.manifest import Precision
from edgeloop_pipeline.cache.store import Entry, Store
from edgeloop_pipeline.results.files import CascadeResult, ExportResult, PackageResult, ProfileResult, VerifyResult
from edgeloop_pipeline.run.runner import Listener, PlannedStage, RunResult
from edgeloop_pipeline.run.summary import summary_json

__all__ = [
    "Console", "diagnosis_text", "doctor_text", "headline", "roi_text", "status_table", "summary_json", "summary_table",
]  # fmt: skip

TABLE_WIDTH = 100


class AnyResult(msgspec.Struct):
    """The fields to show of any other result, if it has them."""

    validation_accuracy: float | None = None
    parameters: int | None = None
    method: str | None = None


RESULTS: dict[str, type[msgspec.Struct]] = {
    "export": ExportResult, "verify": VerifyResult, "profile": ProfileResult, "package": PackageResult, "cascade": CascadeResult,
}  # fmt: skip


class Console(Listener):
    """Prints one line per stage, with a live line below it on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console as Rich

        self._rich = Rich(stderr=True, highlight=False)
        self._status: Any = None
        self._started = 0.0

    def cached(self, name: str, entry: Entry) -> None:
        self._rich.print(f"[green]✓[/] {name:9} cached  [dim]{headline(entry)}[/]")

    def starts(self, name: str, reasons: list[str]) -> None:
        self._started = time.perf_counter()
        shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        self._rich.print(f"[cyan]▸[/] {name:9} runs: {_escaped(shown)}", soft_wrap=True)
        if self._rich.is_terminal:
            self._status = self._rich.status(name)
            self._status.start()

    def log(self, name: str, text: str) -> None:
        if self._status is not None:
            self._status.update(f"{name}: {_escaped(text)}")
        else:
            self._rich.print(f"    {name}: {_escaped(text)}", soft_wrap=True)

    def done(self, name: str, entry: Entry) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
        self._rich.print(f"[green]✓[/] {name:9} {entry.seconds:5.1f} s  [dim]{headline(entry)}[/]")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def headline(entry: Entry) -> str:
    """The one or two most important figures of a stage. A user's stage may report anything; only known fields are shown."""
    try:
        result = msgspec.convert(entry.metrics, RESULTS.get(entry.stage, AnyResult))
    except msgspec.ValidationError:
        result = msgspec.convert({}, AnyResult)
    match result:
        case ExportResult():
            parts = [f"{name} {size:,} B" for name, size in result.bytes.items() if result.precisions[name] == Precision.INT8]
        case VerifyResult():
            missed = [f"{len(result.failures)} floors missed"] if result.failures else []
            parts = [f"parity ≤ {result.parity.max_lsb} LSB", *missed]
        case ProfileResult():
            parts = [f"{result.fastest_int8} p50 {result.variants[result.fastest_int8].latency_us_p50:.0f} µs"]
        case PackageResult() | CascadeResult():
            parts = [f"{result.bytes:,} B, sha256 {result.sha256[:12]}…"]
        case AnyResult():
            known = (
                (result.validation_accuracy, "validation {:.2%}"), (result.parameters, "{:,} parameters"), (result.method, "{}"),
            )  # fmt: skip
            parts = [text.format(value) for value, text in known if value is not None]
        case _:
            parts = []
    return ", ".join(parts)


def summary_table(result: RunResult) -> None:
    """Print the table of stages: metric, size, latency, time and memory."""
    from rich.console import Console as Rich
    from rich.table import Table

    from edgeloop_pipeline.report.summary import rows
    from edgeloop_pipeline.tasks.registry import metric_of

    metric = metric_of(result.recipe.head)
    table = Table(title=f"{result.recipe.head.name}: {metric} on the full test set", title_justify="left")
    for column in ("stage", f"test {metric}", "95 % interval", "size", "p50 latency", "took"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in rows(result.entries):
        table.add_row(row.name, row.accuracy_text, row.interval_text, row.size_text, row.latency_text, row.took_text)
    rich = Rich()
    rich.width = max(rich.width, TABLE_WIDTH)  # piped output has no width of its own
    rich.print(table)
    made = (("report", "report", "report"), ("bundle", "package", "bundle"), ("large bundle", "cascade", "bundle"))
    for label, path in ((label, result.shown(stage, field)) for label, stage, field in made):
        if path is not None:
            rich.print(f"{label}: {path}", soft_wrap=True, highlight=False)


def diagnosis_text(found: dict[str, Any]) -> str:
    """The text of `edgeloop profile`: step time, bottleneck, advice, operators and memory."""
    from edgeloop_pipeline.training.time_categories import KINDS

    shares = sorted(found["shares"].items(), key=lambda item: -item[1])
    lines = [
        f"one step: {found['step_ms']:.1f} ms on the {found['device']}, {found['samples_per_second']:,.0f} samples per second",
        f"bottleneck: {KINDS[found['bottleneck']]}",
        *(f"  {share:6.1%}  {KINDS[kind]:36} {'█' * round(40 * share)}" for kind, share in shares),
        f"try next: {found['advice']}",
        "operators (ms and calls per step):",
        *(f"  {ms:8.2f}  {calls:5d}  {name}" for name, ms, calls in found["operators"]),
        "memory by layer (kB of parameters, and kept for the backward pass):",
        *(f"  {own / 1e3:10,.1f}  {kept / 1e3:12,.1f}  {name}" for name, own, kept in found["modules"]),
        f"trace for ui.perfetto.dev: {found['trace']}  (profiled steps took {found['overhead']:.2f}× a plain one)",
    ]
    return "\n".join(lines)


def doctor_text(found: dict[str, Any]) -> str:
    """The text of `edgeloop doctor`: hardware, libraries, measured training speeds and advice."""
    speeds = [t for t in found["trials"] if t["images_per_second"]]
    fastest = max(t["images_per_second"] for t in speeds)
    lines = [
        f"{found['machine']}; {found['cores']} cores, {found['memory_bytes'] / 2**30:.1f} GiB free; {found['system']}",
        "instructions: " + (", ".join(f"{k} ({v})" for k, v in found["instructions"].items()) or "not known"),
        f"arithmetic libraries: {found['blas']}",
        *(f"{kind}: {what}" for kind, what in found["accelerators"].items()),
        f"energy: {found['energy']}",
        f"versions: Python {found['python']}, " + ", ".join(f"{k} {v}" for k, v in found["versions"].items()),
        "training steps of a small network, images per second:",
    ]
    for trial in found["trials"]:
        speed = trial["images_per_second"]
        shown = f"{speed:10,.0f}  {'█' * round(30 * speed / fastest)}" if speed else f"{'–':>10}  {trial['why']}"
        lines.append(f"  {trial['name']:50}{shown}")
    return "\n".join([*lines, "", *found["advice"]])


def status_table(recipe: Any, store: Store, planned: list[PlannedStage]) -> None:
    """Print for each stage: cached, would run (with the reason), or waits."""
    from rich.console import Console as Rich

    from edgeloop_pipeline.run.runner import why

    rich = Rich(highlight=False)
    rich.print(f"{recipe.head.name} ({recipe.path})", soft_wrap=True)
    known = {p.name: p for p in planned}
    for name in recipe.stages:
        step = known.get(name)
        if step is None:
            rich.print(f"  [dim]{name:9} waits[/]")
        elif step.entry is not None:
            rich.print(f"  [green]{name:9} cached[/]  {headline(step.entry)}", soft_wrap=True)
        else:
            rich.print(f"  [cyan]{name:9} would run[/]: {_escaped('; '.join(why(store, recipe, step)[:3]))}", soft_wrap=True)


def roi_text(found: Any, measured: Any, prices: Any) -> str:
    """The text of `edgeloop roi`: the answer, and the figures that it depends on."""
    energy = "measured" if found.energy_is_measured else f"assumed, {prices.device_watts:g} W while it infers"
    out = [
        f"measured on {measured.machine}: {measured.device_us:.0f} µs (int8), {measured.cloud_us:.0f} µs (float teacher),"
        f" {measured.input_bytes} bytes of input; energy {energy}",
        f"{'a million inferences, ' + prices.currency:28}{'energy':>10}{'hardware':>10}{'compute':>10}{'traffic':>10}{'total':>10}",
    ]
    out += [
        f"{line.where:28}{line.energy:10.3g}{line.hardware:10.3g}{line.compute:10.3g}{line.traffic:10.3g}{line.total:10.3g}"
        for line in found.lines
    ]
    months = found.payback_months
    out.append(
        f"paid after {months:.1f} months" if months is not None else "never paid: a month on devices costs more than in the cloud"
    )
    flips = [f"{f.name} {f.value * f.factor:.3g} (now {f.value:g})" for f in found.flips if f.factor][:4]
    edges = "; ".join(flips) or "no assumption, not even 1000 times larger or smaller"
    out.append(f"the answer (paid within {prices.device_years:g} years or not) changes at: {edges}")
    out += [
        f"{p.name:8}{p.devices:6g} devices, {p.invested:,.0f} {prices.currency} in all, saves {p.saves_per_month:,.1f} a month;"
        f" must show {p.must_show}"
        for p in found.phases
    ]
    out.append("the recipe's roi: table assumes everything that is not measured; the page lists these assumptions")
    return "\n".join(out)
