"""The page of `edgeloop roi`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeloop_pipeline.html import page
from edgeloop_pipeline.roi import Answer, Measured, Prices
from edgeloop_pipeline.store import write as write_file

COLOURS = {"energy": "#d9a300", "hardware": "#0b7a75", "compute": "#5b4b8a", "traffic": "#b42318"}


def write(path: Path, name: str, found: Answer, measured: Measured, prices: Prices) -> None:
    most = max(line.total for line in found.lines) or 1.0
    bars = [
        {
            "where": line.where,
            "total": line.total,
            "parts": [(part, getattr(line, part), 100 * getattr(line, part) / most, colour) for part, colour in COLOURS.items()],
        }
        for line in found.lines
    ]
    assumptions = msgspec.to_builtins(prices)
    text = page(
        "roi.html.j2", name=name, found=found, bars=bars, measured=measured, assumptions=assumptions, currency=prices.currency,
        years=prices.device_years,
    )  # fmt: skip
    write_file(path, text.encode())
