"""Loads a user's project: the recipe's folder, its network and its data."""

from __future__ import annotations

import hashlib
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import msgspec

from edgeloop_contract.errors import DataError, EdgeloopError, UsageError
from edgeloop_contract.preprocessing import Tokenize, takes_texts, with_files
from edgeloop_contract.preprocessing.base import StepBase
from edgeloop_pipeline.cache.code_digest import code_of, digest_of, imports_of
from edgeloop_pipeline.cache.digests import digest, sha256
from edgeloop_pipeline.data import original_answers, sample_cache
from edgeloop_pipeline.data.prepare import prepare_splits
from edgeloop_pipeline.data.several_inputs import PreparedInput
from edgeloop_pipeline.data.types import Data, PreparedSplits
from edgeloop_pipeline.recipe.recipe import Recipe
from edgeloop_pipeline.recipe.user_code import load_object

# Parsing takes about a second for each megabyte; a folder may hold a whole virtual environment.
MAX_PARSED_BYTES = 1_000_000
FIELD_DATA = "edgeloop_pipeline.data.field_data"
ORIGINAL_ANSWERS = "edgeloop_pipeline.data.original_answers"
NORMALIZATION = "edgeloop_pipeline.data.normalization"  # imported late: it needs torch
MAX_FILES_NAMED = 16


@dataclass(frozen=True)
class Project:
    """A recipe with its network and data, which are loaded on first use."""

    recipe: Recipe

    @cached_property
    def data(self) -> Data:
        reference = self.recipe.head.data
        try:
            return cast(Data, load_object(self.recipe.folder, reference)())
        except TypeError as error:
            raise UsageError(
                f"{reference}: {error}; it must take no arguments and return an object with files() and load()"
            ) from error

    @cached_property
    def data_digests(self) -> dict[str, str]:
        """Name → sha256 of every file or folder of the data; one digest for all if there are many files."""
        return {**self._own_digests, **({f"field/{self._field.name}": sha256(self._field)} if self._field else {})}

    @property
    def _field(self) -> Path | None:
        """The file of field data, if the recipe names one. Raises DataError if it does not exist."""
        if self.recipe.head.field is None:
            return None
        path = self.recipe.folder / self.recipe.head.field.file
        if not path.is_file():
            raise DataError(f"field.file: {path}: no such file; correct the path")
        return path

    @cached_property
    def _own_digests(self) -> dict[str, str]:
        found = {_text(path): sha256(path) for path in (*self.data.files(), *self._original, *self.step_files.values())}
        if len(found) > MAX_FILES_NAMED:
            return {f"{len(found)} files": digest(found)}
        short = {f"{Path(path).parent.name}/{Path(path).name}": value for path, value in found.items()}
        return short if len(short) == len(found) else found  # train/cat/1.png and test/cat/1.png

    @cached_property
    def splits(self) -> PreparedSplits:
        """The samples, from an earlier run's cache or prepared now."""
        found, given, field = self._samples, self.recipe.head.normalize, self.recipe.head.field
        if field is not None and self._field is not None:
            from edgeloop_pipeline.data.field_data import merged

            found = merged(found, self._field, field.share, field.max_repeats)
        imported = self.recipe.head.imported
        measure, boxes = (imported.measure or "", imported.boxes) if imported else ("", None)
        task = boxes.task(list(found.labels)) if boxes else None
        masks = imported.masks.task(list(found.labels)) if imported and imported.masks else None
        return replace(
            found,
            normalize=(tuple(given.mean), tuple(given.std)) if given else None,
            measure=measure,
            boxes=task,
            masks=masks,
            sequence=imported.sequence if imported else None,
        )

    @property
    def _original(self) -> list[Path]:
        """The model file that the network comes from, with the files beside it that hold its weights. Raises DataError."""
        given = self.recipe.head.imported
        if given is None:
            return []
        path = self.recipe.folder / given.model
        if not path.is_file():
            raise DataError(f"imported.model: {path}: no such file; correct the path")
        return [path, *original_answers.files_beside(path)]

    @property
    def step_files(self) -> dict[str, Path]:
        """The files of preprocessing steps by name. Raises DataError where one does not exist."""
        head = self.recipe.head
        several = head.imported.inputs if head.imported else []
        every = [*head.preprocessing, *(step for entry in several for step in entry.preprocessing)]
        names = [step.file for step in every if isinstance(step, Tokenize)]
        for name in names:
            if not (self.recipe.folder / name).is_file():
                raise DataError(f"preprocessing: {self.recipe.folder / name}: no such file; correct the step's file")
        return {name: self.recipe.folder / name for name in names}

    def with_files(self, steps: Sequence[StepBase]) -> list[StepBase]:
        """The steps with their files loaded, which lie beside the recipe."""
        files = self.step_files
        return with_files(steps, lambda name: files[name].read_bytes())

    @property
    def texts(self) -> set[str]:
        """Of a model with several inputs, those that take texts."""
        given = self.recipe.head.imported
        return {entry.name for entry in (given.inputs if given else []) if takes_texts(entry.preprocessing)}

    @cached_property
    def _samples(self) -> PreparedSplits:
        head = self.recipe.head
        steps = msgspec.to_builtins(head.preprocessing)
        cleaning = msgspec.to_builtins(head.cleaning)
        imported = msgspec.to_builtins([head.imported, head.normalize]) if head.imported else None
        key = digest([self._own_digests, self.code_digests, head.data, head.task, steps, cleaning, self.sample_code, imported])
        found = sample_cache.read(key) if self._own_digests else None
        if found is None:
            start = time.perf_counter()
            found = self._prepare()
            if self._own_digests:  # without files, a change of the data would go unnoticed
                sample_cache.keep(key, found, time.perf_counter() - start, head.cache_bytes)
        return found

    def _prepare(self) -> PreparedSplits:
        try:
            loaded = self.data.load()
        except EdgeloopError:
            raise
        except Exception as error:  # the user's code can raise anything
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise DataError(
                f"{self.recipe.head.data}: load() failed: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
            ) from error
        head = self.recipe.head
        steps = self.with_files(head.preprocessing)
        given = head.imported.inputs if head.imported else []
        inputs = [PreparedInput(entry.named, self.with_files(entry.preprocessing)) for entry in given]
        truths = head.imported is not None and head.imported.sequence is not None
        found = prepare_splits(loaded, steps, head.task, head.cleaning, inputs, truths)
        if head.imported is None or head.imported.measure is None:
            return found
        if head.normalize is None:
            raise UsageError("normalize: missing; an imported model needs the mean and std that it was trained with")
        original = original_answers.Original(
            self.recipe.folder / head.imported.model, head.imported.chosen, head.imported.layout, tuple(head.imported.shape),
            found.inputs,
        )  # fmt: skip
        found = original_answers.with_states(found, original, truths)
        return original_answers.labelled(found, original, tuple(head.normalize.mean), tuple(head.normalize.std), truths)

    @property
    def code_digests(self) -> dict[str, str]:
        """Name → digest of the code of every Python file in the project's folder. Raises DataError if one cannot be read."""
        return {name: digest for name, (digest, _) in self._code.items()}

    @cached_property
    def sample_code(self) -> dict[str, str]:
        """edgeloop module → digest, for all modules that make inputs: preparation, normalization, data classes, project imports."""
        more = [module for _, imports in self._code.values() for module in imports]
        more += [FIELD_DATA] if self.recipe.head.field else []
        more += [ORIGINAL_ANSWERS] if self.recipe.head.imported else []
        return code_of(prepare_splits.__module__, (*more, type(self.data).__module__, NORMALIZATION))

    @cached_property
    def _code(self) -> dict[str, tuple[str, list[str]]]:
        """Name → digest, and our modules that it imports. After MAX_PARSED_BYTES, comments and docstrings count as well."""
        folder, code, size = self.recipe.folder, dict[str, tuple[str, list[str]]](), 0
        files = (p for p in folder.rglob("*.py") if not any(part.startswith(".") for part in p.relative_to(folder).parts))
        for path in sorted(files):
            text = _text_of(path)
            size += len(text)
            digest = digest_of(text) if size <= MAX_PARSED_BYTES else hashlib.sha256(text).hexdigest()
            code[str(path.relative_to(folder))] = digest, imports_of(text)
        return code

    @property
    def augment(self) -> Callable[..., Any] | None:
        reference = self.recipe.head.augment
        return load_object(self.recipe.folder, reference) if reference else None


def _text_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def _text(path: Path) -> str:
    """The path as valid text for a key, because a file's name may have any bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
