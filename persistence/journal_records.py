"""Records: what the journal remembers, one MessagePack array each, and how records of one key become one Change again.

    WHOLE    prefix key existed first_ms deadline kind value     the key holds this now
    MEMBERS  prefix key existed first_ms deadline kind members   these members changed: what each is now, nil for gone
    REMOVED  prefix key existed first_ms members                 a client deleted the key; not nil: by taking out these,
                                                                 the last members that it had
    LIFETIME prefix key existed first_ms deadline kind           only its deadline changed
    BATCH    store [prefix keys sequences …]                     this goes to the database as one transaction; the
                                                                 record's own sequence is the batch's number
    OUTCOME  batch applied                                       the transaction was committed, or certainly was not
    SETTLED  [prefix keys sequences …]                           saved or dead-lettered without a batch
    GIVEN_UP prefix sequence                                     CACHE.DISCARD: every change of it up to there
    TRIMMED  segment                                             no segment below this one is needed any more
    LETTER   id prefix key sequence sqlstate message attempts unix_ms change      (only in the file of dead letters)
    DROPPED  ids                                                 these dead letters are gone (retried or dropped)
    NEXT_ID  id                                                  no dead letter below was forgotten by compaction

Every record has one sequence number, given by its place: first sequence of the frame, plus position. Deadlines and
times are Unix milliseconds, nil is "never"; `first_ms` is when the oldest unsaved change of the key was made.

MEMBERS is what makes one SADD into a large set some tens of bytes. Its price: the value that it belongs to may be known
to the database alone. A Change that was recovered from it holds the touched members and nothing else, which is all that
an UPDATE needs; `apply_members` puts them on a value that was loaded. Where no row was there to be changed, WHOLE is
written, so that a recovered Change with members is always one of an existing row.

A hash field that has a lifetime of its own travels as [value, deadline]. LIST and STREAM are recorded whole; a stream's
value yields the parts of its plain form.

The file is hostile input: whatever is read is checked, and Bad says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, cast

import msgpack  # type: ignore[import-untyped]  # ships no types

from persistence.change import DELETE, EXPIRY, HASH, LIST, NEVER, SET, STREAM, STRING, WRITE, ZSET, Change
from persistence.dead_letters import DeadLetter
from persistence.field_lifetimes import ExpiringHash, deadlines_of
from persistence.journal_frames import SEQUENCE_MOST, Bad

WHOLE: Final = 1
MEMBERS: Final = 2
REMOVED: Final = 3
LIFETIME: Final = 4
BATCH: Final = 5
OUTCOME: Final = 6
SETTLED: Final = 7
GIVEN_UP: Final = 8
TRIMMED: Final = 9
LETTER: Final = 10
DROPPED: Final = 11
NEXT_ID: Final = 12

# A key of one prefix, and the sequence of the newest change of it that is meant.
Item = tuple[str, bytes, int]

# One packer for all: building one costs more than packing a record. `pack` leaves it empty.
pack: Final[Callable[[object], bytes]] = msgpack.Packer(use_bin_type=True, autoreset=True).pack


# -- writing ----------------------------------------------------------------------------------------------------------


def plain_value(kind: int, value: object) -> object:
    """A value as MessagePack carries it: bytes, a list, or a dictionary."""
    if kind == STRING:
        return value
    if kind == HASH:
        hash = cast(dict[bytes, bytes], value)
        deadlines = deadlines_of(value)
        if not deadlines:
            return hash if type(hash) is dict else dict(hash)
        return {name: [item, deadlines[name]] if name in deadlines else item for name, item in hash.items()}
    if kind == ZSET:
        return dict(cast(Mapping[bytes, float], value).items())
    return list(cast(Iterable[object], value))


def touched_members(change: Change) -> dict[bytes, object]:
    """What each touched member is now; None for one that is gone."""
    assert change.members is not None
    value = change.value
    if change.kind == SET:
        members = cast(Collection[bytes], value)
        return {member: 1 if member in members else None for member in change.members}
    get = cast(Mapping[bytes, object], value).get
    deadlines = deadlines_of(value)
    if not deadlines:
        return {member: get(member) for member in change.members}
    return {
        member: [get(member), deadlines[member]] if member in deadlines else get(member) for member in change.members
    }


def is_partial(change: Change) -> bool:
    """Can a record of the touched members alone stand for this change? Only of a row that was there."""
    return change.members is not None and change.existed is True and change.kind in _MEMBER_KINDS


_MEMBER_KINDS: Final = (HASH, SET, ZSET)


def pack_change(
    prefix: str, change: Change, partial: bool, existed: bool | None, first_ms: int, wall_offset_ms: int
) -> bytes:
    """The record of a change. `partial`: the touched members alone."""
    verb = change.verb
    if verb == DELETE:
        members = None if change.members is None else list(change.members)
        return pack((REMOVED, prefix, change.key, existed, first_ms, members))
    deadline_ms = change.deadline_ms
    deadline = None if deadline_ms >= NEVER else deadline_ms + wall_offset_ms
    kind = change.kind
    if verb == EXPIRY:
        return pack((LIFETIME, prefix, change.key, existed, first_ms, deadline, kind))
    if partial:
        return pack((MEMBERS, prefix, change.key, existed, first_ms, deadline, kind, touched_members(change)))
    value = change.value if kind == STRING else plain_value(kind, change.value)
    return pack((WHOLE, prefix, change.key, existed, first_ms, deadline, kind, value))


def pack_items(items: Iterable[Item]) -> list[object]:
    """Items grouped by prefix: [prefix, keys, sequences, prefix, …]."""
    groups: dict[str, tuple[list[bytes], list[int]]] = {}
    for prefix, key, seq in items:
        group = groups.get(prefix)
        if group is None:
            group = groups[prefix] = ([], [])
        group[0].append(key)
        group[1].append(seq)
    return [part for prefix, group in groups.items() for part in (prefix, *group)]


def pack_letter(letter: DeadLetter, wall_offset_ms: int) -> bytes:
    """A dead letter as its file has it; the change's deadline is in server milliseconds."""
    change = letter.change
    partial = change.members is not None and is_partial(change)
    packed = pack_change(letter.prefix, change, partial, change.existed, 0, wall_offset_ms)
    # An array of its own inside the record: MessagePack values nest as they are.
    head = pack(
        (
            LETTER,
            letter.id,
            letter.prefix,
            letter.key,
            letter.seq,
            letter.sqlstate,
            letter.message,
            letter.attempts,
            letter.unix_ms,
            None,
        )
    )
    # The placeholder is the last byte.
    return head[:-1] + packed


# -- what is read -----------------------------------------------------------------------------------------------------


class Recorded:
    """A change as it was recorded, or several folded into one."""

    __slots__ = ("change", "first_ms", "prefix", "segment", "seq")

    def __init__(self, prefix: str, seq: int, first_ms: int, change: Change, segment: int = 0) -> None:
        self.prefix = prefix
        # Sequence of the newest change in it.
        self.seq = seq
        # Unix milliseconds of the oldest change in it.
        self.first_ms = first_ms
        # Its deadline in Unix milliseconds, or NEVER; with members, its value holds those members alone.
        self.change = change
        # The oldest segment that it needs.
        self.segment = segment

    def replaces(self) -> bool:
        """Does it say everything about the key, whatever was before?"""
        return self.change.verb != EXPIRY and self.change.members is None


class Batch:
    """A flush whose transaction was begun: store, and what it carries."""

    __slots__ = ("items", "number", "segment", "store")

    def __init__(self, number: int, store: str, items: list[Item], segment: int = 0) -> None:
        self.number = number
        self.store = store
        self.items = items
        # The segment that tells of it.
        self.segment = segment


class Outcome:
    """What became of a batch."""

    __slots__ = ("applied", "number")

    def __init__(self, number: int, applied: bool) -> None:
        self.number = number
        self.applied = applied


class Settled:
    """Changes that need no saving any more."""

    __slots__ = ("items",)

    def __init__(self, items: list[Item]) -> None:
        self.items = items


class GivenUp:
    """Every change of a prefix up to a sequence was discarded."""

    __slots__ = ("prefix", "seq")

    def __init__(self, prefix: str, seq: int) -> None:
        self.prefix = prefix
        self.seq = seq


class Trimmed:
    """No segment below this one is needed."""

    __slots__ = ("segment",)

    def __init__(self, segment: int) -> None:
        self.segment = segment


class Dropped:
    """Dead letters that are gone, and the least id of the next one."""

    __slots__ = ("ids", "next_id")

    def __init__(self, ids: list[int], next_id: int) -> None:
        self.ids = ids
        self.next_id = next_id


Record = Recorded | Batch | Outcome | Settled | GivenUp | Trimmed | DeadLetter | Dropped


# -- folding ----------------------------------------------------------------------------------------------------------


def apply_members(kind: int, base: object, change: Change) -> object:
    """A copy of a value in plain Python with the touched members as a change has them; O(size of the value)."""
    assert change.members is not None
    if kind == SET:
        members = cast(Collection[bytes], change.value)
        here = {member for member in change.members if member in members}
        return (set(cast(Iterable[bytes], base)) - change.members) | here
    value = dict(cast(Mapping[bytes, object], base).items())
    deadlines = dict(deadlines_of(base))
    touched_deadlines = deadlines_of(change.value)
    get = cast(Mapping[bytes, object], change.value).get
    for member in change.members:
        now = get(member)
        deadlines.pop(member, None)
        if now is None:
            value.pop(member, None)
            continue
        value[member] = now
        if member in touched_deadlines:
            deadlines[member] = touched_deadlines[member]
    return ExpiringHash(cast(dict[bytes, bytes], value), deadlines) if deadlines else value


def fold(older: Recorded, newer: Recorded) -> Recorded:
    """One record that says what `older` followed by `newer` said; both are used up.

    What pending.merge does for changes that hold whole values; here a value may be the touched members alone.
    """
    change = newer.change
    before = older.change
    if not newer.replaces():
        newer.segment = older.segment
    if change.verb == EXPIRY:
        before.deadline_ms = change.deadline_ms
        newer.change = before
    elif change.verb == DELETE:
        change.existed = before.existed
        if change.members is not None:
            change.members = change.members | before.members if before.members is not None else None
    elif before.verb == DELETE:
        # A write on a tombstone replaces the row, whatever it was: the store has it still.
        change.members = None
        change.existed = None
    else:
        if before.verb == WRITE:
            _fold_values(before, change)
        if before.verb == WRITE or before.existed is not None:
            change.existed = before.existed
    newer.first_ms = older.first_ms
    return newer


def _fold_values(before: Change, change: Change) -> None:
    if change.members is None or before.kind != change.kind:
        return
    change.value = apply_members(change.kind, before.value, change)
    if before.members is None or before.existed is False:
        change.members = None
    else:
        change.members = before.members | change.members


# -- reading ----------------------------------------------------------------------------------------------------------


def read_records(body: bytes, first: int, count: int, segment: int) -> Iterator[Record]:
    """The records of a frame's body; Bad when it is not exactly `count` of them."""
    unpacker = msgpack.Unpacker(
        raw=False, strict_map_key=False, max_buffer_size=max(1, len(body)), max_ext_len=0, use_list=True
    )
    unpacker.feed(body)
    for number in range(count):
        try:
            fields = unpacker.unpack()
        except msgpack.OutOfData:
            raise Bad(f"a frame says {count} records and has {number}") from None
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise Bad(f"record {number} of a frame is not MessagePack: {error}") from None
        yield _record(fields, first + number, segment)
    if unpacker.tell() != len(body):
        raise Bad(f"a frame has {len(body) - unpacker.tell()} bytes behind its last record")


def _record(fields: object, seq: int, segment: int) -> Record:
    if not isinstance(fields, list) or not fields or type(fields[0]) is not int:
        raise Bad("a record is not an array that begins with its type")
    reader = _READERS.get(fields[0])
    if reader is None or len(fields) - 1 != reader[0]:
        raise Bad(f"a record of type {fields[0]} with {len(fields) - 1} fields is not known")
    return reader[1](fields, seq, segment)


def _number(value: object, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= SEQUENCE_MOST:
        raise Bad("a number in a record is out of range")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise Bad("a name in a record is not text")
    return value


def _key(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise Bad("a key in a record is not bytes")
    return value


def _flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise Bad("a flag in a record is neither true nor false")
    return value


def _time(value: object) -> int:
    if value is None:
        return NEVER
    if type(value) is not int or abs(value) >= NEVER:
        raise Bad("a time in a record is out of range")
    return value


def _array(value: object) -> list[object]:
    if not isinstance(value, list):
        raise Bad("a field of a record is not an array")
    return value


def _read_value(kind: int, value: object) -> object:
    if kind == STRING:
        return _key(value)
    if kind == HASH:
        return _read_hash(_map(value))
    if kind == ZSET:
        return {_key(member): _score(score) for member, score in _map(value).items()}
    if kind == SET:
        return {_key(member) for member in _array(value)}
    if kind == LIST:
        return [_key(item) for item in _array(value)]
    if kind == STREAM:
        return _array(value)
    raise Bad(f"a value of kind {kind} is not known")


def _read_hash(items: dict[object, object]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    deadlines: dict[bytes, int] = {}
    for name, item in items.items():
        field = _key(name)
        if isinstance(item, list) and len(item) == 2:
            fields[field] = _key(item[0])
            deadlines[field] = _number(item[1])
        else:
            fields[field] = _key(item)
    return ExpiringHash(fields, deadlines) if deadlines else fields


def _map(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise Bad("a field of a record is not a map")
    return value


def _score(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
        raise Bad("a score is not a number")
    return float(value)


def _read_whole(fields: list[object], seq: int, segment: int) -> Record:
    _, prefix, key, existed, first_ms, deadline, kind, value = fields
    number = _number(kind)
    change = Change(_key(key), WRITE, number, _read_value(number, value), None, _time(deadline), _flag(existed))
    return Recorded(_word(prefix), seq, _number(first_ms), change, segment)


def _read_members(fields: list[object], seq: int, segment: int) -> Record:
    _, prefix, key, existed, first_ms, deadline, kind, members = fields
    number = _number(kind)
    touched = _map(members)
    there: object = {name: item for name, item in touched.items() if item is not None}
    if number == SET:
        there = list(cast(dict[object, object], there))
    elif number not in _MEMBER_KINDS:
        raise Bad(f"members of a value of kind {number}")
    names = {_key(name) for name in touched}
    change = Change(_key(key), WRITE, number, _read_value(number, there), names, _time(deadline), _flag(existed))
    return Recorded(_word(prefix), seq, _number(first_ms), change, segment)


def _read_removed(fields: list[object], seq: int, segment: int) -> Record:
    _, prefix, key, existed, first_ms, members = fields
    names = None if members is None else {_key(member) for member in _array(members)}
    change = Change(_key(key), DELETE, 0, None, names, NEVER, _flag(existed))
    return Recorded(_word(prefix), seq, _number(first_ms), change, segment)


def _read_lifetime(fields: list[object], seq: int, segment: int) -> Record:
    _, prefix, key, existed, first_ms, deadline, kind = fields
    change = Change(_key(key), EXPIRY, _number(kind), None, None, _time(deadline), _flag(existed))
    return Recorded(_word(prefix), seq, _number(first_ms), change, segment)


def _read_items(value: object) -> list[Item]:
    parts = _array(value)
    if len(parts) % 3:
        raise Bad("a list of changes is incomplete")
    items: list[Item] = []
    for place in range(0, len(parts), 3):
        prefix = _word(parts[place])
        keys = _array(parts[place + 1])
        sequences = _array(parts[place + 2])
        if len(keys) != len(sequences):
            raise Bad("a list of changes has more keys than sequences, or fewer")
        items += [(prefix, _key(key), _number(last)) for key, last in zip(keys, sequences, strict=True)]
    return items


def _read_batch(fields: list[object], seq: int, segment: int) -> Record:
    return Batch(seq, _word(fields[1]), _read_items(fields[2]), segment)


def _read_outcome(fields: list[object], _: int, __: int) -> Record:
    applied = _flag(fields[2])
    if applied is None:
        raise Bad("an outcome is neither true nor false")
    return Outcome(_number(fields[1]), applied)


def _read_settled(fields: list[object], _: int, __: int) -> Record:
    return Settled(_read_items(fields[1]))


def _read_given_up(fields: list[object], _: int, __: int) -> Record:
    return GivenUp(_word(fields[1]), _number(fields[2]))


def _read_trimmed(fields: list[object], _: int, segment: int) -> Record:
    if _number(fields[1]) > segment:
        raise Bad(f"segment {segment} says that it is not needed itself")
    return Trimmed(_number(fields[1]))


def _read_letter(fields: list[object], __: int, segment: int) -> Record:
    _, id, prefix, key, settled, sqlstate, message, attempts, unix_ms, change = fields
    if _array(change)[:1] not in ([WHOLE], [MEMBERS], [REMOVED], [LIFETIME]):
        raise Bad("a dead letter holds no change")
    recorded = cast(Recorded, _record(change, 0, segment))
    letter = DeadLetter(
        _word(prefix),
        _key(key),
        _number(settled),
        _word(sqlstate),
        _word(message),
        _number(attempts),
        _number(unix_ms),
        recorded.change,
    )
    letter.id = _number(id, 1)
    return letter


def _read_dropped(fields: list[object], _: int, __: int) -> Record:
    return Dropped([_number(id) for id in _array(fields[1])], 0)


def _read_next_id(fields: list[object], _: int, __: int) -> Record:
    return Dropped([], _number(fields[1]))


# Type → number of fields behind it, and who reads them.
_READERS: Final[dict[int, tuple[int, Callable[[list[object], int, int], Record]]]] = {
    WHOLE: (7, _read_whole),
    MEMBERS: (7, _read_members),
    REMOVED: (5, _read_removed),
    LIFETIME: (6, _read_lifetime),
    BATCH: (2, _read_batch),
    OUTCOME: (2, _read_outcome),
    SETTLED: (1, _read_settled),
    GIVEN_UP: (2, _read_given_up),
    TRIMMED: (1, _read_trimmed),
    LETTER: (9, _read_letter),
    DROPPED: (1, _read_dropped),
    NEXT_ID: (1, _read_next_id),
}
