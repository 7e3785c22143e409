"""A finished run as the JSON object that `edgeloop run --json` prints (docs/cli.md), and as lines of text for its log."""

from __future__ import annotations

import msgspec

from edgeloop_pipeline.report.summary import rows
from edgeloop_pipeline.results.files import ProfileResult, VerifyResult
from edgeloop_pipeline.run.result import RunResult


def summary_json(result: RunResult, error: str | None = None) -> str:
    """The run as one JSON object (docs/cli.md). `error`: why the run ended early, or which floors it misses."""
    verified, profiled = result.result("verify", VerifyResult), result.result("profile", ProfileResult)
    report, bundle = result.path("report", "report"), result.path("package", "bundle")
    costs = profiled.variants if profiled else {}
    variants = [
        {
            "runtime": file.format,
            "precision": str(file.precision).replace("-", ""),
            "accuracy": file.accuracy.value,
            "bytes": file.bytes,
            "latency_us_p50": costs[name].latency_us_p50 if name in costs else None,
        }
        for name, file in (verified.variants if verified else {}).items()
    ]
    parity = verified.parity if verified else None
    return msgspec.json.encode(
        {
            "run": str(result.store.root.resolve()),
            "folder": str(result.folder.absolute()) if result.folder else None,
            "bundle": str(bundle.resolve()) if bundle else None,
            "report": str(report.resolve()) if report else None,
            "stages": [
                {
                    "name": e.stage,
                    "cached": e.stage in result.cached,
                    "seconds": e.seconds,
                    "peak_bytes": e.peak_bytes,
                    "metrics": e.metrics,
                }
                for e in result.entries
            ],
            "variants": variants,
            "parity": {k: getattr(parity, k) for k in ("max_lsb", "top1_share", "pairs")} if parity else None,
            "failures": result.failures,
            "error": error,
        }
    ).decode()


def summary_lines(result: RunResult) -> list[str]:
    """One line per finished stage and shipped file: accuracy with its interval, size, latency, time and memory."""
    lines = []
    for row in rows(result.entries):
        figures = f"{row.accuracy_text:>8} {row.interval_text:>17} {row.size_text:>12} {row.latency_text:>12}  {row.took_text}"
        lines.append(f"{row.name:18} {figures}".rstrip())
    return lines
