"""Writes docs/api.md: every public name of `edgeloop`, from its signature and docstring. `--check` fails where the page is old."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import edgeloop

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# `edgeloop`: every public name
Written by `scripts/api_page.py` from signatures and docstrings; [edgeloop in Python](python.md) shows how they are used.
"""


def page() -> str:
    """The page's text."""
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": []}
    for name in sorted(edgeloop.__all__, key=str.lower):
        thing = getattr(edgeloop, name)
        kind = "Errors" if name.endswith("Error") else "Classes" if inspect.isclass(thing) else "Functions"
        kinds[kind].append(_entry(name, thing))
    parts = [HEAD] + [f"## {kind}\n\n" + "\n\n".join(entries) + "\n" for kind, entries in kinds.items()]
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> str:
    if name.endswith("Error"):
        return f"**`edgeloop.{name}`** {_text(thing)} Exit code {thing.exit_code}."
    lines = [f"### `edgeloop.{name}`", "", f"```text\n{_signature(name, thing)}\n```", "", _text(thing)]
    if inspect.isclass(thing):
        lines += [line for member in _members(thing) for line in ("", member)]
    return "\n".join(lines)


def _signature(name: str, thing: Any) -> str:
    try:
        text = str(inspect.signature(thing))
    except (TypeError, ValueError):
        text = "(…)"
    return _plain(f"{name}{text}")


def _plain(signature: str) -> str:
    """Types without the quotes that postponed annotations have; no `self`, no addresses, no `-> None`."""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature).replace("(self, ", "(").replace("(self)", "()").removesuffix(" -> None")
    return re.sub(r"<function [^ ]+ at 0x[0-9a-f]+>|<[^<>]* at 0x[0-9a-f]+>|<factory>", "…", text)


def _members(thing: Any) -> list[str]:
    """Public methods and properties that the class itself documents."""
    shown = []
    for name, member in vars(thing).items():
        documented = inspect.getdoc(member) if inspect.isfunction(member) or isinstance(member, property) else None
        if name == "__call__":
            shown.append(f"`model(given)`: {_text(member)}")
        elif documented and not name.startswith("_"):
            call = "" if isinstance(member, property) else _plain(str(inspect.signature(member)))
            shown.append(f"`.{name}{call}`: {_text(member)}")
    return shown


def _text(thing: Any) -> str:
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(thing) or "").strip()


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == page() else f"{PAGE.name} is old: run scripts/api_page.py")
    PAGE.write_text(page(), encoding="utf-8")
