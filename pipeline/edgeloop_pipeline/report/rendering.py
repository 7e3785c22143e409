"""Renders the HTML templates of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def page(template: str, **values: Any) -> str:
    """A template of this folder with its style inside. It escapes all values except edgeloop's own drawings."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(HERE),
    )
    environment.filters["percent"] = lambda share: f"{share:.2%}"
    environment.filters["thousands"] = lambda number: f"{number:,.0f}"
    return environment.get_template(template).render(style=(HERE / "style.css").read_text(encoding="utf-8"), **values)
