"""Imports the user's Python files under private module names."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import UsageError

_loaded: dict[Path, Any] = {}
_digests: dict[Path, bytes] = {}  # of the files that were loaded, and of what they import from their own folders


def load_object(folder: Path, reference: str) -> Any:
    """The object that `file.py:name` names; the path is relative to the recipe. Raises UsageError."""
    file, _, name = reference.rpartition(":")
    path = (folder / file).resolve()
    module = _loaded.get(path)
    if module is None:
        module = _loaded[path] = _import(path, reference)
        _digests.update({file: _digest(file) for file in _own_modules().values()})
    try:
        return getattr(module, name)
    except AttributeError:
        raise UsageError(f"{reference}: {path} has no {name!r}; check the name") from None


def forget_changed() -> None:
    """Load a project's files anew if one of them has changed: a notebook runs a recipe again after an edit.

    Without that, the cache's key would be of the new files and the result of the old ones.
    """
    own = _own_modules()
    if all(_digests.get(path) == _digest(path) for path in own.values()):
        return
    for name in own:
        del sys.modules[name]
    _loaded.clear()
    _digests.clear()
    importlib.invalidate_caches()


def _own_modules() -> dict[str, Path]:
    """Loaded modules whose files are in the folders of projects, at any depth; not what is installed in a folder there."""
    folders = {path.parent for path in _loaded}
    files = {name: Path(file) for name, module in list(sys.modules.items()) if (file := getattr(module, "__file__", None))}
    return {
        name: path
        for name, path in files.items()
        if "site-packages" not in path.parts and any(path.is_relative_to(folder) for folder in folders)
    }


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""


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
