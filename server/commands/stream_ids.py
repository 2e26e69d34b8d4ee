"""The ids of streams as clients write them, and what stream commands share: entries as replies, missing groups."""

from __future__ import annotations

from typing import Final

from persistence.change import STREAM
from protocol.replies import Error
from server.commands.context import Context
from server.errors import WRONG_TYPE, CommandError
from server.keyspace.entry import Entry
from server.keyspace.values.stream import ID_MAX, SEQUENCE_BITS, SEQUENCE_MASK, Stream, id_text

INVALID_ID: Final = Error("ERR Invalid stream ID specified as stream command argument")
_INVALID_START: Final = Error("ERR invalid start ID for the interval")
_INVALID_END: Final = Error("ERR invalid end ID for the interval")

# Redis copies an id into a buffer of this size; longer texts are none.
_LONGEST: Final = 127

# Redis has no event for what happens to pending entries, only for a consumer that is made on the way.
NO_EVENT: Final = b""
CONSUMER_MADE: Final = b"xgroup-createconsumer"

# What changed is told to WATCH and to stores by members; a stream has none that could be named.
ALL_OF_IT: Final[list[bytes]] = []


def stream_of(entry: Entry) -> Stream:
    """The stream of an entry; CommandError when it holds something else."""
    if entry.kind != STREAM:
        raise CommandError(WRONG_TYPE)
    stream = entry.value
    assert isinstance(stream, Stream)
    return stream


def unix_ms(ctx: Context) -> int:
    """The time as streams keep it."""
    return ctx.db.now_ms + ctx.server.wall_offset_ms()


def _part(text: bytes) -> int | None:
    # One of the two numbers of an id: 64 bits without sign. Redis leaves what is not in its usual spelling to C, which
    # lets white space and a plus sign stand before the digits.
    if not text.isdigit():
        text = text.lstrip(b" \t\n\v\f\r")
        text = text[1:] if text[:1] == b"+" else text
        if not text.isdigit():
            return None
    if len(text) > _LONGEST:
        return None
    value = int(text)
    return value if value <= SEQUENCE_MASK else None


def parse_id(text: bytes, missing_sequence: int) -> int | None:
    """The id that a text spells; `missing_sequence` is taken when it names milliseconds alone. None: no id."""
    milliseconds, dash, sequence = text.partition(b"-")
    high = _part(milliseconds)
    low = _part(sequence) if dash else missing_sequence
    return None if high is None or low is None else high << SEQUENCE_BITS | low


def exact_id(text: bytes, missing_sequence: int = 0) -> int:
    """An id argument that must be one."""
    number = parse_id(text, missing_sequence)
    if number is None:
        raise CommandError(INVALID_ID)
    return number


def any_id(text: bytes, missing_sequence: int = 0) -> int:
    """An id argument that may also be `-`, the lowest, or `+`, the highest."""
    if text == b"-":
        return 0
    return ID_MAX if text == b"+" else exact_id(text, missing_sequence)


def _bound(text: bytes, missing_sequence: int) -> tuple[int, bool]:
    # One end of an interval, and whether it is to be left out.
    if text[:1] == b"(" and len(text) > 1:
        return exact_id(text[1:], missing_sequence), True
    return any_id(text, missing_sequence), False


def low_bound(text: bytes) -> int:
    """The lowest id of an interval: an id, `(` and an id, or `-`."""
    number, left_out = _bound(text, 0)
    if left_out:
        if number == ID_MAX:
            raise CommandError(_INVALID_START)
        number += 1
    return number


def high_bound(text: bytes) -> int:
    """The highest id of an interval: an id, `(` and an id, or `+`."""
    number, left_out = _bound(text, SEQUENCE_MASK)
    if left_out:
        if number == 0:
            raise CommandError(_INVALID_END)
        number -= 1
    return number


def entry_reply(number: int, words: tuple[bytes, ...]) -> object:
    """An entry as clients get it: its id, and its fields and values in turn."""
    return [id_text(number), words]


def no_group(key: bytes, group: bytes, behind: bytes = b"") -> Error:
    """The reply when a key or its group is missing."""
    return Error(b"NOGROUP No such key '" + key + b"' or consumer group '" + group + b"'" + behind)


def no_group_of_key(key: bytes, group: bytes) -> Error:
    """The reply when the key is there but has no such group."""
    return Error(b"NOGROUP No such consumer group '" + group + b"' for key name '" + key + b"'")
