"""One JSON object a recording."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from edgeloop_agent.sources import Recording
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.tokens import NULS

__all__ = ["json_record", "label_text"]


def json_record(line: str, name: str) -> Recording:
    """One JSON object {"name": …, "values": [[…], …], "label": …}, or with "text"; `refused` says what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Recording(name, None, f"not JSON: {error}")
    if isinstance(record, dict) and record.get("name") is not None:
        name = str(record["name"])
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
    """{"inputs": {NAME: [...], ...}}: an array for each input of a model."""
    try:
        values = {str(part): _numbers(str(part), given) for part, given in record["inputs"].items()}
    except DataError as error:
        return Recording(name, None, str(error))
    return Recording(name, None, label=label_text(record.get("label")), inputs=values)


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
