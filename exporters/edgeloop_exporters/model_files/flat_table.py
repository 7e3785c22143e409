"""Reads tables of a FlatBuffer by their fields' numbers; every place and length is checked before it is read."""

from __future__ import annotations

import struct

__all__ = ["DamagedTable", "Table", "root"]

MAX_ENTRIES = 100_000


class DamagedTable(ValueError):
    """A place or length that points outside the buffer."""


class Table:
    """One table. Fields that are left out read as 0, "", () or None. Source: the FlatBuffers internals document."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - self._number("<i", place)
        self._size = self._number("<H", self._fields)

    def _number(self, form: str, place: int) -> int:
        if not 0 <= place <= len(self._data) - struct.calcsize(form):
            raise DamagedTable(f"it points to byte {place} of {len(self._data)}")
        return int(struct.unpack_from(form, self._data, place)[0])

    def _field(self, number: int) -> int:
        """The place of a field's value; 0 if it is left out."""
        slot = 4 + 2 * number
        offset = self._number("<H", self._fields + slot) if slot + 2 <= self._size else 0
        return self._place + offset if offset else 0

    def _target(self, place: int) -> int:
        return place + self._number("<I", place)

    def _vector(self, number: int, width: int) -> tuple[int, int]:
        """(place of the first entry, count)."""
        field = self._field(number)
        if not field:
            return 0, 0
        place = self._target(field)
        count = self._number("<I", place)
        if count * width > len(self._data) - place - 4 or count > MAX_ENTRIES * 100:
            raise DamagedTable(f"a list of {count} entries, more than it has room for")
        return place + 4, count

    def _text_at(self, place: int) -> str:
        length = self._number("<I", place)
        if length > len(self._data) - place - 4:
            raise DamagedTable(f"a text of {length} bytes, more than it has room for")
        return self._data[place + 4 : place + 4 + length].decode("utf-8", "replace")

    def text(self, number: int) -> str:
        field = self._field(number)
        return self._text_at(self._target(field)) if field else ""

    def byte(self, number: int) -> int:
        field = self._field(number)
        return self._number("<B", field) if field else 0

    def count(self, number: int) -> int:
        """An unsigned number of 32 bits."""
        field = self._field(number)
        return self._number("<I", field) if field else 0

    def table(self, number: int) -> Table | None:
        field = self._field(number)
        return Table(self._data, self._target(field)) if field else None

    def tables(self, number: int, most: int = 1000) -> list[Table]:
        first, count = self._vector(number, 4)
        return [Table(self._data, self._target(first + 4 * i)) for i in range(min(count, most))]

    def floats(self, number: int) -> tuple[float, ...]:
        first, count = self._vector(number, 4)
        return struct.unpack_from(f"<{min(count, MAX_ENTRIES)}f", self._data, first)

    def data(self, number: int) -> bytes:
        first, count = self._vector(number, 1)
        return self._data[first : first + count]


def root(data: bytes, identifier: bytes) -> Table:
    """The first table. Raises DamagedTable if the buffer has another identifier."""
    if len(data) < 8 or data[4:8] != identifier:
        raise DamagedTable("it has another form")
    return Table(data, struct.unpack_from("<I", data, 0)[0])
