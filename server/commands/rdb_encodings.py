"""The packed forms in which Redis keeps small collections: they come inside the payloads of RESTORE. Written is the
listpack alone, in which streams travel.

    LZF        a compressed string                      zipmap     a hash, before Redis 2.6
    intset     sorted integers of one width             ziplist    anything small, before Redis 7
    listpack   anything small, since Redis 7

Each is one string of bytes that says its own length; integers inside stand for their decimal text. What comes from
outside is believed in nothing: whatever does not fit raises Malformed.
"""

from __future__ import annotations

from typing import Final

_END: Final = 0xFF


class Malformed(ValueError):
    """The bytes are not what they claim to be."""


def _part(data: bytes, at: int, size: int) -> bytes:
    part = data[at : at + size]
    if len(part) != size:
        raise Malformed
    return part


def _signed(data: bytes, at: int, size: int) -> bytes:
    return b"%d" % int.from_bytes(_part(data, at, size), "little", signed=True)


# -- LZF --------------------------------------------------------------------------------------------------------------


def lzf_decompressed(data: bytes, size: int) -> bytes:
    """The `size` bytes that LibLZF compressed into `data`."""
    out = bytearray()
    at = 0
    end = len(data)
    while at < end and len(out) <= size:
        control = data[at]
        at += 1
        if control < 32:
            # A run of bytes as they are.
            out += _part(data, at, control + 1)
            at += control + 1
            continue
        # A copy of what was there before; it may reach into what it makes.
        length = control >> 5
        if length == 7:
            length += _part(data, at, 1)[0]
            at += 1
        length += 2
        first = len(out) - ((control & 31) << 8 | _part(data, at, 1)[0]) - 1
        at += 1
        if first < 0:
            raise Malformed
        source = out[first : first + length]
        out += (source * (length // len(source) + 1))[:length]
    if len(out) != size:
        raise Malformed
    return bytes(out)


# -- intset -----------------------------------------------------------------------------------------------------------


def intset_members(data: bytes) -> list[bytes]:
    """The integers of an intset, as text."""
    width = int.from_bytes(_part(data, 0, 4), "little")
    count = int.from_bytes(_part(data, 4, 4), "little")
    if width not in (2, 4, 8) or len(data) != 8 + width * count:
        raise Malformed
    return [_signed(data, at, width) for at in range(8, len(data), width)]


# -- listpack ---------------------------------------------------------------------------------------------------------


def listpack_items(data: bytes) -> list[bytes]:
    """The items of a listpack, integers as text."""
    if len(data) < 7 or int.from_bytes(data[:4], "little") != len(data) or data[-1] != _END:
        raise Malformed
    count = int.from_bytes(data[4:6], "little")
    items: list[bytes] = []
    at = 6
    end = len(data) - 1
    while at < end:
        item, size = _listpack_item(data, at)
        items.append(item)
        # Behind an item stands its length, to be read backwards.
        at += size + _back_length(size)
    # 65535: too many to be counted there.
    if at != end or (count != 65535 and count != len(items)):
        raise Malformed
    return items


def _back_length(size: int) -> int:
    if size <= 127:
        return 1
    return 2 if size < 16383 else 3 if size < 2097151 else 4 if size < 268435455 else 5


# The first byte of an integer item → bytes that follow.
_LISTPACK_INTEGERS: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}


def _listpack_item(data: bytes, at: int) -> tuple[bytes, int]:
    # An item, and how many bytes it takes without its length behind.
    code = data[at]
    if code < 0x80:
        return b"%d" % code, 1
    if code < 0xC0:
        size = code & 63
        return _part(data, at + 1, size), 1 + size
    if code < 0xE0:
        number = (code & 31) << 8 | _part(data, at + 1, 1)[0]
        return b"%d" % (number - 8192 if number >= 4096 else number), 2
    if code < 0xF0:
        size = (code & 15) << 8 | _part(data, at + 1, 1)[0]
        return _part(data, at + 2, size), 2 + size
    if code == 0xF0:
        size = int.from_bytes(_part(data, at + 1, 4), "little")
        return _part(data, at + 5, size), 5 + size
    width = _LISTPACK_INTEGERS.get(code, 0)
    if not width:
        raise Malformed
    return _signed(data, at + 1, width), 1 + width


def listpack_of(items: list[bytes | int]) -> bytes:
    """The listpack of these strings and integers of 64 bits."""
    parts = [_packed_integer(item) if isinstance(item, int) else _packed_text(item) for item in items]
    body = b"".join([part + _written_back(len(part)) for part in parts])
    count = min(len(items), 65535)
    return (len(body) + 7).to_bytes(4, "little") + count.to_bytes(2, "little") + body + bytes((_END,))


def _packed_integer(number: int) -> bytes:
    if 0 <= number < 128:
        return bytes((number,))
    if -4096 <= number < 4096:
        return (0xC000 | number & 0x1FFF).to_bytes(2, "big")
    for code, width in _LISTPACK_INTEGERS.items():
        if -(1 << 8 * width - 1) <= number < 1 << 8 * width - 1:
            return bytes((code,)) + number.to_bytes(width, "little", signed=True)
    raise OverflowError(number)


def _packed_text(text: bytes) -> bytes:
    size = len(text)
    if size < 64:
        return bytes((0x80 | size,)) + text
    if size < 4096:
        return (0xE000 | size).to_bytes(2, "big") + text
    return b"\xf0" + size.to_bytes(4, "little") + text


def _written_back(size: int) -> bytes:
    # A length in sevens of bits, the highest first; all bytes but the first say that one stands before them.
    width = _back_length(size)
    return bytes([(size >> 7 * at & 127) | (128 if at < width - 1 else 0) for at in range(width - 1, -1, -1)])


# -- ziplist ----------------------------------------------------------------------------------------------------------

# The first byte of an integer entry → bytes that follow.
_ZIPLIST_INTEGERS: Final = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}


def ziplist_items(data: bytes) -> list[bytes]:
    """The items of a ziplist, integers as text."""
    if len(data) < 11 or int.from_bytes(data[:4], "little") != len(data) or data[-1] != _END:
        raise Malformed
    count = int.from_bytes(data[8:10], "little")
    items: list[bytes] = []
    at = 10
    end = len(data) - 1
    while at < end:
        # The length of the entry before, in one byte or five.
        at += 5 if data[at] == 0xFE else 1
        item, size = _ziplist_item(data, at)
        items.append(item)
        at += size
    if at != end or (count != 65535 and count != len(items)):
        raise Malformed
    return items


def _ziplist_item(data: bytes, at: int) -> tuple[bytes, int]:
    code = _part(data, at, 1)[0]
    if code < 0x40:
        return _part(data, at + 1, code), 1 + code
    if code < 0x80:
        size = (code & 63) << 8 | _part(data, at + 1, 1)[0]
        return _part(data, at + 2, size), 2 + size
    if code == 0x80:
        size = int.from_bytes(_part(data, at + 1, 4), "big")
        return _part(data, at + 5, size), 5 + size
    if 0xF1 <= code <= 0xFD:
        return b"%d" % (code - 0xF1), 1
    width = _ZIPLIST_INTEGERS.get(code, 0)
    if not width:
        raise Malformed
    return _signed(data, at + 1, width), 1 + width


# -- zipmap -----------------------------------------------------------------------------------------------------------


def zipmap_items(data: bytes) -> list[bytes]:
    """The fields and values of a zipmap, in turn."""
    items: list[bytes] = []
    at = 1
    while _part(data, at, 1)[0] != _END:
        size, at = _zipmap_length(data, at)
        items.append(_part(data, at, size))
        size, at = _zipmap_length(data, at + size)
        # Behind the length of a value: how many bytes behind the value are not used.
        unused = _part(data, at, 1)[0]
        items.append(_part(data, at + 1, size))
        at += 1 + size + unused
    if at != len(data) - 1:
        raise Malformed
    return items


def _zipmap_length(data: bytes, at: int) -> tuple[int, int]:
    code = _part(data, at, 1)[0]
    if code < 254:
        return code, at + 1
    return int.from_bytes(_part(data, at + 1, 4), "little"), at + 5
