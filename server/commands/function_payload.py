"""What FUNCTION DUMP gives and FUNCTION RESTORE takes: the libraries of an RDB file, with its version and checksum.

Each library is the opcode and its text; behind the last stand the version of the format and a CRC-64 of everything
before.
"""

from __future__ import annotations

from typing import Final

from persistence.change import STRING
from server.commands.crc64 import crc64
from server.commands.rdb_encodings import Malformed, lzf_decompressed
from server.commands.rdb_payload import Foreign, payload_of

_LIBRARY: Final = 0xF5
# Redis 7.0, which brought functions. Later versions read it.
_VERSION: Final = 10
_NEWEST: Final = 12
_FOOTER: Final = 10
_COMPRESSED: Final = 0xC3
# No library is larger than a query may be.
_LARGEST: Final = 512 << 20


def payload_of_libraries(codes: list[bytes]) -> bytes:
    """The payload of these texts. O(size)."""
    # A string's payload is its type, the string as it is written there, and a footer of the same size.
    parts = [bytes((_LIBRARY,)) + payload_of(STRING, code)[1:-_FOOTER] for code in codes]
    body = b"".join((*parts, _VERSION.to_bytes(2, "little")))
    return body + crc64(body).to_bytes(8, "little")


def libraries_of_payload(payload: bytes) -> list[bytes]:
    """The texts in a payload. Raises Foreign for a wrong version or checksum, Malformed for what is no library."""
    if len(payload) < _FOOTER:
        raise Foreign
    version = int.from_bytes(payload[-10:-8], "little")
    if version > _NEWEST or crc64(payload[:-8]) != int.from_bytes(payload[-8:], "little"):
        raise Foreign
    data = payload[:-_FOOTER]
    at = 0
    codes = []
    while at < len(data):
        if data[at] != _LIBRARY:
            raise Malformed
        code, at = _string(data, at + 1)
        codes.append(code)
    return codes


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    if data[at : at + 1] != bytes((_COMPRESSED,)):
        size, at = _length(data, at)
        if at + size > len(data):
            raise Malformed
        return data[at : at + size], at + size
    packed, at = _length(data, at + 1)
    size, at = _length(data, at)
    if at + packed > len(data) or size > _LARGEST:
        raise Malformed
    return lzf_decompressed(data[at : at + packed], size), at + packed


def _length(data: bytes, at: int) -> tuple[int, int]:
    code = data[at] if at < len(data) else 0xFF
    if code < 0x40:
        return code, at + 1
    if code < 0x80 and at + 1 < len(data):
        return (code & 63) << 8 | data[at + 1], at + 2
    if code in (0x80, 0x81):
        width = 4 if code == 0x80 else 8
        return int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width
    raise Malformed
