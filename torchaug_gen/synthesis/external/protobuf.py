"""Reading protocol buffers by field number, without the message's schema and without copying.

The wire format is that of protobuf.dev/programming-guides/encoding: each field is a varint of (number << 3 | type),
then a varint, 8 bytes, a length and as many bytes, or 4 bytes.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Value = int | memoryview


class WireError(ValueError):
    """Bytes that are no message."""


def fields(content: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field of a message: an unsigned integer, or the bytes of text or of a message.

    Raises:
        WireError: bytes that are no message.
    """
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(content, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise WireError(f"unknown wire type {kind}")
        if at + length > len(content):
            raise WireError("a field is cut short")
        yield number, content[at : at + length]
        at += length


def integers(value: Value) -> list[int]:
    """Return the signed integers of a repeated field, packed or one by one."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_signed(number))
    return numbers


def text(value: Value) -> str:
    """Return a string field."""
    try:
        return bytes(message(value)).decode()
    except UnicodeDecodeError as error:
        raise WireError(str(error)) from None


def message(value: Value) -> memoryview:
    """Return a field that holds bytes."""
    if isinstance(value, int):
        raise WireError("a number where bytes should be")
    return value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise WireError("a number is cut short")
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise WireError("a number has more than 64 bits")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
