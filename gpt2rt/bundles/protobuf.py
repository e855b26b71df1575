"""Protobuf messages as they are encoded: the fields of a message, whatever it means."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

Field = tuple[int, int | bytes]


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a protobuf message, numbers and values. Raises `ValueError` for anything else.

    https://protobuf.dev/programming-guides/encoding/
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"field {number} before byte {at}")
        found: int | bytes
        if wire == VARINT:
            found, at = varint(message, at)
        elif wire in (FIXED32, FIXED64):
            found = int.from_bytes(take(message, at, size := 4 if wire == FIXED32 else 8), "little")
            at += size
        elif wire == BYTES:
            length, at = varint(message, at)
            found = take(message, at, length)
            at += length
        else:
            raise ValueError(f"wire type {wire} before byte {at}")
        yield number, found


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and where it ends. Raises `ValueError`."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte == 0 and shift:
            raise ValueError(f"a number longer than it need be before byte {at}")
        if byte < 0x80:
            return number, at
    raise ValueError(f"a number without an end before byte {at}")


def take(data: bytes, at: int, length: int) -> bytes:
    """`length` bytes from `at` on. Raises `ValueError` where there are fewer."""
    if at < 0 or at + length > len(data):
        raise ValueError(f"cut short: {length} bytes at {at} of {len(data)}")
    return data[at : at + length]
