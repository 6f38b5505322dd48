"""The metadata of an ONNX file, read without ``onnx``, which boards lack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# fields of ModelProto and StringStringEntryProto in onnx.proto
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types of Protocol Buffers


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """The texts that the file's maker added, by key.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no ONNX file, or is cut off.
    """
    found = {}
    for field, content in _fields(memoryview(path.read_bytes())):
        if field == _METADATA_PROPS:
            entry = {number: bytes(text).decode() for number, text in _fields(content)}
            found[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of every field that has a length."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _varint(message, place)
            continue
        if kind == _LENGTH:
            length, place = _varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("it is no ONNX file")
        if place + length > len(message):
            raise ValueError("it is cut off")
        if kind == _LENGTH:
            yield tag >> 3, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number that begins at ``place``, and where it ends."""
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("it is cut off")
