"""The segments of a JPEG stream (ISO 10918-1, Annex B), looked through before gdcm decodes it.

Where a scan names a Huffman table that no segment before it has defined, gdcm throws an exception within C++ that
nothing catches: it ends the whole process. One byte of a stream that is wrong is enough, and a node that came back
would read the same object again. So such a stream is refused here.
"""

from __future__ import annotations

import re
import struct

from inference.errors import UnreadablePixels

_FILL = 0xFF
_TABLES, _SCAN, _END = 0xC4, 0xDA, 0xD9
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
"""What has no length, and no place between segments."""
_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""What ends the data of a scan: any marker that is no restart."""
_COUNTS, _MOST_TABLES = 16, 4


def check_tables(frame: bytes) -> None:
    """Check that segments follow one another and that each scan's Huffman tables are defined before it.

    Raises
    ------
    UnreadablePixels
        If they do not, or are not.
    """
    defined: set[int] = set()
    position = 2
    while True:
        marker, content, position = _segment(frame, position)
        if marker == _END:
            return
        if marker == _TABLES:
            defined |= _tables(content)
        if marker == _SCAN:
            if not _named(content) <= defined:
                raise UnreadablePixels("The compressed pixel data lacks a table that it needs to be decoded.")
            after = _IN_SCAN.search(frame, position)
            if after is None:
                return
            position = after.start()


def _damaged() -> UnreadablePixels:
    return UnreadablePixels("The compressed pixel data is damaged: it is no row of JPEG segments.")


def _segment(frame: bytes, position: int) -> tuple[int, bytes, int]:
    """Return a segment's marker and content, and where the next one begins."""
    while frame[position : position + 2] == b"\xff\xff":
        position += 1
    head = frame[position : position + 4]
    if len(head) < 2 or head[0] != _FILL or head[1] in _BARE:
        raise _damaged()
    if head[1] == _END:
        return _END, b"", position + 2
    (length,) = struct.unpack(">H", head[2:]) if len(head) == 4 else (0,)
    content = frame[position + 4 : position + 2 + length]
    if length < 2 or len(content) != length - 2:
        raise _damaged()
    return head[1], content, position + 2 + length


def _tables(content: bytes) -> set[int]:
    """Return the numbers of the tables for differences (class 0) that a segment defines (B.2.4.2)."""
    found, place = set(), 0
    while place < len(content):
        kind, number = divmod(content[place], 16)
        counts = content[place + 1 : place + 1 + _COUNTS]
        place += 1 + _COUNTS + sum(counts)
        if kind > 1 or number >= _MOST_TABLES or place > len(content) or not _has_room(counts):
            raise _damaged()
        if kind == 0:
            found.add(number)
    return found


def _has_room(counts: bytes) -> bool:
    """Tell whether there are codes of their lengths for so many symbols (Annex C)."""
    used = 0
    for length, count in enumerate(counts, 1):
        used += count << (_COUNTS - length)
    return used <= 1 << _COUNTS


def _named(content: bytes) -> set[int]:
    """Return the numbers of the tables for differences that a scan's head names (B.2.3)."""
    components = content[0] if content else 0
    if not components or len(content) != 4 + 2 * components:
        raise _damaged()
    return {content[2 + 2 * place] >> 4 for place in range(components)}
