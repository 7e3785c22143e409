"""Devices by their tags: `line-3 and not (spare or lab)`, as a rule for a set of tags and as a condition of the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, and_, not_, or_

from edgeloop_contract.errors import UsageError

T = TypeVar("T")
MAX_LETTERS = 300
WORDS = ("and", "or", "not")
TOKEN = re.compile(r"\s*([()]|[a-z0-9][a-z0-9-]*)")


@dataclass(frozen=True)
class Expression:
    """`word`: "tag" with a `tag`; "and", "or" or "not" of `parts`."""

    word: str
    tag: str = ""
    parts: tuple[Expression, ...] = ()


@dataclass(frozen=True)
class _Meaning(Generic[T]):
    tag: Callable[[str], T]
    every: Callable[[list[T]], T]
    some: Callable[[list[T]], T]
    negated: Callable[[T], T]

    def of(self, expression: Expression) -> T:
        parts = [self.of(part) for part in expression.parts]
        if expression.word == "tag":
            return self.tag(expression.tag)
        if expression.word == "not":
            return self.negated(parts[0])
        return self.every(parts) if expression.word == "and" else self.some(parts)


def matches(expression: Expression, tags: Collection[str]) -> bool:
    return _Meaning[bool](lambda tag: tag in tags, all, any, lambda one: not one).of(expression)


def condition(expression: Expression, has: Callable[[str], ColumnElement[bool]]) -> ColumnElement[bool]:
    """`has`: the condition that a row's device has a tag."""
    return _Meaning[ColumnElement[bool]](has, lambda parts: and_(*parts), lambda parts: or_(*parts), not_).of(expression)


def parse(text: str) -> Expression:
    """Raises UsageError, with the place."""
    if len(text) > MAX_LETTERS:
        raise UsageError(f"tags: {len(text)} letters; write up to {MAX_LETTERS}")
    tokens, place = [], 0
    while text[place:].strip():
        found = TOKEN.match(text, place)
        if found is None:
            raise UsageError(f"tags: {text[place:].strip()[:40]!r} is no tag; write tags with and, or, not and brackets")
        tokens.append(found[1])
        place = found.end()
    expression, rest = _some(tokens, text)
    if rest:
        raise UsageError(f"tags: {text!r}: and, or is missing before {rest[0]!r}")
    return expression


def _some(tokens: Sequence[str], text: str) -> tuple[Expression, Sequence[str]]:
    return _joined("or", _every, tokens, text)


def _every(tokens: Sequence[str], text: str) -> tuple[Expression, Sequence[str]]:
    return _joined("and", _one, tokens, text)


def _joined(
    word: str, part: Callable[[Sequence[str], str], tuple[Expression, Sequence[str]]], tokens: Sequence[str], text: str
) -> tuple[Expression, Sequence[str]]:
    first, rest = part(tokens, text)
    parts = [first]
    while rest and rest[0] == word:
        following, rest = part(rest[1:], text)
        parts.append(following)
    return (first if len(parts) == 1 else Expression(word, parts=tuple(parts))), rest


def _one(tokens: Sequence[str], text: str) -> tuple[Expression, Sequence[str]]:
    if not tokens or tokens[0] in (")", "and", "or"):
        raise UsageError(f"tags: {text!r}: a tag is missing {f'before {tokens[0]!r}' if tokens else 'at the end'}")
    first, rest = tokens[0], tokens[1:]
    if first == "not":
        inner, rest = _one(rest, text)
        return Expression("not", parts=(inner,)), rest
    if first == "(":
        inner, rest = _some(rest, text)
        if not rest or rest[0] != ")":
            raise UsageError(f"tags: {text!r}: a bracket is not closed")
        return inner, rest[1:]
    return Expression("tag", first), rest
