"""Replies to bytes, for RESP2 and RESP3. The one place where RESP3's types are flattened for RESP2.

Nesting costs a stack of iterators, not Python's: a reply may be as deep as memory allows. Values of `LARGE` bytes or
more are handed on as they are, as chunks of their own; copying starts to cost more than an entry in a list of buffers.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Final

from protocol.replies import (
    NIL_ARRAY,
    NO_REPLY,
    BigNumber,
    Elements,
    Error,
    Map,
    Push,
    Ready,
    SetOf,
    Status,
    Verbatim,
)

CRLF: Final = b"\r\n"
# asyncio and uvloop join what they are given below some such size before sending; above it, writev wins.
LARGE: Final = 16 * 1024

# Ready-made, because formatting costs as much as the rest of a short reply. A kilobyte covers the usual values, and
# integers beyond it are mostly counters that no table would hold.
BULK_HEADERS: Final[list[bytes]] = [b"$%d\r\n" % n for n in range(1024)]
INTEGERS: Final[list[bytes]] = [b":%d\r\n" % n for n in range(1024)]
_ARRAY_HEADERS: Final[list[bytes]] = [b"*%d\r\n" % n for n in range(256)]
_READY: Final = 1024
_READY_ARRAYS: Final = 256
# From so many items on it is worth a look whether they are all alike.
_SEVERAL: Final = 8

# Beyond this a whole number needs more digits than a double has, and C's %.17g changes to an exponent.
_PLAIN_BELOW: Final = 1e17


def bulk(value: bytes) -> bytes:
    """A bulk string. O(len(value)): the value is copied."""
    length = len(value)
    if length < _READY:
        return BULK_HEADERS[length] + value + CRLF
    return b"$%d\r\n%b\r\n" % (length, value)


def integer(n: int) -> bytes:
    """An integer reply."""
    return INTEGERS[n] if 0 <= n < _READY else b":%d\r\n" % n


def double_text(value: float) -> bytes:
    """A double as Redis writes it: the shortest text that reads back the same, ``inf``, ``-inf`` or ``nan``.

    The shape is that of C's %.17g (no ".0", exponents below 1e-4 and from 1e17), the digits are the shortest, as in
    Redis since 7.2; before, 0.1 was shown as 0.10000000000000001.
    """
    if not isfinite(value):
        return b"nan" if value != value else b"inf" if value > 0 else b"-inf"
    if -_PLAIN_BELOW < value < _PLAIN_BELOW and value == int(value):
        return b"-0" if value == 0 and str(value)[0] == "-" else b"%d" % int(value)
    return repr(value).encode()


def encode(reply: object, protocol: int) -> bytes:
    """The whole reply as one piece, for protocol 2 or 3. O(size). TypeError for what is no reply (see `replies`)."""
    if isinstance(reply, bytes):
        return bulk(reply)
    if isinstance(reply, (Status, Error)):
        return reply.wire
    if isinstance(reply, Ready):
        return b"".join(reply.chunks)
    pieces: list[bytes] = []
    _write(pieces, [], reply, protocol)
    return b"".join(pieces)


def encode_into(out: list[bytes], reply: object, protocol: int) -> int:
    """Append the reply to ``out`` and return its bytes. O(size), but values from `LARGE` bytes on are not copied.

    All between two large values is one chunk. Nothing is appended when TypeError is raised.
    """
    if isinstance(reply, bytes):
        length = len(reply)
        if length < _READY:
            out.append(BULK_HEADERS[length] + reply + CRLF)
            return len(out[-1])
    elif isinstance(reply, (Status, Error)):
        out.append(reply.wire)
        return len(reply.wire)
    elif isinstance(reply, Ready):
        out += reply.chunks
        return reply.size
    pieces: list[bytes] = []
    large: list[int] = []
    _write(pieces, large, reply, protocol)
    size = 0
    start = 0
    for at in large:
        chunk = b"".join(pieces[start:at])
        out.append(chunk)
        out.append(pieces[at])
        size += len(chunk) + len(pieces[at])
        start = at + 1
    chunk = b"".join(pieces[start:]) if start else b"".join(pieces)
    if chunk:
        out.append(chunk)
    return size + len(chunk)


# Append the encoding of `reply` to `pieces`, and to `large` the indexes of the pieces that are large values.
def _write(pieces: list[bytes], large: list[int], reply: object, protocol: int) -> None:
    if reply is NO_REPLY:
        return
    stack: list[Iterator[object]] = []
    items: Iterator[object] = iter((reply,))
    while True:
        inner: Iterator[object] | None = None
        for item in items:
            if isinstance(item, bytes):
                length = len(item)
                if length < _READY:
                    pieces.append(BULK_HEADERS[length])
                else:
                    pieces.append(b"$%d\r\n" % length)
                    if length >= LARGE:
                        large.append(len(pieces))
                pieces.append(item)
                pieces.append(CRLF)
            elif item is None:
                pieces.append(b"$-1\r\n" if protocol < 3 else b"_\r\n")
            elif isinstance(item, float):
                text = double_text(item)
                pieces.append(BULK_HEADERS[len(text)] if protocol < 3 else b",")
                pieces.append(text)
                pieces.append(CRLF)
            elif isinstance(item, bool):
                if protocol < 3:
                    pieces.append(b":1\r\n" if item else b":0\r\n")
                else:
                    pieces.append(b"#t\r\n" if item else b"#f\r\n")
            elif isinstance(item, int):
                pieces.append(INTEGERS[item] if 0 <= item < _READY else b":%d\r\n" % item)
            elif isinstance(item, (list, tuple)):
                pieces.append(_header(b"*", len(item)))
                if len(item) < _SEVERAL or not _alike(pieces, large, item):
                    inner = iter(item)
                    break
            elif isinstance(item, (Status, Error)):
                pieces.append(item.wire)
            elif isinstance(item, Map):
                count = len(item.flat)
                pieces.append(_header(b"*", count) if protocol < 3 else _header(b"%", count // 2))
                inner = iter(item.flat)
                break
            elif isinstance(item, SetOf):
                pieces.append(_header(b"*" if protocol < 3 else b"~", len(item.items)))
                if len(item.items) < _SEVERAL or not _alike(pieces, large, item.items):
                    inner = iter(item.items)
                    break
            elif isinstance(item, Elements):
                kind = b"*" if protocol < 3 else item.kind
                pieces.append(_header(kind, item.count // 2 if kind == b"%" else item.count))
                inner = iter(item.items)
                break
            elif isinstance(item, Push):
                pieces.append(_header(b"*" if protocol < 3 else b">", len(item.items)))
                inner = iter(item.items)
                break
            else:
                pieces.append(_scalar(item, protocol))
        if inner is not None:
            stack.append(items)
            items = inner
        elif stack:
            items = stack.pop()
        else:
            return


# Append byte strings that have all the same length, as ids of one kind have, with one join: a quarter of the time that
# one after the other takes. False: they are not so, and nothing was appended.
def _alike(pieces: list[bytes], large: list[int], items: Sequence[object]) -> bool:
    first = items[0]
    last = items[-1]
    if not isinstance(first, bytes) or not isinstance(last, bytes) or len(first) != len(last) or len(first) >= _READY:
        return False
    head = BULK_HEADERS[len(first)]
    try:
        if len(set(map(len, items))) != 1:  # type: ignore[arg-type]
            return False
        joined = (CRLF + head).join(items)  # type: ignore[arg-type]
    except TypeError:
        # Something else stands between them.
        return False
    pieces.append(head)
    if len(joined) >= LARGE:
        large.append(len(pieces))
    pieces.append(joined)
    pieces.append(CRLF)
    return True


def _header(kind: bytes, count: int) -> bytes:
    if count < _READY_ARRAYS and kind == b"*":
        return _ARRAY_HEADERS[count]
    return b"%b%d\r\n" % (kind, count)


# The types that are too rare for the loop.
def _scalar(item: object, protocol: int) -> bytes:
    if item is NIL_ARRAY:
        return b"*-1\r\n" if protocol < 3 else b"_\r\n"
    if isinstance(item, Verbatim):
        if protocol < 3:
            return bulk(item.text)
        return b"=%d\r\n%b:%b\r\n" % (len(item.text) + 4, item.format, item.text)
    if isinstance(item, BigNumber):
        digits = str(item.value).encode()
        return bulk(digits) if protocol < 3 else b"(%b\r\n" % digits
    if item is NO_REPLY:
        raise TypeError("NO_REPLY inside another reply would shift everything after it")
    raise TypeError(f"not a reply: {type(item).__name__}")
