"""Bitmaps: strings read and written bit by bit. Bit 0 is the highest bit of the first byte.

A string is an immutable `bytes`, so a write costs a copy of it: a bitmap of a million bits is 125 KB, which takes some
microseconds. What would make it larger than a string may be is refused before anything is allocated.
"""

from __future__ import annotations

from typing import Final

from persistence.change import NEVER, STRING
from protocol.replies import Error
from server.commands.args import MAX_STRING, check_length, integer, parse_integer
from server.commands.context import Context
from server.commands.spec import DENYOOM, FAST, FIRST, READ, WRITE, command
from server.commands.splice import spliced
from server.errors import SYNTAX, WRONG_TYPE, CommandError
from server.keyspace.database import Database
from server.keyspace.entry import Entry

# `operation destkey key [key ...]`
_BEHIND_OPERATION: Final = (2, -1, 1)
# Bytes that are counted, combined or searched at once.
_CHUNK: Final = 1 << 16

_BAD_OFFSET: Final = Error("ERR bit offset is not an integer or out of range")
_BAD_BIT: Final = Error("ERR bit is not an integer or out of range")
_BIT_WANTED: Final = Error("ERR The bit argument must be 1 or 0.")
_NOT_OF_ONE: Final = Error("ERR BITOP NOT must be called with a single source key.")
_BAD_TYPE: Final = Error(
    "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
)
_BAD_OVERFLOW: Final = Error("ERR Invalid OVERFLOW type specified")
_ONLY_GET: Final = Error("ERR BITFIELD_RO only supports the GET subcommand")


def _bytes_of(entry: Entry | None) -> bytes:
    # The string of a key, empty when the key is absent.
    if entry is None:
        return b""
    value = entry.value
    if not isinstance(value, bytes):
        raise CommandError(WRONG_TYPE)
    return value


def _offset(text: bytes, bits: int = 0) -> int:
    """A bit offset; `#n` means the n-th field of so many bits."""
    multiple = bits > 0 and text[:1] == b"#"
    number = parse_integer(text[1:] if multiple else text)
    if number is not None and multiple:
        number *= bits
    if number is None or not 0 <= number >> 3 < MAX_STRING:
        raise CommandError(_BAD_OFFSET)
    return number


# -- single bits ------------------------------------------------------------------------------------------------------


def _keep(db: Database, entry: Entry | None, key: bytes, bits: bytes) -> None:
    # What became of a string from `edit`; its deadline stays.
    if entry is None:
        db.put(key, STRING, bits, NEVER, b"setbit")
    else:
        db.respell(entry, bits, b"setbit")


@command(
    "SETBIT",
    arity=4,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    group="bitmap",
    since="2.2.0",
    summary="Sets or clears one bit of a string, which grows as needed, and returns what the bit was.",
    complexity="O(N) with N bytes of the string: it is copied",
    syntax="key offset value",
)
def setbit(ctx: Context, argv: list[bytes]) -> object:
    offset = _offset(argv[2])
    if argv[3] not in (b"0", b"1"):
        return _BAD_BIT
    entry = ctx.db.edit(argv[1])
    old = _bytes_of(entry)
    at = offset >> 3
    mask = 0x80 >> (offset & 7)
    was = old[at] if at < len(old) else 0
    becomes = was | mask if argv[3] == b"1" else was & ~mask
    if becomes != was or at >= len(old):
        new = spliced(old, at, bytes((becomes,)))
        _keep(ctx.db, entry, argv[1], new)
    return 1 if was & mask else 0


@command(
    "GETBIT",
    arity=3,
    flags=READ | FAST,
    keys=FIRST,
    group="bitmap",
    since="2.2.0",
    summary="Reads one bit of a string; 0 behind its end.",
    complexity="O(1)",
    syntax="key offset",
)
def getbit(ctx: Context, argv: list[bytes]) -> object:
    offset = _offset(argv[2])
    value = _bytes_of(ctx.db.find(argv[1]))
    at = offset >> 3
    return value[at] >> (7 - (offset & 7)) & 1 if at < len(value) else 0


# -- ranges -----------------------------------------------------------------------------------------------------------


class _Range:
    """The `start end unit` of BITCOUNT and BITPOS, as far as they were given."""

    __slots__ = ("end", "has_end", "in_bits", "start")

    def __init__(self, words: list[bytes]) -> None:
        self.start = integer(words[0]) if words else 0
        self.has_end = len(words) > 1
        self.end = integer(words[1]) if self.has_end else -1
        self.in_bits = False
        if len(words) > 2:
            unit = words[2].upper()
            if unit not in (b"BYTE", b"BIT") or len(words) > 3:
                raise CommandError(SYNTAX)
            self.in_bits = unit == b"BIT"

    def bits(self, length: int) -> tuple[int, int]:
        """First bit and the one behind the last, of a string of so many bytes; equal when nothing is meant."""
        total = length * 8 if self.in_bits else length
        start = max(0, self.start + total) if self.start < 0 else self.start
        end = max(0, self.end + total) if self.end < 0 else self.end
        end = min(end + 1, total)
        if start >= end:
            return 0, 0
        return (start, end) if self.in_bits else (start * 8, end * 8)


@command(
    "BITCOUNT",
    arity=-2,
    flags=READ,
    keys=FIRST,
    group="bitmap",
    since="2.6.0",
    summary="Number of bits that are set in a string or a part of it.",
    complexity="O(N) with N bytes",
    syntax="key [start end [BYTE | BIT]]",
)
def bitcount(ctx: Context, argv: list[bytes]) -> object:
    if len(argv) == 3:
        return SYNTAX
    wanted = _Range(argv[2:])
    value = _bytes_of(ctx.db.find(argv[1]))
    first, end = wanted.bits(len(value))
    if first == end or (wanted.start < 0 and wanted.end < 0 and wanted.start > wanted.end):
        return 0
    count = 0
    last = (end + 7) >> 3
    for at in range(first >> 3, last, _CHUNK):
        count += int.from_bytes(value[at : min(at + _CHUNK, last)], "big").bit_count()
    # The bits of the outer bytes that do not belong to it.
    count -= (value[first >> 3] >> (8 - (first & 7))).bit_count()
    if end & 7:
        count -= (value[end >> 3] & (0xFF >> (end & 7))).bit_count()
    return count


@command(
    "BITPOS",
    arity=-3,
    flags=READ,
    keys=FIRST,
    group="bitmap",
    since="2.8.7",
    summary="Position of the first bit that is set, or clear, in a string or a part of it; -1 when there is none.",
    complexity="O(N) with N bytes",
    syntax="key bit [start [end [BYTE | BIT]]]",
)
def bitpos(ctx: Context, argv: list[bytes]) -> object:
    bit = integer(argv[2])
    if bit not in (0, 1):
        return _BIT_WANTED
    wanted = _Range(argv[3:])
    entry = ctx.db.find(argv[1])
    if entry is None:
        return -1 if bit else 0
    value = _bytes_of(entry)
    first, end = wanted.bits(len(value))
    if first == end:
        return -1
    found = _first_bit(value, bit, first, end)
    if found < 0 and not bit and not wanted.has_end:
        # Behind its end a string goes on with zeros, unless the client named the end.
        return end
    return found


def _first_bit(value: bytes, bit: int, first: int, end: int) -> int:
    # Position of the first such bit in first … end - 1; -1 when there is none.
    dull = b"\0" if bit else b"\xff"
    at = first >> 3
    last = (end + 7) >> 3
    head = value[at] if bit else value[at] ^ 0xFF
    head &= 0xFF >> (first & 7)
    if not head:
        at += 1
        while at < last:
            part = value[at : min(at + _CHUNK, last)]
            rest = part.lstrip(dull)
            at += len(part) - len(rest)
            if rest:
                break
        if at >= last:
            return -1
        head = value[at] if bit else value[at] ^ 0xFF
    found = at * 8 + 8 - head.bit_length()
    return found if found < end else -1


# -- combining --------------------------------------------------------------------------------------------------------


@command(
    "BITOP",
    arity=-4,
    flags=WRITE | DENYOOM,
    keys=_BEHIND_OPERATION,
    group="bitmap",
    since="2.6.0",
    summary="Combines strings bit by bit and keeps the result under another key; returns its length in bytes.",
    complexity="O(N) with the bytes of the longest string",
    syntax="<AND | OR | XOR | NOT> destkey key [key ...]",
)
def bitop(ctx: Context, argv: list[bytes]) -> object:
    operation = argv[1].upper()
    if operation not in (b"AND", b"OR", b"XOR", b"NOT"):
        return SYNTAX
    if operation == b"NOT" and len(argv) != 4:
        return _NOT_OF_ONE
    values = [_bytes_of(ctx.db.find(key)) for key in argv[3:]]
    length = max(map(len, values))
    if not length:
        ctx.db.remove(argv[2])
        return 0
    parts = [_combine(operation, values, at, min(_CHUNK, length - at)) for at in range(0, length, _CHUNK)]
    ctx.db.put(argv[2], STRING, b"".join(parts), NEVER, b"set")
    return length


def _combine(operation: bytes, values: list[bytes], at: int, size: int) -> bytes:
    # `size` bytes of the result from `at` on. Read as little-endian numbers the shorter strings go on with zeros.
    result = int.from_bytes(values[0][at : at + size], "little")
    if operation == b"NOT":
        result ^= (1 << 8 * size) - 1
    for value in values[1:]:
        number = int.from_bytes(value[at : at + size], "little")
        if operation == b"AND":
            result &= number
        elif operation == b"OR":
            result |= number
        else:
            result ^= number
    return result.to_bytes(size, "little")


# -- fields of bits ---------------------------------------------------------------------------------------------------

_GET: Final = 0
_SET: Final = 1
_INCRBY: Final = 2
_VERBS: Final = {b"GET": _GET, b"SET": _SET, b"INCRBY": _INCRBY}
_OVERFLOWS: Final = (b"WRAP", b"SAT", b"FAIL")


class _Step:
    """One GET, SET or INCRBY of a BITFIELD."""

    __slots__ = ("amount", "bits", "offset", "overflow", "signed", "verb")

    def __init__(self, verb: int, field_type: bytes, offset: bytes, overflow: bytes) -> None:
        self.verb = verb
        self.signed = field_type[:1] == b"i"
        bits = parse_integer(field_type[1:])
        if field_type[:1] not in (b"i", b"u") or bits is None or not 1 <= bits <= (64 if self.signed else 63):
            raise CommandError(_BAD_TYPE)
        self.bits = bits
        self.offset = _offset(offset, bits)
        # What SET writes and INCRBY adds.
        self.amount = 0
        # WRAP, SAT or FAIL
        self.overflow = overflow

    def read(self, value: bytes | bytearray) -> int:
        """The field's number. Behind the end of the string there are zeros."""
        first = self.offset >> 3
        size = (self.offset + self.bits + 7 >> 3) - first
        covering = int.from_bytes(value[first : first + size].ljust(size, b"\0"), "big")
        number = covering >> (size * 8 - (self.offset & 7) - self.bits) & ((1 << self.bits) - 1)
        if self.signed and number >> (self.bits - 1):
            number -= 1 << self.bits
        return number

    def write(self, value: bytearray, number: int) -> None:
        """Put a number that fits into the field."""
        first = self.offset >> 3
        size = (self.offset + self.bits + 7 >> 3) - first
        shift = size * 8 - (self.offset & 7) - self.bits
        mask = (1 << self.bits) - 1
        covering = int.from_bytes(value[first : first + size], "big")
        covering = covering & ~(mask << shift) | (number & mask) << shift
        value[first : first + size] = covering.to_bytes(size, "big")

    def fit(self, number: int) -> int | None:
        """The number as OVERFLOW makes it fit; None: it fails."""
        lowest = -(1 << self.bits - 1) if self.signed else 0
        highest = lowest + (1 << self.bits) - 1
        if lowest <= number <= highest:
            return number
        if self.overflow == b"FAIL":
            return None
        if self.overflow == b"SAT":
            return highest if number > highest else lowest
        return (number - lowest) % (1 << self.bits) + lowest


def _steps(words: list[bytes], only_get: bool) -> list[_Step]:
    found: list[_Step] = []
    overflow = b"WRAP"
    at = 0
    while at < len(words):
        word = words[at].upper()
        verb = _VERBS.get(word, -1)
        if verb >= 0 and at + (2 if verb == _GET else 3) < len(words):
            step = _Step(verb, words[at + 1], words[at + 2], overflow)
            if verb != _GET:
                step.amount = integer(words[at + 3])
                if verb == _SET and not step.signed and step.amount < 0:
                    # As Redis reads it: a number of 64 bits without sign.
                    step.amount += 1 << 64
            found.append(step)
            at += 3 if verb == _GET else 4
        elif word == b"OVERFLOW" and at + 1 < len(words):
            overflow = words[at + 1].upper()
            if overflow not in _OVERFLOWS:
                raise CommandError(_BAD_OVERFLOW)
            at += 2
        else:
            raise CommandError(SYNTAX)
    if only_get and any(step.verb != _GET for step in found):
        raise CommandError(_ONLY_GET)
    return found


@command(
    "BITFIELD",
    arity=-2,
    flags=WRITE | DENYOOM,
    keys=FIRST,
    group="bitmap",
    since="3.2.0",
    summary="Reads, writes and adds to integers of any width inside a string, in one step.",
    complexity="O(1) for each field; with a write O(N) with N bytes of the string: it is copied",
    syntax="key [GET encoding offset | [OVERFLOW <WRAP | SAT | FAIL>] <SET encoding offset value | "
    "INCRBY encoding offset increment> [GET encoding offset | [OVERFLOW <WRAP | SAT | FAIL>] "
    "<SET encoding offset value | INCRBY encoding offset increment> ...]]",
)
def bitfield(ctx: Context, argv: list[bytes]) -> object:
    steps = _steps(argv[2:], False)
    size = max((step.offset + step.bits + 7 >> 3 for step in steps if step.verb != _GET), default=0)
    if not size:
        return _read_all(ctx, argv[1], steps)
    check_length(size)
    entry = ctx.db.edit(argv[1])
    old = _bytes_of(entry)
    value = bytearray(old.ljust(size, b"\0"))
    replies: list[object] = []
    for step in steps:
        number = step.read(value)
        if step.verb == _GET:
            replies.append(number)
            continue
        new = step.fit(step.amount if step.verb == _SET else number + step.amount)
        if new is None:
            replies.append(None)
        else:
            step.write(value, new)
            replies.append(number if step.verb == _SET else new)
    if value != old or entry is None:
        _keep(ctx.db, entry, argv[1], bytes(value))
    return replies


@command(
    "BITFIELD_RO",
    arity=-2,
    flags=READ | FAST,
    keys=FIRST,
    group="bitmap",
    since="6.0.0",
    summary="BITFIELD that only reads.",
    complexity="O(1) for each field",
    syntax="key [GET encoding offset [GET encoding offset ...]]",
)
def bitfield_ro(ctx: Context, argv: list[bytes]) -> object:
    return _read_all(ctx, argv[1], _steps(argv[2:], True))


def _read_all(ctx: Context, key: bytes, steps: list[_Step]) -> list[object]:
    value = _bytes_of(ctx.db.find(key))
    return [step.read(value) for step in steps]
