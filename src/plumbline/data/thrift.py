"""Thrift's compact protocol, as far as Parquet uses it for footers and headers of pages."""

from collections.abc import Mapping
from typing import TypeVar

_MAX_DEPTH = 32
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    12,
)
_INTEGERS = (_I32, _I64, _I16)

Value = TypeVar("Value")

Struct = dict[int, object]
"""Number of a field -> its value."""

Wanted = Mapping[int, "Wanted | None"]
"""Fields to keep -> those to keep of the structs in there; None: all of them."""


def int_of(fields: object, number: int) -> int:
    """A number in a struct; 0 where it is not there.

    Raises:
        ValueError: something else stands there; so for the others.
    """
    return int(_field(fields, number, int) or 0)


def list_of(fields: object, number: int) -> list[object]:
    """A list in a struct; empty where it is not there."""
    return list(_field(fields, number, list) or ())


def struct_of(fields: object, number: int) -> Struct:
    """A struct in a struct; empty where it is not there."""
    return _field(fields, number, dict) or {}


def text_of(fields: object, number: int) -> str:
    """A text in a struct; what is no UTF-8 is replaced."""
    return (_field(fields, number, bytes) or b"").decode("utf-8", "replace")


def _field(fields: object, number: int, kind: type[Value]) -> Value | None:
    value = fields.get(number) if isinstance(fields, dict) else None
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"field {number} is no {kind.__name__}")
    return value


class ThriftReader:
    """Reads what stands one after the other; an IndexError at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        """Begin in front."""
        self.data, self.place = data, 0

    def struct(self, wanted: Wanted | None = None, depth: int = 0) -> Struct:
        """Read a struct to its end; fields that are not wanted take no memory.

        Raises:
            ValueError: it is damaged.
        """
        fields: Struct = {}
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            if wanted is None:
                fields[number] = self.value(head & 15, None, depth)
            elif number in wanted:
                fields[number] = self.value(head & 15, wanted[number], depth)
            else:
                self.skip(head & 15, depth)
        return fields

    def value(self, kind: int, wanted: Wanted | None = None, depth: int = 0) -> object:
        """Read a value of a type."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        if kind in _INTEGERS:
            return self.zigzag()
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self.byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self.varint())
        if kind in (_LIST, _SET):
            count, item = self._list_head()
            return [self.value(item, wanted, depth + 1) for _ in range(count)]
        if kind == _STRUCT:
            return self.struct(wanted, depth + 1)
        raise ValueError(f"no type {kind} in a footer")

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value of a type, of which nothing is kept."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        if kind in (_LIST, _SET):
            count, item = self._list_head()
            for _ in range(count):
                self.skip(item, depth + 1)
        elif kind == _STRUCT:
            while head := self.byte():
                if not head >> 4:
                    self.zigzag()
                self.skip(head & 15, depth + 1)
        else:
            self.value(kind, None, depth)

    def _list_head(self) -> tuple[int, int]:
        """How many items a list has, and their type."""
        head = self.byte()
        count, item = head >> 4, head & 15
        if count == 15:
            count = self.varint()
        # In a list a truth value has a byte of its own.
        return count, _BYTE if item in (_TRUE, _FALSE) else item

    def byte(self) -> int:
        """Read a byte."""
        value = self.data[self.place]
        self.place += 1
        return value

    def _bytes(self, count: int) -> bytes:
        if self.place + count > len(self.data):
            raise IndexError
        self.place += count
        return self.data[self.place - count : self.place]

    def varint(self) -> int:
        """Read a number without a sign."""
        number = self.data[self.place]
        self.place += 1
        if number < 128:  # as most are
            return number
        number &= 127
        shift = 7
        while True:
            value = self.byte()
            number |= (value & 127) << shift
            if value < 128:
                return number
            shift += 7
            if shift > 63:
                raise ValueError("a number without end")

    def zigzag(self) -> int:
        """Read a number with a sign."""
        number = self.varint()
        return (number >> 1) ^ -(number & 1)
