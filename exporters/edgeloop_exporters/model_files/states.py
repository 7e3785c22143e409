"""Outputs that are the next call's inputs: proven by the graph, or guessed by names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgeloop_exporters.model_files.description import StatePair, Tensor
from edgeloop_exporters.model_files.graph import Graph
from edgeloop_exporters.model_files.rules import MAX_STEPS

__all__ = ["guessed_states", "proven_states"]

MOVES = {"same", "reshape", "transpose", "part", "concat", "quantize", "dequantize"}
BEFORE = {"in", "input", "i", "prev", "previous", "past", "old", "init", "initial", "last"}
AFTER = {"out", "output", "o", "next", "new", "present", "cur", "current", "n", "updated"}
MAX_LAYERS = 1000  # of recurrent ones
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def proven_states(graph: Graph, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[StatePair, ...]:
    """Pairs of one type and shape where a recurrent layer reads the input as its state and makes the output, or where the
    output is the input moved on, with new values joined to it."""
    fits = {(i.name, o.name) for i in inputs for o in outputs if _fit(i, o)}
    found: dict[tuple[str, str], str] = {}
    recurrent = [operator for operator in graph.operators if operator.feeds][:MAX_LAYERS]
    for operator in recurrent:
        for old, new in operator.feeds:
            for pair in ((i, o) for i in _origins(graph, old) for o in _ends(graph, new)):
                if pair in fits:
                    found.setdefault(pair, "a recurrent layer's state")
    for tensor in inputs:
        for output in _ends(graph, tensor.name, joined=True):
            if (tensor.name, output) in fits:
                found.setdefault((tensor.name, output), "the input's values moved on, with new ones joined to them")
    ends = [old for old, _ in found] + [new for _, new in found]
    single = (pair for pair in found if ends.count(pair[0]) == ends.count(pair[1]) == 1)
    return tuple(StatePair(old, new, found[old, new]) for old, new in single)


def _fit(old: Tensor, new: Tensor) -> bool:
    """One type, and no dimension that is known to differ."""
    if not old.shape or new.shape is None or old.dtype != new.dtype or len(old.shape) != len(new.shape):
        return False
    return all(a == b or a is None or b is None for a, b in zip(old.shape, new.shape, strict=True))


def _origins(graph: Graph, name: str) -> set[str]:
    """The graph's inputs that these values were moved from."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting and len(seen) < MAX_STEPS:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        maker = graph.maker.get(tensor)
        if tensor in graph.input_names:
            found.add(tensor)
        elif maker is not None and maker.kind in MOVES:
            waiting += maker.reads if maker.kind == "concat" else maker.reads[:1]
    return found


def _ends(graph: Graph, name: str, joined: bool = False) -> set[str]:
    """The graph's outputs that these values are moved to; `joined`: only those with other values beside them on the way."""
    found: set[str] = set()
    seen: set[tuple[str, bool]] = set()
    waiting = [(name, not joined)]
    while waiting and len(seen) < MAX_STEPS:
        tensor, counts = waiting.pop()
        if (tensor, counts) in seen:
            continue
        seen.add((tensor, counts))
        if counts and tensor in graph.output_names:
            found.add(tensor)
        for reader in graph.readers.get(tensor, []):
            if reader.kind in MOVES and (tensor == reader.reads[0] or reader.kind == "concat"):
                waiting += [(made, counts or reader.kind == "concat") for made in reader.makes if made]
    return found


def guessed_states(inputs: Sequence[Tensor], outputs: Sequence[Tensor], known: Sequence[StatePair]) -> tuple[StatePair, ...]:
    """Pairs of one type and shape whose names differ by words as "in" and "out" only, beside the known ones."""
    return tuple(_named(inputs, outputs, {name for pair in known for name in (pair.input, pair.output)}))


def _named(inputs: Sequence[Tensor], outputs: Sequence[Tensor], taken: set[str]) -> Iterator[StatePair]:
    for old in inputs:
        for new in outputs:
            if _fit(old, new) and not {old.name, new.name} & taken and _named_alike(old.name, new.name):
                taken |= {old.name, new.name}
                yield StatePair(old.name, new.name, "a guess by names and shapes")
                break


def _named_alike(old: str, new: str) -> bool:
    short_old, short_new = old.rpartition(":")[0] or old, new.rpartition(":")[0] or new
    if short_new.lower() == short_old.lower() + "n":
        return True
    before = [word for word in _words(short_old) if word not in BEFORE]
    after = [word for word in _words(short_new) if word not in AFTER]
    return bool(before) and before == after and any(not word.isdigit() for word in before) and old != new


def _words(name: str) -> list[str]:
    return [word.lower() for word in WORDS.findall(name)]
