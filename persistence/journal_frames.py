"""Frames: how groups of records lie in a journal file, so that what is torn, damaged or foreign can be told.

A segment `journal-<node>-<number>.log` is a header, frames without a gap, and zeros (the file is preallocated). The
file of dead letters has the same form with number 0. All numbers are little-endian.

    header, 80 bytes    magic "FBJS" · version · length of the node's name · 0 · segment number · first sequence ·
                        floor · created (Unix ms) · node, 32 bytes · CRC32
    frame, 40 bytes     magic "FBJF" · version · flags · 0 · segment number · length of the body · number of records ·
                        first sequence · synced · CRC32
    body                that many records (journal_records.py)

The checksum covers everything else, and begins with the node's name: bytes that were copied from another journal or
planted in a value are not taken for a frame. The segment number inside it gives away a file under a wrong name.

`synced` is the newest sequence that was known to be on stable storage when the frame was written. It decides what a
bad frame means. Between two syncs a disk may keep a later frame and lose an earlier one, and nobody was told that
either is safe; but a frame that says `synced` ≥ the lost sequence proves that the lost one had been safe.

`floor` is the oldest segment that was still needed: a missing segment from there on is a loss, one below it is not.

Flag LOST: a frame without a body that stands for records which a repair could not save.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import Final

VERSION: Final = 1
LOST: Final = 1

_FRAME_MAGIC: Final = b"FBJF"
_SEGMENT_MAGIC: Final = b"FBJS"
_FRAME: Final = Struct("<4sBBHIIIQQ")
_SEGMENT: Final = Struct("<4sBBHIQQQ32s")
_CRC: Final = Struct("<I")
FRAME_BYTES: Final = _FRAME.size + _CRC.size
HEADER_BYTES: Final = 80
# A body's length has 32 bits; half of that is more than any command can write.
BODY_MOST: Final = 1 << 31
# A sequence has 64 bits in the file and must fit MessagePack and SQL's bigint.
SEQUENCE_MOST: Final = 1 << 62
NODE_MOST: Final = 32
# Checksums that a search for valid frames computes: that many times the file's length, then it gives up. A file that
# needs more was made to be slow.
_SEARCH_FACTOR: Final = 8


class Bad(ValueError):
    """Bytes that are not what should stand there; the text says why."""


class Newer(Bad):
    """Whole and sound, but in a format that this version does not know: nothing to repair."""


class SegmentHeader:
    """The first bytes of a segment."""

    __slots__ = ("created_ms", "first", "floor", "node", "number")

    def __init__(self, node: str, number: int, first: int, floor: int, created_ms: int) -> None:
        self.node = node
        self.number = number
        # Sequence of the first record in it, and the oldest segment needed when it was made.
        self.first = first
        self.floor = floor
        self.created_ms = created_ms


class Frame:
    """Where a valid frame lies, and what its header says."""

    __slots__ = ("count", "end", "first", "flags", "length", "offset", "synced")

    def __init__(self, offset: int, end: int, flags: int, first: int, count: int, synced: int) -> None:
        self.offset = offset
        self.end = end
        # Of the body.
        self.length = end - offset - FRAME_BYTES
        self.flags = flags
        self.first = first
        self.count = count
        self.synced = synced


def seed_of(node: str) -> int:
    """What the checksums of a node's journal begin with."""
    return zlib.crc32(node.encode())


def pack_header(header: SegmentHeader) -> bytes:
    """A segment's first bytes."""
    node = header.node.encode()
    head = _SEGMENT.pack(
        _SEGMENT_MAGIC, VERSION, len(node), 0, header.number, header.first, header.floor, header.created_ms, node
    )
    head = head.ljust(HEADER_BYTES - _CRC.size, b"\0")
    return head + _CRC.pack(zlib.crc32(head))


def read_header(data: bytes, number: int) -> SegmentHeader:
    """The header that `data` begins with; Bad when it is none or another segment's."""
    if len(data) < HEADER_BYTES:
        raise Bad(f"the segment's header is cut off: {len(data)} bytes")
    magic, version, length, _, own, first, floor, created_ms, node = _SEGMENT.unpack_from(data)
    if magic != _SEGMENT_MAGIC:
        raise Bad("this is not a journal segment")
    if _CRC.unpack_from(data, HEADER_BYTES - _CRC.size)[0] != zlib.crc32(data[: HEADER_BYTES - _CRC.size]):
        raise Bad("the checksum of the segment's header is wrong")
    if version != VERSION:
        raise Newer(f"written in format {version}; this version reads format {VERSION}")
    if own != number:
        raise Bad(f"the header says segment {own}: the file was renamed or copied")
    if length > NODE_MOST or not 0 < first <= SEQUENCE_MOST or floor > max(1, number):
        raise Bad("the segment's header makes no sense")
    return SegmentHeader(node[:length].decode("ascii", "replace"), own, first, floor, created_ms)


def pack_frame(seed: int, segment: int, first: int, count: int, synced: int, body: bytes, flags: int = 0) -> bytes:
    """One frame."""
    head = _FRAME.pack(_FRAME_MAGIC, VERSION, flags, 0, segment, len(body), count, first, synced)
    return b"".join((head, _CRC.pack(zlib.crc32(body, zlib.crc32(head, seed))), body))


def read_frame(data: bytes, offset: int, segment: int, seed: int) -> Frame:
    """The frame at an offset; Bad when there is none."""
    end = offset + FRAME_BYTES
    if end > len(data):
        raise Bad("a frame's header is cut off by the end of the file")
    magic, version, flags, zero, own, length, count, first, synced = _FRAME.unpack_from(data, offset)
    if magic != _FRAME_MAGIC:
        raise Bad("no frame begins here")
    if version != VERSION:
        raise Bad(f"a frame in format {version}; this version reads format {VERSION}")
    if own != segment:
        raise Bad(f"a frame of segment {own}")
    if length > BODY_MOST or end + length > len(data):
        raise Bad(f"a frame says that it is {length} bytes long, beyond the end of the file")
    head = memoryview(data)[offset : offset + _FRAME.size]
    crc = zlib.crc32(memoryview(data)[end : end + length], zlib.crc32(head, seed))
    if _CRC.unpack_from(data, offset + _FRAME.size)[0] != crc:
        raise Bad(f"the checksum of a frame of {length} bytes is wrong")
    if zero or not 0 < first <= SEQUENCE_MOST or not count or synced >= first or (flags == LOST and length):
        raise Bad("a frame's header makes no sense")
    # A record is at least two bytes long.
    if flags not in (0, LOST) or (flags == 0 and count * 2 > length) or first + count > SEQUENCE_MOST:
        raise Bad("a frame's header makes no sense")
    return Frame(offset, end + length, flags, first, count, synced)


def next_frame(data: bytes, offset: int, segment: int, seed: int, least: int) -> Frame | None:
    """The first valid frame that begins at `offset` or later and holds sequences ≥ `least`; O(bytes).

    Bad when the file is full of beginnings that lead nowhere: whether something valid stands behind is then unknown.
    """
    budget = len(data) * _SEARCH_FACTOR
    while (offset := data.find(_FRAME_MAGIC, offset)) >= 0:
        try:
            frame = read_frame(data, offset, segment, seed)
        except Bad:
            if offset + FRAME_BYTES <= len(data):
                length = _FRAME.unpack_from(data, offset)[5]
                budget -= min(length, len(data) - offset)
            if budget < 0:
                raise Bad("too many false beginnings of frames follow") from None
        else:
            if frame.first >= least:
                return frame
        offset += 1
    return None
