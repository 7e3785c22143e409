"""Which of our modules a module runs: their digests are part of what it makes."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

OURS = "edgeloop_"


@cache
def code_of(module: str) -> dict[str, str]:
    """Digest of `module` and of every module of ours that it imports, also inside functions."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in found or path is None:
            continue
        text = path.read_bytes()
        found[name] = hashlib.sha256(text).hexdigest()
        waiting += _imports(text)
    return found


@cache
def _file(module: str) -> Path | None:
    if not module.startswith(OURS):
        return None  # a user's own stage: its folder is digested as project files
    package, _, rest = module.partition(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0]).joinpath(*rest.split(".")) if rest else Path(spec.submodule_search_locations[0])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(text: bytes) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [n for n in names if n.startswith(OURS)]
