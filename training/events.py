"""Event files for TensorBoard, written without it: scalars only, a format unchanged since 2015.

A file is a row of TFRecords (length as uint64, its masked CRC-32C, the bytes, their masked CRC-32C), each an ``Event``
protocol buffer (tensorboard/compat/proto/event.proto: wall_time = 1, step = 2, file_version = 3, summary = 5; its
summary.proto: Value = 1 with tag = 1, simple_value = 2). ``tensorboard --logdir RUN`` shows them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAME = "events.out.tfevents.0.boneage-node"
SCALARS = {"loss": "loss", "score": "validation score", "learning_rate": "learning rate", "seconds": "seconds an epoch"}
"""Keys of a curve's line and their tags."""


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def masked_crc(content: bytes) -> int:
    """Return the CRC-32C (Castagnoli) as TFRecords mask it, 32 bits."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", masked_crc(length)) + event + struct.pack("<I", masked_crc(event))


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _event(row: dict[str, Any]) -> bytes:
    values = b""
    for key, tag in SCALARS.items():
        if row.get(key) is not None:
            value = _field(1, tag.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", row[key])
            values += _field(1, value)
    head = _varint(1 << 3 | 1) + struct.pack("<d", row.get("ended", 0.0)) + _varint(2 << 3) + _varint(row["epoch"] + 1)
    return head + _field(5, values)


def begin(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a folder's event file anew, with the lines of a curve so far."""
    head = _varint(1 << 3 | 1) + struct.pack("<d", 0.0) + _field(3, b"brain.Event:2")
    (folder / NAME).write_bytes(b"".join([_record(head), *(_record(_event(row)) for row in rows)]))


def extend(folder: Path, row: dict[str, Any]) -> None:
    """Add one line of a curve."""
    with (folder / NAME).open("ab") as file:
        file.write(_record(_event(row)))
