"""Writes the page of `edgeloop roi`, which is also a section of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgeloop_pipeline.cache.store import write as write_file
from edgeloop_pipeline.recipe.settings import Prices
from edgeloop_pipeline.report.roi import Answer, Measured

COLOURS = {"energy": "#d9a300", "hardware": "#0b7a75", "compute": "#5b4b8a", "traffic": "#b42318"}


def write(path: Path, name: str, found: Answer, measured: Measured, prices: Prices) -> None:
    from edgeloop_pipeline.report.rendering import page

    write_file(path, page("roi.html.j2", name=name, **shown(found, measured, prices)).encode())


def shown(found: Answer, measured: Measured, prices: Prices) -> dict[str, Any]:
    """The values for roi_body.html.j2."""
    most = max(line.total for line in found.lines) or 1.0
    bars = [
        {
            "where": line.where,
            "total": line.total,
            "parts": [(part, getattr(line, part), 100 * getattr(line, part) / most, colour) for part, colour in COLOURS.items()],
        }
        for line in found.lines
    ]
    return {
        "found": found, "bars": bars, "measured": measured, "assumptions": msgspec.to_builtins(prices), "currency": prices.currency,
        "years": prices.device_years,
    }  # fmt: skip
