"""Converts the classes' names and recordings' labels of any kind that a data.py gives: they become texts and integers, or an
error says why not."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.settings import nearest

REMEDY = "give a tuple of their names, as ('walk', 'run')"
MAX_SHOWN = 5


@dataclass(frozen=True)
class Names:
    """The names. `texts`: the classes (or quantities) in order. `places`: other forms of a recording's label → its class.

    `keyed`: a dict gave the numbers in `places`, so number labels mean these, not indices.
    """

    texts: tuple[str, ...]
    places: dict[Any, int]
    keyed: bool = False


def names_of(given: Any) -> Names:
    """The names from a sequence of names of any kind, or from a dict between names and numbers. Raises DataError."""
    if isinstance(given, Mapping):
        return _of_dict(dict(given))
    if isinstance(given, str | bytes):
        raise DataError(f"labels: only one text, {given!r}; {REMEDY}")
    if isinstance(given, set | frozenset):
        raise DataError(f"labels: a set has no order, so the classes' numbers would change; {REMEDY}")
    if isinstance(given, type) and issubclass(given, enum.Enum):
        given = [member.name for member in given]
    if not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise DataError(f"labels: {type(given).__name__}; {REMEDY}")
    found = list(given)
    if not found:
        raise DataError(f"labels: there are none; {REMEDY}")
    texts = _checked([text_of(name, f"labels[{i}]") for i, name in enumerate(found)])
    return Names(texts, _places(found, texts))


def _of_dict(given: dict[Any, Any]) -> Names:
    """The names from {number: name} or {name: number}."""
    if given and all(_is_number(key) for key in given):
        pairs = {int(key): value for key, value in given.items()}
    elif given and all(_is_number(value) for value in given.values()):
        pairs = {int(value): key for key, value in given.items()}
    else:
        raise DataError("labels: the dict maps neither numbers to names nor names to numbers; write {0: 'walk', 1: 'run'}")
    if len(pairs) != len(given):
        raise DataError("labels: two entries of the dict have one number; give each class its own")
    numbers = sorted(pairs)
    texts = _checked([text_of(pairs[number], f"labels[{number}]") for number in numbers])
    return Names(texts, {**_places([pairs[n] for n in numbers], texts), **{n: i for i, n in enumerate(numbers)}}, keyed=True)


def _places(found: list[Any], texts: tuple[str, ...]) -> dict[Any, int]:
    """The other forms of labels: each text, and each number that was given as a name."""
    numbers = {int(name): i for i, name in enumerate(found) if _is_number(name)}
    return {**{text: i for i, text in enumerate(texts)}, **(numbers if len(numbers) == len(texts) else {})}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and float(value).is_integer())


def text_of(name: Any, where: str) -> str:
    """One name as a text: numbers in their written form, true and false as in JSON. Raises DataError that names `where`."""
    if isinstance(name, np.ndarray) and name.ndim == 0:
        name = name[()]
    if isinstance(name, enum.Enum):
        name = name.name
    if isinstance(name, bytes):
        try:
            name = name.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: {name!r} is no UTF-8 text; {REMEDY}") from error
    if isinstance(name, bool | np.bool_):
        return "true" if name else "false"
    if isinstance(name, int | np.integer):
        return str(int(name))
    if isinstance(name, float | np.floating) and np.isfinite(name):
        return str(float(name))
    if not isinstance(name, str):
        raise DataError(f"{where}: {str(name)[:40]!r} is a {type(name).__name__}; {REMEDY}")
    if not name.strip():
        raise DataError(f"{where}: an empty name; {REMEDY}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {name!r} is no valid text; rename it") from error
    return str(name)


def _checked(texts: list[str]) -> tuple[str, ...]:
    twice = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
    if twice is not None:
        raise DataError(f"labels: {twice!r} is there twice; give each class its own name")
    return tuple(texts)


def classes_of(names: Names, splits: dict[str, Any]) -> dict[str, Array]:
    """Each split's labels as (N,) int64 indices of the names: from indices, names, or a dict's numbers. Raises DataError."""
    flat = {split: _flat(given, split) for split, given in splits.items()}
    of_truth = {"true", "false"} == set(names.texts) and any(array.dtype.kind == "b" for array in flat.values())
    if all(array.dtype.kind in "biuf" for array in flat.values()) and not of_truth:
        return _of_numbers(names, flat)
    return {split: _by_name(names, array.tolist(), split) for split, array in flat.items()}


def _flat(given: Any, split: str) -> Array:
    try:
        found = np.asarray(given) if hasattr(given, "dtype") else np.asarray(list(given))
    except (TypeError, ValueError) as error:
        raise DataError(f"{split}: labels are {type(given).__name__}; give one for each recording") from error
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise DataError(f"{split}: labels have shape {found.shape}; give one class per recording, as its number or its name")
    return found


def _of_numbers(names: Names, flat: dict[str, Array]) -> dict[str, Array]:
    count = len(names.texts)
    for split, array in flat.items():
        if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.rint(array))).all():
            raise DataError(f"{split}: labels must be integers from 0 to {count - 1}; some are not whole numbers")
    whole = {split: array.astype(np.int64) for split, array in flat.items()}
    used = set(np.unique(np.concatenate(list(whole.values()))).tolist()) if whole else set()
    numbers = {key: place for key, place in names.places.items() if not isinstance(key, str)}
    is_place, is_name = used <= set(range(count)), bool(numbers) and used <= set(numbers)
    differs = any(numbers.get(value) != value for value in used)
    if is_place and is_name and differs and not names.keyed:
        raise DataError(
            f"labels: the names are the numbers {', '.join(names.texts[:MAX_SHOWN])}, so a recording's label could be such a"
            " name or an index; give the names as texts, or a dict {number: name}"
        )
    if is_name and (names.keyed or not is_place):
        return {split: np.array([numbers[v] for v in array.tolist()], np.int64) for split, array in whole.items()}
    if names.keyed or not is_place:
        allowed = set(numbers) if names.keyed else set(range(count))
        split, odd = next((s, v) for s, array in whole.items() for v in array.tolist() if v not in allowed)
        wanted = f"one of {sorted(allowed)[:20]}" if names.keyed else f"integers from 0 to {count - 1}"
        raise DataError(f"{split}: labels must be {wanted}; there is {odd}")
    return whole


def _by_name(names: Names, labels: list[Any], split: str) -> Array:
    found = np.empty(len(labels), np.int64)
    for i, label in enumerate(labels):
        text = text_of(label, f"{split}: label of recording {i}")
        place = names.places.get(text)
        if place is None:
            raise DataError(f"{split}: recording {i} is a {text!r}, which is not in labels{nearest(text, names.texts)}")
        found[i] = place
    return found
