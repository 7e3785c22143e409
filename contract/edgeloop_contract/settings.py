"""Strict settings: every problem of a recipe is found in one pass, with its path and the nearest valid name."""

import dataclasses
import enum
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

__all__ = ["Fraction01", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt", "fields", "nearest", "problems"]

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0)]
Fraction01 = Annotated[float, msgspec.Meta(ge=0, le=1)]  # a share, from 0 to 1


def problems(data: object, kind: type, path: str) -> list[str]:
    """Everything that keeps `data` from being a `kind` (a msgspec Struct or a dataclass), one sentence each."""
    if not isinstance(data, Mapping):
        return [f"{path}: expected settings (key: value), got {_shown(data)}"]
    known = fields(kind)
    sentences = [f"{join(path, key)}: unknown setting{nearest(str(key), known)}" for key in data if key not in known]
    for key, (wanted, required) in known.items():
        if key not in data:
            if required:
                sentences.append(f"{join(path, key)}: missing")
        else:
            sentences += _value_problems(data[key], wanted, join(path, key))
    return sentences


def fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Name → (type, required) of a settings class."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return {f.name: (hints[f.name], f.default is missing and f.default_factory is missing) for f in dataclasses.fields(kind)}
    return {f.name: (hints[f.name], f.required) for f in msgspec.structs.fields(kind)}


def _value_problems(value: object, wanted: Any, path: str) -> list[str]:
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return problems(value, wanted, path)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType) and (lists := [a for a in arguments if typing.get_origin(a) is list]):
        others = [a for a in arguments if a not in lists]  # one of something, or several
        return _value_problems(value, lists[0] if isinstance(value, list) else others[0], path)
    if isinstance(value, list) and (origin is list or (origin is tuple and arguments[1:] == (...,))):
        return [line for i, item in enumerate(value) for line in _value_problems(item, arguments[0], f"{path}[{i}]")]
    if isinstance(value, Mapping) and origin is dict and arguments[0] is str and all(isinstance(key, str) for key in value):
        return [line for key, item in value.items() for line in _value_problems(item, arguments[1], join(path, key))]
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        choices = _choices(wanted)
        return [f"{path}: {_plain(error, path)}{nearest(str(value), choices)}, got {_shown(value)}"]
    return []


def _choices(wanted: Any) -> list[str]:
    """The words that a setting may be; none where it is not one of some words."""
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return [str(member.value) for member in wanted]
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return [word for argument in arguments for word in _choices(argument)]
    return [word for word in arguments if isinstance(word, str) and word] if origin is typing.Literal else []


def _plain(error: msgspec.ValidationError, path: str) -> str:
    """msgspec's message in our own path: it calls the value `$`, or `$.key` below it."""
    text, _, where = str(error).partition(" - at `$")
    where = where.rstrip("`")
    text = text[0].lower() + text[1:]
    return f"{text} (at {path}{where})" if where else text


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or the list of known names when nothing is near."""
    import difflib  # for a mistake alone: devices start without it

    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f" (known: {', '.join(names)})" if names else ""


def join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _shown(value: object) -> str:
    return repr(value) if len(repr(value)) < 60 else f"{type(value).__name__}"
