"""One JSON object a recording."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np

from edgeloop_agent.sources import Recording, Wanted
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import TextOrArray
from edgeloop_contract.preprocessing.tokens import NULS

__all__ = ["array_of", "inputs_of", "json_record", "label_text", "text_of"]

Beside = Callable[[str, str], Array]  # of an input's name, and that of a file


def json_record(line: str, name: str, beside: Beside | None = None) -> Recording:
    """One JSON object {"name": …, "values": [[…], …], "label": …}, or with "text"; `refused` says what is wrong with it.

    `beside`: as in `inputs_of`.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Recording(name, None, f"not JSON: {error}")
    if isinstance(record, dict) and record.get("name") is not None:
        name = str(record["name"])
    if not isinstance(record, dict) or (isinstance(record.get("inputs"), dict) and record["inputs"]):
        return _one(record, name)
    own = record["inputs"] if isinstance(record.get("inputs"), dict) else record
    return msgspec.structs.replace(_one(record, name), by_input=partial(_row, own, name, beside))


def _one(record: Any, name: str) -> Recording:
    if isinstance(record, dict) and isinstance(record.get("inputs"), dict) and record["inputs"]:
        return _by_input(record, name)
    if isinstance(record, dict) and isinstance(record.get("text"), str) and "values" not in record:
        if "\0" in record["text"]:
            return Recording(name, None, NULS)
        return Recording(name, None, label=label_text(record.get("label")), text=record["text"])
    if isinstance(record, dict) and "text" in record and "values" not in record and not isinstance(record["text"], str):
        return Recording(name, None, f'"text" is {json.dumps(record["text"])[:40]}, and no text; send it in quotation marks')
    if not isinstance(record, dict) or "values" not in record:
        return Recording(name, None, 'not an object with "values", or "text"')
    rate = record.get("rate_hz")
    rate = int(rate) if isinstance(rate, float) and rate.is_integer() else rate
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int)):
        return Recording(name, None, f'"rate_hz" is {str(rate)[:40]!r}; send points a second, a whole number')
    try:
        values = _numbers("values", record["values"])
    except DataError as error:
        return Recording(name, None, str(error))
    return Recording(name, values, label=label_text(record.get("label")), rate_hz=rate)


def _by_input(record: dict[str, Any], name: str) -> Recording:
    """{"inputs": {NAME: [...], ...}}: an array, a number or a text for each input of a model."""
    given = record["inputs"].items()
    try:
        values = {str(part): text_of(part, of) if isinstance(of, str) else array_of(str(part), of) for part, of in given}
    except DataError as error:
        return Recording(name, None, str(error))
    return Recording(name, None, label=label_text(record.get("label")), inputs=values)


def _row(record: dict[str, Any], name: str, beside: Beside | None, wanted: Wanted) -> Iterator[Recording]:
    """The object's own fields as the inputs of a model that has several."""
    try:
        found = inputs_of(record, wanted, beside)
    except DataError as error:
        yield Recording(name, None, str(error))
        return
    yield Recording(name, None, label="" if "label" in wanted else label_text(record.get("label")), inputs=found)


def inputs_of(values: Mapping[str, Any], wanted: Wanted, beside: Beside | None = None) -> dict[str, TextOrArray]:
    """A value for each input of a model, as JSON has it. `beside`: reads the file that a text names where numbers belong.

    Raises DataError naming the input.
    """
    found: dict[str, TextOrArray] = {}
    for name, is_text in wanted.items():
        if name not in values:
            raise DataError(f"has no {name!r}; it has {', '.join(map(str, values))[:200] or 'nothing'}")
        value = values[name]
        if is_text:
            found[name] = text_of(name, value)
        else:
            found[name] = beside(name, value) if isinstance(value, str) and beside is not None else array_of(name, value)
    return found


def text_of(name: str, given: Any) -> str:
    """A text as JSON gives it. Raises DataError for anything else, and for one with zero bytes."""
    if not isinstance(given, str):
        shown = json.dumps(given, ensure_ascii=False)[:40]
        raise DataError(f"{name}: {shown} is no text; send it in quotation marks")
    if "\0" in given:
        raise DataError(f"{name}: the text {NULS}")
    return given


def array_of(name: str, given: Any) -> Array:
    """A number or lists of numbers as an array. Raises DataError for anything else."""
    if isinstance(given, str):
        raise DataError(f"{name}: {given[:40]!r} is a text; the input takes numbers")
    return _numbers(name, [given] if given is None or isinstance(given, int | float) else given)


def _numbers(what: str, given: Any) -> Array:
    """An array of any shape. Raises DataError for what is no regular array of numbers."""
    try:
        values = np.array(given)
        if values.dtype == object:  # a null among the numbers
            values = np.array(given, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f'"{what}" is not a regular array of numbers') from error
    if values.ndim < 1 or values.dtype.kind not in "fiu":
        raise DataError(f'"{what}" has shape {values.shape} of {values.dtype}; send numbers in lists')
    return values


def label_text(label: object) -> str:
    """A label of any JSON type as text: 0 and false are labels, null means no label."""
    if label is None:
        return ""
    return str(label).lower() if isinstance(label, bool) else str(label)
