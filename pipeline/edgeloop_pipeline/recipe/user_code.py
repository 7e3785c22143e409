"""Imports the user's Python files under private module names."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import UsageError

_loaded: dict[Path, Any] = {}


def load_object(folder: Path, reference: str) -> Any:
    """The object that `file.py:name` names; the path is relative to the recipe. Raises UsageError."""
    file, _, name = reference.rpartition(":")
    path = (folder / file).resolve()
    module = _loaded.get(path)
    if module is None:
        module = _loaded[path] = _import(path, reference)
    try:
        return getattr(module, name)
    except AttributeError:
        raise UsageError(f"{reference}: {path} has no {name!r}; check the name") from None


def _import(path: Path, reference: str) -> Any:
    if not path.is_file():
        raise UsageError(f"{reference}: no file {path}; the path is relative to the recipe")
    # A private name, so that a user's network.py cannot hide a real package; the file can import from its folder.
    unique = f"_edgeloop_project_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    sys.path.insert(0, str(path.parent))
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # the project folder belongs to the user and may be read-only
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code can raise anything
        del sys.modules[unique]
        raise UsageError(f"{reference}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(path.parent))
    return module
