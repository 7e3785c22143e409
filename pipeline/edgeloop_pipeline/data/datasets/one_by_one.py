"""Arrays that are made on access, one at a time: a data set need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from edgeloop_contract.arrays import Array

__all__ = ["OneByOne"]

T = TypeVar("T")


@dataclass(frozen=True)
class OneByOne(Sequence[Array], Generic[T]):
    """`made` makes an array of each of `items` when it is asked for."""

    items: list[T]
    made: Callable[[T], Array]

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, i: int) -> Array: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Array]: ...
    def __getitem__(self, i: int | slice) -> Array | Sequence[Array]:
        return OneByOne(self.items[i], self.made) if isinstance(i, slice) else self.made(self.items[i])
