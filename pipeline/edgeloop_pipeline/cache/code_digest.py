"""Finds the modules that decide a stage's output, and digests them; comments, docstrings and types do not change a digest.

The imports of a stage's own file declare what belongs in its key: at the top, and inside functions, where a stage imports
heavy modules. In every other file, only the imports at the top count. If such a file imports a module late and runs it for the
stage, the stage names that module in `Base.code`. Imports for type checkers never run. `NEUTRAL` modules do not decide
results. A test runs every stage and checks that all code that ran is named or neutral.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path

OURS = "edgeloop_"
UNPARSED = (SyntaxError, ValueError, RecursionError, MemoryError)  # no Python, or nested too deeply for its parser
# Errors, files, the stage cache, the operating system; the recipe, whose values are in the key one by one; the structs of
# results, which do not decide how a figure is computed; and a device's settings, which the readers of its sources bring along.
NEUTRAL = (
    "edgeloop_contract.errors", "edgeloop_contract.files", "edgeloop_contract.settings", "edgeloop_contract.unknown_names",
    "edgeloop_agent.config", "edgeloop_agent.hardware", "edgeloop_pipeline.cache", "edgeloop_pipeline.recipe",
    "edgeloop_pipeline.run", "edgeloop_pipeline.system", "edgeloop_pipeline.results", "edgeloop_pipeline.training.tracking",
)  # fmt: skip


def code_of(root: str, more: Iterable[str] = ()) -> dict[str, str]:
    """Module → digest, for `root` and all its imports, for `more`, and for all that these files import at the top."""
    digests: dict[str, str] = {}
    file = _file(root)
    waiting = [root, *more, *(imports_of(file.read_bytes()) if file else [])]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in digests or path is None or _is_neutral(name):
            continue
        digests[name], imports = _read(path)
        waiting += imports
    return dict(sorted(digests.items()))


def imports_of(text: bytes) -> list[str]:
    """Our modules that a file imports, also inside functions. A file that is no Python imports none."""
    if OURS.encode() not in text:
        return []
    try:
        return _imports(ast.walk(_bare(ast.parse(text))))
    except UNPARSED:
        return []


def digest_of(text: bytes) -> str:
    """The digest of a Python file's code; for any other file, of its bytes."""
    try:
        tree = _bare(ast.parse(text))
    except UNPARSED:
        return hashlib.sha256(text).hexdigest()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_neutral(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NEUTRAL)


def read_code(text: bytes) -> tuple[str, list[str]]:
    """A module's digest, and the edgeloop modules that the top of its file imports."""
    return digest_of(text), _imports(_bare(ast.parse(text)).body)


@cache
def _read(path: Path) -> tuple[str, list[str]]:
    return read_code(path.read_bytes())


@cache
def _file(module: str) -> Path | None:
    if not module.startswith(OURS):
        return None  # a user's own stage: the project files' digests contain it
    package, _, rest = module.partition(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0]).joinpath(*rest.split(".")) if rest else Path(spec.submodule_search_locations[0])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _bare(tree: ast.Module) -> ast.Module:
    """The code without docstrings and without imports for type checkers. Parsing has removed the comments."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [part for part in body[_has_docstring(body) :] if not _is_for_types(part)]
    return tree


def _has_docstring(body: list[ast.stmt]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imports(nodes: Iterable[ast.AST]) -> list[str]:
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [n for n in names if n.startswith(OURS)]
